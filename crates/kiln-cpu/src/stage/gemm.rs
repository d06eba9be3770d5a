//! Batched matrix products.

use super::Context;
use super::image::Image;
use super::parallel::{share, threads_for_products};
use crate::gemm::{Blocking, Columns, Matrix, Panels, Target, dot_i16, dot_i32, dot_i64, gemm_f32, gemm_f64};
use crate::lower::Tail;
use crate::memory::Slot;
use crate::program::{Class, Machine, Tile};
use bytemuck::Pod;
use kiln_graph::DType;
use smallvec::smallvec;
use std::sync::OnceLock;

/// A strided matrix in a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided {
    pub(crate) slot: usize,
    pub(crate) offset: isize,
    pub(crate) row: isize,
    pub(crate) col: isize,
}

/// Element type of a product's operands and accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    F32,
    F64,
    /// 8-bit values widened to i16, accumulated in i32. B is given transposed.
    I16,
    /// Wrapping i32. B is given transposed.
    I32,
    /// Wrapping i64. B is given transposed.
    I64,
}

impl Arithmetic {
    /// How a product whose sums are of a class multiplies operands of these types, and the type that they are held in.
    pub(crate) fn of(class: Class, operands: [DType; 2]) -> (Arithmetic, DType) {
        let narrow = |d: DType| d.bits() <= 8 && d.is_int();
        match class {
            Class::F32 => (Arithmetic::F32, DType::F32),
            Class::F64 => (Arithmetic::F64, DType::F64),
            Class::I32 if operands.into_iter().all(narrow) => (Arithmetic::I16, DType::I16),
            Class::I32 => (Arithmetic::I32, DType::I32),
            Class::I64 => (Arithmetic::I64, DType::I64),
        }
    }

    /// Bytes of a sum.
    pub(super) fn sum_bytes(self) -> usize {
        match self {
            Arithmetic::F32 | Arithmetic::I16 | Arithmetic::I32 => 4,
            Arithmetic::F64 | Arithmetic::I64 => 8,
        }
    }
}

/// How B lies in its slot.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// By its strides.
    Strided,
    /// In floats: the windows over the planes of an image.
    Windows(Image),
    /// In floats: as [`Panels`], which nothing has to pack.
    Panels,
}

/// How a product is cut up, and what a thread needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tasks {
    parts: usize,
    /// Rows and columns of a task.
    size: [usize; 2],
    blocking: Blocking,
    /// Bytes of packed panels, and of the block that a tail reads.
    packing: usize,
    block: usize,
    /// Bytes of one thread.
    thread: usize,
}

/// `out[b.., m, n] = sum over k of a[b.., m, k] * b[b.., k, n]`.
#[derive(Debug)]
pub(crate) struct MatMul {
    pub(crate) arithmetic: Arithmetic,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: Strided,
    pub(crate) b: Strided,
    pub(crate) form: Form,
    pub(crate) out: Strided,
    /// Outer loops: extent, then strides of a, b and out.
    pub(crate) batch: Vec<(usize, [isize; 3])>,
    /// What goes on with each task's block. The product itself is then not stored.
    pub(crate) tail: Option<Tail>,
    pub(crate) threads: usize,
    /// Known once the product is complete.
    pub(crate) tasks: OnceLock<Tasks>,
}

/// Columns or rows that one integer task covers.
const INT_BLOCK: usize = 64;
/// Elements of a float task, whose block then stays in the L2 cache.
const BLOCK: usize = 64 * 1024;

impl MatMul {
    /// Computes the transpose: `out' = b' * a'`.
    pub(crate) fn transpose(&mut self) {
        std::mem::swap(&mut self.m, &mut self.n);
        std::mem::swap(&mut self.a, &mut self.b);
        for s in [&mut self.a, &mut self.b, &mut self.out] {
            std::mem::swap(&mut s.row, &mut s.col);
        }
        for (_, s) in &mut self.batch {
            s.swap(0, 1);
        }
    }

    fn batches(&self) -> usize {
        self.batch.iter().map(|b| b.0).product()
    }

    fn parts(&self) -> usize {
        threads_for_products(self.m * self.n * self.k.max(1) * self.batches(), self.threads)
    }

