//! `kiln` from outside, on files as the field has them: caches that hold something else, disks that are full, names that clash, hostile arrays.
#![cfg(unix)]

mod dtypes;
pub(crate) mod onnx;
mod refit;
mod robust;

use kiln::prelude::Tensor;
use kiln_import::npy;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder with its own `$KILN_HOME`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.put("x.npy", &[3], &[1.0, -2.0, 0.5]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, shape: &[usize], values: &[f32]) {
        npy::save(&self.path(name), &Tensor::from_slice(shape, values).unwrap()).unwrap();
    }

    /// `y = x * factor` with x of three elements.
    fn scale(&self, name: &str, factor: f32) {
        let shape: &[&str] = &["3"];
        let nodes: &[(&str, &[&str], &str)] = &[("Mul", &["x", "c"], "y")];
        fs::write(self.path(name), onnx::model(&[("x", shape)], &[("c", factor)], nodes, &[("y", shape)])).unwrap();
    }

    fn kiln(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command.args(args.split_whitespace()).current_dir(self.0.path());
        command.env("KILN_HOME", self.path("home")).env_remove("KILN_CACHE_LIMIT");
        command
    }

    fn run(&self, args: &str) -> Ran {
        Ran::of(self.kiln(args).output().unwrap())
    }

    /// The one engine in the cache.
    fn engine(&self) -> PathBuf {
        let mut engines = fs::read_dir(self.path("home/engines")).unwrap().map(|e| e.unwrap().path());
        let engine = engines.next().unwrap();
        assert!(engines.next().is_none());
        engine
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8_lossy(bytes).replace(['\n', '│'], " ");
        // Errors are wrapped to the width of the terminal.
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ran { code: output.status.code(), out: words(text(&output.stdout)), err: words(text(&output.stderr)) }
    }

    fn ok(&self) -> &Ran {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// An error, told as one: not a panic, a signal or an answer.
    fn fails(&self, why: &[&str]) -> &Ran {
        assert_eq!(self.code, Some(2), "{self:?}");
        why.iter().for_each(|why| assert!(self.err.contains(why), "expected `{why}` in {self:?}"));
        self
    }
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn another_models_engine_under_the_cached_name_is_noticed_and_built_again() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    place.scale("b.onnx", 10.0);
    let run = |model: &str| place.run(&format!("run {model} --input x=x.npy"));
    assert!(run("b.onnx").ok().out.contains("10.000000, -20.000000"));
    let b = fs::read(place.engine()).unwrap();
    place.run("cache clear").ok();
    assert!(run("a.onnx").ok().out.contains("2.000000, -4.000000"));
    assert!(run("a.onnx").ok().err.contains("using the engine built before"));
    let cached = place.engine();
    fs::write(&cached, &b).unwrap();
    let again = run("a.onnx");
    assert!(again.ok().out.contains("2.000000, -4.000000"), "{again:?}");
    assert!(again.err.contains("graph hash does not match"), "{again:?}");
    assert!(run("a.onnx").ok().err.contains("using the engine built before"));
    // So is an engine of the same model under other settings.
    let exact = place.run("run a.onnx --input x=x.npy --numerics exact");
    exact.ok();
    let other = fs::read_dir(place.path("home/engines")).unwrap().map(|e| e.unwrap().path()).find(|p| *p != cached);
    fs::copy(other.unwrap(), &cached).unwrap();
    assert!(run("a.onnx").ok().err.contains("settings does not match"));
}

#[test]
fn what_is_no_file_in_the_caches_place_is_replaced_and_never_read() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    place.run("run a.onnx --input x=x.npy").ok();
    let cached = place.engine();
    let whole = fs::read(&cached).unwrap();
    fs::write(place.path("elsewhere"), "mine").unwrap();
    let put: [(&str, &dyn Fn()); 4] = [
        ("a FIFO", &|| fifo(&cached)),
        ("a link", &|| std::os::unix::fs::symlink("/dev/zero", &cached).unwrap()),
        ("a link", &|| std::os::unix::fs::symlink(place.path("elsewhere"), &cached).unwrap()),
        ("truncated", &|| fs::write(&cached, &whole[..whole.len() / 2]).unwrap()),
    ];
    for (why, put) in put {
        fs::remove_file(&cached).unwrap();
        put();
        let ran = place.run("run a.onnx --input x=x.npy");
        assert!(ran.ok().err.contains(why) && ran.out.contains("-4.000000"), "{ran:?}");
        assert!(place.run("run a.onnx --input x=x.npy").ok().err.contains("using the engine built before"));
    }
    assert_eq!(fs::read_to_string(place.path("elsewhere")).unwrap(), "mine");
    // A folder cannot be replaced: the model runs all the same.
    fs::remove_file(&cached).unwrap();
    fs::create_dir(&cached).unwrap();
    let ran = place.run("run a.onnx --input x=x.npy");
    assert!(ran.ok().err.contains("a folder") && ran.err.contains("not kept") && ran.out.contains("-4.000000"));
}

