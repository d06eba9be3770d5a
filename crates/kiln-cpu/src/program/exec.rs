//! Executes the instructions of a program on one tile.

use super::convert::{float_to_int, narrow, narrow_int, round_f32, round_i32, round_i64};
use super::load::{Patch, load_f32, load_f64, load_i32, load_i64, store_f32, store_f64, store_i32, store_i64};
use super::reduce::Partial;
use super::{Access, Class, Id, Instr, Kind, Level, Program, Registers, Scalar, float, int};
use crate::memory::Slot;
use crate::simd::{map1, map2};
use kiln_graph::DType;
use kiln_num::wrap_i64;
use smallvec::SmallVec;

/// The dims that a tile spans at one level, and how far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rect {
    pub(crate) row_dim: Option<usize>,
    pub(crate) rows: usize,
    pub(crate) col_dim: Option<usize>,
    pub(crate) cols: usize,
    /// A short dim inside the columns, taken whole, and its extent: `cols` counts its elements.
    pub(crate) inner_dim: Option<usize>,
    pub(crate) inner: usize,
}

impl Default for Rect {
    fn default() -> Rect {
        Rect { row_dim: None, rows: 1, col_dim: None, cols: 1, inner_dim: None, inner: 1 }
    }
}

impl Rect {
    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }
}

/// One index a dim, without an allocation for all but the strangest domains.
pub(crate) type Coords = SmallVec<[usize; 8]>;

/// A position in the domain with the extents of both levels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tile {
    pub(crate) coords: Coords,
    pub(crate) full: Rect,
    pub(crate) row: Rect,
}

impl Tile {
    pub(crate) fn rect(&self, level: Level) -> Rect {
        if level == Level::Row { self.row } else { self.full }
    }

    fn affine(&self, offset: isize, strides: &[isize]) -> isize {
        self.coords.iter().zip(strides).fold(offset, |sum, (&c, &s)| sum + c as isize * s)
    }

    fn patch(&self, access: &Access, level: Level) -> Patch {
        let rect = self.rect(level);
        let stride = |dim: Option<usize>| dim.map_or(0, |d| access.strides[d]);
        Patch {
            base: self.affine(access.offset, &access.strides) as usize,
            rows: rect.rows,
            cols: rect.cols,
            inner: rect.inner,
            row_stride: stride(rect.row_dim),
            col_stride: stride(rect.col_dim),
            inner_stride: stride(rect.inner_dim),
        }
        .merged()
    }
}

