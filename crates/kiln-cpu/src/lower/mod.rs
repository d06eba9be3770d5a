//! From a region with concrete shapes to stages over slots.
//!
//! Every op that is neither elementwise nor a view becomes a stage of its own, reading and writing dense slots; elementwise ops, views and
//! row reductions between them fuse into loop nests.

pub(crate) mod affine;
mod anchors;
mod contract;
mod conv;
mod fuse;
mod keep;
mod nest;
mod pull;
mod scratch;
mod sink;
mod tail;

pub(crate) use nest::{Mode, Nest};
pub(crate) use tail::Tail;

use crate::aligned::aligned;
use crate::error::{Error, Result};
use crate::stage::Stage;
use bytes::Bytes;
use kiln_fuse::Region;
use kiln_graph::{Bindings, DType, Graph, Node, Op, ValueId};
use std::ops::Range;

/// Where a slot's memory is.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    Input(usize),
    Output(usize),
    Constant(Bytes),
    /// Byte offset in the scratch buffer.
    Scratch(usize),
    /// Byte offset in memory that lasts as long as the kernel is repeated.
    Kept(usize),
}

/// One buffer of a bound region.
#[derive(Clone, Debug)]
pub(crate) struct SlotSpec {
    pub(crate) home: Home,
    pub(crate) dtype: DType,
    pub(crate) len: usize,
}

impl SlotSpec {
    pub(crate) fn bytes(&self) -> usize {
        self.dtype.bytes_for(self.len).unwrap_or(usize::MAX)
    }
}

/// A region lowered for concrete shapes.
#[derive(Debug)]
pub(crate) struct Lowered {
    pub(crate) slots: Vec<SlotSpec>,
    pub(crate) stages: Vec<Stage>,
    /// How many of them, from the first, run once when the kernel is repeated.
    pub(crate) once: usize,
    /// Each stage's private scratch, in bytes.
    pub(crate) stage_scratch: Vec<Range<usize>>,
    pub(crate) scratch_bytes: usize,
    pub(crate) kept_bytes: usize,
    /// Results of 4-bit elements.
    pub(crate) nibbles: Vec<usize>,
}

/// Lowering state.
pub(crate) struct Lowering<'g> {
    region: &'g Region,
    pub(crate) graph: &'g Graph,
    pub(crate) bindings: &'g Bindings,
    shapes: Vec<Vec<usize>>,
    slots: Vec<SlotSpec>,
    slot_of: Vec<Option<usize>>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) threads: usize,
    /// For a kernel that is repeated, which inputs stay the same; else empty.
    steady_inputs: &'g [bool],
}

/// Lowers `region` under `bindings` for `threads` threads. With `steady`, which says of each input whether it stays the same, the kernel is
/// to be repeated.
pub(crate) fn lower(region: &Region, bindings: &Bindings, threads: usize, steady: &[bool]) -> Result<Lowered> {
    let graph_error = |source| Error::Graph { region: region.name.clone(), source };
    let sunk = sink::sink_gathers(&region.graph, bindings).map_err(graph_error)?;
    let graph = sunk.as_ref().unwrap_or(&region.graph);
    let mut shapes = Vec::with_capacity(graph.values.len());
    for value in &graph.values {
        let shape = value.ty.concrete(bindings).map_err(graph_error)?;
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes = n.and_then(|n| n.checked_mul(8)).filter(|&b| b < isize::MAX as usize / 4);
        if bytes.is_none() {
            return Err(Error::TooLarge { region: region.name.clone(), dtype: value.ty.dtype, shape });
        }
        shapes.push(shape);
    }
    let mut low = Lowering {
        region,
        graph,
        bindings,
        shapes,
        slots: Vec::new(),
        slot_of: vec![None; graph.values.len()],
        stages: Vec::new(),
        threads: threads.max(1),
        steady_inputs: steady,
    };
    low.run()?;
    let mut stages = tail::attach(&mut low.slots, low.stages);
    let once = keep::hoist(&mut low.slots, &mut stages, steady);
    Ok(scratch::place(low.slots, stages, once))
}

