//! What a report says of why there is a launch: rules, and the next best.

use crate::common::{encoder, options};
use kiln_fuse::{Fused, LaunchReport, Numerics, fuse, rule};
use kiln_graph::{Builder, DType, Dim, Graph, Op, Rng, Tensor, ValueId};
use std::collections::BTreeSet;

fn fused(graph: &Graph, target: &str, numerics: Numerics) -> Fused {
    fuse(graph, &options(target, numerics)).unwrap()
}

fn rules(launch: &LaunchReport) -> Vec<&str> {
    launch.rules.iter().map(|rule| rule.name.as_str()).collect()
}

/// `a` of 37 rows, divided by the root of one number a row.
fn over_root(make: impl FnOnce(&mut Builder, ValueId, ValueId) -> kiln_graph::Result<ValueId>) -> Graph {
    let mut b = Builder::new("root");
    let a = b.input("a", DType::F32, &[37, 129].map(Dim::from)).unwrap();
    let x = b.input("x", DType::F32, &[37, 1].map(Dim::from)).unwrap();
    let y = make(&mut b, a, x).unwrap();
    b.output("y", y);
    b.finish()
}

#[test]
fn rules_that_made_a_kernel_are_told_with_class_and_reason() {
    let graph = over_root(|b, a, x| {
        let x = b.broadcast_to(x, &[37, 129].map(Dim::from))?;
        let root = b.sqrt(x)?;
        b.div(a, root)
    });
    let [exact, reassoc] = [Numerics::Exact, Numerics::Reassoc].map(|numerics| fused(&graph, "sm_90a", numerics));
    let has = |f: &Fused, name: &str| f.plan.regions[0].graph.nodes.iter().any(|n| n.op.name() == name);
    assert!(has(&exact, "div") && has(&reassoc, "rsqrt") && !has(&reassoc, "div"), "{}", reassoc.plan);
    let [launch] = &reassoc.report.launches[..] else { panic!("{}", reassoc.report) };
    let told = &launch.rules;
    // The root is of rows before the broadcast: a rule made it so of what another had made.
    assert!(told.len() > 1, "{told:?}");
    let root = told.iter().find(|rule| rule.name.starts_with("div-sqrt")).unwrap();
    assert_eq!(root.numerics, Numerics::Reassoc);
    assert!(root.reason.contains("reciprocal of a square root"), "{root:?}");
    assert!(told.iter().any(|rule| rule.name.starts_with("broadcast-last") && rule.numerics == Numerics::Exact));
    for launch in &exact.report.launches {
        assert!(launch.rules.iter().all(|rule| rule.numerics == Numerics::Exact), "{:?}", launch.rules);
    }

    // As the model has it: nothing is told, though a rule looked at it.
    let plain = over_root(|b, a, x| b.mul(a, x));
    let launches = fused(&plain, "sm_90a", Numerics::Approx).report.launches;
    assert!(launches.iter().all(|launch| launch.rules.is_empty()), "{:?}", rules(&launches[0]));
}

#[test]
fn what_led_to_a_rule_is_told_before_it() {
    // The second rule matches what the first one made, which is in no kernel.
    let mut b = Builder::new("spread");
    let x = b.input("x", DType::F32, &[5, 33, 47].map(Dim::from)).unwrap();
    let w = b.input("w", DType::F32, &[29, 47].map(Dim::from)).unwrap();
    let w = b.broadcast_to(w, &[5, 29, 47].map(Dim::from)).unwrap();
    let w = b.transpose(w, &[0, 2, 1]).unwrap();
    let y = b.matmul(x, w).unwrap();
    b.output("y", y);
    let Fused { plan, report } = fused(&b.finish(), "sm_90a", Numerics::Exact);
    let [launch] = &report.launches[..] else { panic!("{report}") };
    assert_eq!(rules(launch), ["contract-permuted-right", "contract-broadcast-right"], "{plan}");
    assert_eq!((launch.nodes.len(), launch.numbers.len()), (1, 1), "{:?}", launch.nodes);
}

#[test]
fn launches_without_rules_compute_what_the_model_wrote() {
    let graph = encoder(3, Dim::from(1), Dim::sym("S"), 64, 4);
    let written: BTreeSet<&str> = graph.nodes.iter().map(|n| n.op.name()).collect();
    for target in ["cpu", "sm_80", "sm_90a"] {
        for numerics in [Numerics::Exact, Numerics::Reassoc, Numerics::Approx] {
            let Fused { plan, report } = fused(&graph, target, numerics);
            let mut told = 0;
            for launch in &report.launches {
                let ops = plan.regions[launch.region].graph.nodes.iter().map(|n| &n.op);
                let ops = ops.filter(|op| !matches!(op, Op::Input { .. } | Op::Const { .. }));
                let own = ops.map(Op::name).all(|name| written.contains(name));
                assert!(own || !launch.rules.is_empty(), "{target}: {}", launch.name);
                for found in &launch.rules {
                    told += 1;
                    assert!(report.fired.get(&found.name).is_some_and(|times| *times > 0), "{}", found.name);
                    assert!(found.numerics <= numerics);
                    assert_eq!(rule(&found.name).as_ref(), Some(found));
                }
                let names: BTreeSet<&str> = rules(launch).into_iter().collect();
                assert_eq!(names.len(), launch.rules.len(), "a rule is told once");
                assert!(launch.seconds >= launch.roofline() && launch.roofline() > 0.0);
            }
            assert!(told > 0);
        }
    }
    assert_eq!(rule("no-such-rule"), None);
}

