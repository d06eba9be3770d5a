//! Caches that several processes use at once, disks that are full, and the first result of a model.

use super::{Place, Ran};
use kiln::tune::{Bucket, Outcome, Problem, Record, Timings};
use kiln_cuda::Home;
use std::fs;
use std::process::{Command, Stdio};

impl Place {
    /// A command that cannot write more than a kilobyte to any file.
    fn on_a_full_disk(&self, args: &str) -> Ran {
        let program = env!("CARGO_BIN_EXE_kiln");
        // Without the trap the signal ends the process, with it a write fails.
        let script = format!("trap '' XFSZ; ulimit -f 1; exec {program} {args}");
        let mut command = Command::new("bash");
        command.args(["-c", &script]).current_dir(self.0.path()).env("KILN_HOME", self.path("home"));
        Ran::of(command.output().unwrap())
    }

    /// What there is in a folder.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A timing cache of one kernel.
    fn times(&self, name: &str, gpu: &str, count: u64) {
        let problem = Problem {
            region: "1f2e".into(),
            shape: [("N".to_owned(), Bucket::of(100))].into(),
            gpu: gpu.into(),
            clock_mhz: 1980,
            memory_gbs: 4814,
            arch: "sm_90a".into(),
            nvrtc: "13.0.88".into(),
            options: vec![],
            tf32: false,
            kiln: env!("CARGO_PKG_VERSION").into(),
        };
        let record = |bm: u64| Record {
            problem: problem.clone(),
            sizes: [("N".to_owned(), 100)].into(),
            family: "gemm".into(),
            config: serde_json::json!({ "bm": bm }),
            code: "5f0c".into(),
            outcome: Outcome::Ns(vec![1000 + bm, 1100 + bm, 1200 + bm]),
        };
        let records: Vec<Record> = (0..count).map(record).collect();
        Timings::file(self.path(name)).writer().add(&records).unwrap();
    }
}

#[test]
fn processes_that_build_at_once_share_a_cache_and_make_the_same() {
    let place = Place::new();
    place.scale("a.onnx", 3.0);
    fs::create_dir_all(place.path("home")).unwrap();
    std::os::unix::fs::symlink(Home::from_env().unwrap().root().join("nvrtc"), place.path("home/nvrtc")).unwrap();
    let build = |i: usize| {
        let mut command = place.kiln(&format!("build a.onnx -o {i}.kiln --target cpu,sm_80,sm_90a"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..3).map(build).collect();
    children.into_iter().for_each(|child| {
        Ran::of(child.wait_with_output().unwrap()).ok();
    });
    // Once more, with all there.
    Ran::of(build(3).wait_with_output().unwrap()).ok();
    let made = |i: usize| fs::read(place.path(&format!("{i}.kiln"))).unwrap();
    assert!((1..4).all(|i| made(i) == made(0)));
    place.run("run 0.kiln --input x=x.npy --device sim:sm_90a").ok();
    let runs: Vec<_> = (0..3)
        .map(|_| {
            place.kiln("run a.onnx --input x=x.npy").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for run in runs {
        assert!(Ran::of(run.wait_with_output().unwrap()).ok().out.contains("3.000000, -6.000000"));
    }
    place.engine();
}

#[test]
fn a_full_disk_is_an_error_and_leaves_no_part_of_a_file() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    place.times("t.jsonl", "NVIDIA H200", 40);
    place.on_a_full_disk("build a.onnx -o out.kiln").fails(&["out.kiln", "too large"]);
    place.on_a_full_disk("timings merge t.jsonl -o both.jsonl").fails(&["cannot write the timing cache both.jsonl"]);
    place.on_a_full_disk("timings merge t.jsonl -o shared/").fails(&["cannot write the timing cache shared/"]);
    assert_eq!(place.names("."), ["a.onnx", "shared", "t.jsonl", "x.npy"].map(str::to_owned));
    assert!(place.names("shared").is_empty() && place.names("home").is_empty(), "{:?}", place.names("home"));
    // What cannot be kept costs time, never the result.
    let ran = place.on_a_full_disk("run a.onnx --input x=x.npy");
    assert!(ran.ok().out.contains("2.000000, -4.000000") && ran.err.contains("not kept"), "{ran:?}");
    assert!(place.names("home/engines").is_empty());
    // What was there stays.
    place.run("build a.onnx -o out.kiln").ok();
    let before = fs::read(place.path("out.kiln")).unwrap();
    place.on_a_full_disk("build a.onnx -o out.kiln --numerics exact").fails(&["out.kiln"]);
    assert!(fs::read(place.path("out.kiln")).unwrap() == before);
}

#[test]
fn timing_caches_are_merged_listed_and_pruned_wherever_they_are() {
    let place = Place::new();
    place.times("h200.jsonl", "NVIDIA H200", 3);
    place.times("l4.jsonl", "NVIDIA L4", 2);
    let half = [fs::read(place.path("l4.jsonl")).unwrap(), b"{\"half a line".to_vec()].concat();
    fs::write(place.path("l4.jsonl"), half).unwrap();
    for fleet in ["fleet/", "all.jsonl"] {
        assert!(place.run(&format!("timings merge h200.jsonl -o {fleet}")).ok().out.contains("3 records"));
        // What is there stays.
        let merged = place.run(&format!("timings merge l4.jsonl h200.jsonl -o {fleet}"));
        assert!(merged.ok().out.contains("5 records") && merged.err.contains("1 lines are damaged"), "{merged:?}");
        let list = place.run(&format!("timings list {fleet}"));
        let lines = ["NVIDIA H200 1980 MHz, NVRTC 13.0.88: 3 measured", "N=<=112 by 4", "1.10 us gemm"];
        assert!(lines.iter().all(|line| list.ok().out.contains(line)), "{list:?}");
        assert!(place.run(&format!("timings prune {fleet} --gpu H200")).ok().out.contains("removed 2 records, left 3"));
    }
    assert_eq!(place.names("fleet").len(), 1);
    let url = format!("timings list file://{} --json", place.path("fleet").display());
    assert!(place.run(&url).ok().out.contains("\"damaged\": 0"));
    place.run("timings list none/").fails(&["there is no timing cache none/"]);
    place.run("timings list ftp://host/folder").fails(&["is no place for a timing cache"]);
    assert!(!place.path("none").exists());
}

#[test]
fn the_first_outputs_are_timed_and_a_second_start_is_warm() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    let run = |args: &str| place.run(&format!("run a.onnx --input x=x.npy {args}"));
    for (start, warm) in [("cold", "false"), ("warm", "true"), ("warm", "true")] {
        if start == "cold" {
            assert!(run("").ok().out.contains("after a cold start"));
            continue;
        }
        assert!(run("").ok().out.contains("after a warm start"));
        let ran = run("--json --tune=1s");
        for part in
            [&format!("\"warm\": {warm}"), "import_ms", "engine_ms", "load_ms", "run_ms", "total_ms", "\"tune\": null"]
        {
            assert!(ran.ok().out.contains(part), "{part}: {ran:?}");
        }
        assert!(ran.err.contains("cpu has nothing to tune"), "{ran:?}");
    }
    place.run("build a.onnx -o a.kiln").ok();
    place.run("run a.kiln --input x=x.npy --tune").fails(&["is an engine", "kiln tune"]);
    place.run("run a.onnx --input x=x.npy --timings t.jsonl").fails(&["--tune"]);
    place.run("run a.onnx --input x=x.npy --tune=soon").fails(&["expected something like `30s`"]);
}
