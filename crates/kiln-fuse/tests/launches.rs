//! How many kernels well-known graphs become on sm_90a: what docs/fusion.md says.

use crate::common::known::known;
use crate::common::{kernels, options};
use kiln_fuse::{Fused, Numerics, fuse};

#[test]
fn well_known_graphs_are_few_kernels() {
    let mut more = vec![];
    for (graph, most) in known() {
        let fused: Fused = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
        let (found, name) = (fused.report.kernels, &graph.name);
        println!("{name}: {} ops, {found} kernels\n  {}", fused.report.ops, kernels(&fused).join("\n  "));
        if found > most {
            more.push(format!("{name}: {found} kernels, expected at most {most}"));
        }
    }
    assert!(more.is_empty(), "{}", more.join("\n"));
}
