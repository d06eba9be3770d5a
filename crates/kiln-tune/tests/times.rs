//! The timing cache as a file: shared, damaged, cut.

use kiln_graph::Rng;
use kiln_tune::{Outcome, Problem, Record, Times, append};
use serde_json::json;

fn problem(region: u64) -> Problem {
    Problem {
        region: format!("{region:016x}"),
        sizes: [("batch".to_owned(), 8)].into(),
        gpu: "NVIDIA H200".into(),
        clock_mhz: 1980,
        arch: "sm_90a".into(),
        nvrtc: "13.0.88".into(),
        options: vec!["--fmad=false".into()],
        tf32: false,
        kiln: "0.1.0".into(),
    }
}

fn record(region: u64, bm: u64, ns: u64) -> Record {
    let outcome = if ns > 0 { Outcome::Ns(vec![ns, ns + 7]) } else { Outcome::Invalid("it spills\n\"4\"".into()) };
    let config = json!({"bm": bm, "depth": "whole"});
    Record { problem: problem(region), family: "gemm".into(), config, code: "5f0c".into(), outcome }
}

#[test]
fn what_is_appended_is_read_and_the_last_of_a_config_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("times.jsonl");
    assert_eq!(Times::load(&path).unwrap(), Times::default());
    append(&path, &[record(1, 64, 3250), record(1, 128, 0), record(2, 64, 1)]).unwrap();
    append(&path, &[record(1, 64, 2500)]).unwrap();
    let times = Times::load(&path).unwrap();
    let known: Vec<&Record> = times.of(&problem(1)).collect();
    assert_eq!(known, [&record(1, 128, 0), &record(1, 64, 2500)]);
    assert_eq!((times.records().count(), times.damaged), (3, 0));
    assert_eq!(times.of(&Problem { clock_mhz: 1500, ..problem(1) }).count(), 0);
    // Of the two problems the one of which less is known goes first.
    let mut small = times.clone();
    small.shrink(small.to_bytes().len() as u64 - 1);
    assert_eq!(small.records().collect::<Vec<_>>(), known);
    assert_eq!(known.iter().map(|record| record.outcome.median()).collect::<Vec<_>>(), [None, Some(2507)]);
    // Merged and pruned.
    let mut other = Times::default();
    other.read(&times.to_bytes());
    assert_eq!(other, times);
    other.retain(|record| record.problem == problem(2));
    assert_eq!(other.records().collect::<Vec<_>>(), [&record(2, 64, 1)]);
}

#[test]
fn damage_costs_the_lines_that_it_touches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("times.jsonl");
    let all: Vec<Record> = (0..20).map(|i| record(i, 64 + i, 1000 + i)).collect();
    append(&path, &all).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut rng = Rng::new(5);
    for _ in 0..500 {
        let mut bytes = good.clone();
        let at = rng.range(0, bytes.len() as i64 - 1) as usize;
        bytes[at] ^= 1 << rng.range(0, 7);
        let mut times = Times::default();
        times.read(&bytes);
        // A flipped bit may join two lines or part one.
        assert!((18..20).contains(&times.records().count()) && times.damaged > 0, "{at}");
        assert!(times.records().all(|record| all.contains(record)), "{at}");
    }
    for cut in (0..good.len()).step_by(37) {
        std::fs::write(&path, &good[..cut]).unwrap();
        let whole = good[..cut].iter().filter(|byte| **byte == b'\n').count();
        append(&path, &[record(77, 8, 900)]).unwrap();
        let times = Times::load(&path).unwrap();
        // The line that was cut may only lack its end.
        assert!((whole + 1..=whole + 2).contains(&times.records().count()), "{cut}");
        assert_eq!(times.of(&problem(77)).count(), 1, "{cut}");
    }
}

#[test]
fn processes_that_append_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("times.jsonl");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let path = &path;
            scope.spawn(move || {
                for i in 0..20 {
                    append(path, &[record(100 * thread + i, 64, 100), record(100 * thread + i, 128, 200)]).unwrap();
                }
            });
        }
    });
    let times = Times::load(&path).unwrap();
    assert_eq!((times.records().count(), times.damaged), (320, 0));
}

/// What a process of its own does until it is killed.
#[test]
#[ignore = "run by processes_that_are_killed_leave_whole_lines in a process of its own"]
fn append_in_this_process() {
    let path = std::env::var_os("KILN_TEST_TIMES").unwrap();
    for i in 0.. {
        append(path.as_ref(), &[record(i, 64, 1000 + i), record(i, 128, 0)]).unwrap();
    }
}

#[test]
fn processes_that_are_killed_leave_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("times.jsonl");
    let mut before = 0;
    for kill in 0..5 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "append_in_this_process"])
            .env("KILN_TEST_TIMES", &path)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let length = || std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        // It has written since, by some moment that is another one each time.
        let start = length();
        while length() <= start + 1000 * kill {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        append(&path, &[record(1_000_000 + kill, 8, 900)]).unwrap();
        let times = Times::load(&path).unwrap();
        // At most the line that each kill cut.
        assert!(times.damaged as u64 <= kill + 1 && times.records().count() > before, "{kill}");
        before = times.records().count();
        assert!((0..=kill).all(|k| times.of(&problem(1_000_000 + k)).count() == 1), "{kill}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let e = append(std::path::Path::new("/dev/full"), &[record(1, 64, 3250)]).unwrap_err();
    assert_eq!(e.kind(), std::io::ErrorKind::StorageFull);
}
