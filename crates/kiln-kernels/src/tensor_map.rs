//! Tensor maps: what a kernel's bulk copies (TMA) know of a tensor, and the hardware's rules for it.
//!
//! Rules are from the CUDA driver API, `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col`. Interleaving and NaN fill are not offered: elements
//! outside the tensor read as zero.

use crate::Pointer;
use kiln_graph::{Bindings, DType, Dim};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes of a tensor map.
pub const TENSOR_MAP_BYTES: usize = 128;

/// Axes that a tensor map may have.
const RANKS: std::ops::RangeInclusive<usize> = 1..=5;
/// Alignment of the base, of strides and of rows in shared memory, bytes.
const ALIGN: i64 = 16;
/// Strides are below this.
const MAX_STRIDE: i64 = 1 << 40;
/// Extents are at most this.
const MAX_EXTENT: i64 = 1 << 32;

/// A tensor map as a kernel's parameter: sizes are expressions over the region's symbols.
pub type TensorMapParam = TensorMap<Dim>;

/// A view of device memory for bulk copies. Axes are innermost first, as the hardware counts them. `D` is a [`Dim`], or a number once shapes are
/// known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMap<D> {
    /// The memory.
    pub base: Pointer,
    /// Bytes from there to element 0, a multiple of 16.
    pub offset: D,
    /// Element type.
    pub element: Element,
    /// Elements along each axis, 1 to 2^32.
    pub extents: Vec<D>,
    /// Bytes from one index to the next along all axes but the innermost, multiples of 16 below 2^40.
    pub strides: Vec<D>,
    /// What one copy takes.
    pub window: Window,
    /// Elements from one that is taken to the next along each axis, 1 to 8; empty: 1. The innermost one's is ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub element_strides: Vec<u32>,
    /// How rows lie in shared memory.
    #[serde(default)]
    pub swizzle: Swizzle,
    /// What a miss fetches into L2.
    #[serde(default)]
    pub promotion: Promotion,
}

/// What one copy takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// A box: elements along each axis, 1 to 256.
    Tiled(Vec<u32>),
    /// The channels of pixels of a window that moves over an image; axes are channels, one to three of space (innermost first) and batch.
    Im2col {
        /// First position of the window's corner along each axis of space, from the image's first pixel.
        lower: Vec<i32>,
        /// Last position, from the image's last pixel.
        upper: Vec<i32>,
        /// Channels of one pixel, 1 to 256.
        channels: u32,
        /// Pixels of one copy, 1 to 1024.
        pixels: u32,
    },
}

/// Element type of a tensor map: for copies only its size counts; reductions compute with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Element {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
    /// f32 whose readers round it to TF32.
    Tf32,
}

/// How rows of a box are permuted in shared memory: 16-byte units within spans of this many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Swizzle {
    #[default]
    None,
    B32,
    B64,
    B128,
}

/// Bytes that a miss fetches into L2 at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Promotion {
    #[default]
    None,
    B64,
    B128,
    B256,
}

impl Element {
    /// The type that copies elements of a dtype; none for those below a byte.
    pub fn of(dtype: DType) -> Option<Element> {
        Some(match dtype {
            DType::F16 => Element::F16,
            DType::BF16 => Element::Bf16,
            DType::F32 => Element::F32,
            DType::F64 => Element::F64,
            DType::I32 => Element::I32,
            DType::I64 => Element::I64,
            _ => match dtype.bits() {
                8 => Element::U8,
                16 => Element::U16,
                32 => Element::U32,
                64 => Element::U64,
                _ => return None,
            },
        })
    }

    /// Bytes of one.
    pub fn bytes(self) -> u32 {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::Bf16 => 2,
            Element::U32 | Element::I32 | Element::F32 | Element::Tf32 => 4,
            Element::U64 | Element::I64 | Element::F64 => 8,
        }
    }
}

impl Swizzle {
    /// Bytes of the span, which a row of a box must not exceed; none: no limit.
    pub fn span(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::B32 => Some(32),
            Swizzle::B64 => Some(64),
            Swizzle::B128 => Some(128),
        }
    }
}

type Check = Result<(), String>;

fn within(what: fmt::Arguments<'_>, found: i64, range: std::ops::RangeInclusive<i64>) -> Check {
    match range.contains(&found) {
        true => Ok(()),
        false => Err(format!("{what}: expected {} to {}, found {found}", range.start(), range.end())),
    }
}

fn aligned(what: fmt::Arguments<'_>, found: i64, of: &dyn fmt::Display) -> Check {
    match (0..MAX_STRIDE).contains(&found) && found % ALIGN == 0 {
        true => Ok(()),
        false => Err(format!("{what} (`{of}`): expected a multiple of {ALIGN} bytes below 2^40, found {found}")),
    }
}

fn as_many(what: &str, expected: usize, found: usize) -> Check {
    match expected == found {
        true => Ok(()),
        false => Err(format!("{what}: expected {expected}, found {found}")),
    }
}

