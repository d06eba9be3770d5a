//! `kiln inspect` from outside, on a small engine. NVRTC is fetched into `$KILN_HOME` if no other is found.

use kiln::engine::{BuildOptions, build};
use kiln::graph::{Builder, DType, Dim, Tensor};
use kiln_cuda::{Home, setup};
use kiln_import::npy;
use std::process::{Command, Stdio};

/// Two layers of one shape, which share a kernel, and a softmax, on `rows` of 64.
fn engine(dir: &std::path::Path, rows: usize) {
    build_engine(dir, |_| rows.into());
}

fn build_engine(dir: &std::path::Path, rows: impl FnOnce(&mut Builder) -> Dim) {
    let mut b = Builder::new("counted");
    let rows = rows(&mut b);
    let x = b.input("x", DType::F16, &[rows, 64.into()]).unwrap();
    let [up, down] = [("up", 1), ("down", 2)]
        .map(|(name, seed)| b.weight_data(name, Tensor::random(DType::F16, &[64, 64], seed).unwrap()).unwrap());
    let y = b.linear(x, up, None, false).unwrap();
    let y = b.linear(y, down, None, false).unwrap();
    let y = b.softmax(y, -1).unwrap();
    b.output("y", y);
    let home = Home::from_env().unwrap();
    setup::setup(&home, |_| {}).unwrap();
    let targets = ["cpu", "sm_80"].map(|t| t.parse().unwrap()).to_vec();
    let options = BuildOptions { targets, ..BuildOptions::new(home) };
    build(&b.finish(), &options, &|_| {}).unwrap().0.save(dir.join("counted.kiln")).unwrap();
}

#[test]
fn plans_show_every_launch_and_a_closed_pipe_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    engine(dir.path(), 16);
    let inspect = || {
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        kiln.args(["inspect", "counted.kiln", "--plan", "--target", "sm_80"]).current_dir(dir.path());
        kiln.stdout(Stdio::piped()).stderr(Stdio::piped());
        kiln
    };
    let out = inspect().output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let image =
        kiln::engine::Engine::load(dir.path().join("counted.kiln")).unwrap().target("sm_80").unwrap().plan.to_string();
    assert!(text == image && text.matches(" = gemm_").count() == 2, "{text}");

    let mut child = inspect().spawn().unwrap();
    drop(child.stdout.take());
    let error = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert_eq!(error, "");
}