    /// How M and N are cut into tasks: extents of a task.
    pub(crate) fn task(&self) -> (usize, usize) {
        let parts = self.parts();
        let cuts = if parts == 1 { 1 } else { (2 * parts).div_ceil(self.batches().max(1)) };
        // The longer side, in whole register tiles.
        let (m, n) = if self.n >= self.m {
            (self.m, self.n.div_ceil(cuts).next_multiple_of(64).min(self.n))
        } else {
            (self.m.div_ceil(cuts).next_multiple_of(24).min(self.m), self.n)
        };
        let n = n.min((BLOCK / m.clamp(1, 192)).next_multiple_of(64));
        (m.min((BLOCK / n.max(1)).next_multiple_of(24)), n)
    }

    pub(crate) fn is_float(&self) -> bool {
        matches!(self.arithmetic, Arithmetic::F32 | Arithmetic::F64)
    }

    fn element(&self) -> usize {
        match self.arithmetic {
            Arithmetic::F32 => 4,
            Arithmetic::F64 => 8,
            _ => 0,
        }
    }

    pub(super) fn tasks(&self) -> &Tasks {
        self.tasks.get_or_init(|| {
            let ints = (self.m.min(INT_BLOCK), self.n.min(INT_BLOCK));
            let cut = self.task();
            let (m, n) = if self.is_float() { cut } else { ints };
            let blocking = Blocking::new(self.m, cut.1, self.k);
            let packing = (blocking.packing() * self.element()).next_multiple_of(64);
            let block = if self.tail.is_some() { (m * n * self.element()).next_multiple_of(64) } else { 0 };
            let thread = packing + block + self.tail.as_ref().map_or(0, |t| t.registers.bytes);
            Tasks { parts: self.parts(), size: [m, n], blocking, packing, block, thread }
        })
    }

    pub(crate) fn scratch_bytes(&self) -> usize {
        let tasks = self.tasks();
        tasks.thread * tasks.parts
    }

