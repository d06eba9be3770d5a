use super::*;
use crate::{Builder, Dim, interpret};

/// `x / sqrt(mean(x^2) + eps) * w` written op by op in f16, then a residual addition.
fn decomposed_rms_norm() -> Graph {
    let mut b = Builder::new("rms");
    let x = b.input("x", DType::F16, &[Dim::from(2), Dim::from(8)]).unwrap();
    let w = b.weight_data("w", Tensor::random(DType::F16, &[8], 3).unwrap()).unwrap();
    let node =
        |b: &mut Builder, name: &str, f: &dyn Fn(&mut Builder) -> Result<ValueId>| b.scoped(name, |b| f(b)).unwrap();
    let square = node(&mut b, "square", &|b| b.mul(x, x));
    let mean = node(&mut b, "mean", &|b| b.mean(square, &[1], true));
    let eps = node(&mut b, "eps", &|b| b.plus_scalar(mean, 1e-3));
    let root = node(&mut b, "root", &|b| b.sqrt(eps));
    let normal = node(&mut b, "normal", &|b| b.div(x, root));
    let scaled = node(&mut b, "scaled", &|b| b.mul(normal, w));
    let y = node(&mut b, "residual", &|b| b.plus(scaled, x));
    b.output("y", y);
    b.finish()
}

fn input(scale: f64) -> Tensor {
    Tensor::generate(DType::F16, &[2, 8], |i| scale * (1.0 + (i as f64 * 0.7).sin())).unwrap()
}

#[test]
fn a_decomposed_norm_overflows_and_widened_it_does_not() {
    let g = decomposed_rms_norm();
    let large = input(3000.0);
    let overflow = first_overflow(&g, std::slice::from_ref(&large)).unwrap().unwrap();
    assert_eq!((overflow.node.as_str(), overflow.op.as_str(), overflow.dtype), ("square", "mul", DType::F16));
    assert!(overflow.exact > 65504.0 && overflow.count > 4, "{overflow:?}");
    assert_eq!(first_overflow(&g, &[input(30.0)]).unwrap(), None);

    let wide = widen_reductions(&g).unwrap();
    crate::verify(&wide).unwrap();
    assert_eq!(first_overflow(&wide, std::slice::from_ref(&large)).unwrap(), None);
    // As f64 would say, rounded where the residual meets it and once more at the end.
    let (exact, _) = in_f64(&g).unwrap();
    let (found, expected) =
        (interpret(&wide, std::slice::from_ref(&large)).unwrap(), interpret(&exact, &[large]).unwrap());
    for (f, e) in found[0].to_f64_vec().iter().zip(expected[0].to_f64_vec()) {
        assert!((f - e).abs() <= e.abs() * 2f64.powi(-10), "{f} {e}");
    }
    // The residual stream keeps its dtype: nothing but the norm is wide.
    let producer = |g: &Graph, name: &str| {
        let node = g.nodes.iter().rev().find(|n| n.name == name && n.op.name() != "cast").unwrap();
        g.ty(node.outputs[0]).dtype
    };
    for (name, dtype) in
        [("square", DType::F32), ("root", DType::F32), ("scaled", DType::F32), ("residual", DType::F16)]
    {
        assert_eq!(producer(&wide, name), dtype, "{name}");
    }
}

#[test]
fn sums_of_products_in_f16_are_named_and_others_are_not() {
    let g = decomposed_rms_norm();
    let found = risks(&g);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].node.as_str(), found[0].op.as_str(), found[0].sum.as_str()), ("square", "mul", "mean"));
    assert!(risks(&widen_reductions(&g).unwrap()).is_empty());
    // Composites are wide from the start; a plain sum multiplies nothing.
    let mut b = Builder::new("fine");
    let x = b.input("x", DType::F16, &[Dim::from(4), Dim::from(8)]).unwrap();
    let y = b.rms_norm(x, 1, None, 1e-5).unwrap();
    let y = b.softmax(y, 1).unwrap();
    let y = b.sum(y, &[1], false).unwrap();
    b.output("y", y);
    let g = b.finish();
    assert!(risks(&g).is_empty());
}

#[test]
fn a_sum_that_overflows_itself_stays_wide_until_it_is_back_in_range() {
    let mut b = Builder::new("sum");
    let x = b.input("x", DType::F16, &[Dim::from(100)]).unwrap();
    let s = b.sum(x, &[0], false).unwrap();
    let y = b.mul_scalar(s, 0.01).unwrap();
    b.output("y", y);
    let g = b.finish();
    let x = Tensor::generate(DType::F16, &[100], |i| 1000.0 + i as f64).unwrap();
    assert_eq!(interpret(&g, std::slice::from_ref(&x)).unwrap()[0].to_f64_vec(), [f64::INFINITY]);
    let y = interpret(&widen_reductions(&g).unwrap(), &[x]).unwrap();
    assert_eq!(y[0].dtype(), DType::F16);
    assert!((y[0].to_f64_vec()[0] - 1049.5).abs() <= 0.5);
}

#[test]
fn bodies_of_control_flow_are_widened_too() {
    let branch = |op: fn(&mut Builder, ValueId) -> Result<ValueId>| {
        let mut b = Builder::new("branch");
        let x = b.input("x", DType::F16, &[Dim::from(8)]).unwrap();
        let y = op(&mut b, x).unwrap();
        b.output("y", y);
        Box::new(b.finish())
    };
    let norm = |b: &mut Builder, x: ValueId| {
        let square = b.mul(x, x)?;
        let sum = b.sum(square, &[0], false)?;
        b.sqrt(sum)
    };
    let mut b = Builder::new("if");
    let x = b.input("x", DType::F16, &[Dim::from(8)]).unwrap();
    let c = b.input("c", DType::Bool, &[]).unwrap();
    let op = Op::If { then_graph: branch(norm), else_graph: branch(|b, x| b.reduce_max(x, &[0], false)) };
    let y = b.add1(op, &[c, x]).unwrap();
    b.output("y", y);
    let g = b.finish();
    assert_eq!(risks(&g).len(), 1);
    let x = Tensor::generate(DType::F16, &[8], |i| 500.0 + i as f64).unwrap();
    let inputs = [x, Tensor::scalar(true)];
    assert_eq!(interpret(&g, &inputs).unwrap()[0].to_f64_vec(), [f64::INFINITY]);
    let wide = widen_reductions(&g).unwrap();
    let expected = (0..8).map(|i| (500.0 + f64::from(i)).powi(2)).sum::<f64>().sqrt();
    assert!((interpret(&wide, &inputs).unwrap()[0].to_f64_vec()[0] - expected).abs() <= 1.0);
}
