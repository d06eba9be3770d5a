//! A region that only the kernel of a function takes in one piece: here its ops run one after the other.

use kiln_cpu::Kernel;
use kiln_fuse::{Anchor, Options, Pattern, Step, fuse};
use kiln_graph::{Builder, DType, Dim, Op, ReduceOp, Tensor, UnaryOp, bind_symbols, interpret};
use std::sync::Arc;

const F: DType = DType::F32;

/// Norm of rows, two products of which one gates the other, the largest of each row, and quotients by it; with a row count of `count`.
fn function(b: &mut Builder, rows: Dim) -> kiln_graph::Result<()> {
    let x = b.input("x", F, &[rows, 48.into()])?;
    let [gate, up] = ["gate", "up"].map(|name| b.input(name, F, &[40.into(), 48.into()]));
    let h = b.rms_norm(x, -1, None, 1e-6)?;
    let (a, u) = (b.linear(h, gate?, None, true)?, b.linear(h, up?, None, true)?);
    let a = b.silu(a)?;
    let y = b.mul(a, u)?;
    let size = b.unary(UnaryOp::Abs, y)?;
    let top = b.reduce(ReduceOp::Max, size, &[-1], true)?;
    let scaled = b.div(y, top)?;
    // Half steps from a boundary between integers, a rounding more or less makes no difference.
    let wide = b.mul_scalar(scaled, 64.0)?;
    let q = b.unary(UnaryOp::Floor, wide)?;
    let q = b.add1(Op::Cast { to: DType::I8, saturate: false }, &[q])?;
    b.output("q", q);
    b.output("top", top);
    Ok(())
}

#[test]
fn a_kernels_region_runs_op_by_op() {
    let mut b = Builder::new("function");
    let rows = b.symbol("M", 1, 4096);
    function(&mut b, rows).unwrap();
    let pattern = Arc::new(Pattern::new("function", &b.finish()).unwrap());
    let mut b = Builder::new("model");
    let rows = b.symbol("tokens", 1, 4096);
    function(&mut b, rows).unwrap();
    let graph = b.finish();
    let options = Options { patterns: vec![pattern.clone()], ..Options::new("cpu".parse().unwrap()) };
    let plan = fuse(&graph, &options).unwrap().plan;
    let ([region], [Step::Run { inputs, outputs, .. }]) = (&plan.regions[..], &plan.steps[..]) else {
        panic!("not one step");
    };
    assert_eq!(region.anchor, Anchor::Kernel);
    region.verify().unwrap();
    assert!(pattern.bind(region, &region.graph.symbols).is_some());
    for rows in [1, 5, 70] {
        let shapes = [vec![rows, 48], vec![40, 48], vec![40, 48]];
        let data: Vec<Tensor> = shapes.iter().zip(3..).map(|(s, i)| Tensor::random(F, s, i).unwrap()).collect();
        let expected = interpret(&graph, &data).unwrap();
        let place = |id| plan.inputs.iter().position(|i| i == id).unwrap();
        let data: Vec<Tensor> = inputs.iter().map(|id| data[place(id)].clone()).collect();
        let shapes: Vec<Vec<usize>> = data.iter().map(|t| t.shape().to_vec()).collect();
        let bound = Kernel::compile(region).unwrap().bind(&bind_symbols(&region.graph, &shapes).unwrap()).unwrap();
        assert!(!bound.is_reference(), "{}", bound.implementation());
        let found = crate::support::execute(&bound, &region.graph, &data, 0).unwrap();
        for (at, bytes) in found.into_iter().enumerate() {
            let (name, _) = plan.outputs.iter().find(|(_, id)| *id == outputs[at]).unwrap();
            let expected = &expected[graph.outputs.iter().position(|(n, _)| n == name).unwrap()];
            let found = Tensor::new(expected.dtype(), expected.shape().to_vec(), bytes.into()).unwrap();
            let (e, f) = (expected.to_f64_vec(), found.to_f64_vec());
            let off = |(e, f): (&f64, &f64)| (e - f).abs() / e.abs().max(1e-3);
            match name.as_str() {
                "q" => {
                    let steps: Vec<f64> = e.iter().zip(&f).map(|(e, f)| (e - f).abs()).collect();
                    assert!(
                        steps.iter().all(|s| *s <= 1.0)
                            && steps.iter().filter(|s| **s > 0.0).count() * 50 < e.len() + 50
                    );
                    assert!(e.iter().any(|v| *v > 10.0) && e.iter().any(|v| *v < -10.0));
                }
                _ => assert!(e.iter().zip(&f).all(|p| off(p) < 1e-5), "{name}: {e:?} {f:?}"),
            }
        }
    }
}
