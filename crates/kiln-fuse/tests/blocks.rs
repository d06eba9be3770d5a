//! Fusion of whole blocks: results equal the graph's, and the kernels are those that a person would write.

use crate::common::{check, convnet, deep_convnet, encoder, kernels, options};
use kiln_fuse::{Anchor, Numerics};
use kiln_graph::{Builder, DType, Dim, Graph, Rng, Tensor, ValueId};

fn encoder_inputs(n: usize, s: usize, h: usize) -> Vec<Tensor> {
    let mask = Tensor::generate(DType::I64, &[n, s], |i| f64::from(u8::from(i % s < s - s / 3))).unwrap();
    vec![Tensor::random(DType::F32, &[n, s, h], 3).unwrap(), mask]
}

#[test]
fn an_encoder_layer_is_a_dozen_kernels() {
    for target in ["sm_90a", "cpu"] {
        for (n, s) in [(Dim::from(2), Dim::from(5)), (Dim::sym("N"), Dim::sym("S"))] {
            let graph = encoder(2, n, s, 16, 2);
            let fused = check(&graph, &encoder_inputs(2, 5, 16), &options(target, Numerics::Reassoc), 1e-5);
            println!("{}", fused.report);
            let names = kernels(&fused);
            println!("{}", names.join("\n"));
            // The mask, then two layers.
            assert!(fused.report.kernels <= 1 + 2 * 12, "{}", names.join("\n"));
            let of = |anchor: Anchor| fused.report.launches.iter().filter(|l| l.anchor == anchor).count();
            let found = (of(Anchor::Attention), of(Anchor::Reduce));
            let (attentions, reduces) = if target == "cpu" { (0, 3) } else { (1, 2) };
            assert_eq!(
                found,
                (2 * attentions, 2 * reduces),
                "two norms a layer, and a softmax unless it is in an attention"
            );
        }
    }
}

#[test]
fn a_convnet_block() {
    for target in ["sm_80", "cpu"] {
        for (n, side) in [(Dim::from(2), Dim::from(9)), (Dim::sym("N"), Dim::sym("H"))] {
            let graph = convnet(n, side, 5);
            let inputs = [Tensor::random(DType::F32, &[2, 3, 9, 9], 5).unwrap()];
            let fused = check(&graph, &inputs, &options(target, Numerics::Reassoc), 1e-5);
            println!("{}", fused.report);
            println!("{}", kernels(&fused).join("\n"));
        }
    }
}

/// Post-norm layers whose queries, keys and values are parts of one projection, as transposed heads.
fn projected_at_once(layers: usize, dtype: DType, h: usize, heads: usize) -> Graph {
    let mut rng = Rng::new(5);
    let mut b = Builder::new("projected_at_once");
    let (n, s) = (Dim::sym("N"), Dim::sym("S"));
    let mut y = b.input("x", dtype, &[n.clone(), s.clone(), h.into()]).unwrap();
    for layer in 0..layers {
        let mut weight = |b: &mut Builder, name: &str, shape: &[usize]| {
            let data = Tensor::generate(dtype, shape, |_| 0.2 * rng.signed())?;
            b.weight_data(&format!("{layer}.{name}"), data)
        };
        let mut made = || -> kiln_graph::Result<ValueId> {
            let mut linear = |b: &mut Builder, name: &str, x: ValueId, from: usize, to: usize| {
                let (w, bias) = (weight(b, name, &[to, from])?, weight(b, &format!("{name}.b"), &[to])?);
                b.linear(x, w, Some(bias), true)
            };
            let all = linear(&mut b, "qkv", y, h, 3 * h)?;
            let mut parts = vec![];
            for part in 0..3 {
                let x = b.slice_axis(all, 2, &Dim::from(part * h), &Dim::from(h), 1)?;
                let x = b.reshape(x, &[n.clone(), s.clone(), heads.into(), (h / heads).into()])?;
                parts.push(b.transpose(x, &[0, 2, 1, 3])?);
            }
            let a = b.attention(parts[0], parts[1], parts[2], None, None, None)?;
            let a = b.transpose(a, &[0, 2, 1, 3])?;
            let a = b.reshape(a, &[n.clone(), s.clone(), h.into()])?;
            let o = linear(&mut b, "out", a, h, h)?;
            let r = b.plus(o, y)?;
            let x = b.layer_norm(r, -1, None, None, 1e-5)?;
            let f = linear(&mut b, "up", x, h, 4 * h)?;
            let f = b.gelu(f)?;
            let f = linear(&mut b, "down", f, 4 * h, h)?;
            let r = b.plus(f, x)?;
            b.layer_norm(r, -1, None, None, 1e-5)
        };
        y = made().unwrap();
    }
    b.output("y", y);
    b.finish()
}

