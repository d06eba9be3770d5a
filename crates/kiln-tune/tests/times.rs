//! The timing cache as a file, a folder and an object store: shared, damaged, cut.

use kiln_graph::Rng;
use kiln_tune::{Bucket, Outcome, Problem, Record, Times, Timings, append};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;
use std::sync::Arc;

fn problem(region: u64) -> Problem {
    Problem {
        region: format!("{region:016x}"),
        shape: [("batch".to_owned(), Bucket::of(8))].into(),
        gpu: "NVIDIA H200".into(),
        clock_mhz: 1980,
        memory_gbs: 4814,
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
    let sizes = [("batch".to_owned(), 8)].into();
    Record { problem: problem(region), sizes, family: "gemm".into(), config, code: "5f0c".into(), outcome }
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
fn sizes_that_are_alike_share_a_bucket() {
    let of = |range: std::ops::RangeInclusive<i64>| {
        let mut buckets: Vec<Bucket> = range.map(Bucket::of).collect();
        buckets.sort();
        buckets.dedup();
        buckets.len()
    };
    // Each its own, then five kinds of multiples in each of four ranges an octave.
    assert_eq!((of(0..=16), of(1025..=1280), of(1025..=2048)), (17, 5, 20));
    for (a, b, same) in [
        (33, 39, true),
        (33, 40, false),
        (40, 41, false),
        (416, 448, true),
        (448, 464, false),
        (1 << 40, (1 << 40) - 16, true),
        (i64::MAX, i64::MAX - 2, true),
    ] {
        assert_eq!(Bucket::of(a) == Bucket::of(b), same, "{a} {b}");
    }
    assert_eq!(
        [Bucket::of(9), Bucket::of(33), Bucket::of(416)].map(|b| b.to_string()),
        ["9", "<=40 by 1", "<=448 by 16"]
    );
    // All sizes of a bucket are within a quarter of each other.
    for size in 1..5000 {
        let all: Vec<i64> = (size..2 * size).filter(|other| Bucket::of(*other) == Bucket::of(size)).collect();
        assert!(all.last().is_none_or(|last| 4 * last <= 5 * size), "{size} {all:?}");
    }
}

#[test]
fn the_winners_at_other_shapes_come_nearest_first() {
    let at = |batch: i64, bm: u64, ns: u64| {
        let shape = [("batch".to_owned(), Bucket::of(batch))].into();
        Record { problem: Problem { shape, ..problem(1) }, ..record(1, bm, ns) }
    };
    let mut times = Times::default();
    for record in [at(8, 64, 9), at(64, 32, 900), at(64, 96, 500), at(4096, 128, 7), at(32, 16, 5), record(2, 8, 1)] {
        times.add(record);
    }
    let elsewhere = Problem { gpu: "NVIDIA L4".into(), ..at(64, 1, 1).problem };
    times.add(Record { problem: elsewhere, ..record(1, 256, 1) });
    let near = times.near(&Problem { shape: [("batch".to_owned(), Bucket::of(128))].into(), ..problem(1) });
    let configs: Vec<u64> = near.iter().map(|record| record.config["bm"].as_u64().unwrap()).collect();
    assert_eq!(configs, [96, 16, 64, 128]);
}

#[test]
fn of_one_code_the_most_times_count() {
    let with = |times: &[u64], code: &str| Record {
        outcome: Outcome::Ns(times.to_vec()),
        code: code.into(),
        ..record(1, 64, 1)
    };
    let mut times = Times::default();
    let mut then = |record: Record| {
        times.add(record);
        times.records().next().unwrap().outcome.clone()
    };
    assert_eq!(then(with(&[5, 6, 7], "a")), Outcome::Ns(vec![5, 6, 7]));
    assert_eq!(then(with(&[1, 2], "a")), Outcome::Ns(vec![5, 6, 7]));
    assert_eq!(then(with(&[8, 8, 8], "a")), Outcome::Ns(vec![8, 8, 8]));
    assert_eq!(then(with(&[4], "b")), Outcome::Ns(vec![4]));
    // What no longer counts.
    assert_eq!(then(with(&[], "b")), Outcome::Ns(vec![]));
}

/// Every place that several writers may share.
fn places(folder: &std::path::Path) -> [Timings; 3] {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    [Timings::file(folder.join("t.jsonl")), Timings::folder(folder.join("t")), Timings::store("memory", memory, "a/b")]
}

#[test]
fn writers_of_one_place_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for place in places(folder.path()) {
        assert_eq!(place.load().unwrap(), Times::default(), "{place}");
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let place = &place;
                scope.spawn(move || {
                    let mut writer = place.writer();
                    for i in 0..8 {
                        let id = 100 * thread + i;
                        writer.add(&[record(id, 64, 100), record(id, 128, 200)]).unwrap();
                        // Others put everything together meanwhile.
                        if i % 4 == 3 {
                            place.rewrite(|_| {}).unwrap();
                        }
                    }
                });
            }
        });
        let times = place.load().unwrap();
        assert_eq!((times.records().count(), times.damaged), (96, 0), "{place}");
        // Pruned, and then empty.
        place.rewrite(|times| times.retain(|record| record.config["bm"] == 64)).unwrap();
        assert_eq!(place.load().unwrap().records().count(), 48, "{place}");
        place.rewrite(|times| *times = Times::default()).unwrap();
        assert_eq!(place.load().unwrap(), Times::default(), "{place}");
    }
}

