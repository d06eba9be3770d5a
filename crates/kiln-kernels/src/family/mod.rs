//! Kernel families: one a file, each a way to spread an anchor's iteration space over a GPU.

mod contract;
pub mod fold;
mod scan;
mod scatter;
mod sort;
mod window;

use crate::program::TileProgram;
use crate::value::Values;
use crate::{Error, Result};
use kiln_fuse::{Anchor, Region, Role};
use kiln_graph::{Dim, NodeId, Op, OpKind, Symbols, ValueId};
use kiln_tile::{Builder, Expr};

/// How a region is made: the family that takes it, and its tile programs in launch order.
pub struct Candidate {
    pub family: &'static str,
    pub programs: Vec<TileProgram>,
}

/// Whether regions of this kind are made here where [`crate::families`] take them not.
pub fn is_older(region: &Region) -> bool {
    match region.anchor {
        Anchor::Index => region.graph.nodes.iter().any(|node| node.op.kind() == OpKind::Scatter),
        Anchor::Map | Anchor::Reduce | Anchor::Attention | Anchor::Conv => false,
        _ => true,
    }
}

/// Tile programs for `region`, and the family that makes them. `ranges` tells within what the values of inputs lie, where that is known.
pub fn programs(region: &Region, symbols: &Symbols, ranges: &[Option<(i64, i64)>]) -> Result<Candidate> {
    let malformed = |what| Error::Malformed { region: region.name.clone(), what };
    region.verify().map_err(malformed)?;
    let one = |family, program| Candidate { family, programs: vec![program] };
    Ok(match region.anchor {
        Anchor::Index if region.graph.nodes.iter().any(|n| n.op.kind() == OpKind::Scatter) => {
            one("scatter", scatter::program(region, symbols, ranges)?)
        }
        Anchor::Map | Anchor::Index | Anchor::Reduce | Anchor::Attention | Anchor::Conv => {
            return Err(malformed("no family takes it".to_owned()));
        }
        // What the products of `families` do not take.
        Anchor::Contract => one("contract_loops", contract::program(region, symbols)?),
        Anchor::Window => one("window", window::program(region, symbols)?),
        Anchor::Kernel => {
            return Err(Error::Unsupported {
                region: region.name.clone(),
                summary: region.summary.clone(),
                what: "it was planned for a kernel that somebody wrote, and no such kernel takes it".to_owned(),
                help: "give that kernel to whatever lowers the plan, or fuse without its function".to_owned(),
            });
        }
        Anchor::Sink | Anchor::Alone => match region.anchors()[..] {
            [anchor] => match &region.graph.node(anchor).op {
                Op::Scan { .. } => one("scan", scan::program(region, symbols)?),
                Op::TopK { .. } => one("rank", sort::program(region, symbols)?),
                op => return Err(malformed(format!("no family makes `{op}`"))),
            },
            ref found => return Err(malformed(format!("it has {} anchors", found.len()))),
        },
    })
}

/// The one anchor of a region that has exactly one.
fn anchor(values: &Values) -> Result<NodeId> {
    match values.region.anchors()[..] {
        [anchor] => Ok(anchor),
        ref found => values.malformed(format!("it has {} anchors", found.len())),
    }
}

/// Loop axes over `shape`, at least one.
fn axes<'n>(values: &mut Values, k: &mut Builder, shape: &[Dim], names: &'n [String]) -> Vec<(&'n str, Expr)> {
    if shape.is_empty() {
        return vec![("once", Expr::index(1))];
    }
    let extents = values.dims(k, shape);
    names.iter().map(String::as_str).zip(extents).collect()
}

/// Names for the loops over a shape: `i j k l`, or numbered past that.
fn names(count: usize, letters: &str) -> Vec<String> {
    let letters: Vec<char> = letters.chars().collect();
    let name = |i: usize| if count <= letters.len() { letters[i].to_string() } else { format!("{}{i}", letters[0]) };
    (0..count).map(name).collect()
}

/// The permutes and reshapes between the result of the anchor and output 0, from the output on.
fn epilogue_views(values: &Values, anchor: NodeId) -> Result<Vec<ValueId>> {
    let graph = values.graph;
    let roles = values.region.roles();
    let depends = |v: &ValueId| matches!(roles[graph.value(*v).node.index()], Role::Anchor | Role::Epilogue);
    let mut views = vec![];
    let mut v = values.output(0);
    while graph.value(v).node != anchor {
        let node = graph.producer(v);
        if node.op.kind() == OpKind::View {
            views.push(v);
        }
        match node.inputs.iter().copied().find(depends) {
            Some(next) => v = next,
            None => return values.malformed("the first result does not depend on the anchor"),
        }
    }
    Ok(views)
}

/// Where the result of the anchor is that output 0 shows at `index`.
fn anchor_index(values: &mut Values, k: &mut Builder, anchor: NodeId, index: &[Expr]) -> Result<Vec<Expr>> {
    let views = epilogue_views(values, anchor)?;
    views.into_iter().try_fold(index.to_vec(), |at, view| values.source_index(k, view, &at))
}

/// The op of a node.
fn op<'a>(values: &Values<'a>, node: NodeId) -> &'a Op {
    &values.graph.node(node).op
}
