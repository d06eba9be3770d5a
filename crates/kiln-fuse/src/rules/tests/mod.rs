//! Every rule on random instances of its left-hand side: it must fire, and both sides must compute the same. Where a premise does not
//! hold, it must not fire.

mod cases;
mod layout;
mod manners;
mod merge;
mod premises;
mod repeat;

use super::{Rule, all, of_functions, saturate};
use crate::egraph::{ClassIx, Dag, build, extract};
use crate::{Numerics, Options};
use kiln_graph::{Builder, ConvSpec, DType, Dim, Graph, Rng, Tensor, interpret};

/// Worst error relative to the largest finite magnitude expected; infinite where NaN or infinity differ.
pub(super) fn worst(expected: &Tensor, found: &Tensor) -> f64 {
    assert_eq!((expected.dtype(), expected.shape()), (found.dtype(), found.shape()));
    let (e, f) = (expected.to_f64_vec(), found.to_f64_vec());
    let scale = e.iter().filter(|v| v.is_finite()).fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let one = |(e, f): (&f64, &f64)| match e == f || e.is_nan() && f.is_nan() {
        true => 0.0,
        false if e.is_finite() && f.is_finite() => (e - f).abs() / scale,
        false => f64::INFINITY,
    };
    e.iter().zip(&f).map(one).fold(0.0, f64::max)
}

fn options() -> Options {
    Options { numerics: Numerics::Approx, iter_limit: 1, ..Options::new(kiln_target::Target::cpu()) }
}

/// Applies some rules, and gives how often they fired and the result.
fn apply(graph: &Graph, rules: &[Rule], options: &Options) -> (usize, Dag, Vec<ClassIx>) {
    let built = build(graph).unwrap();
    let (egraph, saturation) = saturate(built.egraph, rules, options).unwrap();
    let roots: Vec<_> = graph.outputs.iter().map(|(_, v)| built.class_of[v.index()].unwrap()).collect();
    let dag = Dag::new(&egraph, &roots);
    let roots = roots.iter().map(|r| dag.find(&egraph, *r).unwrap()).collect();
    (saturation.fired.values().sum(), dag, roots)
}

/// Whether the rule of this name fires anywhere in a graph.
fn fires(name: &str, graph: &Graph) -> bool {
    let mut found = of_functions().unwrap().into_iter().filter(|r| r.name == name);
    let (Some(rule), None) = (found.next(), found.next()) else { panic!("not one rule `{name}`") };
    apply(graph, std::slice::from_ref(rule), &options()).0 > 0
}

