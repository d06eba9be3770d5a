//! At which byte of shared memory an element lies.

use crate::registers::{gcd, permutation};
use crate::{LayoutError, Swizzle, SwizzleMode};
use serde::{Deserialize, Serialize};

/// Bytes that any buffer is aligned to: what a TMA destination needs without a swizzle.
const ALIGNMENT: u32 = 128;

/// One digit of a coordinate and its distance in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Values of the digit.
    pub extent: u32,
    /// Elements from one value to the next.
    pub stride: u32,
}

/// A tile in shared memory, once for each stage: a coordinate's digits along each axis times strides, in elements, then the swizzle on
/// the byte address. A buffer is aligned to [`alignment`](Self::alignment), so the swizzle may be applied to offsets or to addresses.
///
/// The text form, also that of serde, is the bytes of an element, steps of each axis, least significant first, swizzle `^b,m,s`, stages
/// `*n`: 128 x 128 of 16 bits in two slabs of 64 columns, four stages, is `2B{128:64 | 64:1 2:8192}^3,4,3*4`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SharedLayout {
    axes: Vec<Vec<Step>>,
    element_bytes: u32,
    swizzle: Swizzle,
    stages: u32,
}

impl SharedLayout {
    /// A layout of these steps for each axis, least significant first; an axis of extent 1 has none.
    ///
    /// # Errors
    /// [`LayoutError::Overlap`] where two coordinates meet; [`LayoutError::Value`] for elements that are not 1, 2, 4, 8 or 16 bytes or
    /// more than a swizzle keeps together, an extent of zero, no stages, or more than 16 MiB.
    pub fn new(axes: &[Vec<Step>], element_bytes: u32, swizzle: Swizzle, stages: u32) -> Result<Self, LayoutError> {
        let value = |what, found: u64, expected| Err(LayoutError::Value { what, found, expected });
        if !matches!(element_bytes, 1 | 2 | 4 | 8 | 16) || swizzle.bits() > 0 && element_bytes > swizzle.chunk() {
            return value(
                "bytes of an element",
                element_bytes.into(),
                "1, 2, 4, 8 or 16, and no more than the swizzle's chunk",
            );
        }
        if axes.is_empty() {
            return value("axes of a tile in shared memory", 0, "at least 1");
        }
        let mut steps: Vec<Step> = axes.iter().flatten().copied().filter(|step| step.extent != 1).collect();
        steps.sort_by_key(|step| step.stride);
        if steps.iter().any(|step| step.extent == 0 || step.stride == 0) {
            return value("an extent or stride", 0, "at least 1");
        }
        let past = |step: &Step| u64::from(step.extent) * u64::from(step.stride);
        if let Some([step, next]) = steps.windows(2).find_map(|pair| match pair {
            [step, next] if past(step) > u64::from(next.stride) => Some([*step, *next]),
            _ => None,
        }) {
            return Err(LayoutError::Overlap { extent: step.extent, stride: step.stride, next: next.stride });
        }
        let bytes =
            steps.last().map_or(1, past).saturating_mul(u64::from(element_bytes)).saturating_mul(u64::from(stages));
        if bytes == 0 || bytes > 1 << 24 {
            return value("bytes of all stages", bytes, "1 to 2^24");
        }
        let axes = axes.iter().map(|steps| merged(steps)).collect();
        Ok(Self { axes, element_bytes, swizzle, stages })
    }

    /// Dense, axes fastest first, with `pad` elements after each run along the fastest.
    ///
    /// # Errors
    /// As [`new`](Self::new); `order` must name every axis once.
    pub fn padded(shape: &[u32], order: &[usize], pad: u32, element_bytes: u32) -> Result<Self, LayoutError> {
        permutation(order, shape.len())?;
        let mut axes = vec![Vec::new(); shape.len()];
        let mut stride = 1u32;
        for (i, &axis) in order.iter().enumerate() {
            axes[axis].push(Step { extent: shape[axis], stride });
            let run = stride.saturating_mul(shape[axis]);
            stride = if i == 0 { run.saturating_add(pad) } else { run };
        }
        Self::new(&axes, element_bytes, Swizzle::NONE, 1)
    }