impl<D> TensorMap<D> {
    /// Axes.
    pub fn rank(&self) -> usize {
        self.extents.len()
    }

    /// Checks the rules that do not depend on shapes.
    ///
    /// # Errors
    /// The rule, with what was expected and found.
    pub fn check_form(&self) -> Check {
        let rank = self.rank();
        if !RANKS.contains(&rank) {
            return Err(format!("rank: expected {} to {}, found {rank}", RANKS.start(), RANKS.end()));
        }
        as_many("strides", rank - 1, self.strides.len())?;
        if !self.element_strides.is_empty() {
            as_many("element strides", rank, self.element_strides.len())?;
        }
        for (axis, &step) in self.element_strides.iter().enumerate() {
            within(format_args!("element stride {axis}"), step.into(), 1..=8)?;
        }
        let row = match &self.window {
            Window::Tiled(extents) => {
                as_many("box extents", rank, extents.len())?;
                for (axis, &extent) in extents.iter().enumerate() {
                    within(format_args!("box extent {axis}"), extent.into(), 1..=256)?;
                }
                extents[0]
            }
            Window::Im2col { lower, upper, channels, pixels } => {
                within(format_args!("rank of an im2col map"), rank as i64, 3..=5)?;
                as_many("lower corner", rank - 2, lower.len())?;
                as_many("upper corner", rank - 2, upper.len())?;
                let most = [32768, 128, 16][rank - 3];
                for (axis, &at) in lower.iter().chain(upper).enumerate() {
                    within(format_args!("corner {}", axis % (rank - 2)), at.into(), -most..=most - 1)?;
                }
                within(format_args!("channels"), (*channels).into(), 1..=256)?;
                within(format_args!("pixels"), (*pixels).into(), 1..=1024)?;
                *channels
            }
        };
        let bytes = row * self.element.bytes();
        if !bytes.is_multiple_of(ALIGN as u32) {
            return Err(format!("innermost row of the box: expected a multiple of {ALIGN} bytes, found {bytes}"));
        }
        match self.swizzle.span() {
            Some(span) if bytes > span => {
                Err(format!("innermost row of the box: expected at most the swizzle's {span} bytes, found {bytes}"))
            }
            _ => Ok(()),
        }
    }
}

impl TensorMap<Dim> {
    /// The expressions that it is computed from.
    pub fn dims(&self) -> impl Iterator<Item = &Dim> {
        std::iter::once(&self.offset).chain(&self.extents).chain(&self.strides)
    }

    /// The map under concrete shapes.
    ///
    /// # Errors
    /// Symbols without a value; and in words, a rule of the hardware that these shapes break, with what was expected and found.
    pub fn resolve(&self, bindings: &Bindings) -> kiln_graph::Result<Result<TensorMap<u64>, String>> {
        let all = |dims: &[Dim]| dims.iter().map(|d| d.eval(bindings)).collect::<kiln_graph::Result<Vec<i64>>>();
        let (offset, extents, strides) = (self.offset.eval(bindings)?, all(&self.extents)?, all(&self.strides)?);
        Ok(self.check(offset, &extents, &strides).map(|()| {
            // Checked: none is negative.
            let unsigned = |values: Vec<i64>| values.into_iter().map(i64::unsigned_abs).collect();
            TensorMap {
                base: self.base,
                offset: offset.unsigned_abs(),
                element: self.element,
                extents: unsigned(extents),
                strides: unsigned(strides),
                window: self.window.clone(),
                element_strides: self.element_strides.clone(),
                swizzle: self.swizzle,
                promotion: self.promotion,
            }
        }))
    }

    fn check(&self, offset: i64, extents: &[i64], strides: &[i64]) -> Check {
        self.check_form()?;
        aligned(format_args!("offset"), offset, &self.offset)?;
        for (axis, (&extent, dim)) in extents.iter().zip(&self.extents).enumerate() {
            within(format_args!("extent {axis} (`{dim}`)"), extent, 1..=MAX_EXTENT)?;
        }
        for (axis, (&stride, dim)) in strides.iter().zip(&self.strides).enumerate() {
            aligned(format_args!("stride {}", axis + 1), stride, dim)?;
        }
        Ok(())
    }
}

impl TensorMap<u64> {
    /// Bytes from the base to the end of the last element; none beyond 64 bits.
    pub fn end(&self) -> Option<u64> {
        let element = u64::from(self.element.bytes());
        let strides = std::iter::once(&element).chain(&self.strides);
        let last = self.extents.iter().zip(strides).try_fold(self.offset, |end, (extent, stride)| {
            end.checked_add(extent.saturating_sub(1).checked_mul(*stride)?)
        });
        last?.checked_add(element)
    }

