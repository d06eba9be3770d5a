//! Maps and gathers: every element of the results is a function of its index.
//!
//! The points of the results are one line. A CTA takes a tile of neighbouring points, a thread runs of 16 bytes of them (coalesced 128-bit
//! accesses: CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory"), several before it waits (memory-level parallelism: Volkov,
//! "Better Performance at Lower Occupancy", GTC 2010). State: the tile's elements in registers, nothing else. Floor: every operand once, every
//! result once, and the region's own arithmetic.
//!
//! Where the count of points is not provably a multiple of an access, the last tile is a block of its own, so that all others stay wide. Runs that
//! may cross the end of a row are read and written by the element, few to a thread: each takes its index apart.

use super::cost::{Stream, flops};
use super::{Built, KernelFamily, Subject};
use crate::Result;
use crate::value::Values;
use crate::value::dims::{multiple, numel};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{Dim, Op, OpKind, QuantAxes, ValueId};
use kiln_target::{Estimate, Gpu};
use kiln_tile::expr::{CompareOp, Expr};
use kiln_tile::ir::{Builder, Place, Schedule};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The family.
pub struct Maps;

/// What a CTA takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Points of a thread.
    pub elements: u32,
    /// Warps of a CTA.
    pub warps: u32,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} elements a thread, {} warps", self.elements, self.warps)
    }
}

impl Config {
    fn threads(&self) -> u32 {
        32 * self.warps
    }

    fn tile(&self) -> u32 {
        self.threads() * self.elements
    }
}

/// A map.
pub struct Problem {
    subject: Arc<Subject>,
    /// Points.
    total: Dim,
    /// Whether runs of points are runs in memory: no index is taken apart, or rows are known to be whole accesses.
    runs: bool,
    /// Bytes of an element, of the narrowest and of the widest type in memory.
    narrow: u32,
    wide: u32,
}

impl KernelFamily for Maps {
    type Config = Config;
    type Problem = Problem;

    fn name(&self) -> &'static str {
        "map"
    }

    fn accept(&self, subject: &Arc<Subject>, _: &Gpu) -> Result<Option<Problem>> {
        let region = &subject.region;
        let scatters = region.graph.nodes.iter().any(|node| node.op.kind() == OpKind::Scatter);
        if !matches!(region.anchor, Anchor::Map | Anchor::Index) || scatters {
            return Ok(None);
        }
        let flat = flattened(region);
        let line = flat.is_some();
        let subject = flat.map_or(subject.clone(), |region| Arc::new(Subject { region, ..Subject::clone(subject) }));
        let graph = &subject.region.graph;
        let Some((_, first)) = graph.outputs.first() else { return Ok(None) };
        let shape = &graph.ty(*first).shape;
        let total = numel(shape);
        let values = graph.inputs.iter().copied().chain(graph.outputs.iter().map(|(_, v)| *v));
        let bytes: Vec<u32> = values.map(|v| (graph.ty(v).dtype.bits() / 8).max(1)).collect();
        let [narrow, wide] = [bytes.iter().min(), bytes.iter().max()].map(|bytes| bytes.copied().unwrap_or(4));
        let rows = shape.last().and_then(Dim::as_const).is_some_and(|last| last % i64::from(16 / narrow) == 0);
        let runs = line || shape.len() < 2 || rows;
        let problem = Problem { subject, total, runs, narrow, wide };
        self.build(&problem, &Config { elements: 1, warps: 1 })?;
        Ok(Some(problem))
    }

    fn space(&self, problem: &Problem, _: &Gpu) -> Vec<Config> {
        let access = problem.access();
        // Of many operands and results a thread takes fewer elements: all of them are in registers together.
        let graph = &problem.subject.region.graph;
        let values = (graph.inputs.len() + graph.outputs.len()) as u32;
        let most = (MOST_HELD / values.max(1)).max(1);
        let few = 1 << access.min(most).ilog2();
        let elements = [1, 2, 4].map(|accesses| accesses * few).into_iter();
        let elements =
            elements.filter(|elements| *elements == few || *elements <= most && elements * problem.wide <= MOST_BYTES);
        elements.flat_map(|elements| [4, 8].map(|warps| Config { elements, warps })).collect()
    }

    fn estimate(&self, problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
        let subject = &problem.subject;
        let graph = &subject.region.graph;
        let points = subject.size(&problem.total);
        // What a gather leaves of its operand is at most what it is asked for.
        let line = |v| f64::from(graph.ty(v).dtype.bits()) / 8.0;
        let read = |v| subject.count(&graph.ty(v).shape).min(points) * line(v);
        let inputs: f64 = graph.inputs.iter().map(|v| read(*v)).sum();
        let outputs: f64 = graph.outputs.iter().map(|(_, v)| points * line(*v)).sum();
        let per_access = problem.access();
        let values = (graph.inputs.len() + graph.outputs.len()) as f64;
        let element: f64 = graph.inputs.iter().map(|v| line(*v)).sum();
        Stream {
            ctas: (points / f64::from(config.tile())).ceil(),
            threads: config.threads(),
            registers: (f64::from(config.elements) * (element + f64::from(problem.wide)) / 4.0).ceil() as u32,
            ahead: f64::from(config.elements) * element,
            bytes: inputs + outputs,
            cached: 0.0,
            flops: flops(subject),
            accesses: points * values / f64::from(per_access),
            shuffles: 0.0,
            barriers: 0.0,
            meetings: 0.0,
        }
        .estimate(gpu)
    }

    fn build(&self, problem: &Problem, config: &Config) -> Result<Built> {
        let Subject { region, symbols, ranges, .. } = &*problem.subject;
        let mut values = Values::new(region, symbols)?;
        values.know(ranges);
        let mut k = Builder::new(&region.name, &region.summary);
        k.schedule(Schedule { warps: config.warps, ..Schedule::default() });
        // All results have the shape of the points, and are one line as they are.
        values.declare(&mut k, |shape| vec![numel(shape)]);
        let total = values.dim(&mut k, &problem.total);
        let (tile, step) = (config.tile(), i64::from(config.tile()));
        let at = k.grid(&[("tile", total.ceil_div(step))]);
        let mut points = Points { values: &mut values, first: &at[0] * step, tile, total: total.clone() };
        let known = multiple(&problem.total);
        if !problem.runs || known % i64::from(problem.vector()) == 0 {
            points.write(&mut k, known % step != 0)?;
        } else {
            let full = (&points.first + step).compare(CompareOp::Le, total);
            k.try_if_else(full, |k, full| points.write(k, !full).map(|()| vec![]))?;
        }
        values.launch(k).map(Built::one)
    }
}

