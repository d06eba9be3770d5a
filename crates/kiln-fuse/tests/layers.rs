//! Equal layers are fused alike, however many there are. `KILN_LAYERS` says how many instead of those written here, on every architecture.

use crate::common::large::llama;
use crate::common::options;
use crate::common::stacks::{halves, rotary, stack};
use kiln_fuse::{Anchor, Fused, Numerics, fuse};
use kiln_graph::Graph;
use kiln_target::arch::Arch;
use std::collections::BTreeSet;

fn seconds(fused: &Fused) -> f64 {
    fused.report.launches.iter().map(|launch| launch.seconds).sum()
}

#[test]
fn equal_layers_have_equal_regions() {
    type Stack = fn(usize) -> Graph;
    let models = [
        (stack as Stack, [4, 12], 8, 0..=0),
        (halves, [4, 12], 9, 1..=1),
        (rotary, [4, 12], 12, 2..=3),
        (llama, [8, 16], 14, 2..=3),
    ];
    let deep: Option<usize> = std::env::var("KILN_LAYERS").ok().map(|n| n.parse().unwrap());
    let targets = match deep {
        None => vec!["cpu", "sm_75", "sm_80", "sm_90a"],
        Some(_) => ["cpu"].into_iter().chain(Arch::ALL.iter().map(|arch| arch.name())).collect(),
    };
    for (model, [least, most_layers], most, twins) in models {
        let depths = [least, deep.unwrap_or(most_layers)];
        for &target in &targets {
            for numerics in [Numerics::Exact, Numerics::Reassoc] {
                let all = depths.map(|n| (n, fuse(&model(n), &options(target, numerics)).unwrap()));
                let ids = |f: &Fused| f.plan.regions.iter().map(|r| r.identity()).collect::<BTreeSet<_>>();
                let (least, few) = &all[0];
                for (n, fused) in &all {
                    let (name, report) = (&fused.plan.name, &fused.report);
                    let (us, distinct) = (seconds(fused) * 1e6, report.distinct);
                    println!(
                        "{name} {target} {numerics:?}, {n} layers: {} kernels, {distinct} distinct, {us:.3} us",
                        report.kernels
                    );
                    assert_eq!(ids(fused), ids(few), "{name} {target}: {n} layers");
                    // A CPU has what all layers share, positions for one, as kernels of its own.
                    assert_eq!(report.kernels / n, few.report.kernels / least, "{name} {target}");
                    // A layer costs what it costs.
                    assert!((seconds(fused) * *least as f64 / seconds(few) / *n as f64 - 1.0).abs() < 0.01);
                }
                assert!(few.report.distinct <= most, "{target}: {}", few.plan);
                // On GPUs gate and product are one kernel of a layer, and so are both halves of what is turned.
                let both = few.plan.regions.iter().filter(|r| r.anchor == Anchor::Contract && r.anchors().len() == 2);
                let both = both.count();
                assert!(if target == "cpu" { both == 0 } else { twins.contains(&both) }, "{target}: {}", few.plan);
            }
        }
    }
}
