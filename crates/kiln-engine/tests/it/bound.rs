//! Inputs and outputs that stay on the device.

use crate::models::{block, engine, engine_at, home};
use kiln_engine::{Error, Session, open_device};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Tensor, interpret};

const DEVICES: [(&str, &str); 3] = [("cpu", "cpu:2"), ("sm_80", "sim:sm_80"), ("sm_90a", "sim:sm_90a")];

fn sessions(graph: &Graph) -> impl Iterator<Item = (&'static str, Session)> {
    let engine = engine_at(graph, &DEVICES.map(|d| d.0), home());
    // And on a GPU where there is one.
    let gpu = open_device("cuda:0").is_ok().then_some("cuda:0");
    let devices = DEVICES.into_iter().map(|(_, device)| device).chain(gpu);
    devices.map(move |d| (d, engine.session(d).unwrap()))
}

fn on_cpu(graph: &Graph) -> Session {
    let engine = engine(graph, &["cpu"], std::path::Path::new("unused"));
    Session::new(&engine, open_device("cpu:2").unwrap()).unwrap()
}

/// `state' = state * 0.5 + x`, `y = tanh(state') > 0`, `n' = n + 1`.
fn recurrence() -> Graph {
    let mut b = Builder::new("recurrence");
    let shape = [Dim::sym("B"), Dim::from(5)];
    b.symbol("B", 1, 64);
    let (x, state) = (b.input("x", DType::F32, &shape).unwrap(), b.input("state", DType::F32, &shape).unwrap());
    let n = b.input("n", DType::I64, &[]).unwrap();
    let half = b.mul_scalar(state, 0.5).unwrap();
    let next = b.binary(BinaryOp::Add, half, x).unwrap();
    let squashed = b.tanh(next).unwrap();
    let zero = b.scalar(DType::F32, 0.0).unwrap();
    let y = b.compare(kiln_graph::CompareOp::Gt, squashed, zero).unwrap();
    let one = b.scalar(DType::I64, 1.0).unwrap();
    let count = b.binary(BinaryOp::Add, n, one).unwrap();
    for (name, value) in [("next", next), ("y", y), ("count", count)] {
        b.output(name, value);
    }
    b.finish()
}

#[test]
fn donated_outputs_are_the_next_inputs() {
    let graph = recurrence();
    for (device, mut s) in sessions(&graph) {
        s.donate("next", "state").unwrap();
        s.donate("count", "n").unwrap();
        for (rows, n) in [(3usize, 7i64), (64, 0), (1, -2)] {
            let mut state = Tensor::random(DType::F32, &[rows, 5], 31).unwrap();
            let mut count = Tensor::scalar(n);
            s.bind_tensor("state", &state).unwrap();
            s.bind("n", &[], &[n]).unwrap();
            for run in 0..6 {
                // Bound once, used twice.
                let x = Tensor::random(DType::F32, &[rows, 5], 100 + run / 2).unwrap();
                if run % 2 == 0 {
                    s.bind("x", &[rows, 5], &x.to_vec::<f32>().unwrap()).unwrap();
                }
                s.poison(0xcb).unwrap();
                s.run_bound().unwrap();
                let expected = interpret(&graph, &[x, state, count]).unwrap();
                let (mut next, mut y, mut n) = (vec![0f32; rows * 5], vec![false; rows * 5], [0i64]);
                s.read("next", &mut next).unwrap();
                s.read("y", &mut y).unwrap();
                s.read("count", &mut n).unwrap();
                assert_eq!(s.output_shape("y").unwrap(), [rows, 5]);
                for (e, f) in expected[0].to_f64_vec().iter().zip(&next) {
                    assert!((e - f64::from(*f)).abs() <= 1e-5, "{device}, run {run}: expected {e}, found {f}");
                }
                assert_eq!((expected[1].to_vec::<bool>().unwrap(), expected[2].to_vec().unwrap()), (y, n.to_vec()));
                assert_eq!(s.output("count").unwrap(), expected[2]);
                (state, count) = (s.output("next").unwrap(), expected[2].clone());
            }
        }
    }
}