impl<'g> Lowering<'g> {
    fn run(&mut self) -> Result<()> {
        for (i, &v) in self.graph.inputs.iter().enumerate() {
            let slot = self.add_slot(Home::Input(i), self.dtype(v), self.len(v));
            self.slot_of[v.index()] = Some(slot);
        }
        for node in &self.graph.nodes {
            let data = match &node.op {
                Op::Const { value } if value.len() != 1 => Some(value),
                Op::Weight { name, .. } => self.graph.weights.get(name),
                _ => None,
            };
            if let (Some(data), Some(&v)) = (data, node.outputs.first()) {
                let home = Home::Constant(aligned(data.data(), data.dtype()));
                let slot = self.add_slot(home, data.dtype(), data.len());
                self.slot_of[v.index()] = Some(slot);
            }
        }
        // Later results first: a nest computes the earlier ones that it passes on the way.
        let mut order: Vec<usize> = (0..self.graph.outputs.len()).collect();
        order.sort_by_key(|&o| std::cmp::Reverse(self.graph.outputs[o].1));
        for &o in &order {
            let v = self.graph.outputs[o].1;
            if self.slot_of[v.index()].is_none() {
                self.materialise(v)?;
            }
        }
        for (o, (_, v)) in self.graph.outputs.iter().enumerate() {
            let slot = self.slot_of[v.index()].unwrap_or_default();
            if !matches!(self.slots[slot].home, Home::Output(at) if at == o) {
                let to = self.add_slot(Home::Output(o), self.dtype(*v), self.len(*v));
                self.stages.push(Stage::Copy { from: slot, to });
            }
        }
        Ok(())
    }

    pub(crate) fn dtype(&self, v: ValueId) -> DType {
        self.graph.ty(v).dtype
    }

    pub(crate) fn shape(&self, v: ValueId) -> &[usize] {
        &self.shapes[v.index()]
    }

    pub(crate) fn len(&self, v: ValueId) -> usize {
        self.shape(v).iter().product()
    }

    fn add_slot(&mut self, home: Home, dtype: DType, len: usize) -> usize {
        self.slots.push(SlotSpec { home, dtype, len });
        self.slots.len() - 1
    }

    /// A scratch slot.
    pub(crate) fn temp(&mut self, dtype: DType, len: usize) -> usize {
        self.add_slot(Home::Scratch(0), dtype, len)
    }

    /// The slot that will hold `v`: a result of the region if it is one, else scratch.
    pub(crate) fn assign(&mut self, v: ValueId) -> usize {
        if let Some(slot) = self.slot_of[v.index()] {
            return slot;
        }
        let home = match self.graph.outputs.iter().position(|o| o.1 == v) {
            Some(o) => Home::Output(o),
            None => Home::Scratch(0),
        };
        let slot = self.add_slot(home, self.dtype(v), self.len(v));
        self.slot_of[v.index()] = Some(slot);
        slot
    }

    /// The slot whose memory, read row-major, is `v`.
    pub(crate) fn dense_slot(&self, v: ValueId) -> Option<usize> {
        if let Some(slot) = self.slot_of[v.index()] {
            return Some(slot);
        }
        let node = self.graph.producer(v);
        match (&node.op, node.inputs.as_slice()) {
            (Op::Reshape { .. }, [x]) => self.dense_slot(*x),
            _ => None,
        }
    }

    pub(crate) fn unsupported(&self, node: &Node, message: String) -> Error {
        let name = if node.name.is_empty() { node.op.name().to_owned() } else { node.name.clone() };
        Error::Unsupported { region: self.region.name.clone(), node: name, message }
    }

    pub(crate) fn graph_error(&self, source: kiln_graph::Error) -> Error {
        Error::Graph { region: self.region.name.clone(), source }
    }

    /// Emits the stages that put `v` into a dense slot, and gives the slot.
    fn materialise(&mut self, v: ValueId) -> Result<usize> {
        if let Some(slot) = self.slot_of[v.index()] {
            return Ok(slot);
        }
        let node = self.graph.producer(v);
        if anchors::has_own_stage(&node.op) {
            self.anchor(v)?
        } else {
            self.fuse(v)?
        }
        match self.slot_of[v.index()] {
            Some(slot) => Ok(slot),
            None => Err(self.unsupported(node, "did not lower".into())),
        }
    }

    /// The dense slot of operand `i` of the node that defines `v`.
    pub(crate) fn operand(&mut self, v: ValueId, i: usize) -> Result<usize> {
        let node = self.graph.producer(v);
        let Some(&x) = node.inputs.get(i) else {
            return Err(self.unsupported(node, format!("operand {i} is missing")));
        };
        match self.dense_slot(x) {
            Some(slot) => Ok(slot),
            None => self.materialise(x),
        }
    }
}