    /// One of each axis where [`TensorMap::element_strides`] are left out.
    pub fn steps(&self) -> Vec<u32> {
        match self.element_strides.is_empty() {
            true => vec![1; self.rank()],
            false => self.element_strides.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> TensorMapParam {
        let (m, k) = (Dim::from("M"), Dim::from("K"));
        TensorMap {
            base: Pointer::Input(0),
            offset: k.clone() * 2.into(),
            element: Element::F16,
            extents: vec![k.clone(), m],
            strides: vec![k * 2.into()],
            window: Window::Tiled(vec![64, 128]),
            element_strides: Vec::new(),
            swizzle: Swizzle::B128,
            promotion: Promotion::B256,
        }
    }

    fn resolve(map: &TensorMapParam, m: i64, k: i64) -> Result<TensorMap<u64>, String> {
        map.resolve(&Bindings::from([("M".to_owned(), m), ("K".to_owned(), k)])).unwrap()
    }

    #[test]
    fn shapes_make_numbers_of_a_map_and_the_file_keeps_it() {
        let map = map();
        let made = resolve(&map, 5, 40).unwrap();
        assert_eq!((made.offset, &made.extents[..], &made.strides[..]), (80, &[40, 5][..], &[80][..]));
        assert_eq!(made.end(), Some(80 + 4 * 80 + 39 * 2 + 2));
        assert_eq!(made.steps(), [1, 1]);
        assert!(map.resolve(&Bindings::new()).is_err());
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::from_str::<TensorMapParam>(&json).unwrap(), map);
    }

    #[test]
    fn the_rules_of_the_hardware_are_named() {
        let refused = |edit: &dyn Fn(&mut TensorMapParam), m, k| {
            let mut map = map();
            edit(&mut map);
            resolve(&map, m, k).err().unwrap_or_default()
        };
        let im2col = |map: &mut TensorMapParam, at: i32, channels, pixels| {
            map.extents = vec![Dim::from(64); 4];
            map.strides = vec![Dim::from(128); 3];
            map.window = Window::Im2col { lower: vec![-1, -1], upper: vec![at, 0], channels, pixels };
        };
        for (text, expected) in [
            (refused(&|_| {}, 5, 40), ""),
            (refused(&|_| {}, 5, 41), "offset (`2*K`): expected a multiple of 16 bytes below 2^40, found 82"),
            (refused(&|m| m.offset = 0.into(), 5, 41), "stride 1 (`2*K`): expected a multiple of 16"),
            (refused(&|m| m.offset = (-16).into(), 5, 40), "offset (`-16`)"),
            (refused(&|m| m.strides[0] = Dim::from(1i64 << 40), 5, 40), "below 2^40, found 1099511627776"),
            (refused(&|_| {}, 0, 40), "extent 1 (`M`): expected 1 to 4294967296, found 0"),
            (refused(&|_| {}, (1 << 32) + 1, 40), "found 4294967297"),
            (refused(&|m| m.extents = vec![Dim::from(8); 9], 5, 40), "rank: expected 1 to 5, found 9"),
            (refused(&|m| m.extents.clear(), 5, 40), "rank: expected 1 to 5, found 0"),
            (refused(&|m| m.strides.clear(), 5, 40), "strides: expected 1, found 0"),
            (refused(&|m| m.window = Window::Tiled(vec![64]), 5, 40), "box extents: expected 2, found 1"),
            (
                refused(&|m| m.window = Window::Tiled(vec![64, 257]), 5, 40),
                "box extent 1: expected 1 to 256, found 257",
            ),
            (refused(&|m| m.window = Window::Tiled(vec![0, 1]), 5, 40), "box extent 0: expected 1 to 256, found 0"),
            (refused(&|m| m.window = Window::Tiled(vec![72, 8]), 5, 40), "the swizzle's 128 bytes, found 144"),
            (refused(&|m| m.window = Window::Tiled(vec![4, 8]), 5, 40), "a multiple of 16 bytes, found 8"),
            (refused(&|m| m.element_strides = vec![1, 9], 5, 40), "element stride 1: expected 1 to 8, found 9"),
            (refused(&|m| m.element_strides = vec![1], 5, 40), "element strides: expected 2, found 1"),
            (refused(&|m| im2col(m, 0, 64, 1024), 5, 40), ""),
            (refused(&|m| im2col(m, 128, 64, 128), 5, 40), "corner 0: expected -128 to 127, found 128"),
            (refused(&|m| im2col(m, 0, 64, 1025), 5, 40), "pixels: expected 1 to 1024, found 1025"),
            (refused(&|m| im2col(m, 0, 72, 128), 5, 40), "the swizzle's 128 bytes, found 144"),
            (
                refused(&|m| m.window = Window::Im2col { lower: vec![], upper: vec![], channels: 8, pixels: 8 }, 5, 40),
                "rank of an im2col map: expected 3 to 5, found 2",
            ),
        ] {
            assert!(text.contains(expected) && text.is_empty() == expected.is_empty(), "`{expected}`: `{text}`");
        }
    }
}