#[test]
fn a_projection_of_queries_keys_and_values_at_once_costs_no_copy() {
    for (dtype, tolerance) in [(DType::F16, 2e-2), (DType::F32, 1e-4)] {
        for layers in [1, 2] {
            let graph = projected_at_once(layers, dtype, 32, 4);
            let inputs = [Tensor::random(dtype, &[2, 5, 32], 3).unwrap()];
            let fused = check(&graph, &inputs, &options("sm_90a", Numerics::Reassoc), tolerance);
            let names = kernels(&fused).join("\n");
            assert_eq!((fused.report.kernels, fused.report.distinct), (7 * layers, 6), "{dtype}: {names}");
            // Two products and a softmax between them instead of the attention, on copies of the parts.
            let fused = check(&graph, &inputs, &options("cpu", Numerics::Reassoc), tolerance);
            assert_eq!(fused.report.kernels, 12 * layers, "{dtype}: {}", kernels(&fused).join("\n"));
        }
    }
    let deep = |layers| {
        let graph = projected_at_once(layers, DType::F16, 384, 12);
        kiln_fuse::fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap().report
    };
    let (few, many) = (deep(2), deep(12));
    assert_eq!((few.kernels, many.kernels, few.distinct), (14, 84, many.distinct));
}

/// A product of a part of a value reads it where it is on GPUs, whatever its extents are.
#[test]
fn a_product_over_a_slice() {
    let product = |from: Dim, len: Dim, step: i64, seen: bool| {
        let mut b = Builder::new("part");
        let wide = Dim::sym("K") + Dim::from(7);
        let x = b.input("x", DType::F32, &[Dim::sym("M"), wide]).unwrap();
        let w = b.input("w", DType::F32, &[Dim::from(6), len.clone()]).unwrap();
        let part = b.slice_axis(x, 1, &from, &len, step).unwrap();
        let y = b.linear(part, w, None, true).unwrap();
        let y = b.relu(y).unwrap();
        b.output("y", y);
        if seen {
            b.output("part", part);
        }
        b.finish()
    };
    let inputs = |len: usize| {
        [Tensor::random(DType::F32, &[5, 18], 1).unwrap(), Tensor::random(DType::F32, &[6, len], 2).unwrap()]
    };
    for (target, read) in [("sm_90a", 1), ("cpu", 2)] {
        for (from, len, count) in [(Dim::from(3), Dim::sym("K"), 11), (Dim::from(0), Dim::from(4), 4)] {
            let graph = product(from.clone(), len.clone(), 1, false);
            let fused = check(&graph, &inputs(count), &options(target, Numerics::Reassoc), 1e-5);
            assert_eq!(fused.report.kernels, read, "{target}: {}", kernels(&fused).join("\n"));
            // A part that is a result is there anyway.
            let graph = product(from, len, 1, true);
            let fused = check(&graph, &inputs(count), &options(target, Numerics::Reassoc), 1e-5);
            assert_eq!(fused.report.kernels, 2, "{target}: {}", kernels(&fused).join("\n"));
        }
        // Every other column is a copy.
        let graph = product(Dim::from(1), Dim::from(4), 2, false);
        let fused = check(&graph, &inputs(4), &options(target, Numerics::Reassoc), 1e-5);
        assert_eq!(fused.report.kernels, 2, "{target}: {}", kernels(&fused).join("\n"));
    }
}

#[test]
fn a_deep_encoder_fuses_alike_in_every_layer() {
    let graph = encoder(12, Dim::sym("N"), Dim::sym("S"), 384, 12);
    let fused = kiln_fuse::fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
    println!("{}", fused.report);
    assert_eq!(fused.report.kernels, 12 * 9);
    assert!(fused.report.distinct <= 14, "layers share their regions: {}", fused.report.distinct);
    assert_eq!(fused.report.stopped, "saturated");
    let again = kiln_fuse::fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
    assert!(again.plan == fused.plan, "equal inputs give equal plans");
}

#[test]
fn a_deep_convnet_of_any_size_is_a_kernel_a_convolution() {
    let graph = deep_convnet(32);
    for target in ["sm_80", "cpu"] {
        let fused = kiln_fuse::fuse(&graph, &options(target, Numerics::Reassoc)).unwrap();
        println!("{}", fused.report);
        assert_eq!(fused.report.kernels, 3 * 32);
    }
}