/// Checks some choices of e-nodes against the graph.
fn agree(
    (graph, inputs): (&Graph, &[Tensor]),
    (dag, roots): (&Dag, &[ClassIx]),
    rng: &mut Rng,
    tries: usize,
    tolerance: f64,
    what: &str,
) {
    let expected = interpret(graph, inputs).unwrap();
    for i in 0..tries {
        // The first try takes the newest node of each class, which is what a rule added.
        let mut choose = |_: ClassIx, n: usize| if i == 0 { n - 1 } else { rng.range(0, n as i64 - 1) as usize };
        let other = extract(dag, roots, graph, &mut choose);
        let found = interpret(&other, inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
        for (e, f) in expected.iter().zip(&found) {
            let error = worst(e, f);
            assert!(error <= tolerance, "{what}: error {error:e}\n{:?}\n{:?}", graph.nodes, other.nodes);
        }
    }
}

#[test]
fn every_rule_keeps_values() {
    let mut rng = Rng::new(2024);
    let mut families: std::collections::BTreeMap<&str, usize> = Default::default();
    for (family, rules) in [
        ("simplify", super::simplify::rules().unwrap()),
        ("views", super::views::rules().unwrap()),
        ("broadcast", super::broadcast::rules().unwrap()),
        ("concat", super::concat::rules().unwrap()),
        ("reduce", super::reduce::rules().unwrap()),
        ("contraction", super::contraction::rules().unwrap()),
        ("scale", super::scale::rules().unwrap()),
        ("online", super::online::rules().unwrap()),
        ("functions", super::functions::rules().unwrap()),
        ("functions, of models", super::functions::rules_of_models().unwrap()),
    ] {
        let per_rule = 200 / rules.len() + 12;
        for rule in rules {
            let tolerance = if rule.numerics == Numerics::Exact { 0.0 } else { 1e-12 };
            let rule = [rule];
            for case in 0..per_rule {
                let special = rule[0].numerics == Numerics::Exact && case % 3 == 0;
                let (graph, inputs) = cases::instance(&rule[0].name, &mut rng, special);
                let what = format!("rule `{}` case {case}", rule[0].name);
                let (fired, dag, roots) = apply(&graph, &rule, &options());
                assert!(fired > 0, "{what} did not fire on\n{:?}", graph.nodes);
                agree((&graph, &inputs), (&dag, &roots), &mut rng, 4, tolerance, &what);
                *families.entry(family).or_default() += 1;
            }
        }
    }
    assert!(families.values().all(|n| *n >= 200), "{families:?}");
}

#[test]
fn premises_hold_rules_back() {
    for (name, graph) in premises::violations() {
        assert!(!fires(name, &graph), "rule `{name}` fired without its premise on\n{:?}", graph.nodes);
    }
}

/// Attention and a norm over a projection; a convolution with batch norm: rules of all families meet here.
fn models() -> Vec<(Graph, Vec<Tensor>)> {
    let mut rng = Rng::new(77);
    let mut data = |shape: &[usize]| Tensor::generate(DType::F64, shape, |_| 0.3 + rng.unit()).unwrap();
    let mut b = Builder::new("attention");
    let x = b.input("x", DType::F64, &[2, 3, 4].map(Dim::from)).unwrap();
    let mask = b.input("mask", DType::F64, &[2, 1, 1, 3].map(Dim::from)).unwrap();
    let heads = ["q", "k", "v"].map(|name| {
        let w = b.weight_data(name, data(&[4, 4])).unwrap();
        let bias = b.weight_data(&format!("{name}.b"), data(&[4])).unwrap();
        let y = b.linear(x, w, Some(bias), true).unwrap();
        let y = b.reshape(y, &[2, 3, 2, 2].map(Dim::from)).unwrap();
        b.transpose(y, &[0, 2, 1, 3]).unwrap()
    });
    let y = b.attention(heads[0], heads[1], heads[2], Some(mask), None, None).unwrap();
    let y = b.transpose(y, &[0, 2, 1, 3]).unwrap();
    let y = b.reshape(y, &[2, 3, 4].map(Dim::from)).unwrap();
    let y = b.plus(y, x).unwrap();
    let g = b.weight_data("g", data(&[4])).unwrap();
    let y = b.layer_norm(y, -1, Some(g), None, 1e-5).unwrap();
    let y = b.gelu(y).unwrap();
    b.output("y", y);
    let hidden = |i: usize| if i % 3 == 2 { f64::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::generate(DType::F64, &[2, 1, 1, 3], hidden).unwrap();
    let attention = (b.finish(), vec![data(&[2, 3, 4]), mask]);

    let mut b = Builder::new("conv");
    let x = b.input("x", DType::F64, &[2, 3, 5, 4].map(Dim::from)).unwrap();
    let mut y = x;
    for (name, from, to, k) in [("a", 3, 4, 3), ("b", 4, 2, 1)] {
        let w = b.weight_data(name, data(&[to, from, k, k])).unwrap();
        let bias = b.weight_data(&format!("{name}.bias"), data(&[to])).unwrap();
        let spec = ConvSpec { strides: vec![1; 2], pads: vec![(0, 0); 2], dilations: vec![1; 2], groups: 1 };
        y = b.conv(y, w, Some(bias), spec).unwrap();
        let v = ["g", "h", "m", "s"].map(|v| b.weight_data(&format!("{name}.{v}"), data(&[to])).unwrap());
        y = b.batch_norm(y, v[0], v[1], v[2], v[3], 1e-3).unwrap();
        y = b.hard_swish(y).unwrap();
    }
    b.output("y", y);
    vec![attention, (b.finish(), vec![data(&[2, 3, 5, 4])])]
}

#[test]
fn any_choice_of_enodes_agrees() {
    let rules = all().unwrap();
    let options = Options { numerics: Numerics::Approx, ..Options::new(kiln_target::Target::cpu()) };
    let mut rng = Rng::new(3);
    for (graph, inputs) in models() {
        let (fired, dag, roots) = apply(&graph, rules, &options);
        assert!(fired > 10, "{fired}");
        agree((&graph, &inputs), (&dag, &roots), &mut rng, 50, 1e-11, &graph.name);
    }
}