/// What a register holds at the moment: its own buffer, or a view straight into a slot.
#[derive(Clone, Copy)]
enum View<'a> {
    Own,
    F32(&'a [f32]),
    F64(&'a [f64]),
    I32(&'a [i32]),
    I64(&'a [i64]),
}

/// A register: its own memory, and what it holds.
struct Buffer<'a> {
    own: &'a mut [u64],
    view: View<'a>,
}

/// One thread's registers.
pub(crate) struct Machine<'a> {
    program: &'a Program,
    registers: &'a Registers,
    slots: &'a [Slot<'a>],
    buffers: SmallVec<[Buffer<'a>; 24]>,
    /// An access that reads this block instead of its slot, and the block's first index.
    block: Option<(usize, Slot<'a>, usize)>,
    pub(super) partials: Vec<Partial>,
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        Partial::give_back(std::mem::take(&mut self.partials));
    }
}

impl<'a> Machine<'a> {
    /// Lays registers out in `scratch`, which holds at least [`Registers::bytes`] bytes aligned to 64.
    pub(crate) fn new(
        program: &'a Program,
        registers: &'a Registers,
        slots: &'a [Slot<'a>],
        scratch: &'a mut [u8],
    ) -> Machine<'a> {
        let mut rest: &mut [u64] = bytemuck::cast_slice_mut(scratch);
        let mut buffers = SmallVec::with_capacity(registers.buffers.len());
        for &(n, class) in &registers.buffers {
            let (own, tail) = rest.split_at_mut((n * class.bytes()).next_multiple_of(64) / 8);
            buffers.push(Buffer { own, view: View::Own });
            rest = tail;
        }
        let reduces = program.instrs.iter().any(|i| i.kind.is_reduction());
        let partials = if reduces { Partial::take(program.instrs.len()) } else { Vec::new() };
        Machine { program, registers, slots, buffers, block: None, partials }
    }

    /// Lets an access read a block whose first element has index `first`.
    pub(crate) fn read_block(&mut self, access: usize, block: Slot<'a>, first: usize) {
        self.block = Some((access, block, first));
    }

    /// Computes the values that no tile changes.
    pub(crate) fn prepare(&mut self) {
        for id in 0..self.program.instrs.len() {
            if self.registers.invariant[id] {
                let buffer = self.registers.of[id].unwrap_or_default();
                let (n, _) = self.registers.buffers[buffer];
                let rect = Rect { cols: n, ..Rect::default() };
                let tile = Tile { coords: Coords::new(), full: rect, row: rect };
                self.compute(id, &tile);
            }
        }
    }

    /// Runs every instruction in order.
    pub(crate) fn run(&mut self, tile: &Tile) {
        for id in 0..self.program.instrs.len() {
            self.step(id, tile);
        }
    }

    /// Runs one instruction.
    pub(crate) fn step(&mut self, id: Id, tile: &Tile) {
        if !self.registers.invariant[id] {
            self.compute(id, tile);
        }
    }

    pub(super) fn instr(&self, id: Id) -> &'a Instr {
        &self.program.instrs[id]
    }

    pub(super) fn class(&self, id: Id) -> Class {
        Class::of(self.program.instrs[id].dtype)
    }

    fn buffer(&self, id: Id) -> usize {
        self.registers.of[id].unwrap_or_default()
    }

    pub(super) fn f32(&self, id: Id, n: usize) -> &[f32] {
        let buffer = &self.buffers[self.buffer(id)];
        match buffer.view {
            View::F32(v) => &v[..n],
            _ => &bytemuck::cast_slice(buffer.own)[..n],
        }
    }

    pub(super) fn f64(&self, id: Id, n: usize) -> &[f64] {
        let buffer = &self.buffers[self.buffer(id)];
        match buffer.view {
            View::F64(v) => &v[..n],
            _ => &bytemuck::cast_slice(buffer.own)[..n],
        }
    }

    pub(super) fn i32(&self, id: Id, n: usize) -> &[i32] {
        let buffer = &self.buffers[self.buffer(id)];
        match buffer.view {
            View::I32(v) => &v[..n],
            _ => &bytemuck::cast_slice(buffer.own)[..n],
        }
    }

    pub(super) fn i64(&self, id: Id, n: usize) -> &[i64] {
        let buffer = &self.buffers[self.buffer(id)];
        match buffer.view {
            View::I64(v) => &v[..n],
            _ => &bytemuck::cast_slice(buffer.own)[..n],
        }
    }

    /// Writes a value's register through `f`, which may read the others.
    pub(super) fn write(&mut self, id: Id, f: impl FnOnce(&mut Self, &mut [u64])) {
        let b = self.buffer(id);
        self.buffers[b].view = View::Own;
        let own = std::mem::take(&mut self.buffers[b].own);
        f(self, own);
        self.buffers[b].own = own;
    }

    fn compute(&mut self, id: Id, tile: &Tile) {
        let instr = self.instr(id);
        let n = tile.rect(instr.level).len();
        match instr.kind {
            Kind::Store(from, access) => self.store(from, access, tile),
            Kind::Load(access) => self.load(id, access, tile),
            Kind::Reduce(..) | Kind::ArgReduce { .. } => self.reduce_rows(id, tile),
            _ => self.write(id, |m, buffer| match Class::of(instr.dtype) {
                Class::F32 => {
                    let dst = &mut bytemuck::cast_slice_mut(buffer)[..n];
                    m.eval_f32(instr, dst, tile);
                    round_f32(dst, instr.dtype);
                }
                Class::F64 => m.eval_f64(instr, &mut bytemuck::cast_slice_mut(buffer)[..n], tile),
                Class::I32 => {
                    let dst = &mut bytemuck::cast_slice_mut(buffer)[..n];
                    m.eval_i32(instr, dst, tile);
                    round_i32(dst, instr.dtype);
                }
                Class::I64 => {
                    let dst = &mut bytemuck::cast_slice_mut(buffer)[..n];
                    m.eval_i64(instr, dst, tile);
                    round_i64(dst, instr.dtype);
                }
            }),
        }
    }

    fn load(&mut self, id: Id, access: usize, tile: &Tile) {
        let index = access;
        let access = &self.program.accesses[index];
        let mut p = tile.patch(access, self.instr(id).level);
        let mut slot = self.slots[access.slot];
        if let Some((at, block, first)) = self.block
            && at == index
        {
            (slot, p.base) = (block, p.base - first);
        }
        let b = self.buffer(id);
        if p.is_contiguous() && p.len() > 0 {
            let range = p.base..p.base + p.len();
            let view = match access.dtype {
                DType::F32 => View::F32(&slot.typed()[range]),
                DType::F64 => View::F64(&slot.typed()[range]),
                DType::I32 => View::I32(&slot.typed()[range]),
                DType::I64 | DType::U64 => View::I64(&slot.typed()[range]),
                _ => View::Own,
            };
            if !matches!(view, View::Own) {
                self.buffers[b].view = view;
                return;
            }
        }
        let n = p.len();
        self.write(id, |_, buffer| match Class::of(access.dtype) {
            Class::F32 => load_f32(&mut bytemuck::cast_slice_mut(buffer)[..n], &slot, access.dtype, p),
            Class::F64 => load_f64(&mut bytemuck::cast_slice_mut(buffer)[..n], &slot, p),
            Class::I32 => load_i32(&mut bytemuck::cast_slice_mut(buffer)[..n], &slot, access.dtype, p),
            Class::I64 => load_i64(&mut bytemuck::cast_slice_mut(buffer)[..n], &slot, access.dtype, p),
        });
    }

    fn store(&self, from: Id, access: usize, tile: &Tile) {
        let access = &self.program.accesses[access];
        let p = tile.patch(access, self.instr(from).level);
        let (slot, n) = (&self.slots[access.slot], p.len());
        match self.class(from) {
            Class::F32 => store_f32(slot, access.dtype, p, self.f32(from, n)),
            Class::F64 => store_f64(slot, p, self.f64(from, n)),
            Class::I32 => store_i32(slot, access.dtype, p, self.i32(from, n)),
            Class::I64 => store_i64(slot, access.dtype, p, self.i64(from, n)),
        }
    }

    fn eval_f32(&self, instr: &Instr, dst: &mut [f32], tile: &Tile) {
        let n = dst.len();
        let to = instr.dtype;
        match instr.kind {
            Kind::Const(v) => dst.fill(narrow(v.as_f64(), to, false)),
            Kind::Iota(offset, ref strides) => iota(dst, offset, strides, tile, instr.level, |v| v as f32),
            Kind::Unary(op, a) => {
                float::unary_f32(op, dst, self.f32(a, n));
            }
            Kind::Binary(op, a, b) => {
                float::binary_f32(op, dst, self.f32(a, n), self.f32(b, n));
            }
            Kind::Select(c, a, b) => select(dst, self.i32(c, n), self.f32(a, n), self.f32(b, n)),
            Kind::Expand(a) => repeat(dst, self.f32(a, tile.row.len())),
            Kind::Cast { from, saturate } => {
                let f8 = to.is_f8();
                match self.class(from) {
                    Class::F32 if f8 => map1(dst, self.f32(from, n), |x| narrow(f64::from(x), to, saturate)),
                    Class::F32 => dst.copy_from_slice(self.f32(from, n)),
                    Class::F64 => map1(dst, self.f64(from, n), |x| narrow(x, to, saturate)),
                    Class::I32 if to == DType::F32 => map1(dst, self.i32(from, n), |x| x as f32),
                    Class::I32 => map1(dst, self.i32(from, n), |x| narrow(f64::from(x), to, saturate)),
                    Class::I64 => {
                        let unsigned = self.instr(from).dtype == DType::U64;
                        map1(dst, self.i64(from, n), |x| match (to, unsigned) {
                            (DType::F32, true) => x as u64 as f32,
                            (DType::F32, false) => x as f32,
                            (_, true) => narrow_int(i128::from(x as u64), to, saturate),
                            (_, false) => narrow_int(i128::from(x), to, saturate),
                        });
                    }
                }
            }
            // To an 8-bit float: the only rounding is the format's.
            Kind::Quantize(x, s, z) => self.quantize(x, s, n, |i, q| {
                dst[i] = narrow(q + f64::from(self.f32(z, n)[i]), to, true);
            }),
            Kind::Dequantize(x, s, z) => {
                let s = self.f32(s, n);
                match self.class(x) {
                    Class::F32 => {
                        map2(dst, self.f32(x, n), self.f32(z, n), |x, z| x - z);
                    }
                    Class::I32 if self.instr(x).dtype.bits() <= 16 => {
                        map2(dst, self.i32(x, n), self.i32(z, n), |x, z| x.wrapping_sub(z) as f32);
                    }
                    Class::I32 => {
                        map2(dst, self.i32(x, n), self.i32(z, n), |x, z| (i64::from(x) - i64::from(z)) as f32);
                    }
                    Class::F64 => map2(dst, self.f64(x, n), self.f64(z, n), |x, z| (x - z) as f32),
                    Class::I64 => map2(dst, self.i64(x, n), self.i64(z, n), |x, z| (x as f64 - z as f64) as f32),
                }
                crate::simd::update(dst, s, |x, s| x * s);
            }
            _ => {}
        }
    }

    fn eval_f64(&self, instr: &Instr, dst: &mut [f64], tile: &Tile) {
        let n = dst.len();
        match instr.kind {
            Kind::Const(v) => dst.fill(v.as_f64()),
            Kind::Iota(offset, ref strides) => iota(dst, offset, strides, tile, instr.level, |v| v as f64),
            Kind::Unary(op, a) => {
                float::unary_f64(op, dst, self.f64(a, n));
            }
            Kind::Binary(op, a, b) => {
                float::binary_f64(op, dst, self.f64(a, n), self.f64(b, n));
            }
            Kind::Select(c, a, b) => select(dst, self.i32(c, n), self.f64(a, n), self.f64(b, n)),
            Kind::Expand(a) => repeat(dst, self.f64(a, tile.row.len())),
            Kind::Cast { from, .. } => match self.class(from) {
                Class::F32 => map1(dst, self.f32(from, n), f64::from),
                Class::F64 => dst.copy_from_slice(self.f64(from, n)),
                Class::I32 => map1(dst, self.i32(from, n), f64::from),
                Class::I64 if self.instr(from).dtype == DType::U64 => {
                    map1(dst, self.i64(from, n), |x| x as u64 as f64);
                }
                Class::I64 => map1(dst, self.i64(from, n), |x| x as f64),
            },
            Kind::Dequantize(x, s, z) => {
                match self.class(x) {
                    Class::F32 => map2(dst, self.f32(x, n), self.f32(z, n), |x, z| f64::from(x) - f64::from(z)),
                    Class::I32 => {
                        map2(dst, self.i32(x, n), self.i32(z, n), |x, z| f64::from(x) - f64::from(z));
                    }
                    Class::F64 => map2(dst, self.f64(x, n), self.f64(z, n), |x, z| x - z),
                    Class::I64 => map2(dst, self.i64(x, n), self.i64(z, n), |x, z| x as f64 - z as f64),
                }
                crate::simd::update(dst, self.f64(s, n), |x, s| x * s);
            }
            _ => {}
        }
    }

    fn eval_i32(&self, instr: &Instr, dst: &mut [i32], tile: &Tile) {
        let n = dst.len();
        let to = instr.dtype;
        match instr.kind {
            Kind::Const(v) => dst.fill(v.as_i64() as i32),
            Kind::Iota(offset, ref strides) => iota(dst, offset, strides, tile, instr.level, |v| v as i32),
            Kind::Unary(op, a) => match self.class(a) {
                Class::F32 => float::test_f32(op, dst, self.f32(a, n)),
                Class::F64 => float::test_f64(op, dst, self.f64(a, n)),
                _ => {
                    int::unary_i32(op, to, dst, self.i32(a, n));
                }
            },
            Kind::Binary(op, a, b) => {
                int::binary_i32(op, to, dst, self.i32(a, n), self.i32(b, n));
            }
            Kind::Compare(op, a, b) => match self.class(a) {
                Class::F32 => float::compare_f32(op, dst, self.f32(a, n), self.f32(b, n)),
                Class::F64 => float::compare_f64(op, dst, self.f64(a, n), self.f64(b, n)),
                Class::I32 => int::compare_i32(op, self.instr(a).dtype, dst, self.i32(a, n), self.i32(b, n)),
                Class::I64 => int::compare_i64(op, self.instr(a).dtype, dst, self.i64(a, n), self.i64(b, n)),
            },
            Kind::Select(c, a, b) => select(dst, self.i32(c, n), self.i32(a, n), self.i32(b, n)),
            Kind::Expand(a) => repeat(dst, self.i32(a, tile.row.len())),
            Kind::Cast { from, .. } => match self.class(from) {
                Class::F32 if to == DType::Bool => map1(dst, self.f32(from, n), |x| i32::from(x != 0.0)),
                Class::F32 if to == DType::I32 => map1(dst, self.f32(from, n), |x| x as i32),
                Class::F32 => map1(dst, self.f32(from, n), |x| float_to_int(f64::from(x), to) as i32),
                Class::F64 => map1(dst, self.f64(from, n), |x| float_to_int(x, to) as i32),
                Class::I32 => map1(dst, self.i32(from, n), |x| wrap_i64(to, x.into()) as i32),
                Class::I64 => map1(dst, self.i64(from, n), |x| wrap_i64(to, x) as i32),
            },
            Kind::Quantize(x, s, z) => {
                let (low, high) = to.int_range().unwrap_or((0, 0));
                let (low, high) = (low as f64, high as f64);
                if self.class(x) == Class::F32 && to.bits() <= 16 {
                    // Beyond 2^24 the result saturates whatever the zero point. NaN gives 0, like a cast.
                    map2(dst, self.f32(x, n), self.f32(s, n), |x, s| {
                        let q = x / s;
                        let i = q.round_ties_even().clamp(-16_777_216.0, 16_777_216.0) as i32;
                        if q.is_nan() { i32::MIN } else { i }
                    });
                    crate::simd::update(dst, self.i32(z, n), |q, z| {
                        let sum = q.wrapping_add(z).clamp(low as i32, high as i32);
                        if q == i32::MIN { 0 } else { sum }
                    });
                } else {
                    let z = self.i32(z, n);
                    self.quantize(x, s, n, |i, q| {
                        dst[i] = (q.round_ties_even() + f64::from(z[i])).clamp(low, high) as i32;
                    });
                }
            }
            _ => {}
        }
    }

    fn eval_i64(&self, instr: &Instr, dst: &mut [i64], tile: &Tile) {
        let n = dst.len();
        let to = instr.dtype;
        match instr.kind {
            Kind::Const(v) => dst.fill(v.as_i64()),
            Kind::Iota(offset, ref strides) => iota(dst, offset, strides, tile, instr.level, |v| v),
            Kind::Unary(op, a) => {
                int::unary_i64(op, to, dst, self.i64(a, n));
            }
            Kind::Binary(op, a, b) => {
                int::binary_i64(op, to, dst, self.i64(a, n), self.i64(b, n));
            }
            Kind::Select(c, a, b) => select(dst, self.i32(c, n), self.i64(a, n), self.i64(b, n)),
            Kind::Expand(a) => repeat(dst, self.i64(a, tile.row.len())),
            Kind::Cast { from, .. } => match self.class(from) {
                Class::F32 => map1(dst, self.f32(from, n), |x| float_to_int(f64::from(x), to)),
                Class::F64 => map1(dst, self.f64(from, n), |x| float_to_int(x, to)),
                Class::I32 => map1(dst, self.i32(from, n), |x| wrap_i64(to, x.into())),
                Class::I64 => map1(dst, self.i64(from, n), |x| wrap_i64(to, x)),
            },
            Kind::Quantize(x, s, z) => {
                let (low, high) = to.int_range().unwrap_or((0, 0));
                let z = self.i64(z, n);
                self.quantize(x, s, n, |i, q| {
                    let zero = if to == DType::U64 { i128::from(z[i] as u64) } else { i128::from(z[i]) };
                    let sum = (q.round_ties_even() as i128).saturating_add(zero);
                    dst[i] = if q.is_nan() { 0 } else { sum.clamp(low, high) as i64 };
                });
            }
            _ => {}
        }
    }

    /// Calls `f(i, x / scale)`, dividing in the class of the scale.
    fn quantize(&self, x: Id, scale: Id, n: usize, mut f: impl FnMut(usize, f64)) {
        for i in 0..n {
            let q = match (self.class(x), self.class(scale)) {
                (Class::F32, Class::F32) => f64::from(self.f32(x, n)[i] / self.f32(scale, n)[i]),
                (Class::F64, Class::F32) => f64::from((self.f64(x, n)[i] / f64::from(self.f32(scale, n)[i])) as f32),
                (Class::I32, Class::F32) => {
                    f64::from((f64::from(self.i32(x, n)[i]) / f64::from(self.f32(scale, n)[i])) as f32)
                }
                (Class::I64, Class::F32) => {
                    f64::from((self.i64(x, n)[i] as f64 / f64::from(self.f32(scale, n)[i])) as f32)
                }
                (Class::F64, _) => self.f64(x, n)[i] / self.f64(scale, n)[i],
                (Class::F32, _) => f64::from(self.f32(x, n)[i]) / self.f64(scale, n)[i],
                (Class::I32, _) => f64::from(self.i32(x, n)[i]) / self.f64(scale, n)[i],
                (Class::I64, _) => self.i64(x, n)[i] as f64 / self.f64(scale, n)[i],
            };
            f(i, q);
        }
    }
}