impl Problem {
    /// Elements of an access of 16 bytes to the narrowest operand.
    fn vector(&self) -> u32 {
        16 / self.narrow
    }

    /// Elements that a thread takes at a time: those of an access, but no more than 32 bytes of the widest operand, as layouts have it; one by
    /// one where they are no run.
    fn access(&self) -> u32 {
        if self.runs { self.vector().min(32 / self.wide) } else { 1 }
    }
}

/// Neighbouring points that a CTA writes.
struct Points<'v, 'r> {
    values: &'v mut Values<'r>,
    first: Expr,
    tile: u32,
    total: Expr,
}

impl Points<'_, '_> {
    /// Writes a tile of all results; `partial`: some of its points may not exist.
    fn write(&mut self, k: &mut Builder, partial: bool) -> Result<()> {
        let values = &mut *self.values;
        let outputs: Vec<ValueId> = values.graph.outputs.iter().map(|(_, v)| *v).collect();
        let names: Vec<String> = outputs.iter().map(|v| values.hint(*v)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let tiles = k.try_map(&names, &[self.tile], &[], |k, _, at| {
            let point = k.bind("point", &self.first + &at[0]);
            let exists = partial.then(|| point.lt(&self.total));
            values.at_points(exists, |values| {
                let shape = values.shape(outputs[0]);
                let mut index = vec![Expr::index(0); shape.len()];
                values.split(k, shape, point, &mut index);
                outputs.iter().map(|v| values.value(k, *v, &index)).collect()
            })
        })?;
        for (i, tile) in tiles.iter().enumerate() {
            let buffer = values.output_buffer(i).clone();
            let mut view = k.view(&buffer, std::slice::from_ref(&self.first), &[self.tile]);
            view.masked[0] = partial;
            k.store(Place::View(view), tile);
        }
        Ok(())
    }
}

/// Most bytes that a thread holds of the widest operand.
const MOST_BYTES: u32 = 64;
/// Most elements of all operands and results that a thread holds.
const MOST_HELD: u32 = 64;

/// The same region on one long axis, if all it does is elementwise on one shape and scalars: then no index is taken apart, and wide
/// accesses need only the element count to divide.
fn flattened(region: &Region) -> Option<Region> {
    let shape = region.graph.ty(region.graph.outputs.first()?.1).shape.clone();
    if shape.len() < 2 {
        return None;
    }
    let elementwise = |op: &Op| match op {
        Op::Quantize { axes, .. } | Op::Dequantize { axes } => *axes == QuantAxes::Tensor,
        Op::Input { .. } | Op::Const { .. } | Op::DimValue { .. } | Op::Broadcast { .. } => true,
        op => op.kind() == OpKind::Elementwise,
    };
    let fits = |dims: &Vec<Dim>| dims.is_empty() || *dims == shape;
    if !region.graph.nodes.iter().all(|n| elementwise(&n.op)) || !region.graph.values.iter().all(|v| fits(&v.ty.shape))
    {
        return None;
    }
    let mut flat = region.clone();
    let line = vec![numel(&shape)];
    let flatten = |dims: &mut Vec<Dim>| {
        if !dims.is_empty() {
            dims.clone_from(&line);
        }
    };
    flat.graph.values.iter_mut().for_each(|v| flatten(&mut v.ty.shape));
    for node in &mut flat.graph.nodes {
        match &mut node.op {
            Op::Input { ty, .. } => flatten(&mut ty.shape),
            Op::Broadcast { shape } => flatten(shape),
            _ => {}
        }
    }
    Some(flat)
}
