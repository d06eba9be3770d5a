//! Tensor maps: the simulator's own 128-byte encoding, the rules of the driver, and which bytes of a tensor a copy moves.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0-3, 4, 5, 6, 7 | magic, rank, element type, swizzle, fill with NaNs |
//! | 8-15 | address |
//! | 16-55 | extents of the tensor |
//! | 56-65 | extents of the box; channels and pixels of an im2col map |
//! | 66-70, 71 | element strides; 1 for an im2col map |
//! | 72-103 | byte strides of all dimensions but the innermost |
//! | 104-109, 110-115 | lower and upper corner of an im2col map |

use crate::decode::{MapField, Ty};
use crate::error::{Error, Result};
use crate::launch::{Im2colMap, Swizzle, TensorMap, TensorType};

/// Size of an encoded map.
pub(crate) const MAP_BYTES: usize = 128;
const MAGIC: u32 = u32::from_le_bytes(*b"KTMA");

/// A map with everything a copy needs. Dimensions that it does not have have extent 1.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub rank: usize,
    pub dtype: TensorType,
    pub swizzle: Swizzle,
    pub nan_fill: bool,
    base: u64,
    dims: [u64; 5],
    /// Byte stride of each dimension.
    strides: [u64; 5],
    /// Elements of the box, those that a stride passes over included; channels and pixels for im2col.
    extents: [u64; 5],
    steps: [u64; 5],
    /// Corners of the bounding box, for im2col.
    corners: Option<[[i16; 3]; 2]>,
}

/// Neighbouring elements of one row.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Byte offset in the box.
    pub offset: usize,
    pub bytes: usize,
    /// Address in the tensor; `None` outside.
    pub global: Option<u64>,
}

const TYPES: [(TensorType, Ty); 11] = [
    (TensorType::U8, Ty::U8),
    (TensorType::U16, Ty::U16),
    (TensorType::U32, Ty::U32),
    (TensorType::I32, Ty::S32),
    (TensorType::U64, Ty::U64),
    (TensorType::I64, Ty::S64),
    (TensorType::F16, Ty::F16),
    (TensorType::F32, Ty::F32),
    (TensorType::F64, Ty::F64),
    (TensorType::Bf16, Ty::Bf16),
    (TensorType::Tf32, Ty::Tf32),
];
const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

/// The types of `tensormap.replace` in the order of its immediates ("tensormap.replace: Valid immediate values").
const REPLACED_TYPES: [Option<TensorType>; 12] = [
    Some(TensorType::U8),
    Some(TensorType::U16),
    Some(TensorType::U32),
    Some(TensorType::I32),
    Some(TensorType::U64),
    Some(TensorType::I64),
    Some(TensorType::F16),
    Some(TensorType::F32),
    // f32 with denormals flushed.
    None,
    Some(TensorType::F64),
    Some(TensorType::Bf16),
    Some(TensorType::Tf32),
];

impl Swizzle {
    /// Bytes of the swizzled span.
    pub(crate) fn span(self) -> u64 {
        match self {
            Swizzle::None => u64::MAX,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Applies `Swizzle<B, 4, 3>` to a byte address: bits [4, 4+B) are xored with bits [7, 7+B).
    #[inline(always)]
    pub(crate) fn apply(self, addr: u32) -> u32 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 3,
            Swizzle::B128 => 7,
        };
        addr ^ (addr >> 7 & mask) << 4
    }
}

/// `list` followed by ones.
fn five<T: Copy + Into<u64>>(list: &[T]) -> [u64; 5] {
    std::array::from_fn(|i| list.get(i).map_or(1, |v| (*v).into()))
}

/// Byte strides of all dimensions, the innermost too.
fn byte_strides(dtype: TensorType, outer: &[u64]) -> [u64; 5] {
    let inner = u64::from(dtype.bytes());
    std::array::from_fn(|i| if i == 0 { inner } else { outer.get(i - 1).copied().unwrap_or(inner) })
}

/// Traversal strides; without interleaving the hardware has none for the innermost dimension and ignores what is given.
fn steps(given: &[u32]) -> [u64; 5] {
    let mut steps = five(given);
    steps[0] = 1;
    steps
}

