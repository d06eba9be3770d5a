//! Kernels: a region, compiled; bound to shapes; run.

use crate::aligned::{Aligned, is_aligned};
use crate::error::{Error, Result};
use crate::lower::{Home, Lowered, lower};
use crate::memory::Slot;
use crate::stage::{Context, Pool};
use bytes::Bytes;
use kiln_fuse::Region;
use kiln_graph::{Bindings, DType, Tensor, interpret_within};
use std::ops::Range;
use std::sync::Arc;

/// Alignment of every buffer that a stage sees.
pub(crate) const ALIGN: usize = 64;

/// A region ready to be bound to concrete shapes.
#[derive(Clone, Debug)]
pub struct Kernel {
    region: Arc<Region>,
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
        Ok(Kernel { region: Arc::new(region.clone()) })
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
        BoundKernel::new(Arc::clone(&self.region), bindings.clone(), rayon::current_num_threads(), &[])
    }
}

/// Type of an operand.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) dtype: DType,
    shape: Vec<usize>,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
enum Plan {
    Stages(Lowered),
    /// What has no stages runs, slowly and exactly, on the graph's interpreter. Why.
    Reference(String),
}

/// A kernel for concrete shapes.
#[derive(Debug)]
pub struct BoundKernel {
    region: Arc<Region>,
    bindings: Bindings,
    threads: usize,
    pub(crate) inputs: Vec<Operand>,
    pub(crate) outputs: Vec<Operand>,
    plan: Plan,
}

impl BoundKernel {
    fn new(region: Arc<Region>, bindings: Bindings, threads: usize, steady: &[bool]) -> Result<BoundKernel> {
        let operands = |ids: &mut dyn Iterator<Item = kiln_graph::ValueId>| -> Result<Vec<Operand>> {
            ids.map(|v| {
                let ty = region.graph.ty(v);
                let shape =
                    ty.concrete(&bindings).map_err(|source| Error::Graph { region: region.name.clone(), source })?;
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
        let plan = match lower(&region, &bindings, threads, steady) {
            Ok(lowered) => Plan::Stages(lowered),
            Err(Error::Unsupported { node, message, .. }) => {
                Plan::Reference(format!("reference interpreter ({node}: {message})"))
            }
            Err(e) => return Err(e),
        };
        Ok(BoundKernel { region, bindings, threads, inputs, outputs, plan })
    }

    /// This kernel for being repeated while the `steady` ones of its inputs stay the same: what depends on them alone is computed once.
    pub(crate) fn repeated(&self, steady: &[bool]) -> Result<BoundKernel> {
        BoundKernel::new(Arc::clone(&self.region), self.bindings.clone(), self.threads, steady)
    }

    pub(crate) fn name(&self) -> &str {
        &self.region.name
    }

    /// The stages; `None` for a kernel that runs on the reference interpreter.
    pub(crate) fn lowered(&self) -> Option<&Lowered> {
        match &self.plan {
            Plan::Stages(lowered) => Some(lowered),
            Plan::Reference(_) => None,
        }
    }

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
            Plan::Reference(reason) => reason.clone(),
        }
    }

    /// Whether the region runs on the reference interpreter.
    pub fn is_reference(&self) -> bool {
        matches!(self.plan, Plan::Reference(_))
    }

    /// The region.
    pub(crate) fn region(&self) -> &Region {
        &self.region
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
            Plan::Reference(_) => {
                let results = self.reference(inputs)?;
                outputs.iter_mut().zip(&results).for_each(|(out, result)| out.copy_from_slice(result.data()));
                Ok(())
            }
        }
    }

    /// Checks the sizes of operands.
    pub(crate) fn check(
        &self,
        plural: &'static str,
        what: &'static str,
        expected: &[Operand],
        found: &mut dyn ExactSizeIterator<Item = usize>,
    ) -> Result<()> {
        if found.len() != expected.len() {
            let region = self.name().to_owned();
            return Err(Error::Arity { region, what: plural, expected: expected.len(), found: found.len() });
        }
        for (index, (operand, found)) in expected.iter().zip(found).enumerate() {
            if operand.bytes != found {
                return Err(Error::Size {
                    region: self.name().to_owned(),
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
            let region = self.name().to_owned();
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
            moved_inputs.push((!is_aligned(bytes, operand.dtype)).then(|| Aligned::copy(bytes)));
        }
        let mut moved_outputs: Vec<Option<Aligned>> = Vec::with_capacity(outputs.len());
        for (operand, bytes) in self.outputs.iter().zip(outputs.iter()) {
            moved_outputs.push((!is_aligned(bytes, operand.dtype)).then(|| Aligned::copy(bytes)));
        }
        {
            let out: Vec<Slot<'_>> = outputs
                .iter_mut()
                .zip(&mut moved_outputs)
                .map(|(bytes, moved)| match moved {
                    Some(copy) => Slot::write(copy.bytes_mut()),
                    None => Slot::write(bytes),
                })
                .collect();
            let scratch = Slot::write(scratch);
            let slots: Vec<Slot<'_>> = lowered
                .slots
                .iter()
                .map(|spec| match &spec.home {
                    Home::Input(i) => Slot::read(moved_inputs[*i].as_ref().map_or(inputs[*i], |c| c.bytes())),
                    Home::Output(o) => out[*o],
                    Home::Constant(data) => Slot::read(data),
                    Home::Scratch(at) | Home::Kept(at) => scratch.part(*at, spec.bytes()),
                })
                .collect();
            self.run_stages(lowered, 0..lowered.stages.len(), &slots, scratch, None)?;
        }
        for (bytes, moved) in outputs.iter_mut().zip(&moved_outputs) {
            if let Some(copy) = moved {
                bytes.copy_from_slice(copy.bytes());
            }
        }
        Ok(())
    }

    /// Runs some of the stages on slots in the order of [`Lowered::slots`], aligned to their dtypes; `scratch` is aligned.
    pub(crate) fn run_stages(
        &self,
        lowered: &Lowered,
        range: Range<usize>,
        slots: &[Slot<'_>],
        scratch: Slot<'_>,
        pool: Pool<'_>,
    ) -> Result<()> {
        for &slot in &lowered.nibbles {
            // 4-bit stores merge into bytes; the spare nibble of an odd count must be defined.
            slots[slot].put(slots[slot].len() - 1, 0u8);
        }
        for (stage, private) in lowered.stages[range.clone()].iter().zip(&lowered.stage_scratch[range]) {
            let scratch = scratch.range_mut::<u8>(private.start, private.len());
            stage.run(Context { slots, scratch, region: self.name(), pool })?;
        }
        Ok(())
    }

    /// Computes the outputs with the graph's interpreter.
    pub(crate) fn reference(&self, inputs: &[&[u8]]) -> Result<Vec<Tensor>> {
        let failed = |source| Error::Graph { region: self.name().to_owned(), source };
        let tensors = self
            .inputs
            .iter()
            .zip(inputs)
            .map(|(o, b)| Tensor::new(o.dtype, o.shape.clone(), Bytes::copy_from_slice(b)))
            .collect::<kiln_graph::Result<Vec<_>>>()
            .map_err(failed)?;
        interpret_within(&self.region.graph, &tensors, &self.bindings).map_err(failed)
    }
}