    pub(crate) fn name(&self) -> &'static str {
        match (self.is_float(), &self.form, &self.tail) {
            (false, ..) => "integer gemm",
            (_, Form::Windows(_), None) => "conv",
            (_, Form::Windows(_), Some(_)) => "conv with epilogue",
            (_, _, None) => "gemm",
            (_, _, Some(_)) => "gemm with epilogue",
        }
    }

    pub(crate) fn run(&self, cx: Context<'_>) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        let &Tasks { parts, size: [tm, tn], blocking, packing, block, thread } = self.tasks();
        let (ms, ns) = (self.m.div_ceil(tm), self.n.div_ceil(tn));
        let units = self.batches() * ms * ns;
        let slots = cx.slots;
        share(cx.pool, parts, units, cx.scratch, thread, |scratch, next| {
            let (packing, rest) = scratch.split_at_mut(packing);
            let (block, registers) = rest.split_at_mut(block);
            let block = Slot::write(block);
            let mut tail = self.tail.as_ref().map(|t| (t, t.machine(slots, registers)));
            while let Some(range) = next() {
                for unit in range {
                    let (batch, r, c) = (unit / (ms * ns), unit / ns % ms * tm, unit % ns * tn);
                    let size = [tm.min(self.m - r), tn.min(self.n - c)];
                    let at = self.offsets(batch, r, c);
                    let mut to =
                        Target { slot: slots[self.out.slot], offset: at[2], row: self.out.row, col: self.out.col };
                    if tail.is_some() {
                        to = Target { slot: block, offset: 0, row: tn as isize, col: 1 };
                    }
                    match self.arithmetic {
                        Arithmetic::F32 => {
                            let (a, b) = self.operands(slots, at, c);
                            gemm_f32(blocking, size, self.k, a, b, to, bytemuck::cast_slice_mut(packing));
                        }
                        Arithmetic::F64 => {
                            let (a, b) = self.operands(slots, at, c);
                            gemm_f64(blocking, size, self.k, a, b, to, bytemuck::cast_slice_mut(packing));
                        }
                        Arithmetic::I16 => self.dots(slots, at, size, dot_i16),
                        Arithmetic::I32 => self.dots(slots, at, size, dot_i32),
                        Arithmetic::I64 => self.dots(slots, at, size, dot_i64),
                    }
                    if let Some((tail, machine)) = &mut tail {
                        machine.read_block(tail.product, block, r * tn + c);
                        tail.run(machine, batch, [r, c], size);
                    }
                }
            }
        });
    }

    /// Offsets of a, b and out for an element of the batch and a block's corner.
    fn offsets(&self, batch: usize, r: usize, c: usize) -> [isize; 3] {
        let (r, c) = (r as isize, c as isize);
        let mut at = [
            self.a.offset + r * self.a.row,
            self.b.offset + c * self.b.col,
            self.out.offset + r * self.out.row + c * self.out.col,
        ];
        let mut rest = batch;
        for &(extent, strides) in self.batch.iter().rev() {
            let i = (rest % extent) as isize;
            rest /= extent;
            for (at, s) in at.iter_mut().zip(strides) {
                *at += i * s;
            }
        }
        at
    }

    fn operands<'s, T: Pod>(
        &'s self,
        slots: &[Slot<'s>],
        at: [isize; 3],
        column: usize,
    ) -> (Matrix<'s, T>, Columns<'s, T>) {
        let (a, b) = (&self.a, &self.b);
        let data: &[T] = slots[b.slot].typed();
        (
            Matrix { data: slots[a.slot].typed(), offset: at[0], row: a.row, col: a.col },
            match &self.form {
                Form::Windows(image) => Columns::Windows(image.windows(&data[at[1] as usize..], column)),
                Form::Strided => Columns::Matrix(Matrix { data, offset: at[1], row: b.row, col: b.col }),
                Form::Panels => Columns::Panels(Panels { data: &data[at[1] as usize..], rows: self.k, first: column }),
            },
        )
    }

    /// A block of dot products of rows of A and of transposed B, both contiguous along K.
    fn dots<T: Pod, S: Pod>(
        &self,
        slots: &[Slot<'_>],
        at: [isize; 3],
        size: [usize; 2],
        dot: impl Fn(&[T], [&[T]; 4]) -> [S; 4],
    ) {
        let (a, b): (&[T], &[T]) = (slots[self.a.slot].typed(), slots[self.b.slot].typed());
        let out = &slots[self.out.slot];
        let k = self.k;
        for r in 0..size[0] {
            let from = (at[0] + r as isize * self.a.row) as usize;
            let row = &a[from..from + k];
            for c in (0..size[1]).step_by(4) {
                let columns = [0, 1, 2, 3].map(|i| {
                    let from = (at[1] + (c + i).min(size[1] - 1) as isize * self.b.col) as usize;
                    &b[from..from + k]
                });
                let sums = dot(row, columns);
                for (i, &sum) in sums.iter().enumerate().take(size[1] - c) {
                    let to = at[2] + r as isize * self.out.row + (c + i) as isize * self.out.col;
                    out.put(to as usize, sum);
                }
            }
        }
    }
}

impl Tail {
    fn machine<'a>(&'a self, slots: &'a [Slot<'a>], registers: &'a mut [u8]) -> Machine<'a> {
        let mut machine = Machine::new(&self.program, &self.registers, slots, registers);
        machine.prepare();
        machine
    }

    /// Runs on the block of an element of the batch, whose corner and extents these are.
    fn run(&self, machine: &mut Machine<'_>, batch: usize, corner: [usize; 2], size: [usize; 2]) {
        let mut tile = Tile { coords: smallvec![0; self.batch.len() + 2], full: self.tile, row: self.tile };
        let mut rest = batch;
        for (coord, extent) in tile.coords.iter_mut().zip(&self.batch).rev() {
            (*coord, rest) = (rest % extent, rest / extent);
        }
        let [row, col] = [self.batch.len(), self.batch.len() + 1];
        for r in (0..size[0]).step_by(self.tile.rows) {
            for c in (0..size[1]).step_by(self.tile.cols) {
                (tile.coords[row], tile.coords[col]) = (corner[0] + r, corner[1] + c);
                tile.full.rows = self.tile.rows.min(size[0] - r);
                tile.full.cols = self.tile.cols.min(size[1] - c);
                tile.row = tile.full;
                machine.run(&tile);
            }
        }
    }
}
