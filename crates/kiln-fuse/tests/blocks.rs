//! Fusion of whole blocks: results equal the graph's, and the kernels are those that a person would write.

mod common;

use common::{check, convnet, deep_convnet, encoder, kernels, options};
use kiln_fuse::{Anchor, Numerics};
use kiln_graph::{DType, Dim, Tensor};

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
