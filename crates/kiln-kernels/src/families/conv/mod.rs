//! Convolutions: as products of windows with filters, and point by point.
//!
//! [`Conv`] is the main loop, the Configs and the cost model of `gemm` on an operand that is an image's windows: rows are images and places, columns
//! filters, the depth is taps and channels. [`Direct`] has no product of tiles: each thread adds up what its points see. It is for few channels of a
//! group, of which one filter sees no more (depthwise), for sums of any type, and for images that are no boxes of memory.

mod direct;

use super::gemm::{self, Group, Operand, Problem, Product, Windows, memory};
use super::{Built, KernelFamily, Subject};
use crate::Result;
use crate::value::Values;
pub use direct::Direct;
use kiln_fuse::Anchor;
use kiln_graph::{DType, Dim, NodeId, Op};
use kiln_target::{Estimate, Gpu};
use std::sync::Arc;

/// The family of products.
pub struct Conv;

/// Labels of axes: images, filters, channels; places and taps along each axis of space.
const IMAGE: char = 'n';
const FILTER: char = 'o';
const CHANNEL: char = 'c';
const PLACES: [char; 3] = ['x', 'y', 'z'];
const TAPS: [char; 3] = ['r', 's', 't'];

/// The labels of a convolution's result of so many axes of space; of more than three there are none.
fn labels(space: usize) -> Option<Vec<char>> {
    Some([&[IMAGE, FILTER], PLACES.get(..space)?].concat())
}

impl KernelFamily for Conv {
    type Config = gemm::Config;
    type Problem = Problem;

    fn name(&self) -> &'static str {
        "conv"
    }

    fn accept(&self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Problem>> {
        let region = &subject.region;
        let (Anchor::Conv, [anchor]) = (region.anchor, &region.anchors()[..]) else { return Ok(None) };
        let values = Values::new(region, &subject.symbols)?;
        let Some(product) = product(&values, *anchor)? else { return Ok(None) };
        let problem = Problem::of(subject, product.0, product.1, None, gpu);
        // Tiles are of one group of channels.
        if !problem.one_group(&gemm::smallest(&problem)) {
            return Ok(None);
        }
        gemm::build(&problem, &gemm::smallest(&problem))?;
        Ok(Some(problem))
    }

    fn space(&self, problem: &Problem, gpu: &Gpu) -> Vec<gemm::Config> {
        gemm::space(problem, gpu)
    }

    fn estimate(&self, problem: &Problem, config: &gemm::Config, gpu: &Gpu) -> Estimate {
        gemm::estimate(problem, config, gpu)
    }

    fn build(&self, problem: &Problem, config: &gemm::Config) -> Result<Built> {
        gemm::build(problem, config)
    }
}

/// A convolution as a product, and the type of its sums; `None` where tiles are not made of that type, or windows are nowhere.
fn product(values: &Values, anchor: NodeId) -> Result<Option<(Product, DType)>> {
    let node = values.graph.node(anchor);
    let (Op::Conv { spec, acc, out }, &[x, w]) = (&node.op, &node.inputs[..]) else {
        return values.malformed("its anchor is not a convolution");
    };
    let (result, space) = (node.outputs[0], spec.strides.len());
    let sums = if acc.compute() == DType::U32 { DType::I32 } else { acc.compute() };
    let Some(labels) = labels(space).filter(|_| matches!(sums, DType::F32 | DType::F64 | DType::I32)) else {
        return Ok(None);
    };
    let Some(mut windows) = Windows::of(values, spec, [x, w, result]) else { return Ok(None) };
    let taps = &TAPS[..space];
    let filter = [&[FILTER, CHANNEL], taps].concat();
    let extent = |label: &char| {
        let among = |labels: &[char], shape: &[Dim]| labels.iter().position(|l| l == label).map(|at| shape[at].clone());
        let found = among(&labels, values.shape(result)).or_else(|| among(&filter, values.shape(w)));
        found.unwrap_or(Dim::from(1))
    };
    // An axis of one element has no place of its own.
    let group = |labels: Vec<char>| {
        let labels: Vec<char> = labels.into_iter().filter(|label| !extent(label).is(1)).collect();
        Group { extents: labels.iter().map(extent).collect(), labels }
    };
    let operand = |value, labels: &[char], outer: Vec<char>, windows| {
        let dtype = values.graph.ty(value).dtype;
        Operand { value, from: value, labels: labels.to_vec(), dtype, outer: group(outer), lies: None, windows }
    };
    let filters = operand(w, &filter, vec![FILTER], None);
    let lies = memory(values, &filters);
    if !windows.channels_last {
        // Of an image whose channels lie apart the depth has the order of the filters.
        let order: Vec<char> = lies
            .iter()
            .flat_map(|memory| &memory.axes)
            .map(|(label, _)| *label)
            .filter(|label| *label != FILTER)
            .collect();
        windows.channels_last = order.len() > 1 && order.last() == Some(&CHANNEL);
    }
    let depth = if windows.channels_last { [taps, &[CHANNEL]] } else { [&[CHANNEL], taps] };
    let rows: Vec<char> = labels.iter().copied().filter(|label| *label != FILTER).collect();
    let mut product = Product {
        anchor,
        result,
        labels: labels.clone(),
        acc: *acc,
        out: *out,
        grid: vec![],
        operands: [operand(x, &[], rows, Some(windows)), filters],
        twins: vec![],
        depth: group(depth.concat()),
        boxes: vec![],
        plain: None,
    };
    let promoted = product.promoted(1, &[None, lies]);
    product.operands[1].lies = promoted.map(|(_, input, axes)| (input, axes));
    product.stores(values, &[anchor], &extent)?;
    Ok(Some((product, sums)))
}
