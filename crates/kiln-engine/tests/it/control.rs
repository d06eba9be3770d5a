use crate::models::engine;
use kiln_engine::{Session, Tolerance, open_device};
use kiln_graph::{BinaryOp, Builder, CompareOp, DType, Dim, Graph, Op, Tensor, interpret};

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
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&graph, &["cpu"], dir.path());
    let mut session = Session::new(&engine, open_device("cpu:2").unwrap()).unwrap();
    for seed in 0..6 {
        let x = Tensor::random(DType::F32, &[5, 7], 10 + seed).unwrap();
        let start = Tensor::random(DType::F32, &[7], 20 + seed).unwrap();
        let expected = interpret(&graph, &[x.clone(), start.clone()]).unwrap();
        let found = session.run(&[("start", &start), ("x", &x)]).unwrap();
        for (e, (name, f)) in expected.iter().zip(&found) {
            let d = Tolerance { rtol: 1e-5, atol: 1e-6 }.compare(e, f);
            assert!(d.agrees(), "{name}: {d}");
        }
    }
}