#[test]
fn counters_say_what_each_kernel_did() {
    let dir = tempfile::tempdir().unwrap();
    let rows = 128;
    engine(dir.path(), rows);
    npy::save(&dir.path().join("x.npy"), &Tensor::random(DType::F16, &[rows, 64], 3).unwrap()).unwrap();
    let inspect = |args: &[&str]| {
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        let out = kiln.args(["inspect", "counted.kiln", "--counters"]).args(args).current_dir(dir.path());
        let out = out.output().unwrap();
        let [text, error] = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (out.status.code(), text, error)
    };

    let (code, text, error) = inspect(&["--input", "x=x.npy", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    let counted: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(counted["target"], "sm_80", "{text}");
    let kernels = counted["kernels"].as_array().unwrap();
    let number = |kernel: &serde_json::Value, name: &str| kernel[name].as_u64().unwrap();
    let total = |name: &str| kernels.iter().map(|k| number(k, name)).sum::<u64>();
    assert_eq!((kernels.len(), total("launches")), (2, 3), "{text}");
    // The products' sizes are multiples of every tile, so that no operation is wasted.
    assert_eq!(total("mma_flops"), 2 * 2 * rows as u64 * 64 * 64, "{text}");
    for kernel in kernels {
        let ratio = |part: &str, whole: &str| {
            let whole = number(kernel, whole);
            (whole > 0).then(|| number(kernel, part) as f64 / whole as f64)
        };
        // Each launch stores an array of f16; a request may touch part of a sector.
        let stored = number(kernel, "launches") * rows as u64 * 64 * 2 / 32;
        assert!(number(kernel, "global_store_sectors") >= stored, "{kernel}");
        for (name, part, whole) in [
            ("sectors_per_request", "global_sectors", "global_requests"),
            ("wavefronts_per_request", "shared_wavefronts", "shared_requests"),
            ("divergent_share", "divergent", "instructions"),
        ] {
            assert_eq!(kernel[name].as_f64(), ratio(part, whole), "{name} of {kernel}");
        }
    }

    // The same numbers for people: a heading, then a line a kernel.
    let (code, text, error) = inspect(&["--input", "x=x.npy", "--target", "sm_80"]);
    assert_eq!(code, Some(0), "{error}");
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap().last(), Some(&"kernel"), "{text}");
    for (kernel, line) in kernels.iter().zip(lines.by_ref()) {
        let sectors = format!("{:.2}", kernel["sectors_per_request"].as_f64().unwrap());
        let (launches, instructions) = (number(kernel, "launches"), number(kernel, "instructions"));
        assert_eq!(line[..3], [launches.to_string(), instructions.to_string(), sectors], "{text}");
        assert_eq!(line[5..], [&number(kernel, "mma_flops").to_string(), kernel["kernel"].as_str().unwrap()], "{text}");
    }
    assert_eq!(lines.next(), None, "{text}");

    let (code, _, error) = inspect(&["--input", "x=x.npy", "--target", "cpu"]);
    assert!(code == Some(2) && error.contains("name a GPU target"), "{error}");
}

#[test]
fn the_picture_of_a_gpu_plan_names_families_and_kernels() {
    let dir = tempfile::tempdir().unwrap();
    engine(dir.path(), 16);
    let draw = |args: &[&str]| {
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        let out = kiln.args(["inspect", "counted.kiln", "--graph", "plan.svg"]).args(args).current_dir(dir.path());
        let out = out.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        std::fs::read_to_string(dir.path().join("plan.svg")).unwrap()
    };
    let svg = draw(&["--target", "sm_80"]);
    let engine = kiln::Engine::load(dir.path().join("counted.kiln")).unwrap();
    let image = engine.target("sm_80").unwrap();
    for step in &image.plan.steps {
        let kiln::fuse::Step::Run { region, .. } = step else { panic!("no such step is in the model") };
        let compiled = &image.kernels[&image.plan.regions[*region].identity()];
        let implementation = &compiled.variants[0].implementation;
        let said = format!(" by {}: {}", implementation.family, implementation.kernels[0].entry);
        assert!(svg.contains(&said), "{said}: {svg}");
    }
    assert!(svg.contains(">counted for sm_80<") && draw(&[]).contains(">counted for cpu<"));
}

#[test]
fn variants_are_listed_with_their_guards() {
    use kiln_kernels::{Condition, Guard};
    let dir = tempfile::tempdir().unwrap();
    build_engine(dir.path(), |b| b.symbol("rows", 1, 64));
    let path = dir.path().join("counted.kiln");
    let inspect = |args: &[&str]| {
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        let out = kiln.args(["inspect", "counted.kiln"]).args(args).current_dir(dir.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(!inspect(&[]).contains("otherwise"));
    let mut engine = kiln::Engine::load(&path).unwrap();
    let mut regions = engine.targets[1].kernels.values_mut().map(|compiled| &mut compiled.variants);
    let variants = regions.find(|variants| variants[0].implementation.family == "gemm").unwrap();
    let mut small = variants[0].clone();
    small.guard = Guard(vec![Condition::AtMost("s0".into(), 16), Condition::MultipleOf("s0".into(), 8)]);
    variants.insert(0, small);
    let entry = variants[0].implementation.kernels[0].entry.clone();
    let config = variants[0].implementation.config.to_string();
    engine.save(&path).unwrap();
    let text = inspect(&[]);
    assert!(text.contains(&format!("{entry} [gemm] if s0 <= 16 and s0 % 8 == 0: {config}")), "{text}");
    assert!(text.contains(&format!("{entry} [gemm] otherwise: {config}")), "{text}");
    // A picture cuts what is long in the middle: the last variant is seen.
    inspect(&["--graph", "plan.svg", "--target", "sm_80"]);
    let svg = std::fs::read_to_string(dir.path().join("plan.svg")).unwrap();
    assert!(svg.contains(&format!("{} otherwise", &entry[entry.len() - 8..])), "{svg}");
}

/// `counted.kiln` of any number of rows, with kernels chosen for so many; `more` adds an output.
fn sized(dir: &std::path::Path, name: &str, rows: i64, more: bool) {
    let mut b = Builder::new("sized");
    let n = b.symbol("N", 1, 8192);
    let x = b.input("x", DType::F16, &[n, 256.into()]).unwrap();
    let w = b.weight_data("w", Tensor::random(DType::F16, &[256, 256], 1).unwrap()).unwrap();
    let y = b.linear(x, w, None, false).unwrap();
    let s = b.softmax(y, -1).unwrap();
    b.output("s", s);
    if more {
        let exp = b.exp(x).unwrap();
        b.output("exp", exp);
    }
    let home = Home::from_env().unwrap();
    setup::setup(&home, |_| {}).unwrap();
    let targets = ["cpu", "sm_80"].map(|t| t.parse().unwrap()).to_vec();
    let options = BuildOptions { targets, sizes: [("N".to_owned(), rows)].into(), ..BuildOptions::new(home) };
    build(&b.finish(), &options, &|_| {}).unwrap().0.save(dir.join(name)).unwrap();
}

#[test]
fn two_builds_are_compared_by_stamp_region_kernel_and_time() {
    let dir = tempfile::tempdir().unwrap();
    sized(dir.path(), "a.kiln", 8192, false);
    sized(dir.path(), "b.kiln", 16, true);
    let kiln = |args: &str| {
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        let out = kiln.args(args.split_whitespace()).current_dir(dir.path()).output().unwrap();
        let [text, error] = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (out.status.code(), text, error)
    };
    let json = |args: &str| -> serde_json::Value {
        let (code, text, error) = kiln(args);
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str(&text).unwrap()
    };
    let same = json("inspect --diff a.kiln a.kiln --json");
    assert_eq!(same["stamp"], serde_json::json!({}));
    let changes = |diff: &serde_json::Value, target: &str| -> Vec<(String, String)> {
        let regions = diff["targets"][target]["regions"].as_array().unwrap().iter();
        let word = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
        let mut all: Vec<_> = regions.map(|r| (word(&r["name"]), word(&r["change"]))).collect();
        all.sort();
        all
    };
    assert!(changes(&same, "sm_80").iter().all(|(_, change)| change == "same"));
    let diff = json("inspect --diff a.kiln b.kiln --json");
    let settings = &diff["stamp"]["stamp.settings.sizes.N"];
    assert_eq!((&settings["a"], &settings["b"]), (&8192.into(), &16.into()));
    assert!(diff["stamp"]["stamp.graph_hash"]["a"] != diff["stamp"]["stamp.graph_hash"]["b"]);
    assert_eq!(diff["stamp"]["outputs"]["b"].as_array().unwrap().len(), 2);
    let gpu = changes(&diff, "sm_80");
    let with = |start: &str, change: &str| gpu.iter().any(|(name, found)| name.starts_with(start) && found == change);
    assert!(with("gemm", "changed") && with("map_exp", "added"), "{gpu:?}");
    let gemm = diff["targets"]["sm_80"]["regions"].as_array().unwrap();
    let gemm = &gemm.iter().find(|r| r["name"].as_str().unwrap().starts_with("gemm")).unwrap()["sides"];
    assert_ne!(gemm["a"]["kernels"][0]["config"], gemm["b"]["kernels"][0]["config"]);
    for side in ["a", "b"] {
        assert!(
            gemm[side]["modelled_us"].as_f64().unwrap() > 0.0
                && gemm[side]["kernels"][0]["registers"].as_u64().unwrap() > 0
        );
    }
    let (_, text, _) = kiln("inspect --diff a.kiln b.kiln");
    for part in [
        "stamp.settings.sizes.N: 8192 -> 16",
        "sm_80: 2 -> 3 launches",
        " only in A, 1 only in B",
        "us modelled",
        "- gemm",
        "+ gemm",
    ] {
        assert!(text.contains(part), "expected `{part}` in {text}");
    }
    assert_eq!(diff["targets"]["sm_80"]["nvrtc"], serde_json::Value::Null);
    // Measured, on the CPU: what a step took more is its region's blame.
    let mut profiles = ["a", "b"].map(|name| {
        json(&format!(
            "bench {name}.kiln --shape x=4x256 --iterations 1 --duration 0 --warm-up 0 --profile-kernels --json"
        ))
    });
    profiles[0]["kernels"].as_array_mut().unwrap().iter_mut().for_each(|k| k["ms"] = 1.0.into());
    profiles[1]["kernels"].as_array_mut().unwrap().iter_mut().for_each(|k| k["ms"] = 1.0.into());
    let mut slow = profiles[1]["kernels"].as_array_mut().unwrap().iter_mut();
    let slow = slow.rfind(|k| k["kernel"].as_str().unwrap().starts_with("softmax")).unwrap();
    slow["ms"] = 3.5.into();
    for (name, profile) in ["pa.json", "pb.json"].iter().zip(&profiles) {
        std::fs::write(dir.path().join(name), profile.to_string()).unwrap();
    }
    let cpu = &json("inspect --diff a.kiln b.kiln --profile pa.json,pb.json --json")["targets"]["cpu"];
    assert_eq!((&cpu["measured_ms"]["a"], &cpu["measured_ms"]["b"]), (&2.0.into(), &5.5.into()));
    let first = &cpu["regions"][0];
    assert!(
        first["name"].as_str().unwrap().starts_with("softmax") && first["sides"]["b"]["measured_ms"] == 3.5,
        "{first}"
    );
    let (_, text, _) = kiln("inspect --diff a.kiln b.kiln --profile pa.json,pb.json");
    assert!(
        text.contains("measured: 2.0000 -> 5.5000 ms, +3.5000") && text.contains("+2.5000 ms    same softmax"),
        "{text}"
    );
    for (args, why) in [
        ("--diff a.kiln b.kiln --profile pa.json", "1 profiles are given; expected 2"),
        ("--diff a.kiln b.kiln --profile pb.json,pa.json", "the profile has 3 steps, and the plan 2"),
        ("--diff a.kiln", "2 values required"),
    ] {
        let (code, _, error) = kiln(&format!("inspect {args}"));
        assert!(code == Some(2) && error.contains(why), "{args}: {error}");
    }
}
