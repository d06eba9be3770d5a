//! What the model calls values, and what regions are called.

use crate::Anchor;
use crate::egraph::{ClassIx, Dag, EGraph};
use egg::Id;
use kiln_graph::{Graph, NodeId, Op, OpKind, ReduceOp, UnaryOp};
use std::collections::{BTreeMap, BTreeSet};

/// Longest name of a folded weight.
const MAX_NAME: usize = 64;
/// Ops that the name of a region tells.
const TOLD: usize = 3;

/// What reports call a node of a model: its name, or where it has none its op and number.
pub fn node_name(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    if node.name.is_empty() { format!("{}_{}", node.op.name(), id.0) } else { node.name.clone() }
}

/// What the model calls each class.
pub(crate) struct Provenance {
    /// Names of the model's nodes whose values are in the class.
    pub nodes: Vec<Vec<String>>,
    /// Which nodes these are.
    pub ids: Vec<Vec<NodeId>>,
    /// The model's name for the value (may be empty).
    pub value: Vec<String>,
}

impl Provenance {
    pub fn new(graph: &Graph, dag: &Dag, egraph: &EGraph, class_of: &[Option<Id>]) -> Provenance {
        let n = dag.classes.len();
        let mut p = Provenance { nodes: vec![Vec::new(); n], ids: vec![Vec::new(); n], value: vec![String::new(); n] };
        let twins = egraph.analysis.twins.iter().map(|(class, twin)| (egraph.find(*class), *twin));
        let twins: BTreeMap<Id, Id> = twins.collect();
        let places = class_of.iter().enumerate().flat_map(|(i, id)| {
            let twin = id.and_then(|id| twins.get(&egraph.find(id)));
            let both = [id.as_ref(), twin].into_iter().flatten();
            both.filter_map(|id| dag.find(egraph, *id)).map(|c| (i, c.index())).collect::<Vec<_>>()
        });
        for (i, c) in places {
            let value = &graph.values[i];
            let node = graph.node(value.node);
            if !matches!(node.op, Op::Input { .. } | Op::Weight { .. } | Op::Const { .. }) {
                p.ids[c].push(value.node);
                let name = node_name(graph, value.node);
                if !p.nodes[c].contains(&name) {
                    p.nodes[c].push(name);
                }
            }
            let own = if value.name.is_empty() { &node.name } else { &value.name };
            if p.value[c].is_empty() {
                p.value[c].clone_from(own);
            }
        }
        p
    }

    /// Names of the model's nodes that a cone computes, each once.
    pub fn of<'p>(&'p self, inner: impl IntoIterator<Item = &'p (ClassIx, u16)>) -> Vec<String> {
        let mut nodes: Vec<String> = Vec::new();
        for name in inner.into_iter().flat_map(|i| &self.nodes[i.0.index()]) {
            if !nodes.contains(name) {
                nodes.push(name.clone());
            }
        }
        nodes
    }
}

/// Identifier-like and unique among `taken`, which it joins.
pub(crate) fn unique(raw: &str, taken: &mut BTreeSet<String>) -> String {
    let mut name = String::new();
    for c in raw.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c.to_ascii_lowercase()),
            _ if name.ends_with('_') || name.is_empty() => {}
            _ => name.push('_'),
        }
    }
    // The end of a path says more than its start.
    let cut = name.len().saturating_sub(MAX_NAME);
    let mut name = name[cut..].trim_matches('_').to_owned();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert_str(0, "k_");
    }
    let mut candidate = name.clone();
    let mut n = 2;
    while !taken.insert(candidate.clone()) {
        candidate = format!("{name}_{n}");
        n += 1;
    }
    candidate
}

/// What a region of these ops computes: in words that begin its name, and in a line for people.
pub(crate) fn describe<'o>(anchor: Anchor, ops: impl Iterator<Item = &'o Op>) -> (String, String) {
    let ops: Vec<&Op> = ops.filter(|op| !matches!(op, Op::Input { .. } | Op::Const { .. })).collect();
    let has = |name: &str| ops.iter().any(|op| op.name() == name);
    let sums = ops.iter().filter(|op| matches!(op, Op::Reduce { op: ReduceOp::Sum, .. })).count();
    let word = match anchor {
        Anchor::Map if ops.is_empty() => "copy",
        Anchor::Map => "map",
        Anchor::Reduce if has("reduce_max") && has("exp") && has("reduce_sum") => "softmax",
        Anchor::Reduce if sums == 2 && (has("rsqrt") || has("sqrt")) => "layer_norm",
        Anchor::Reduce if sums == 1 && (has("rsqrt") || has("sqrt")) => "norm",
        Anchor::Reduce => "reduce",
        Anchor::Contract => "gemm",
        Anchor::Attention => "attention",
        Anchor::Conv => "conv",
        Anchor::Kernel => "kernel",
        Anchor::Window => "pool",
        Anchor::Index => {
            if ops.iter().any(|op| op.name().starts_with("scatter")) {
                "scatter"
            } else {
                "gather"
            }
        }
        Anchor::Sink | Anchor::Alone => {
            let anchor = ops.iter().find(|op| Anchor::of(op.kind()) == Some(anchor));
            anchor.map_or("region", |op| op.name().split('_').next().unwrap_or_default())
        }
    };
    let mut name = word.to_owned();
    // What has a word of its own needs no more of them.
    if matches!(word, "map" | "reduce" | "gemm" | "conv" | "pool" | "gather" | "kernel") {
        let of = |kind: OpKind| ops.iter().filter(move |op| op.kind() == kind).map(|op| op.name());
        let views = of(OpKind::View).filter(|name| !matches!(*name, "reshape" | "broadcast"));
        let mut told: Vec<&str> = Vec::new();
        for op in of(OpKind::Elementwise).chain(views) {
            if !told.contains(&op) && told.len() < TOLD {
                told.push(op);
                name.push('_');
                name.push_str(op);
            }
        }
    }
    let mut steps: Vec<String> = Vec::new();
    for op in &ops {
        let text = match op {
            Op::Contract { spec, .. } => {
                let text = |labels: &[char]| labels.iter().collect::<String>();
                format!("contract {},{}->{}", text(&spec.lhs), text(&spec.rhs), text(&spec.out))
            }
            Op::Reshape { .. } | Op::Broadcast { .. } => continue,
            Op::Unary(UnaryOp::Erf) => "erf (GELU)".to_owned(),
            op => op.name().to_owned(),
        };
        match steps.last_mut() {
            Some(last) if *last == text => {}
            _ => steps.push(text),
        }
    }
    let shown = steps.len().min(12);
    let mut line = steps[..shown].join(", ");
    if shown < steps.len() {
        line.push_str(&format!(", and {} more", steps.len() - shown));
    }
    (name, if line.is_empty() { word.to_owned() } else { format!("{word}: {line}") })
}