/// Products of 300 rows, each with what follows it.
fn perceptron() -> Graph {
    let mut rng = Rng::new(31);
    let mut b = Builder::new("perceptron");
    let x = b.input("x", DType::F16, &[300, 256].map(Dim::from)).unwrap();
    let mut y = x;
    for (name, from, to) in [("up", 256, 512), ("down", 512, 256)] {
        let w = Tensor::random(DType::F16, &[to, from], rng.next_u64()).unwrap();
        let bias = Tensor::random(DType::F16, &[to], rng.next_u64()).unwrap();
        let w = b.weight_data(&format!("{name}.w"), w).unwrap();
        let bias = b.weight_data(&format!("{name}.b"), bias).unwrap();
        y = b.scoped(name, |b| b.linear(y, w, Some(bias), true).and_then(|y| b.silu(y))).unwrap();
    }
    let y = b.softmax(y, -1).unwrap();
    b.output("y", y);
    b.finish()
}

#[test]
fn the_next_best_is_other_kernels_for_the_same_and_takes_more() {
    let Fused { plan, report } = fused(&perceptron(), "sm_90a", Numerics::Reassoc);
    assert_eq!(report.launches.len(), 3, "{plan}");
    for launch in &report.launches {
        let next = report.next(launch.region).unwrap_or_else(|| panic!("{}: nothing else", launch.name));
        assert_eq!(launch.next.as_ref(), Some(next));
        assert!(next.seconds > 0.0 && next.instead.len() >= next.without.len(), "{next:?}");
        // What follows a product would be a kernel of its own.
        assert!(launch.anchor != kiln_fuse::Anchor::Contract || next.instead.len() == 2, "{next:?}");
        // No product is computed twice here, so that the difference is that of the kernels.
        let sum = |kernels: &[kiln_fuse::KernelReport]| kernels.iter().map(|k| k.seconds).sum::<f64>();
        let more = sum(&next.instead) - sum(&next.without);
        assert!((next.seconds - more).abs() < 1e-12, "{} {more}", next.seconds);
        assert!(next.without.iter().any(|k| k.nodes == launch.nodes && (k.seconds - launch.seconds).abs() < 1e-12));
        let nodes = |kernels: &[kiln_fuse::KernelReport]| -> BTreeSet<String> {
            kernels.iter().flat_map(|k| k.nodes.iter().cloned()).collect()
        };
        assert!(nodes(&next.instead).is_superset(&nodes(&next.without)), "{next:?}");
    }
}

#[test]
fn the_next_best_is_told_once_a_region_and_is_the_same_for_any_number_of_layers() {
    let most = |layers: usize| {
        let graph = encoder(layers, Dim::from(1), Dim::from(128), 64, 4);
        let report = fused(&graph, "sm_80", Numerics::Reassoc).report;
        let told: Vec<&LaunchReport> = report.launches.iter().filter(|launch| launch.next.is_some()).collect();
        let regions: BTreeSet<usize> = told.iter().map(|launch| launch.region).collect();
        assert_eq!(regions.len(), told.len());
        for (i, launch) in report.launches.iter().enumerate() {
            let first = report.launches.iter().position(|other| other.region == launch.region) == Some(i);
            assert!(launch.next.is_none() || first);
            assert_eq!(launch.step, i, "no step but launches here");
        }
        let names = told.iter().map(|l| (l.name.clone(), l.next.as_ref().map(|next| next.seconds)));
        names.collect::<Vec<_>>()
    };
    let (few, many) = (most(3), most(9));
    assert!(few.len() >= 5, "{few:?}");
    for ((a, x), (b, y)) in few.iter().zip(&many) {
        assert_eq!(a, b);
        let (x, y) = (x.unwrap(), y.unwrap());
        assert!((x - y).abs() < 1e-9, "{a}: {x} {y}");
    }
    let report = fused(&perceptron(), "cpu", Numerics::Exact).report;
    let again: kiln_fuse::Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(again.to_string(), report.to_string());
    assert!(again.launches.iter().zip(&report.launches).all(|(a, b)| a.rules == b.rules && a.numbers == b.numbers));
}
