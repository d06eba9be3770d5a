//! The boxes by which TMA fills or empties a tile in shared memory.

use crate::{SharedLayout, SwizzleMode};

/// Longest box along an axis (CUDA driver API, `cuTensorMapEncodeTiled`).
const LONGEST: u32 = 256;
/// What TMA aligns its shared addresses to.
const ALIGNMENT: u32 = 128;
/// Rows of a swizzle's span after which its pattern starts again, at most.
const PATTERN_ROWS: u32 = 8;

/// One tensor map's box, as often as it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TmaBox {
    /// Extent along each axis of the tile.
    pub extents: Vec<u32>,
    /// Axes of the tile in the tensor map's order, fastest first; the first is the one that is dense in global memory too.
    pub order: Vec<usize>,
    /// Swizzle of the tensor map.
    pub swizzle: SwizzleMode,
    /// Bytes of each box: what a barrier expects of it.
    pub bytes: u32,
    /// Every box, in the order of their addresses.
    pub boxes: Vec<Placement>,
}

/// Where one box goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its first element in the tile.
    pub origin: Vec<u32>,
    /// Byte of its start in the stage.
    pub offset: u32,
}

/// Boxes of which each of several CTAs brings a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first CTA's.
    pub first: TmaBox,
    /// Along which axis of the tile the next CTA's begin, after how many elements, and how many bytes on.
    pub axis: usize,
    /// Elements along it.
    pub elements: u32,
    /// Bytes.
    pub bytes: u32,
}

impl TmaBox {
    /// Every box cut along its slowest axis into so many equal parts; `None` where those are no boxes of the same swizzle: they begin where its
    /// pattern does, and at a multiple of 128 bytes.
    pub fn cut(&self, parts: u32) -> Option<Cut> {
        let axis = self.order.iter().copied().rfind(|axis| self.extents[*axis] > 1)?;
        let pattern = match self.swizzle {
            SwizzleMode::None => ALIGNMENT,
            swizzle => PATTERN_ROWS * swizzle.span(),
        };
        let whole = parts > 0 && self.extents[axis].is_multiple_of(parts) && self.bytes.is_multiple_of(parts * pattern);
        if !whole || axis == self.order[0] {
            return None;
        }
        let mut first = self.clone();
        first.extents[axis] /= parts;
        first.bytes /= parts;
        Some(Cut { axis, elements: first.extents[axis], bytes: first.bytes, first })
    }
}

impl SharedLayout {
    /// The boxes that make up this layout; `None` where TMA cannot write it: a box is dense in shared memory, its inner bytes are the
    /// swizzle's span (without one a multiple of 16), and it begins at a multiple of 128 bytes.
    pub fn tma_box(&self) -> Option<TmaBox> {
        let swizzle = self.swizzle().mode()?;
        let fast = self.fastest()?;
        let rank = self.axes().len();
        let longest = |axis| match swizzle {
            SwizzleMode::None => LONGEST,
            _ if axis == fast => swizzle.span() / self.element_bytes(),
            _ => LONGEST,
        };
        // (stride in memory, axis, extent, step along the axis), nearest first.
        let mut steps = Vec::new();
        for (axis, own) in self.axes().iter().enumerate() {
            let mut along = 1;
            for step in own {
                steps.push((step.stride, axis, step.extent, along));
                along *= step.extent;
            }
        }
        steps.sort_unstable();
        let mut extents = vec![1; rank];
        let mut order: Vec<usize> = Vec::new();
        let mut dense = 1;
        let mut whole = true;
        let mut outer = Vec::new();
        for (stride, axis, extent, along) in steps {
            let next = order.last() == Some(&axis) || !order.contains(&axis);
            let mut taken = 1;
            if whole && stride == dense && along == extents[axis] && next {
                taken = (1..=extent).rev().find(|part| extent % part == 0 && extents[axis] * part <= longest(axis))?;
                extents[axis] *= taken;
                dense *= taken;
                if !order.contains(&axis) {
                    order.push(axis);
                }
            }
            if taken < extent {
                whole = false;
                outer.push((stride * taken, axis, extent / taken, along * taken));
            }
        }
        order.extend((0..rank).filter(|axis| !order.contains(axis)).collect::<Vec<_>>());
        let inner = extents[fast] * self.element_bytes();
        if !inner.is_multiple_of(16) || swizzle != SwizzleMode::None && inner != swizzle.span() {
            return None;
        }
        let mut boxes = vec![Placement { origin: vec![0; rank], offset: 0 }];
        for (stride, axis, extent, along) in outer {
            let placed = |digit: u32| {
                boxes.iter().map(move |first| {
                    let mut next = first.clone();
                    next.origin[axis] += digit * along;
                    next.offset += digit * stride * self.element_bytes();
                    next
                })
            };
            boxes = (0..extent).flat_map(placed).collect();
        }
        let aligned = boxes.iter().all(|place| place.offset % ALIGNMENT == 0);
        aligned.then_some(TmaBox { extents, order, swizzle, bytes: dense * self.element_bytes(), boxes })
    }
}