/// Checks a tiled description as the driver would and encodes it.
pub(crate) fn encode(t: &TensorMap) -> Result<[u8; MAP_BYTES]> {
    let rank = t.dims.len();
    if !(1..=5).contains(&rank) || t.strides.len() + 1 != rank || t.box_dims.len() != rank {
        return Err(Error::TensorMap(format!(
            "rank {rank} with {} strides and {} box sizes; expected rank 1 to 5, rank - 1 strides, rank sizes",
            t.strides.len(),
            t.box_dims.len()
        )));
    }
    let map = Map {
        rank,
        dtype: t.dtype,
        swizzle: t.swizzle,
        nan_fill: t.nan_fill,
        base: t.address,
        dims: five(&t.dims),
        strides: byte_strides(t.dtype, &t.strides),
        extents: five(&t.box_dims),
        steps: steps(&t.element_strides),
        corners: None,
    };
    map.check().map_err(Error::TensorMap)?;
    Ok(map.bytes())
}

/// Checks an im2col description as the driver would and encodes it.
pub(crate) fn encode_im2col(t: &Im2colMap) -> Result<[u8; MAP_BYTES]> {
    let rank = t.dims.len();
    let spatial = rank.saturating_sub(2);
    if !(3..=5).contains(&rank) || t.strides.len() + 1 != rank {
        return Err(Error::TensorMap(format!(
            "im2col of rank {rank} with {} strides; expected rank 3 to 5 and rank - 1 strides",
            t.strides.len()
        )));
    }
    if [&t.lower_corner, &t.upper_corner].iter().any(|c| c.len() != spatial) {
        return Err(Error::TensorMap(format!(
            "corners of {} and {} numbers; expected {spatial}, innermost first",
            t.lower_corner.len(),
            t.upper_corner.len()
        )));
    }
    let limit = corner_limit(rank);
    if let Some(c) = t.lower_corner.iter().chain(&t.upper_corner).find(|c| !(-limit..limit).contains(*c)) {
        return Err(Error::TensorMap(format!("corner {c} is not in {}..={} for rank {rank}", -limit, limit - 1)));
    }
    let corner = |list: &[i32]| std::array::from_fn(|i| list.get(i).map_or(0, |c| *c as i16));
    let map = Map {
        rank,
        dtype: t.dtype,
        swizzle: t.swizzle,
        nan_fill: t.nan_fill,
        base: t.address,
        dims: five(&t.dims),
        strides: byte_strides(t.dtype, &t.strides),
        extents: five(&[t.channels_per_pixel, t.pixels_per_column]),
        steps: steps(&t.element_strides),
        corners: Some([corner(&t.lower_corner), corner(&t.upper_corner)]),
    };
    map.check().map_err(Error::TensorMap)?;
    Ok(map.bytes())
}

/// Corners are in `-limit..limit` (cuTensorMapEncodeIm2col).
fn corner_limit(rank: usize) -> i32 {
    match rank {
        3 => 1 << 15,
        4 => 1 << 7,
        _ => 1 << 4,
    }
}

