//! Loads and stores of tiles: strided memory of any dtype to and from dense registers.

use super::Scalar;
use crate::memory::Slot;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use kiln_graph::DType;
use kiln_num::{float_from_bits, float_to_bits, store_bits};

/// A strided patch of a slot, in elements. Its columns may come in groups of `inner`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch {
    pub(crate) base: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) inner: usize,
    pub(crate) row_stride: isize,
    /// From a group to the next.
    pub(crate) col_stride: isize,
    pub(crate) inner_stride: isize,
}

impl Patch {
    /// With groups that follow one another evenly taken as plain columns.
    pub(crate) fn merged(self) -> Patch {
        if self.col_stride == self.inner_stride * self.inner as isize || self.inner == 1 {
            let col_stride = if self.inner == 1 { self.col_stride } else { self.inner_stride };
            Patch { inner: 1, col_stride, ..self }
        } else {
            self
        }
    }

    /// Whether the elements are consecutive in memory.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.inner == 1
            && (self.cols == 1 || self.col_stride == 1)
            && (self.rows == 1 || self.row_stride == self.cols as isize)
            || self.len() == 1
    }

    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }

    fn row_base(&self, r: usize) -> usize {
        self.base.wrapping_add_signed(r as isize * self.row_stride)
    }

    fn at(&self, r: usize, c: usize) -> usize {
        let (group, i) = ((c / self.inner) as isize, (c % self.inner) as isize);
        self.row_base(r).wrapping_add_signed(group * self.col_stride + i * self.inner_stride)
    }
}

/// Reads a patch into `dst`; `run` converts a contiguous run, `one` an element.
fn gather<E: Pod, C: Copy>(dst: &mut [C], src: &[E], p: Patch, run: impl Fn(&mut [C], &[E]), one: impl Fn(E) -> C) {
    if p.len() == 0 {
        return;
    }
    if p.is_contiguous() {
        run(dst, &src[p.base..p.base + p.len()]);
    } else if p.inner > 1 {
        for (r, dst) in dst.chunks_exact_mut(p.cols).enumerate() {
            for i in 0..p.inner {
                let mut at = p.at(r, i);
                for d in dst[i..].iter_mut().step_by(p.inner) {
                    *d = one(src[at]);
                    at = at.wrapping_add_signed(p.col_stride);
                }
            }
        }
    } else if p.col_stride == 1 {
        for (r, d) in dst.chunks_exact_mut(p.cols).enumerate() {
            let at = p.row_base(r);
            run(d, &src[at..at + p.cols]);
        }
    } else if p.col_stride == 0 {
        for (r, d) in dst.chunks_exact_mut(p.cols).enumerate() {
            d.fill(one(src[p.row_base(r)]));
        }
    } else if p.row_stride == 1 {
        // A transposed patch: read along its memory.
        for c in 0..p.cols {
            let at = p.at(0, c);
            for (d, &x) in dst[c..].iter_mut().step_by(p.cols).zip(&src[at..at + p.rows]) {
                *d = one(x);
            }
        }
    } else {
        for (r, d) in dst.chunks_exact_mut(p.cols).enumerate() {
            let mut at = p.row_base(r);
            for d in d {
                *d = one(src[at]);
                at = at.wrapping_add_signed(p.col_stride);
            }
        }
    }
}

/// Writes `src` to a patch.
fn scatter<E: Pod, C: Copy>(slot: &Slot<'_>, src: &[C], p: Patch, run: impl Fn(&mut [E], &[C]), one: impl Fn(C) -> E) {
    if p.len() == 0 {
        return;
    }
    if p.is_contiguous() {
        run(slot.range_mut(p.base, p.len()), src);
    } else if p.inner > 1 {
        for (r, src) in src.chunks_exact(p.cols).enumerate() {
            for i in 0..p.inner {
                let mut at = p.at(r, i);
                for &x in src[i..].iter().step_by(p.inner) {
                    slot.put(at, one(x));
                    at = at.wrapping_add_signed(p.col_stride);
                }
            }
        }
    } else if p.col_stride == 1 {
        for (r, s) in src.chunks_exact(p.cols).enumerate() {
            run(slot.range_mut(p.row_base(r), p.cols), s);
        }
    } else {
        for (r, s) in src.chunks_exact(p.cols).enumerate() {
            let mut at = p.row_base(r);
            for &x in s {
                slot.put(at, one(x));
                at = at.wrapping_add_signed(p.col_stride);
            }
        }
    }
}

/// A loader and a storer whose run form is the element form in a loop.
macro_rules! each {
    ($one:expr) => {
        |d, s| {
            for (d, &s) in d.iter_mut().zip(s) {
                *d = $one(s);
            }
        }
    };
}

