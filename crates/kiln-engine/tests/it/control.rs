use crate::models::{engine, engine_at};
use kiln_engine::{Session, Tolerance, open_device};
use kiln_graph::{BinaryOp, Builder, CompareOp, DType, Dim, EinsumSpec, Graph, Op, Tensor, interpret};

/// `for i in 0..5: state = tanh(state * w + x[i]); emit state`, which is what recurrent layers become; then a branch on the sum's sign.
fn recurrent() -> Graph {
    let mut body = Builder::new("body");
    let i = body.input("i", DType::I64, &[]).unwrap();
    let cond = body.input("cond", DType::Bool, &[]).unwrap();
    let state = body.input("state", DType::F32, &[7.into()]).unwrap();
    let other = body.input("other", DType::F32, &[7.into()]).unwrap();
    let x = body.input("x", DType::F32, &[5.into(), 7.into()]).unwrap();
    let w = body.input("w", DType::F32, &[7.into()]).unwrap();
    let row = body.gather(x, i, 0).unwrap();
    let next = body.binary(BinaryOp::Mul, state, w).unwrap();
    let next = body.binary(BinaryOp::Add, next, row).unwrap();
    let next = body.unary(kiln_graph::UnaryOp::Tanh, next).unwrap();
    body.output("cond", cond);
    // The carried values change places: the second is the old first, handed straight through.
    body.output("state", next);
    body.output("other", state);
    body.output("scan", next);
    let _ = other;
    let mut b = Builder::new("recurrent");
    let x = b.input("x", DType::F32, &[5.into(), 7.into()]).unwrap();
    let start = b.input("start", DType::F32, &[7.into()]).unwrap();
    let w = b.weight_data("w", Tensor::random(DType::F32, &[7], 3).unwrap()).unwrap();
    let trip = b.scalar_int(DType::I64, 5).unwrap();
    let go = b.scalar_int(DType::Bool, 1).unwrap();
    let op = Op::Loop { body: Box::new(body.finish()), carried: 2, trip: Some(Dim::from(5)) };
    let out = b.add(op, &[trip, go, start, start, x, w]).unwrap();
    let total = b.sum(out[2], &[0, 1], false).unwrap();
    let positive = b.compare_scalar(CompareOp::Gt, total, 0.0).unwrap();
    let branch = |scale: f64| {
        let mut b = Builder::new("branch");
        let v = b.input("v", DType::F32, &[7.into()]).unwrap();
        let y = b.mul_scalar(v, scale).unwrap();
        b.output("y", y);
        Box::new(b.finish())
    };
    let y = b.add1(Op::If { then_graph: branch(2.0), else_graph: branch(-3.0) }, &[positive, out[0]]).unwrap();
    b.output("y", y);
    b.output("before", out[1]);
    b.output("states", out[2]);
    b.finish()
}

#[test]
fn loops_and_branches_run_on_the_device() {
    let graph = recurrent();
    let home = kiln_cuda::Home::from_env().unwrap();
    kiln_cuda::setup::setup(&home, |_| {}).unwrap();
    let engine = engine_at(&graph, &["cpu", "sm_80"], home);
    for device in ["cpu:1", "cpu:2", "sim:sm_80"] {
        let mut session = Session::new(&engine, open_device(device).unwrap()).unwrap();
        for seed in 0..4 {
            let x = Tensor::random(DType::F32, &[5, 7], 10 + seed).unwrap();
            let start = Tensor::random(DType::F32, &[7], 20 + seed).unwrap();
            let expected = interpret(&graph, &[x.clone(), start.clone()]).unwrap();
            session.poison(0xcb).unwrap();
            let found = session.run(&[("start", &start), ("x", &x)]).unwrap();
            agree(device, &expected, &found);
        }
    }
}

fn agree(what: &str, expected: &[Tensor], found: &[(String, Tensor)]) {
    for (e, (name, f)) in expected.iter().zip(found) {
        let d = Tolerance { rtol: 1e-5, atol: 1e-6 }.compare(e, f);
        assert!(d.agrees(), "{what}, {name}: {d}");
    }
}

