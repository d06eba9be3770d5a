//! Kernels: a region, compiled; bound to shapes; run.

use crate::error::{Error, Result};
use crate::lower::{Home, Lowered, lower};
use crate::memory::Slot;
use crate::stage::Context;
use bytes::Bytes;
use kiln_fuse::Region;
use kiln_graph::{Bindings, DType, Tensor, interpret_within};

/// Alignment of every buffer that a stage sees.
const ALIGN: usize = 64;

/// A region ready to be bound to concrete shapes.
#[derive(Clone, Debug)]
pub struct Kernel {
    region: Region,
}

impl Kernel {
    /// Takes a region. Shapes stay symbolic.
    ///
    /// # Errors
    /// A result that no node defines.
    pub fn compile(region: &Region) -> Result<Kernel> {
        let values = region.graph.values.len();
        if let Some((name, _)) = region.graph.outputs.iter().find(|o| o.1.index() >= values) {
            return Err(Error::Unsupported {
                region: region.name.clone(),
                node: name.clone(),
                message: "the result is never defined".into(),
            });
        }
        Ok(Kernel { region: region.clone() })
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Fixes shapes and chooses strides, tiles and scratch. Worth caching: a bound kernel runs any number of times, from any thread.
    ///
    /// # Errors
    /// An unbound symbol, or a shape too large to address.
    pub fn bind(&self, bindings: &Bindings) -> Result<BoundKernel> {
        let region = &self.region;
        let operands = |ids: &mut dyn Iterator<Item = kiln_graph::ValueId>| -> Result<Vec<Operand>> {
            ids.map(|v| {
                let ty = region.graph.ty(v);
                let shape =
                    ty.concrete(bindings).map_err(|source| Error::Graph { region: region.name.clone(), source })?;
                let bytes = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).and_then(|n| ty.dtype.bytes_for(n));
                let bytes = bytes.ok_or_else(|| Error::TooLarge {
                    region: region.name.clone(),
                    dtype: ty.dtype,
                    shape: shape.clone(),
                })?;
                Ok(Operand { dtype: ty.dtype, shape, bytes })
            })
            .collect()
        };
        let inputs = operands(&mut region.graph.inputs.iter().copied())?;
        let outputs = operands(&mut region.graph.outputs.iter().map(|o| o.1))?;
        let plan = match lower(region, bindings, rayon::current_num_threads()) {
            Ok(lowered) => Plan::Stages(lowered),
            Err(Error::Unsupported { node, message, .. }) => Plan::Reference {
                bindings: bindings.clone(),
                region: Box::new(region.clone()),
                reason: format!("reference interpreter ({node}: {message})"),
            },
            Err(e) => return Err(e),
        };
        Ok(BoundKernel { name: region.name.clone(), inputs, outputs, plan })
    }
}

/// Type of an operand.
#[derive(Clone, Debug)]
struct Operand {
    dtype: DType,
    shape: Vec<usize>,
    bytes: usize,
}

#[derive(Debug)]
enum Plan {
    Stages(Lowered),
    /// What has no stages runs, slowly and exactly, on the graph's interpreter.
    Reference {
        bindings: Bindings,
        region: Box<Region>,
        reason: String,
    },
}

/// A kernel for concrete shapes.
#[derive(Debug)]
pub struct BoundKernel {
    name: String,
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    plan: Plan,
}

impl BoundKernel {
    /// Bytes of scratch that [`BoundKernel::run`] needs. They need not be aligned.
    pub fn scratch_bytes(&self) -> usize {
        match &self.plan {
            Plan::Stages(l) if l.scratch_bytes > 0 => l.scratch_bytes + ALIGN,
            _ => 0,
        }
    }

    /// The stages that run, in order: `gemm, map`. Starts with `reference interpreter` when the region has no fast path.
    pub fn implementation(&self) -> String {
        match &self.plan {
            Plan::Stages(l) => l.stages.iter().map(|s| s.name()).collect::<Vec<_>>().join(", "),
            Plan::Reference { reason, .. } => reason.clone(),
        }
    }

    /// Whether the region runs on the reference interpreter.
    pub fn is_reference(&self) -> bool {
        matches!(self.plan, Plan::Reference { .. })
    }

