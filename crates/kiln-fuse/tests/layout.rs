//! Convolution nets run with channels last inside: no kernel only lays something out, or computes what a convolution could.

use crate::common::nets::{Net, Taps, bottleneck, mobile, residual, resnet50, unet};
use crate::common::{check, kernels, options, worst};
use kiln_fuse::{Anchor, Fused, Numerics, Region, fuse, interpret_plan};
use kiln_graph::{DType, Graph, Op, OpKind, Tensor, interpret};
use std::collections::BTreeSet;

/// Kernels that compute nothing by themselves: moved data, elementwise ops.
fn idle(fused: &Fused) -> Vec<&str> {
    let maps = fused.plan.regions.iter().filter(|region| region.anchor == Anchor::Map);
    maps.map(|region| region.summary.as_str()).collect()
}

/// Whether a convolution's region reads its image with channels last.
fn channels_last(region: &Region) -> bool {
    let g = &region.graph;
    let conv = g.nodes.iter().find(|n| n.op.kind() == OpKind::Conv);
    conv.is_some_and(|conv| matches!(&g.producer(conv.inputs[0]).op, Op::Permute { perm } if perm[1] + 1 == perm.len()))
}

fn convolutions(fused: &Fused) -> Vec<&Region> {
    fused.plan.regions.iter().filter(|region| region.anchor == Anchor::Conv).collect()
}

#[test]
fn a_resnet_is_its_convolutions() {
    for dtype in [DType::F16, DType::F32] {
        let graph = resnet50(dtype, 16, 1.into(), 224);
        for target in ["sm_80", "sm_90a"] {
            let fused = fuse(&graph, &options(target, Numerics::Reassoc)).unwrap();
            println!("{dtype} {target}: {} kernels\n  {}", fused.report.kernels, kernels(&fused).join("\n  "));
            assert!(fused.report.kernels <= 56, "{target}: {} kernels", fused.report.kernels);
            assert!(idle(&fused).is_empty(), "{target}: {:?}", idle(&fused));
            let apart: Vec<_> = convolutions(&fused).into_iter().filter(|region| !channels_last(region)).collect();
            // The first, whose image has three channels. Its filter is laid out as those of the others.
            assert_eq!(apart.len(), 1, "{target}: {}", fused.plan);
            assert!(
                apart[0].graph.inputs.iter().any(|v| apart[0].graph.ty(*v).const_shape() == Some(vec![16, 7, 7, 3]))
            );
        }
    }
}

#[test]
fn blocks_of_mobile_nets_and_of_unets_have_no_kernels_between() {
    for (graph, most) in [(mobile(DType::F16), 15), (mobile(DType::F32), 15), (unet(DType::F16, 64), 9)] {
        for target in ["sm_80", "sm_90a"] {
            let fused = fuse(&graph, &options(target, Numerics::Reassoc)).unwrap();
            let name = &graph.name;
            println!("{name} {target}: {} kernels\n  {}", fused.report.kernels, kernels(&fused).join("\n  "));
            assert!(fused.report.kernels <= most, "{name} {target}: {} kernels", fused.report.kernels);
            // What is squeezed and excited is scaled once all of it is there, before a product; what lies side by side is put there, enlarged on the way.
            let needed = |summary: &&str| *summary == "map: mul" || summary.ends_with("concat");
            let others: Vec<_> = idle(&fused).into_iter().filter(|summary| !needed(summary)).collect();
            assert!(others.is_empty(), "{name} {target}: {others:?}");
        }
    }
}

#[test]
fn equal_blocks_have_equal_regions() {
    for target in ["cpu", "sm_80", "sm_90a"] {
        for numerics in [Numerics::Exact, Numerics::Reassoc] {
            let all = [4, 10].map(|n| fuse(&residual(n), &options(target, numerics)).unwrap());
            let ids = |f: &Fused| f.plan.regions.iter().map(|r| r.identity()).collect::<BTreeSet<_>>();
            let [few, many] = &all;
            println!("{target} {numerics:?}: {} and {} kernels\n{}", few.report.kernels, many.report.kernels, few.plan);
            assert_eq!(ids(few), ids(many), "{target} {numerics:?}");
            assert_eq!(many.report.kernels - few.report.kernels, 6 * 3, "{target} {numerics:?}");
        }
    }
}

/// On the CPU nets stay as they are.
#[test]
fn the_cpu_has_channels_as_the_model_has_them() {
    let fused = fuse(&residual(2), &options("cpu", Numerics::Reassoc)).unwrap();
    assert!(!fused.report.fired.contains_key("channels-last"));
    assert!(convolutions(&fused).into_iter().all(|region| !channels_last(region)), "{}", fused.plan);
}

/// A small net with all that stands between convolutions, of a batch that is 1 when it runs and of another.
fn small() -> Graph {
    let mut net = Net::new("small", DType::F32);
    let n = net.b.symbol("N", 1, 4);
    let x = net.image(&[n, 3.into(), 17.into(), 19.into()]);
    let y = net.conv_norm(x, Taps { stride: 2, ..Taps::plain(16, 3) }).unwrap();
    let y = net.b.hard_swish(y).unwrap();
    let y = bottleneck(&mut net, y, 16, 24, 1).unwrap();
    let y = net.conv_norm(y, Taps { groups: 24, ..Taps::plain(24, 3) }).unwrap();
    let z = net.b.global_avg_pool(y).unwrap();
    let y = net.b.mul(y, z).unwrap();
    let y = bottleneck(&mut net, y, 16, 32, 2).unwrap();
    net.finish(y)
}

#[test]
fn plans_compute_what_graphs_do() {
    let graph = small();
    for batch in [1, 3] {
        let input = Tensor::random(DType::F32, &[batch, 3, 17, 19], 5 + batch as u64).unwrap();
        for numerics in [Numerics::Exact, Numerics::Reassoc] {
            let fused = check(&graph, std::slice::from_ref(&input), &options("sm_90a", numerics), 1e-5);
            assert!(convolutions(&fused).into_iter().filter(|r| channels_last(r)).count() > 3, "{}", fused.plan);
        }
        // Costs that no model would have.
        for seed in 0..6 {
            let perturbed = kiln_fuse::Options { perturb: Some(seed), ..options("sm_80", Numerics::Reassoc) };
            let fused = fuse(&graph, &perturbed).unwrap();
            let expected = interpret(&graph, std::slice::from_ref(&input)).unwrap();
            let found = interpret_plan(&fused.plan, std::slice::from_ref(&input)).unwrap();
            assert!(worst(&expected[0], &found[0]) < 1e-5, "{seed}: {}", fused.plan);
        }
    }
}

/// Sizes that are known only when it runs.
#[test]
fn dims_of_images_may_be_known_only_when_they_run() {
    let mut net = Net::new("any", DType::F16);
    let (n, h, w) = (net.b.symbol("N", 1, 4), net.b.symbol("H", 8, 64), net.b.symbol("W", 8, 64));
    let x = net.image(&[n, 3.into(), h, w]);
    let y = net.conv_norm(x, Taps::plain(16, 3)).unwrap();
    let y = net.b.relu(y).unwrap();
    let y = bottleneck(&mut net, y, 16, 16, 1).unwrap();
    let graph = net.finish(y);
    let input = Tensor::random(DType::F16, &[1, 3, 9, 11], 3).unwrap();
    let fused = check(&graph, &[input], &options("sm_90a", Numerics::Reassoc), 2e-3);
    assert!(idle(&fused).is_empty(), "{}", fused.plan);
}
