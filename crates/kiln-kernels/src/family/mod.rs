//! Kernel families: one a file, each a way to spread an anchor's iteration space over a GPU.

mod contract;
mod conv;
mod fold;
mod gemm;
mod gemm_config;
mod map;
mod product;
mod reduce;
mod scan;
mod scatter;
mod sort;
mod window;

use crate::program::TileProgram;
use crate::value::Values;
use crate::{Error, Result};
use kiln_fuse::{Anchor, OpKind, Region};
use kiln_graph::{Dim, NodeId, Op, Symbols};
use kiln_target::arch::Arch;
use kiln_tile::{Builder, Expr};

/// How a region is made: the family that takes it, that family's Config, and its tile programs in launch order.
pub struct Made {
    pub family: &'static str,
    pub config: serde_json::Value,
    pub programs: Vec<TileProgram>,
}

/// Tile programs for `region` on `arch`: the most promising `most` ways to make it, at least one, the best first.
pub fn programs(region: &Region, arch: Arch, symbols: &Symbols, most: usize) -> Result<Vec<Made>> {
    region.verify().map_err(|what| Error::Malformed { region: region.name.clone(), what })?;
    if let Anchor::Contract | Anchor::Conv = region.anchor {
        let products = gemm::programs(region, symbols, arch, most)?;
        if !products.is_empty() {
            let family = if region.anchor == Anchor::Conv { "conv_gemm" } else { "gemm" };
            let made = |(config, program)| Made { family, config: serde_json::json!(config), programs: vec![program] };
            return Ok(products.into_iter().map(made).collect());
        }
    }
    let (family, program) = match region.anchor {
        Anchor::Map => ("map", map::program(region, symbols)?),
        Anchor::Index if region.graph.nodes.iter().any(|n| OpKind::of(&n.op) == OpKind::Scatter) => {
            ("scatter", scatter::program(region, symbols)?)
        }
        Anchor::Index => ("gather", map::program(region, symbols)?),
        Anchor::Reduce => ("reduce", reduce::program(region, symbols)?),
        // What the matrix products do not take.
        Anchor::Contract => ("contract_loops", contract::program(region, symbols)?),
        Anchor::Attention => {
            return Err(Error::Unsupported {
                region: region.name.clone(),
                summary: region.summary.clone(),
                what: "no family takes attention".into(),
                help: "fuse with exact numerics, which keeps its parts apart".into(),
            });
        }
        Anchor::Conv => ("conv_direct", conv::program(region, symbols)?),
        Anchor::Window => ("window", window::program(region, symbols)?),
        Anchor::Scan => ("scan", scan::program(region, symbols)?),
        Anchor::Sort => ("rank", sort::program(region, symbols)?),
    };
    Ok(vec![Made { family, config: serde_json::json!({}), programs: vec![program] }])
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

/// Where the result of the anchor is that output 0 shows at `index`: through the permutes and reshapes of the epilogue.
fn behind_epilogue(values: &mut Values, k: &mut Builder, anchor: NodeId, index: &[Expr]) -> Result<Vec<Expr>> {
    let graph = values.graph;
    let stages = values.region.stages();
    let mut at = index.to_vec();
    let mut v = values.output(0);
    while graph.value(v).node != anchor {
        let node = graph.producer(v);
        if OpKind::of(&node.op) == OpKind::View {
            at = values.behind(k, v, &at)?;
        }
        let depends = |stage| matches!(stage, kiln_fuse::Stage::Anchor | kiln_fuse::Stage::Epilogue);
        match node.inputs.iter().find(|v| depends(stages[graph.value(**v).node.index()])) {
            Some(&next) => v = next,
            None => return values.malformed("the first result does not depend on the anchor"),
        }
    }
    Ok(at)
}

/// The op of a node.
fn op<'a>(values: &Values<'a>, node: NodeId) -> &'a Op {
    &values.graph.node(node).op
}
