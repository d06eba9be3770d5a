//! Every place of every function in a model, as a kernel of its dag.

use super::Pattern;
use super::search::{Heads, Match, Model, Search, Via};
use crate::cuts::is_literal;
use crate::egraph::{ClassIx, Dag, KernelPlace};
use crate::emit::{Folder, region_graph};
use crate::{Anchor, Numerics, Region, Result};
use kiln_graph::{Graph, Op};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What looking for functions found.
pub(crate) struct Found {
    /// No two alike.
    pub places: Vec<KernelPlace>,
    /// Of each function, the steps that looking for it took, and whether that was given up somewhere.
    pub searches: Vec<(usize, bool)>,
}

/// The places of functions in a model. Which of them overlap is for the choice of cuts to see.
pub(crate) fn find(dag: &Dag, graph: &Graph, patterns: &[Arc<Pattern>], numerics: Numerics) -> Result<Found> {
    let mut found = Found { places: Vec::new(), searches: vec![(0, false); patterns.len()] };
    if patterns.is_empty() {
        return Ok(found);
    }
    let heads = Heads::of(dag);
    let model = Model { dag, heads: &heads, symbols: &graph.symbols, constraints: &graph.constraints, bind: None };
    let mut folder = Folder::new(&graph.weights);
    for (i, pattern) in patterns.iter().enumerate() {
        // What fusion offers, the kernel must take: asked of each region once.
        let mut binds: HashMap<Vec<u8>, bool> = HashMap::new();
        for variant in pattern.variants(numerics)? {
            let mut search = Search::new(variant, &model, numerics);
            for class in dag.indices() {
                let place = search.at(class).and_then(|m| place(dag, i, &m));
                let Some(place) = place.filter(|place| !found.places.iter().any(|other| other.same(place))) else {
                    continue;
                };
                let region = region_graph(dag, &place.inner, &place.outputs, &place.inputs, graph, &mut folder)?.graph;
                let bound = binds.entry(region.structural_bytes()).or_insert_with(|| {
                    let region = Region::canonical(&region, Anchor::Kernel).region;
                    pattern.bind(&region, &region.graph.symbols).is_some()
                });
                if *bound {
                    found.places.push(place);
                }
            }
            let (steps, exhausted) = &mut found.searches[i];
            *steps += search.steps();
            *exhausted |= search.exhausted();
        }
    }
    Ok(found)
}

/// What a kernel at a match computes and reads; `None` if an output would be read.
fn place(dag: &Dag, function: usize, at: &Match) -> Option<KernelPlace> {
    let (mut inner, mut leaves) = (BTreeSet::new(), BTreeSet::new());
    let mut seen: BTreeSet<ClassIx> = at.outputs.iter().copied().collect();
    let mut stack: Vec<ClassIx> = at.outputs.clone();
    while let Some(class) = stack.pop() {
        let node = match at.places.get(&class) {
            Some(Via::Read) => None,
            Some(Via::Node(node)) => Some(usize::from(*node)),
            // A number, or what it is made from.
            Some(Via::Literal) | None if is_literal(dag, class) => None,
            Some(Via::Literal) | None => Some(literal_node(dag, class)?),
        };
        let Some(node) = node else {
            leaves.insert(class);
            continue;
        };
        inner.insert((class, node as u16));
        stack.extend(dag.class(class).nodes[node].operands.iter().filter(|c| seen.insert(**c)));
    }
    let read = at.outputs.iter().any(|c| leaves.contains(c));
    let inputs: BTreeSet<ClassIx> = at.inputs.iter().copied().collect();
    (!read).then(|| KernelPlace {
        function,
        inner: inner.into_iter().collect(),
        leaves: leaves.into_iter().collect(),
        inputs: inputs.into_iter().collect(),
        outputs: at.outputs.clone(),
    })
}

/// The node by which a class that is one number all over is made from literals.
fn literal_node(dag: &Dag, class: ClassIx) -> Option<usize> {
    let nodes = &dag.class(class).nodes;
    let literal = |c: &ClassIx| dag.class(*c).literal;
    let spread = |op: &Option<Op>| matches!(op, Some(Op::Broadcast { .. } | Op::Reshape { .. }));
    let of_literals = |spreads: bool| {
        nodes.iter().position(|n| n.op.is_some() && n.operands.iter().all(literal) && (!spreads || spread(&n.op)))
    };
    of_literals(true).or_else(|| of_literals(false))
}