#[test]
fn a_model_runs_when_its_engine_cannot_be_kept() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    // A file where the folder should be is as good as a full or read-only disk, also for the superuser.
    fs::create_dir(place.path("home")).unwrap();
    fs::write(place.path("home/engines"), "in the way").unwrap();
    let ran = place.run("run a.onnx --input x=x.npy");
    assert!(ran.ok().out.contains("-4.000000") && ran.err.contains("not kept"), "{ran:?}");
    assert!(ran.err.contains("write") && ran.err.contains("home/engines"), "{ran:?}");
    // And a limit on the size of files is as good as a disk that fills up while the engine is written.
    let mut shell = Command::new("sh");
    let kiln = env!("CARGO_BIN_EXE_kiln");
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f 1; exec {kiln} run a.onnx --input x=x.npy")]);
    let ran = Ran::of(shell.current_dir(place.path("")).env("KILN_HOME", place.path("small")).output().unwrap());
    assert!(ran.ok().out.contains("-4.000000") && ran.err.contains("not kept"), "{ran:?}");
    assert_eq!(fs::read_dir(place.path("small/engines")).unwrap().count(), 0, "half an engine was left");
}

#[test]
fn caches_are_listed_pruned_and_cleared() {
    let place = Place::new();
    for i in 1..=4 {
        place.scale(&format!("m{i}.onnx"), i as f32);
        place.run(&format!("run m{i}.onnx --input x=x.npy")).ok();
    }
    let json = |args: &str| -> serde_json::Value { serde_json::from_str(&place.run(args).ok().out).unwrap() };
    let listing = json("cache list --json");
    assert_eq!((&listing[0]["cache"], &listing[0]["entries"]), (&"engines".into(), &4.into()));
    assert_eq!(listing[0]["limit"], 4u64 << 30);
    assert_eq!(listing[0]["kept"][0]["of"], "m4 for cpu");
    let size = listing[0]["kept"][0]["bytes"].as_u64().unwrap();
    place.run("run m1.onnx --input x=x.npy").ok();
    let pruned = json(&format!("cache prune --json --limit {}", 2 * size + size / 2));
    assert_eq!((&pruned[0]["removed"]["entries"], &pruned[0]["left"]["entries"]), (&2.into(), &2.into()));
    let text = place.run("cache list");
    assert!(text.ok().out.contains("m1 for cpu") && text.out.contains("m4 for cpu") && !text.out.contains("m2"));
    // The limit holds without being asked for.
    let mut limited = place.kiln("run m2.onnx --input x=x.npy");
    Ran::of(limited.env("KILN_CACHE_LIMIT", size.to_string()).output().unwrap()).ok();
    assert!(json("cache list --json")[0]["bytes"].as_u64().unwrap() <= size);
    let mut wrong = place.kiln("cache list");
    Ran::of(wrong.env("KILN_CACHE_LIMIT", "4GB").output().unwrap()).fails(&["KILN_CACHE_LIMIT", "GiB"]);
    place.run("cache prune --limit 0").ok();
    assert!(place.run("cache clear").ok().out.contains("removed 0 entries"));
}