#[test]
fn what_lies_in_a_store_and_is_no_times_is_not_used() {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let place = Timings::store("memory", memory.clone(), "a");
    place.writer().add(&[record(1, 64, 100), record(2, 64, 100)]).unwrap();
    let good = Times::to_bytes(&place.load().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let at = object_store::path::Path::from(format!("a/{name}"));
        runtime.block_on(memory.put(&at, bytes.to_vec().into())).unwrap();
    };
    // Cut within its second line, another format, something else.
    put("cut.jsonl", &good[..good.len() - 20]);
    put("old.jsonl", String::from_utf8(good.clone()).unwrap().replace("\"format\":2", "\"format\":1").as_bytes());
    put("readme.md", b"of people\n");
    put("below/other.jsonl", &good);
    let times = place.load().unwrap();
    assert_eq!((times.records().count(), times.damaged), (2, 3));
    assert!(times.records().all(|found| *found == record(1, 64, 100) || *found == record(2, 64, 100)));
}

#[test]
fn places_are_files_folders_and_stores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let place = |text: String| text.parse::<Timings>();
    for (text, object) in [
        (format!("{path}/t.jsonl"), false),
        (format!("{path}/new/"), true),
        (format!("file://{path}/url"), true),
        (format!("{path}"), true),
    ] {
        let place = place(text).unwrap();
        place.writer().add(&[record(1, 64, 100)]).unwrap();
        assert_eq!(place.load().unwrap().records().count(), 1, "{place}");
        assert_eq!(std::path::Path::new(&place.to_string()).is_dir(), object, "{place}");
    }
    // Nothing is made by looking.
    assert!(!place(format!("{path}/none/")).unwrap().exists() && !folder.path().join("none").exists());
    for text in ["ftp://host/folder", "s3:/", "://"] {
        if let Err(e) = place(text.into()) {
            assert!(e.to_string().contains("is no place for a timing cache"), "{e}");
        }
    }
    let e = place("ftp://host/folder".into()).unwrap_err();
    assert!(e.to_string().contains("expected a file, a folder"), "{e}");
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
    let place: Timings = std::env::var("KILN_TEST_TIMES").unwrap().parse().unwrap();
    let first = std::process::id() as u64 * 1_000_000;
    let mut writer = place.writer();
    for i in first.. {
        writer.add(&[record(i, 64, 1000 + i), record(i, 128, 0)]).unwrap();
    }
}

#[test]
fn processes_that_are_killed_leave_whole_lines() {
    let folder = tempfile::tempdir().unwrap();
    for place in [Timings::file(folder.path().join("times.jsonl")), Timings::folder(folder.path().join("times/"))] {
        let mut before = 0;
        for kill in 0..5 {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "times::append_in_this_process"])
                .env("KILN_TEST_TIMES", place.to_string())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // It has written since, by some moment that is another one each time.
            while place.load().unwrap().records().count() < before + 2 * (kill as usize + 1) {
                assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
                std::thread::yield_now();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            place.writer().add(&[record(1_000_000 + kill, 8, 900)]).unwrap();
            let times = place.load().unwrap();
            // At most the line that each kill cut.
            assert!(times.damaged as u64 <= kill + 1 && times.records().count() > before, "{place} {kill}");
            before = times.records().count();
            assert!((0..=kill).all(|k| times.of(&problem(1_000_000 + k)).count() == 1), "{place} {kill}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let e = append(std::path::Path::new("/dev/full"), &[record(1, 64, 3250)]).unwrap_err();
    assert_eq!(e.kind(), std::io::ErrorKind::StorageFull);
}