/// A recurrence of symbolic length and batch whose step has a gate, a loop of its own and a branch that depends on the iteration.
fn nested(dtype: DType) -> Graph {
    let (n, t) = (Dim::sym("N"), Dim::sym("T"));
    let graph = |name: &str| {
        let mut b = Builder::new(name);
        b.symbol("N", 1, 64);
        b.symbol("T", 1, 1024);
        b
    };
    let state = [n.clone(), 9.into()];
    // The inner loop: r = tanh(r + s w^T), as often as the outer one has run.
    let mut b = graph("inner");
    b.input("i", DType::I64, &[]).unwrap();
    let cond = b.input("cond", DType::Bool, &[]).unwrap();
    let r = b.input("r", dtype, &state).unwrap();
    let s = b.input("s", dtype, &state).unwrap();
    let w = b.input("w", dtype, &[9.into(), 9.into()]).unwrap();
    let spec = |rhs: [char; 2]| EinsumSpec { lhs: vec!['b', 'k'], rhs: rhs.to_vec(), out: vec!['b', 'n'] };
    let p = b.contract(spec(['n', 'k']), s, w, dtype, dtype).unwrap();
    let p = b.plus(p, r).unwrap();
    let p = b.tanh(p).unwrap();
    b.output("cond", cond);
    b.output("r", p);
    let inner = Box::new(b.finish());
    let branch = |name: &str, negate: bool| {
        let mut b = graph(name);
        let (r, s) = (b.input("r", dtype, &state).unwrap(), b.input("s", dtype, &state).unwrap());
        let y = if negate { b.sub(s, r).unwrap() } else { b.plus(r, s).unwrap() };
        b.output("y", y);
        Box::new(b.finish())
    };
    let mut b = graph("outer");
    let i = b.input("i", DType::I64, &[]).unwrap();
    let cond = b.input("cond", DType::Bool, &[]).unwrap();
    let s = b.input("s", dtype, &state).unwrap();
    let x = b.input("x", dtype, &[t.clone(), n.clone(), 18.into()]).unwrap();
    let w = b.input("w", dtype, &[18.into(), 9.into()]).unwrap();
    let row = b.gather(x, i, 0).unwrap();
    let p = b.contract(spec(['n', 'k']), s, w, dtype, dtype).unwrap();
    let gates = b.plus(p, row).unwrap();
    let gates = b.chunk(gates, 1, 2).unwrap();
    let (z, c) = (b.sigmoid(gates[0]).unwrap(), b.tanh(gates[1]).unwrap());
    let next = b.mul(z, c).unwrap();
    let half = b.slice_axis(w, 0, &Dim::from(9), &Dim::from(9), 1).unwrap();
    let r = b.add1(Op::Loop { body: inner, carried: 1, trip: None }, &[i, cond, next, s, half]).unwrap();
    let two = b.scalar_int(DType::I64, 2).unwrap();
    let early = b.compare(CompareOp::Lt, i, two).unwrap();
    let y = Op::If { then_graph: branch("early", false), else_graph: branch("late", true) };
    let y = b.add1(y, &[early, r, s]).unwrap();
    let y = b.mul_scalar(y, 0.5).unwrap();
    b.output("cond", cond);
    b.output("s", y);
    b.output("scan", y);
    let outer = Box::new(b.finish());
    let mut b = graph("nested");
    let x = b.input("x", dtype, &[t.clone(), n, 18.into()]).unwrap();
    let s = b.input("s", dtype, &state).unwrap();
    // Small enough that no step makes the roundings of those before it larger.
    let w: Vec<f64> = Tensor::random(dtype, &[18, 9], 3).unwrap().to_f64_vec().iter().map(|w| w * 0.2).collect();
    let w = b.weight_data("w", Tensor::from_f64(dtype, &[18, 9], &w).unwrap()).unwrap();
    let trip = b.dim_value(&t, DType::I64).unwrap();
    let go = b.scalar_int(DType::Bool, 1).unwrap();
    let out = b.add(Op::Loop { body: outer, carried: 1, trip: Some(t) }, &[trip, go, s, x, w]).unwrap();
    b.output("last", out[0]);
    b.output("all", out[1]);
    b.finish()
}

#[test]
fn recorded_loops_give_what_the_session_and_the_interpreter_give() {
    for dtype in [DType::F32, DType::F64] {
        let graph = nested(dtype);
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&graph, &["cpu"], dir.path());
        for device in ["cpu:1", "cpu:2"] {
            let mut session = Session::new(&engine, open_device(device).unwrap()).unwrap();
            for (seed, (steps, batch)) in [(1, 1), (7, 1), (5, 4), (7, 1), (12, 33)].into_iter().enumerate() {
                let x = Tensor::random(dtype, &[steps, batch, 18], 40 + seed as u64).unwrap();
                let s = Tensor::random(dtype, &[batch, 9], 50 + seed as u64).unwrap();
                let expected = interpret(&graph, &[x.clone(), s.clone()]).unwrap();
                let inputs = [("x", &x), ("s", &s)];
                session.poison(0xcb).unwrap();
                agree(device, &expected, &session.run(&inputs).unwrap());
                session.poison(0xcb).unwrap();
                agree("the session", &expected, &session.run_observed(&inputs, &mut |_| {}).unwrap());
            }
        }
    }
}