/// A cache that gains a row each run.
#[test]
fn donated_outputs_may_grow() {
    let mut b = Builder::new("append");
    b.symbol("S", 0, 4096);
    let cache = b.input("cache", DType::F16, &[Dim::from(2), Dim::sym("S"), Dim::from(3)]).unwrap();
    let row = b.input("row", DType::F16, &[Dim::from(2), Dim::from(1), Dim::from(3)]).unwrap();
    let all = b.concat(&[cache, row], 1).unwrap();
    b.output("all", all);
    let graph = b.finish();
    for (device, mut s) in sessions(&graph) {
        s.donate("all", "cache").unwrap();
        s.bind::<half::f16>("cache", &[2, 0, 3], &[]).unwrap();
        let mut expected = Tensor::random(DType::F16, &[2, 0, 3], 1).unwrap();
        // More than are kept, and more than fit what was allocated first.
        for seed in 0..40 {
            let row = Tensor::random(DType::F16, &[2, 1, 3], seed).unwrap();
            s.bind_tensor("row", &row).unwrap();
            s.poison(0xcb).unwrap();
            s.run_bound().unwrap();
            expected = interpret(&graph, &[expected, row]).unwrap().remove(0);
            assert_eq!(s.output("all").unwrap(), expected, "{device}, row {seed}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_loses_nothing() {
    let graph = recurrence();
    let mut s = on_cpu(&graph);
    let text = |r: Result<(), Error>| r.unwrap_err().to_string();
    assert!(text(s.run_bound()).contains("`x`: missing"));
    assert!(text(s.bind("z", &[1], &[1f32])).contains("no such input; it has x, state, n"));
    assert!(text(s.bind("x", &[2, 5], &[1f32; 9])).contains("9 elements"));
    assert!(text(s.bind("x", &[1, 5], &[1i32; 5])).contains("expected f32"));
    assert!(text(s.donate("y", "x")).contains("`y` is bool"));
    assert!(text(s.donate("w", "x")).contains("no such output; it has next, y, count"));
    s.donate("next", "state").unwrap();
    assert!(text(s.donate("next", "state")).contains("already"));
    assert!(text(s.donate("next", "x")).contains("donated already"));
    let (x, state) = ([1f32, -2.0, 3.0, 4.0, 5.0], [2f32; 5]);
    s.bind("x", &[1, 5], &x).unwrap();
    s.bind("state", &[2, 5], &[2f32; 10]).unwrap();
    s.bind("n", &[], &[4i64]).unwrap();
    assert!(text(s.read("next", &mut [0f32; 5])).contains("before a run"));
    assert!(text(s.run_bound()).contains('B'));
    s.bind("state", &[1, 5], &state).unwrap();
    s.run_bound().unwrap();
    assert!(text(s.read("next", &mut [0f32; 4])).contains("a slice of 4 f32"));
    assert!(text(s.read("next", &mut [0i32; 5])).contains("i32"));
    let mut next = [0f32; 5];
    s.read("next", &mut next).unwrap();
    assert_eq!(next, x.map(|x| x + 1.0));
}

#[test]
fn a_run_that_failed_has_no_outputs() {
    let mut b = Builder::new("lookup");
    let x = b.input("x", DType::F32, &[4.into(), 3.into()]).unwrap();
    let at = b.input("at", DType::I64, &[2.into()]).unwrap();
    let y = b.gather(x, at, 0).unwrap();
    b.output("y", y);
    let mut s = on_cpu(&b.finish());
    s.bind_tensor("x", &Tensor::random(DType::F32, &[4, 3], 9).unwrap()).unwrap();
    let mut y = [7f32; 6];
    for (at, good) in [([3i64, 0], true), ([4, 0], false), ([1, -1], true)] {
        s.bind("at", &[2], &at).unwrap();
        assert_eq!(s.run_bound().is_ok(), good);
        assert_eq!(s.read("y", &mut y).is_ok(), good);
    }
}

#[test]
fn the_shapes_that_are_kept_are_limited() {
    let graph = block();
    let mut s = on_cpu(&graph);
    for round in 0..3 {
        for rows in 1..=40usize {
            let x = Tensor::random(DType::F32, &[1, rows, 24], (rows + round) as u64).unwrap();
            let expected = interpret(&graph, std::slice::from_ref(&x)).unwrap();
            s.poison(0xcb).unwrap();
            let found = s.run(&[("x", &x)]).unwrap();
            for (e, f) in expected[0].to_f64_vec().iter().zip(found[0].1.to_f64_vec()) {
                assert!((e - f).abs() <= 1e-4 * e.abs().max(1.0), "{rows} rows: expected {e}, found {f}");
            }
        }
    }
}
