//! What those who make kernels say decides what fusion chooses.

use crate::common::known::known;
use crate::common::{check, options};
use kiln_fuse::{Anchor, Fused, Kernels, Numerics, Options, Price, Region, fuse, fuse_plans};
use kiln_graph::{Bindings, Graph, Op, Rng, Symbols, Tensor};
use kiln_target::{Estimate, Gpu};
use std::sync::Arc;

#[derive(Debug)]
struct Maker(fn(&Region) -> Price);

impl Kernels for Maker {
    fn price(&self, region: &Region, _: &Gpu, _: &Symbols, _: &Bindings) -> Price {
        region.verify().unwrap();
        (self.0)(region)
    }
}

fn by(maker: fn(&Region) -> Price) -> Options {
    Options { kernels: Some(Arc::new(Maker(maker))), ..options("sm_90a", Numerics::Reassoc) }
}

fn takes(us: f64) -> Price {
    Price::Known(Estimate { seconds: us * 1e-6, bytes: 0.0, flops: 0.0, launches: 1 })
}

fn named(name: &str) -> Graph {
    known().into_iter().map(|(graph, _)| graph).find(|graph| graph.name == name).unwrap()
}

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let mut rng = Rng::new(17);
    let input = |id| match &graph.producer(id).op {
        Op::Input { ty, .. } => Tensor::random(ty.dtype, &ty.const_shape().unwrap(), rng.next_u64()).unwrap(),
        op => panic!("{op}"),
    };
    graph.inputs.iter().copied().map(input).collect()
}

fn count(fused: &Fused, is: impl Fn(&Region) -> bool) -> usize {
    fused.report.launches.iter().filter(|launch| is(&fused.plan.regions[launch.region])).count()
}

fn is_attention(region: &Region) -> bool {
    region.anchor == Anchor::Attention
}

fn is_both(region: &Region) -> bool {
    region.anchor == Anchor::Contract && region.anchors().len() == 2
}

#[test]
fn who_says_nothing_changes_nothing() {
    for (graph, _) in known() {
        let plain = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
        assert_eq!(fuse(&graph, &by(|_| Price::Unmodelled)).unwrap().plan, plain.plan, "{}", graph.name);
        // Where nobody makes anything, whoever lowers the plan will say so.
        assert_eq!(fuse(&graph, &by(|_| Price::Refused)).unwrap().plan, plain.plan, "{}", graph.name);
    }
}

#[test]
fn what_nobody_makes_is_not_chosen() {
    let graph = named("causal_f32");
    let plain = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap();
    assert_eq!(count(&plain, is_attention), 1);
    let refuses = by(|region| if is_attention(region) { Price::Refused } else { Price::Unmodelled });
    let fused = check(&graph, &inputs(&graph), &refuses, 1e-5);
    assert_eq!(count(&fused, is_attention), 0, "{}", fused.plan);
    assert!(fused.report.launches.iter().all(|launch| launch.seconds.is_finite()));
}

#[test]
fn what_is_said_to_be_slow_is_not_chosen_and_is_quoted_where_it_is() {
    let graph = named("swiglu");
    let at = |slow: fn(&Region) -> Price| check(&graph, &inputs(&graph), &by(slow), 2e-3);
    let fast = at(|region| takes(if is_both(region) { 3.0 } else { 2.0 }));
    assert_eq!((fast.report.kernels, count(&fast, is_both)), (2, 1));
    for launch in &fast.report.launches {
        let expected = if is_both(&fast.plan.regions[launch.region]) { 3e-6 } else { 2e-6 };
        assert!((launch.seconds / expected - 1.0).abs() < 1e-4, "{launch:?}");
    }
    let slow = at(|region| takes(if is_both(region) { 30.0 } else { 2.0 }));
    assert_eq!((slow.report.kernels, count(&slow, is_both)), (3, 0));
    // Where all take the same, few are best.
    for (graph, most) in known() {
        assert!(fuse(&graph, &by(|_| takes(5.0))).unwrap().report.kernels <= most, "{}", graph.name);
    }
}

#[test]
fn measured_times_count_as_modelled_ones_do_and_reports_tell_them_apart() {
    let graph = named("swiglu");
    let at = |price: fn(&Region) -> Price| fuse(&graph, &by(price)).unwrap();
    let fast = at(|region| if is_both(region) { Price::Measured(3e-6) } else { takes(2.0) });
    assert_eq!((fast.report.kernels, count(&fast, is_both)), (2, 1));
    for launch in &fast.report.launches {
        let both = is_both(&fast.plan.regions[launch.region]);
        assert_eq!(launch.measured, both);
        assert!((launch.seconds / if both { 3e-6 } else { 2e-6 } - 1.0).abs() < 1e-4, "{launch:?}");
    }
    let slow = at(|region| if is_both(region) { Price::Measured(30e-6) } else { takes(2.0) });
    assert_eq!((slow.report.kernels, count(&slow, is_both)), (3, 0));
    assert!(slow.report.launches.iter().all(|launch| !launch.measured));
}

#[test]
fn further_plans_do_without_a_kernel_and_compute_the_same() {
    for name in ["swiglu", "norm_qkv_rope", "encoder_layer"] {
        let graph = named(name);
        let plans = fuse_plans(&graph, &options("sm_90a", Numerics::Reassoc), 4, &mut |_, _| {}).unwrap();
        assert!((2..=4).contains(&plans.len()), "{name}: {}", plans.len());
        let (inputs, first) = (inputs(&graph), &plans[0]);
        let seconds = |fused: &Fused| fused.report.launches.iter().map(|launch| launch.seconds).sum::<f64>();
        let expected = kiln_fuse::interpret_plan(&first.plan, &inputs).unwrap();
        for (i, plan) in plans.iter().enumerate().skip(1) {
            assert!(i == 1 || seconds(plan) > seconds(&plans[i - 1]), "{name} {i}");
            let found = kiln_fuse::interpret_plan(&plan.plan, &inputs).unwrap();
            assert!(crate::common::worst(&expected[0], &found[0]) < 4e-3, "{name} {i}");
        }
    }
    let plans = fuse_plans(&named("swiglu"), &options("sm_90a", Numerics::Reassoc), 3, &mut |_, _| {}).unwrap();
    assert!(plans.iter().any(|plan| count(plan, is_both) == 0));
}