impl Map {
    /// What a copy, or the driver when it encodes a map, requires of it.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let ranks = if self.corners.is_some() { 3..=5 } else { 1..=5 };
        if !ranks.contains(&self.rank) {
            return Err(format!("rank {} is not in {ranks:?}", self.rank));
        }
        if !self.base.is_multiple_of(16) {
            return Err(format!("address {:#x} is not a multiple of 16", self.base));
        }
        if let Some(s) = self.strides[1..self.rank].iter().find(|s| !s.is_multiple_of(16) || **s >= 1 << 40) {
            return Err(format!("stride of {s} bytes is not a multiple of 16 below 2^40"));
        }
        if let Some(d) = self.dims[..self.rank].iter().find(|d| **d == 0 || **d > 1 << 32) {
            return Err(format!("dimension {d} is not in 1..=2^32"));
        }
        if let Some(s) = self.steps[..self.rank].iter().find(|s| **s == 0 || **s > 8) {
            return Err(format!("element stride {s} is not in 1..=8"));
        }
        match self.corners {
            None => {
                if let Some(b) = self.extents[..self.rank].iter().find(|b| **b == 0 || **b > 256) {
                    return Err(format!("box size {b} is not in 1..=256"));
                }
            }
            Some([lower, upper]) => {
                let [channels, pixels, ..] = self.extents;
                if channels == 0 || channels > 256 || pixels == 0 || pixels > 1024 {
                    return Err(format!(
                        "{channels} channels a pixel and {pixels} pixels a column are not in 1..=256 and 1..=1024"
                    ));
                }
                for i in 0..self.rank - 2 {
                    let extent = self.dims[i + 1] as i64 + i64::from(upper[i]) - i64::from(lower[i]);
                    if extent <= 0 {
                        return Err(format!(
                            "the corners {} and {} leave nothing of an extent of {}",
                            lower[i],
                            upper[i],
                            self.dims[i + 1]
                        ));
                    }
                }
            }
        }
        let inner = self.extents[0] * self.elem();
        if !inner.is_multiple_of(16) {
            return Err(format!("inner box of {inner} bytes is not a multiple of 16"));
        }
        if inner > self.swizzle.span() {
            return Err(format!(
                "inner box of {inner} bytes exceeds the swizzle span of {} bytes",
                self.swizzle.span()
            ));
        }
        if self.nan_fill && !self.dtype.is_float() {
            return Err(format!("fill with NaNs of {:?}, which has none", self.dtype));
        }
        Ok(())
    }

    /// The encoding.
    pub(crate) fn bytes(&self) -> [u8; MAP_BYTES] {
        let mut out = [0u8; MAP_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        let kind = TYPES.iter().position(|(t, _)| *t == self.dtype).unwrap_or(0);
        let swizzle = SWIZZLES.iter().position(|s| *s == self.swizzle).unwrap_or(0);
        put(4, &[self.rank as u8, kind as u8, swizzle as u8, u8::from(self.nan_fill)]);
        put(8, &self.base.to_le_bytes());
        for i in 0..5 {
            put(16 + 8 * i, &self.dims[i].to_le_bytes());
            put(56 + 2 * i, &(self.extents[i] as u16).to_le_bytes());
            put(66 + i, &[self.steps[i] as u8]);
            if i > 0 {
                put(72 + 8 * (i - 1), &self.strides[i].to_le_bytes());
            }
        }
        if let Some(corners) = self.corners {
            put(71, &[1]);
            corners.iter().flatten().enumerate().for_each(|(i, c)| put(104 + 2 * i, &c.to_le_bytes()));
        }
        out
    }

    /// Reads an encoded map; `None` when the bytes are not one.
    pub(crate) fn decode(bytes: &[u8; MAP_BYTES]) -> Option<Map> {
        fn at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            std::array::from_fn(|i| bytes[at + i])
        }
        if at(bytes, 0) != MAGIC.to_le_bytes() {
            return None;
        }
        let dtype = TYPES.get(usize::from(bytes[5]))?.0;
        let corner = |from: usize| std::array::from_fn(|i| i16::from_le_bytes(at(bytes, from + 2 * i)));
        Some(Map {
            rank: bytes[4].into(),
            dtype,
            swizzle: *SWIZZLES.get(usize::from(bytes[6]))?,
            nan_fill: bytes[7] != 0,
            base: u64::from_le_bytes(at(bytes, 8)),
            dims: std::array::from_fn(|i| u64::from_le_bytes(at(bytes, 16 + 8 * i))),
            extents: std::array::from_fn(|i| u16::from_le_bytes(at(bytes, 56 + 2 * i)).into()),
            steps: std::array::from_fn(|i| bytes[66 + i].into()),
            strides: byte_strides(
                dtype,
                &std::array::from_fn::<_, 4, _>(|i| u64::from_le_bytes(at(bytes, 72 + 8 * i))),
            ),
            corners: (bytes[71] != 0).then(|| [corner(104), corner(110)]),
        })
    }

    /// What `tensormap.replace` does to a field; dimension `ord` of those that have several.
    pub(crate) fn replace(&mut self, field: MapField, ord: usize, value: u64) -> std::result::Result<(), String> {
        if self.corners.is_some() {
            return Err("the map is for im2col; tensormap.replace changes tiled maps".into());
        }
        let unknown = || format!("{field:?} has no value {value} here");
        let dims = if field == MapField::GlobalStride { 4 } else { 5 };
        if ord >= dims {
            return Err(format!("dimension {ord} of {field:?}; expected below {dims}"));
        }
        match field {
            MapField::GlobalAddress => self.base = value,
            // Counted from zero.
            MapField::Rank if value < 5 => self.rank = value as usize + 1,
            MapField::BoxDim => self.extents[ord] = u16::try_from(value).map_err(|_| unknown())?.into(),
            MapField::GlobalDim => self.dims[ord] = value,
            MapField::GlobalStride => self.strides[ord + 1] = value,
            MapField::ElementStride if ord == 0 => {}
            MapField::ElementStride => self.steps[ord] = u8::try_from(value).map_err(|_| unknown())?.into(),
            MapField::ElementType => {
                let found = REPLACED_TYPES.get(value as usize).copied().flatten();
                self.dtype = found.ok_or_else(unknown)?;
                self.strides[0] = self.dtype.bytes().into();
            }
            MapField::Swizzle => self.swizzle = *SWIZZLES.get(value as usize).ok_or_else(unknown)?,
            MapField::Fill if value < 2 => self.nan_fill = value == 1,
            MapField::Interleave if value == 0 => {}
            MapField::Rank | MapField::Fill | MapField::Interleave => return Err(unknown()),
        }
        Ok(())
    }

    /// Type of the elements.
    pub(crate) fn ty(&self) -> Ty {
        TYPES.iter().find(|(t, _)| *t == self.dtype).map_or(Ty::B32, |(_, ty)| *ty)
    }

    /// Bytes of one element.
    pub(crate) fn elem(&self) -> u64 {
        self.dtype.bytes().into()
    }

    pub(crate) fn is_im2col(&self) -> bool {
        self.corners.is_some()
    }

    /// Elements taken along each dimension of a tiled box.
    fn taken(&self) -> [u64; 5] {
        std::array::from_fn(|i| if i < self.rank { self.extents[i].div_ceil(self.steps[i].max(1)) } else { 1 })
    }

    /// Bytes of a box in shared memory.
    pub(crate) fn box_bytes(&self) -> u64 {
        let elements = match self.corners {
            Some(_) => self.extents[0] * self.extents[1],
            None => self.taken().iter().product(),
        };
        elements * self.elem()
    }

    /// Bytes of an element outside the tensor: zeros, or the NaN that the hardware puts there.
    pub(crate) fn fill(&self) -> [u8; 8] {
        let nan = match self.elem() {
            2 => 0x7fff,
            4 => 0x7fff_ffff,
            _ => 0x7fff_ffff_ffff_ffff_u64,
        };
        if self.nan_fill { nan.to_le_bytes() } else { [0; 8] }
    }

    /// What is wrong with the coordinates of a copy and with the offsets of an im2col copy.
    pub(crate) fn check_place(&self, coords: &[i32], offsets: &[u32]) -> std::result::Result<(), String> {
        if self.rank != coords.len() {
            return Err(format!("{} coordinates for a tensor map of rank {}", coords.len(), self.rank));
        }
        // The ISA does not say so, but an H200 calls it an illegal instruction, wherever the rest of the box is.
        let start = i64::from(coords[0]) * i64::from(self.dtype.bytes());
        if start % 16 != 0 {
            return Err(format!("the box starts {start} bytes into a row, expected a multiple of 16"));
        }
        let Some([lower, upper]) = self.corners else { return Ok(()) };
        let most = match self.rank {
            3 => u32::from(u16::MAX),
            4 => 255,
            _ => 31,
        };
        if let Some(o) = offsets.iter().find(|o| **o > most) {
            return Err(format!("im2col offset {o} is above {most}, the most for rank {}", self.rank));
        }
        for i in 0..self.rank - 2 {
            let (from, to) = (i64::from(lower[i]), self.dims[i + 1] as i64 - 1 + i64::from(upper[i]));
            if !(from..=to).contains(&i64::from(coords[i + 1])) {
                return Err(format!(
                    "coordinate {} of dimension {} is outside the bounding box, {from}..={to}",
                    coords[i + 1],
                    i + 1
                ));
            }
        }
        Ok(())
    }

    /// The rows of the box at `coords`, in the order in which they lie in shared memory.
    pub(crate) fn pieces(&self, coords: &[i32], offsets: &[u32]) -> Vec<Piece> {
        let coord = |d: usize| i64::from(coords.get(d).copied().unwrap_or(0));
        let mut out = Vec::new();
        let mut offset = 0;
        let Some([lower, upper]) = self.corners else {
            let [_, b1, b2, b3, b4] = self.taken();
            for i in 0..b1 * b2 * b3 * b4 {
                let index = [i % b1, i / b1 % b2, i / b1 / b2 % b3, i / b1 / b2 / b3];
                let at = index.iter().enumerate().map(|(d, i)| coord(d + 1) + (i * self.steps[d + 1]) as i64);
                self.row(coord(0), at, &mut offset, &mut out);
            }
            return out;
        };
        // Pixels along the innermost dimension first, each wrapping round inside the bounding box.
        let spatial = self.rank - 2;
        let mut pixel: [i64; 4] = std::array::from_fn(|d| coord(d + 1));
        for _ in 0..self.extents[1] {
            let at = (0..=spatial).map(|d| pixel[d] + offsets.get(d).map_or(0, |o| i64::from(*o)));
            self.row(coord(0), at, &mut offset, &mut out);
            for d in 0..=spatial {
                pixel[d] += self.steps[d + 1] as i64;
                if d == spatial || pixel[d] < self.dims[d + 1] as i64 + i64::from(upper[d]) {
                    break;
                }
                pixel[d] = lower[d].into();
            }
        }
        out
    }

    /// One row of the box: from `first` along the innermost dimension, at `outer` in the others.
    fn row(&self, first: i64, outer: impl Iterator<Item = i64>, offset: &mut usize, out: &mut Vec<Piece>) {
        let (elem, count) = (self.elem(), self.extents[0] as i64);
        let (mut inside, mut address) = (true, self.base);
        for (d, at) in outer.enumerate().take(self.rank - 1) {
            inside &= at >= 0 && (at as u64) < self.dims[d + 1];
            address = address.wrapping_add((at as u64).wrapping_mul(self.strides[d + 1]));
        }
        let from = if inside { (-first).clamp(0, count) } else { count };
        let to = if inside { (self.dims[0] as i64 - first).clamp(from, count) } else { count };
        for (a, b, here) in [(0, from, false), (from, to, true), (to, count, false)] {
            if b > a {
                let global = here.then(|| address.wrapping_add((first + a) as u64 * elem));
                let bytes = ((b - a) as u64 * elem) as usize;
                out.push(Piece { offset: *offset, bytes, global });
                *offset += bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiled() -> TensorMap {
        TensorMap {
            dtype: TensorType::F16,
            address: 0x7_0000_0100,
            dims: vec![100, 37],
            strides: vec![208],
            box_dims: vec![64, 8],
            element_strides: vec![],
            swizzle: Swizzle::B128,
            nan_fill: false,
        }
    }

    fn image() -> Im2colMap {
        Im2colMap {
            dtype: TensorType::F16,
            address: 0x7_0000_0100,
            dims: vec![24, 5, 4, 2],
            strides: vec![48, 240, 960],
            lower_corner: vec![-1, -1],
            upper_corner: vec![-1, -1],
            channels_per_pixel: 8,
            pixels_per_column: 64,
            element_strides: vec![],
            swizzle: Swizzle::None,
            nan_fill: false,
        }
    }

    #[test]
    fn a_map_survives_encoding_and_bad_maps_are_refused() {
        let t = tiled();
        let m = Map::decode(&encode(&t).unwrap()).unwrap();
        assert_eq!((m.rank, m.base, m.dims[1], m.strides[1], m.box_bytes()), (2, t.address, 37, 208, 1024));
        let pieces = m.pieces(&[90, -1], &[]);
        // A row above the tensor; then 10 elements inside and 54 beside it, seven times.
        assert_eq!((pieces.len(), pieces[0].bytes, pieces[0].global), (15, 128, None));
        for row in 0..7 {
            let (inside, beside) = (&pieces[1 + 2 * row], &pieces[2 + 2 * row]);
            assert_eq!(inside.global, Some(t.address + row as u64 * 208 + 180));
            assert_eq!((inside.offset, inside.bytes), (128 * (row + 1), 20));
            assert_eq!((beside.offset, beside.bytes, beside.global), (128 * (row + 1) + 20, 108, None));
        }
        assert!(encode(&TensorMap { strides: vec![200], ..t.clone() }).is_err());
        assert!(encode(&TensorMap { box_dims: vec![128, 8], ..t.clone() }).is_err());
        assert!(encode(&TensorMap { dtype: TensorType::U16, nan_fill: true, ..t.clone() }).is_err());
        let strided = TensorMap { element_strides: vec![2, 3], ..t.clone() };
        assert_eq!(Map::decode(&encode(&strided).unwrap()).unwrap().taken()[..2], [64, 3]);
        assert_eq!(Swizzle::B128.apply(0x380), 0x3f0);
        assert_eq!(Swizzle::B64.apply(0x380), 0x3b0);
        assert_eq!(Swizzle::B32.apply(0x80), 0x90);
    }

    #[test]
    fn im2col_walks_the_bounding_box_and_then_the_next_image() {
        let t = image();
        let m = Map::decode(&encode_im2col(&t).unwrap()).unwrap();
        // A 3x3 window with padding of 1 has its corners at -1..=3 and -1..=2: one pixel for each of 5 x 4 outputs.
        let pieces = m.pieces(&[16, 2, 1, 0], &[2, 1]);
        assert_eq!(pieces.len(), 64);
        let first = 3 + 5 * 2;
        for (i, piece) in pieces.iter().enumerate() {
            let at = first + i;
            let (n, h, w) = (at / 20, at / 5 % 4, at % 5);
            // The window starts at -1; its offset is (2, 1).
            let (y, x) = (h, w + 1);
            let want = t.address + (n * 960 + y * 240 + x * 48 + 32) as u64;
            assert_eq!((piece.offset, piece.bytes), (16 * i, 16));
            assert_eq!(piece.global, (n < 2 && x < 5).then_some(want), "pixel {i}");
        }
        assert!(m.check_place(&[0, 3, 2, 7], &[255, 0]).is_ok());
        assert!(m.check_place(&[0, 4, 2, 0], &[0, 0]).is_err() && m.check_place(&[0, 0, -2, 0], &[0, 0]).is_err());
        assert!(m.check_place(&[0, 3, 2, 0], &[256, 0]).is_err());
    }

    #[test]
    fn im2col_maps_have_the_limits_of_the_driver() {
        let t = image();
        assert!(encode_im2col(&Im2colMap { channels_per_pixel: 257, ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { channels_per_pixel: 7, ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { pixels_per_column: 1025, ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { lower_corner: vec![-129, 0], ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { upper_corner: vec![0, 128], ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { upper_corner: vec![-6, 0], ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { lower_corner: vec![0], ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { dims: vec![24, 5], strides: vec![48], ..t.clone() }).is_err());
        assert!(encode_im2col(&Im2colMap { element_strides: vec![1, 9, 1, 1], ..t.clone() }).is_err());
        let wide = Im2colMap { channels_per_pixel: 16, swizzle: Swizzle::B32, ..t.clone() };
        assert!(encode_im2col(&wide).is_ok());
        assert!(encode_im2col(&Im2colMap { channels_per_pixel: 24, ..wide }).is_err());
    }
}