fn iota<T>(dst: &mut [T], offset: isize, strides: &[isize], tile: &Tile, level: Level, to: impl Fn(i64) -> T) {
    let rect = tile.rect(level);
    let stride = |dim: Option<usize>| dim.map_or(0, |d| strides[d]) as i64;
    let (row_stride, col_stride, inner_stride) = (stride(rect.row_dim), stride(rect.col_dim), stride(rect.inner_dim));
    let base = tile.affine(offset, strides) as i64;
    for (r, dst) in dst.chunks_exact_mut(rect.cols.max(1)).enumerate() {
        for (c, d) in dst.iter_mut().enumerate() {
            let (group, i) = ((c / rect.inner) as i64, (c % rect.inner) as i64);
            *d = to(base + r as i64 * row_stride + group * col_stride + i * inner_stride);
        }
    }
}

fn select<T: Copy>(dst: &mut [T], cond: &[i32], a: &[T], b: &[T]) {
    struct Select<'a, T>(&'a mut [T], &'a [i32], &'a [T], &'a [T]);
    impl<T: Copy> crate::simd::Loop for Select<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            for (((d, &c), &a), &b) in self.0.iter_mut().zip(self.1).zip(self.2).zip(self.3) {
                *d = if c != 0 { a } else { b };
            }
        }
    }
    crate::simd::widest(Select(dst, cond, a, b));
}

/// Repeats each row value over its row.
fn repeat<T: Copy>(dst: &mut [T], rows: &[T]) {
    if rows.is_empty() || dst.is_empty() {
        return;
    }
    let times = dst.len() / rows.len();
    for (d, &v) in dst.chunks_exact_mut(times).zip(rows) {
        d.fill(v);
    }
}

impl Scalar {
    /// Zero of a dtype.
    pub(crate) fn zero(dtype: DType) -> Scalar {
        if dtype.is_float() { Scalar::F(0.0) } else { Scalar::I(0) }
    }
}