/// Loads a float patch of f32 class.
pub(crate) fn load_f32(dst: &mut [f32], slot: &Slot<'_>, dtype: DType, p: Patch) {
    match dtype {
        DType::F16 => gather(dst, slot.typed::<f16>(), p, |d, s| s.convert_to_f32_slice(d), f16::to_f32),
        DType::BF16 => gather(dst, slot.typed::<bf16>(), p, |d, s| s.convert_to_f32_slice(d), bf16::to_f32),
        _ if dtype.is_f8() => {
            let one = |bits: u8| float_from_bits(dtype, bits.into()) as f32;
            gather(dst, slot.typed::<u8>(), p, each!(one), one);
        }
        _ => gather(dst, slot.typed::<f32>(), p, |d, s| d.copy_from_slice(s), |x| x),
    }
}

/// Stores f32 registers as their dtype.
pub(crate) fn store_f32(slot: &Slot<'_>, dtype: DType, p: Patch, src: &[f32]) {
    match dtype {
        DType::F16 => scatter::<f16, _>(slot, src, p, |d, s| d.convert_from_f32_slice(s), f16::from_f32),
        DType::BF16 => scatter::<bf16, _>(slot, src, p, |d, s| d.convert_from_f32_slice(s), bf16::from_f32),
        _ if dtype.is_f8() => {
            let one = |x: f32| float_to_bits(dtype, x.into(), false) as u8;
            scatter::<u8, _>(slot, src, p, each!(one), one);
        }
        _ => scatter::<f32, _>(slot, src, p, |d, s| d.copy_from_slice(s), |x| x),
    }
}

/// Loads f64.
pub(crate) fn load_f64(dst: &mut [f64], slot: &Slot<'_>, p: Patch) {
    gather(dst, slot.typed::<f64>(), p, |d, s| d.copy_from_slice(s), |x| x);
}

/// Stores f64.
pub(crate) fn store_f64(slot: &Slot<'_>, p: Patch, src: &[f64]) {
    scatter::<f64, _>(slot, src, p, |d, s| d.copy_from_slice(s), |x| x);
}

/// Loads an integer or bool patch of i32 class.
pub(crate) fn load_i32(dst: &mut [i32], slot: &Slot<'_>, dtype: DType, p: Patch) {
    match dtype {
        DType::I16 => gather(dst, slot.typed::<i16>(), p, each!(i32::from), i32::from),
        DType::U16 => gather(dst, slot.typed::<u16>(), p, each!(i32::from), i32::from),
        DType::I8 => gather(dst, slot.typed::<i8>(), p, each!(i32::from), i32::from),
        DType::U8 => gather(dst, slot.typed::<u8>(), p, each!(i32::from), i32::from),
        DType::Bool => {
            let one = |b: u8| i32::from(b != 0);
            gather(dst, slot.typed::<u8>(), p, each!(one), one);
        }
        DType::I4 | DType::U4 => {
            for r in 0..p.rows {
                for c in 0..p.cols {
                    let v = Scalar::read(slot.bytes(), dtype, p.at(r, c)).map_or(0, Scalar::as_i64);
                    dst[r * p.cols + c] = v as i32;
                }
            }
        }
        _ => gather(dst, slot.typed::<i32>(), p, |d, s| d.copy_from_slice(s), |x| x),
    }
}

/// Stores i32 registers as their dtype. 4-bit slots are written by one thread.
pub(crate) fn store_i32(slot: &Slot<'_>, dtype: DType, p: Patch, src: &[i32]) {
    match dtype {
        DType::I16 | DType::U16 => {
            let one = |x| x as i16;
            scatter::<i16, _>(slot, src, p, each!(one), one);
        }
        DType::I8 | DType::U8 | DType::Bool => {
            let one = |x| x as i8;
            scatter::<i8, _>(slot, src, p, each!(one), one);
        }
        DType::I4 | DType::U4 => {
            for r in 0..p.rows {
                for c in 0..p.cols {
                    let at = p.at(r, c);
                    store_bits(dtype, slot.range_mut::<u8>(at / 2, 1), at % 2, src[r * p.cols + c] as u64);
                }
            }
        }
        _ => scatter::<i32, _>(slot, src, p, |d, s| d.copy_from_slice(s), |x| x),
    }
}

/// Loads an integer patch of i64 class.
pub(crate) fn load_i64(dst: &mut [i64], slot: &Slot<'_>, dtype: DType, p: Patch) {
    if dtype == DType::U32 {
        gather(dst, slot.typed::<u32>(), p, each!(i64::from), i64::from);
    } else {
        gather(dst, slot.typed::<i64>(), p, |d, s| d.copy_from_slice(s), |x| x);
    }
}

/// Stores i64 registers as their dtype.
pub(crate) fn store_i64(slot: &Slot<'_>, dtype: DType, p: Patch, src: &[i64]) {
    if dtype == DType::U32 {
        let one = |x| x as u32;
        scatter::<u32, _>(slot, src, p, each!(one), one);
    } else {
        scatter::<i64, _>(slot, src, p, |d, s| d.copy_from_slice(s), |x| x);
    }
}