#[test]
fn names_that_the_model_does_not_have_are_errors_in_every_command() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    place.run("build a.onnx -o a.kiln").ok();
    let mut archive = fs::File::create(place.path("in.npz")).map(zip::ZipWriter::new).unwrap();
    for name in ["x", "stray"] {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        std::io::copy(&mut fs::File::open(place.path("x.npy")).unwrap(), &mut archive).unwrap();
    }
    archive.finish().unwrap();
    for model in ["a.onnx", "a.kiln"] {
        for command in ["run", "compare", "bench"] {
            let expect = if command == "compare" { "--expect y=x.npy" } else { "" };
            for input in ["in.npz", "stray=x.npy"] {
                let ran = place.run(&format!("{command} {model} --input {input} {expect}"));
                ran.fails(&["`stray`", "no such input", "x"]);
            }
            place.run(&format!("{command} {model} --input x=x.npy --input x=x.npy {expect}")).fails(&["`x` twice"]);
        }
    }
    place.run("compare a.kiln --input x=x.npy --expect stray=x.npy").fails(&["`stray`", "no such output", "y"]);
}

#[test]
fn outputs_and_symbols_never_share_a_name() {
    let place = Place::new();
    place.put("y.npy", &[2], &[4.0, -5.0]);
    let inputs: [(&str, &[&str]); 2] = [("x.1", &["A"]), ("x_1", &["B"])];
    let nodes: [(&str, &[&str], &str); 2] = [("Relu", &["x.1"], "a/b"), ("Neg", &["x_1"], "a_b")];
    let outputs: [(&str, &[&str]); 2] = [("a/b", &["A"]), ("a_b", &["B"])];
    fs::write(place.path("m.onnx"), onnx::model(&inputs, &[], &nodes, &outputs)).unwrap();
    let args = "run m.onnx --input x.1=x.npy --input x_1=y.npy -o out";
    let profiles = "--profile x.1=1:8 --profile x_1=1:8";
    for profiles in ["", profiles] {
        let ran = place.run(&format!("{args} {profiles}"));
        ran.ok();
        let read = |name: &str| npy::load(&place.path("out").join(name)).unwrap().to_f64_vec();
        assert_eq!((read("a_b~2.npy"), read("a_b.npy")), (vec![1.0, 0.0, 0.5], vec![-4.0, 5.0]), "{ran:?}");
        fs::remove_dir_all(place.path("out")).unwrap();
    }
    // The model's own symbol is not the profile's either.
    let inputs: [(&str, &[&str]); 2] = [("x", &["N"]), ("z", &["x_0"])];
    let nodes: [(&str, &[&str], &str); 2] = [("Relu", &["x"], "a"), ("Neg", &["z"], "b")];
    fs::write(place.path("own.onnx"), onnx::model(&inputs, &[], &nodes, &[("a", &["N"]), ("b", &["x_0"])])).unwrap();
    place.run("run own.onnx --input x=x.npy --input z=y.npy --profile x=1:8").ok();
}

#[test]
fn outputs_replace_regular_files_only_and_never_an_input() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    let model = fs::read(place.path("a.onnx")).unwrap();
    place.run("build a.onnx -o a.onnx").fails(&["cannot write a.onnx", "input"]);
    std::os::unix::fs::symlink("a.onnx", place.path("alias.kiln")).unwrap();
    place.run("build a.onnx -o alias.kiln").fails(&["cannot write alias.kiln", "input"]);
    fs::create_dir(place.path("folder")).unwrap();
    fifo(&place.path("fifo"));
    for (to, why) in [("/dev/null", "a device"), ("fifo", "a FIFO"), ("folder", "a folder")] {
        place.run(&format!("build a.onnx -o {to}")).fails(&["cannot write", to, why]);
    }
    place.run("build a.onnx -o missing/e.kiln").fails(&["write missing/e.kiln"]);
    fs::write(place.path("real.kiln"), "old").unwrap();
    std::os::unix::fs::symlink("real.kiln", place.path("link.kiln")).unwrap();
    place.run("build a.onnx -o link.kiln").ok();
    assert!(fs::symlink_metadata(place.path("link.kiln")).unwrap().is_symlink());
    place.run("run real.kiln --input x=x.npy").ok();
    assert_eq!(fs::read(place.path("a.onnx")).unwrap(), model);

    fs::rename(place.path("x.npy"), place.path("y.npy")).unwrap();
    place.run("run a.onnx --input x=y.npy -o .").fails(&["cannot write ./y.npy", "input"]);
    place.run("run a.onnx --input x=y.npy -o a.onnx").fails(&["cannot write to a.onnx"]);
    fs::create_dir_all(place.path("out/y.npy")).unwrap();
    place.run("run a.onnx --input x=y.npy -o out").fails(&["cannot write `out/y.npy`", "a folder"]);
    place.run("inspect real.kiln --graph real.kiln").fails(&["cannot write real.kiln", "input"]);
    place.run("inspect real.kiln --graph missing/g.dot").fails(&["cannot write missing/g.dot"]);
    place.run("run fifo --input x=y.npy").fails(&["fifo", "a FIFO"]);
    place.run("run a.onnx --input x=fifo").fails(&["fifo", "a FIFO"]);
}