    /// Computes the outputs, on rayon's current pool. Buffers hold dense row-major little-endian elements; those aligned to their dtype are
    /// used in place, others are copied.
    ///
    /// # Errors
    /// Buffers of a wrong number or size, and indices outside their axis.
    pub fn run(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]], scratch: &mut [u8]) -> Result<()> {
        self.check("inputs", "input", &self.inputs, &mut inputs.iter().map(|b| b.len()))?;
        self.check("outputs", "output", &self.outputs, &mut outputs.iter().map(|b| b.len()))?;
        match &self.plan {
            Plan::Stages(lowered) => self.stages(lowered, inputs, outputs, scratch),
            Plan::Reference { bindings, region, .. } => self.reference(region, bindings, inputs, outputs),
        }
    }

    fn check(
        &self,
        plural: &'static str,
        what: &'static str,
        expected: &[Operand],
        found: &mut dyn ExactSizeIterator<Item = usize>,
    ) -> Result<()> {
        if found.len() != expected.len() {
            let region = self.name.clone();
            return Err(Error::Arity { region, what: plural, expected: expected.len(), found: found.len() });
        }
        for (index, (operand, found)) in expected.iter().zip(found).enumerate() {
            if operand.bytes != found {
                return Err(Error::Size {
                    region: self.name.clone(),
                    what,
                    index,
                    dtype: operand.dtype,
                    shape: operand.shape.clone(),
                    expected: operand.bytes,
                    found,
                });
            }
        }
        Ok(())
    }

    fn stages(&self, lowered: &Lowered, inputs: &[&[u8]], outputs: &mut [&mut [u8]], scratch: &mut [u8]) -> Result<()> {
        if scratch.len() < self.scratch_bytes() {
            let region = self.name.clone();
            return Err(Error::Scratch { region, expected: self.scratch_bytes(), found: scratch.len() });
        }
        let skip = scratch.as_ptr().align_offset(ALIGN);
        let scratch = match scratch.get_mut(skip..) {
            Some(aligned) if lowered.scratch_bytes > 0 => &mut aligned[..lowered.scratch_bytes],
            // Empty, and aligned all the same.
            _ => bytemuck::cast_slice_mut::<u64, u8>(&mut []),
        };

        // Buffers whose address does not suit their dtype are replaced by aligned copies.
        let mut moved_inputs: Vec<Option<Aligned>> = Vec::with_capacity(inputs.len());
        for (operand, bytes) in self.inputs.iter().zip(inputs) {
            moved_inputs.push((!aligned(bytes, operand.dtype)).then(|| Aligned::copy(bytes)));
        }
        let mut moved_outputs: Vec<Option<Aligned>> = Vec::with_capacity(outputs.len());
        for (operand, bytes) in self.outputs.iter().zip(outputs.iter()) {
            moved_outputs.push((!aligned(bytes, operand.dtype)).then(|| Aligned::copy(bytes)));
        }
        let moved_constants: Vec<Option<Aligned>> = lowered
            .slots
            .iter()
            .map(|s| match &s.home {
                Home::Constant(data) if !aligned(data, s.dtype) => Some(Aligned::copy(data)),
                _ => None,
            })
            .collect();
        {
            let out: Vec<Slot<'_>> = outputs
                .iter_mut()
                .zip(&mut moved_outputs)
                .zip(&self.outputs)
                .map(|((bytes, moved), operand)| {
                    let bytes: &mut [u8] = match moved {
                        Some(copy) => copy.bytes_mut(),
                        None => bytes,
                    };
                    // 4-bit stores merge into bytes; the spare nibble of an odd count must be defined.
                    if let (4, Some(last)) = (operand.dtype.bits(), bytes.last_mut()) {
                        *last = 0;
                    }
                    Slot::write(bytes)
                })
                .collect();
            let scratch = Slot::write(scratch);
            let slots: Vec<Slot<'_>> = lowered
                .slots
                .iter()
                .zip(&moved_constants)
                .map(|(spec, moved)| match &spec.home {
                    Home::Input(i) => Slot::read(moved_inputs[*i].as_ref().map_or(inputs[*i], |c| c.bytes())),
                    Home::Output(o) => out[*o],
                    Home::Constant(data) => Slot::read(moved.as_ref().map_or(data, |c| c.bytes())),
                    Home::Scratch(at) => scratch.part(*at, spec.bytes()),
                })
                .collect();
            for (stage, &at) in lowered.stages.iter().zip(&lowered.stage_scratch) {
                let private = scratch.range_mut::<u8>(at, stage.scratch_bytes());
                stage.run(Context { slots: &slots, scratch: private, region: &self.name })?;
            }
        }
        for (bytes, moved) in outputs.iter_mut().zip(&moved_outputs) {
            if let Some(copy) = moved {
                bytes.copy_from_slice(copy.bytes());
            }
        }
        Ok(())
    }

    fn reference(
        &self,
        region: &Region,
        bindings: &Bindings,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<()> {
        let failed = |source| Error::Graph { region: self.name.clone(), source };
        let tensors = self
            .inputs
            .iter()
            .zip(inputs)
            .map(|(o, b)| Tensor::new(o.dtype, o.shape.clone(), Bytes::copy_from_slice(b)))
            .collect::<kiln_graph::Result<Vec<_>>>()
            .map_err(failed)?;
        let results = interpret_within(&region.graph, &tensors, bindings).map_err(failed)?;
        for (out, result) in outputs.iter_mut().zip(&results) {
            out.copy_from_slice(result.data());
        }
        Ok(())
    }
}

fn aligned(bytes: &[u8], dtype: DType) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of((dtype.bits() / 8).max(1))
}

/// An aligned copy of a buffer.
struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    fn copy(bytes: &[u8]) -> Aligned {
        let mut copy = Aligned { words: vec![0; bytes.len().div_ceil(8)], len: bytes.len() };
        copy.bytes_mut().copy_from_slice(bytes);
        copy
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}
