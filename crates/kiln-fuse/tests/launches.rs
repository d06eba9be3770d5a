//! How many kernels well-known graphs become on sm_90a: what docs/fusion.md says.

use crate::common::known::known;
use crate::common::nets::{mobile, resnet50, unet};
use crate::common::{kernels, options};
use kiln_fuse::{Fused, Numerics, fuse};
use kiln_graph::DType;

#[test]
fn well_known_graphs_are_few_kernels() {
    let mut more = vec![];
    let nets = [(resnet50(DType::F16, 16, 1.into(), 224), 56), (mobile(DType::F32), 13), (unet(DType::F16, 64), 9)];
    for (graph, most) in known().into_iter().chain(nets) {
        let fused: Fused = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
        let (found, name) = (fused.report.kernels, &graph.name);
        println!("{name}: {} ops, {found} kernels\n  {}", fused.report.ops, kernels(&fused).join("\n  "));
        if found > most {
            more.push(format!("{name}: {found} kernels, expected at most {most}"));
        }
    }
    assert!(more.is_empty(), "{}", more.join("\n"));
}