#[test]
fn a_full_disk_behind_the_standard_streams_is_an_error_and_no_panic() {
    let full = || fs::File::options().write(true).open("/dev/full");
    if full().is_err() {
        return;
    }
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    place.run("build a.onnx -o a.kiln").ok();
    for args in [
        "run a.kiln --input x=x.npy",
        "run a.kiln --input x=x.npy --json",
        "compare a.kiln --input x=x.npy --expect y=x.npy",
        "inspect a.kiln",
        "inspect a.kiln --plan",
        "inspect a.kiln --json",
        "bench a.kiln --duration 0 --warm-up 0 --iterations 1",
        "build a.onnx -o b.kiln",
        "cache list",
        "doctor",
    ] {
        let output = place.kiln(args).stdout(full().unwrap()).stderr(Stdio::piped()).output().unwrap();
        Ran::of(output).fails(&["cannot write to standard output"]);
    }
    assert_eq!(place.kiln("--help").stdout(full().unwrap()).status().unwrap().code(), Some(2));
    // News that cannot be told changes nothing, and an error keeps its exit code.
    let quiet = |args: &str| place.kiln(args).stderr(full().unwrap()).output().unwrap();
    Ran::of(quiet("run a.onnx --input x=x.npy")).ok();
    Ran::of(quiet("run none.onnx")).fails(&[]);
}

#[test]
fn models_without_inputs_and_comparisons_without_values() {
    let place = Place::new();
    fs::write(
        place.path("none.onnx"),
        onnx::model(&[], &[("c", 3.0), ("d", 4.0)], &[("Add", &["c", "d"], "y")], &[("y", &[])]),
    )
    .unwrap();
    assert!(place.run("run none.onnx").ok().out.contains("7.000000"));
    place.scale("a.onnx", 2.0);
    place.run("run a.onnx").fails(&["input `x`", "missing"]);
    place.put("short.npy", &[2], &[2.0, -4.0]);
    place.put("wrong.npy", &[3], &[2.0, -4.0, 7.0]);
    place.put("right.npy", &[3], &[2.0, -4.0, 1.0]);
    let compare = |expect: &str| place.run(&format!("compare a.onnx --input x=x.npy --expect y={expect}"));
    let ran = compare("short.npy");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(!ran.out.contains("every kernel agrees") && ran.out.contains("not compared"), "{ran:?}");
    let ran = compare("wrong.npy");
    assert!(ran.code == Some(1) && ran.out.contains("every kernel agrees"), "{ran:?}");
    compare("right.npy").ok();
}

#[test]
fn hostile_arrays_and_sizes_are_errors() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    let nested =
        format!("{{'descr': {}{}, 'fortran_order': False, 'shape': (3, 8), }}\n", "[".repeat(40), "]".repeat(40));
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((nested.len() as u16).to_le_bytes());
    bytes.extend(nested.as_bytes());
    fs::write(place.path("nested.npy"), bytes).unwrap();
    fs::write(place.path("long.npy"), b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}").unwrap();
    for file in ["nested.npy", "long.npy"] {
        place.run(&format!("run a.onnx --input x={file}")).fails(&[file, "malformed"]);
    }
    let wide: &[&str] = &["2147483647", "65536"];
    fs::write(place.path("wide.onnx"), onnx::model(&[("x", wide)], &[], &[("Relu", &["x"], "y")], &[("y", wide)]))
        .unwrap();
    place.run("bench wide.onnx").fails(&["input `x`", "bytes of", "--shape"]);
    place.run("bench a.onnx --shape x=18446744073709551615x9").fails(&["input `x`"]);
}