    /// Dense, the last axis fastest.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn row_major(shape: &[u32], element_bytes: u32) -> Result<Self, LayoutError> {
        let order: Vec<usize> = (0..shape.len()).rev().collect();
        Self::padded(shape, &order, 0, element_bytes)
    }

    /// Dense, the first axis fastest.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn column_major(shape: &[u32], element_bytes: u32) -> Result<Self, LayoutError> {
        let order: Vec<usize> = (0..shape.len()).collect();
        Self::padded(shape, &order, 0, element_bytes)
    }

    /// As TMA boxes of a swizzle's span lie and wgmma reads them: slabs that are one span wide along the fastest axis of `order` and
    /// dense in the others, one after the other. Without a swizzle a slab is 16 bytes wide, as core matrices are.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`LayoutError::Divide`] where the fastest axis is not made of whole spans.
    pub fn slabs(shape: &[u32], order: &[usize], mode: SwizzleMode, element_bytes: u32) -> Result<Self, LayoutError> {
        permutation(order, shape.len())?;
        let inner = mode.span() / element_bytes.clamp(1, 16);
        let Some((&fast, rest)) = order.split_first().filter(|(fast, _)| shape[**fast].is_multiple_of(inner)) else {
            return Err(LayoutError::Divide { shape: shape.to_vec(), piece: vec![inner] });
        };
        let mut axes = vec![Vec::new(); shape.len()];
        let mut stride = inner;
        for &axis in rest {
            axes[axis].push(Step { extent: shape[axis], stride });
            stride = stride.saturating_mul(shape[axis]);
        }
        axes[fast] = vec![Step { extent: inner, stride: 1 }, Step { extent: shape[fast] / inner, stride }];
        Self::new(&axes, element_bytes, mode.swizzle(), 1)
    }

    /// The same with another swizzle.
    ///
    /// # Errors
    /// [`LayoutError::Value`] where elements are wider than what the swizzle keeps together.
    pub fn swizzled(&self, swizzle: Swizzle) -> Result<Self, LayoutError> {
        Self::new(&self.axes, self.element_bytes, swizzle, self.stages)
    }

    /// The same in so many stages.
    ///
    /// # Errors
    /// [`LayoutError::Value`] for none, or past 16 MiB.
    pub fn staged(&self, stages: u32) -> Result<Self, LayoutError> {
        Self::new(&self.axes, self.element_bytes, self.swizzle, stages)
    }

    /// Extents of the tile.
    pub fn shape(&self) -> Vec<u32> {
        self.axes.iter().map(|steps| steps.iter().map(|step| step.extent).product()).collect()
    }

    /// Steps along each axis, least significant first.
    pub fn axes(&self) -> &[Vec<Step>] {
        &self.axes
    }

    /// Bytes of one element.
    pub fn element_bytes(&self) -> u32 {
        self.element_bytes
    }

    /// The swizzle on byte addresses.
    pub fn swizzle(&self) -> Swizzle {
        self.swizzle
    }

    /// How many of the tile there are.
    pub fn stages(&self) -> u32 {
        self.stages
    }

    /// Bytes of one stage, from the first to the last it uses.
    pub fn bytes(&self) -> u32 {
        let steps = self.axes.iter().flatten();
        let last: u32 = steps.map(|step| (step.extent - 1) * step.stride).sum();
        ((last + 1) * self.element_bytes).next_multiple_of(self.swizzle.window())
    }

    /// What a stage's address must be a multiple of: 128 bytes, or the period of the swizzle (256, 512 and 1024 of the hardware's).
    pub fn alignment(&self) -> u32 {
        self.swizzle.period().max(ALIGNMENT)
    }

    /// Bytes from one stage to the next.
    pub fn stage_bytes(&self) -> u32 {
        self.bytes().next_multiple_of(self.alignment())
    }

    /// Bytes of all stages.
    pub fn total_bytes(&self) -> u32 {
        self.stage_bytes() * (self.stages - 1) + self.bytes()
    }

    /// Byte of an element in its stage.
    pub fn offset(&self, coordinate: &[u32]) -> u32 {
        self.swizzle.apply(self.linear(coordinate))
    }

    /// Byte of an element before the swizzle: linear in the digits of the coordinate.
    pub fn linear(&self, coordinate: &[u32]) -> u32 {
        let mut at = 0;
        for (steps, &along) in self.axes.iter().zip(coordinate) {
            let mut rest = along;
            for step in steps {
                at += rest % step.extent * step.stride;
                rest /= step.extent;
            }
        }
        at * self.element_bytes
    }

    /// The axis along which neighbours in memory lie, if any.
    pub fn fastest(&self) -> Option<usize> {
        self.axes.iter().position(|steps| steps.first().is_some_and(|step| step.stride == 1))
    }

    /// The widest vector along an axis, in elements: as many from each multiple of it lie together, aligned to their size.
    pub fn contiguous(&self, axis: usize) -> u32 {
        let Some(first) = self.axes.get(axis).and_then(|steps| steps.first()).filter(|step| step.stride == 1) else {
            return 1;
        };
        let others = self.axes.iter().flatten().filter(|step| step.stride != 1);
        let run = others.fold(first.extent, |run, step| gcd(run, step.stride));
        if self.swizzle.bits() == 0 { run } else { gcd(run, self.swizzle.chunk() / self.element_bytes) }
    }
}

fn merged(steps: &[Step]) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps.iter().filter(|step| step.extent != 1) {
        match out.last_mut() {
            Some(last) if last.stride * last.extent == step.stride => last.extent *= step.extent,
            _ => out.push(*step),
        }
    }
    out
}
