//! Small maps of f32: all instructions run on a few vectors before the next ones, in one loop compiled for the machine's vectors, so that
//! a map of a hundred elements does not cost a call an instruction.

use super::{Access, Kind, Level, Program};
use crate::math;
use crate::memory::Slot;
use crate::simd::{Loop, widest};
use kiln_graph::{BinaryOp, DType, UnaryOp};

/// Elements that go through the program together.
const LANES: usize = 64;
/// Elements that are computed together, whether wanted or not: as many as a loop takes at a time.
const GROUP: usize = 32;
/// Longest program.
const INSTRS: usize = 48;
/// Most elements of a domain: larger ones make up for a call an instruction.
const ELEMENTS: usize = 1024;

/// A value for each element that is under way.
type Register = [f32; LANES];

/// Whether a program without reductions can run so over these dims.
pub(crate) fn suits(program: &Program, dims: &[usize]) -> bool {
    let unit = |a: &Access, also: isize| {
        let stride = a.strides.last().copied().unwrap_or(1);
        a.dtype == DType::F32 && (stride == 1 || stride == also || dims.last() == Some(&1))
    };
    let runs = |kind: &Kind| match kind {
        Kind::Const(_) => true,
        Kind::Load(a) => unit(&program.accesses[*a], 0),
        Kind::Store(_, a) => unit(&program.accesses[*a], 1),
        Kind::Unary(op, _) => {
            use UnaryOp::{Abs, Exp, Neg, Recip, Rsqrt, Sqrt, Tanh};
            matches!(op, Neg | Abs | Sqrt | Rsqrt | Recip | Exp | Tanh)
        }
        Kind::Binary(op, ..) => {
            use BinaryOp::{Add, Div, Max, Min, Mul, Sub};
            matches!(op, Add | Sub | Mul | Div | Min | Max)
        }
        _ => false,
    };
    let elements = dims.iter().product::<usize>();
    elements <= ELEMENTS
        && program.instrs.len() <= INSTRS
        && program.instrs.iter().all(|i| i.level == Level::Full && i.dtype == DType::F32 && runs(&i.kind))
}

/// Bytes of scratch.
pub(crate) fn bytes(program: &Program) -> usize {
    program.instrs.len() * size_of::<Register>()
}

/// Runs a program that suits.
pub(crate) fn run(program: &Program, dims: &[usize], slots: &[Slot<'_>], scratch: &mut [u8]) {
    let (registers, _) = bytemuck::cast_slice_mut::<u8, f32>(scratch).as_chunks_mut();
    widest(Map { program, dims, slots, registers });
}

struct Map<'a> {
    program: &'a Program,
    dims: &'a [usize],
    slots: &'a [Slot<'a>],
    /// One an instruction.
    registers: &'a mut [Register],
}

impl Loop for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let (cols, outer) = self.dims.split_last().map_or((1, &[][..]), |(&cols, outer)| (cols, outer));
        for row in 0..outer.iter().product() {
            for col in (0..cols).step_by(LANES) {
                self.chunk(outer, row, col, LANES.min(cols - col));
            }
        }
    }
}

impl Map<'_> {
    /// Elements `col..col + n` of a row.
    #[inline(always)]
    fn chunk(&mut self, outer: &[usize], row: usize, col: usize, n: usize) {
        let place = |a: &Access| {
            let (mut rest, mut at) = (row, a.offset);
            for (&extent, &stride) in outer.iter().zip(&a.strides).rev() {
                at += (rest % extent) as isize * stride;
                rest /= extent;
            }
            let stride = a.strides.last().copied().unwrap_or(1);
            ((at + col as isize * stride) as usize, stride)
        };
        let whole = n.next_multiple_of(GROUP);
        for (i, instr) in self.program.instrs.iter().enumerate() {
            let (before, rest) = self.registers.split_at_mut(i);
            let dst = &mut rest[0];
            match instr.kind {
                Kind::Const(v) => dst.fill(v.as_f64() as f32),
                Kind::Load(a) => {
                    let access = &self.program.accesses[a];
                    let (at, stride) = place(access);
                    let from: &[f32] = self.slots[access.slot].typed();
                    match stride {
                        1 => dst[..n].copy_from_slice(&from[at..at + n]),
                        _ => dst.fill(from[at]),
                    }
                }
                Kind::Store(from, a) => {
                    let access = &self.program.accesses[a];
                    self.slots[access.slot].range_mut(place(access).0, n).copy_from_slice(&before[from][..n]);
                }
                Kind::Unary(op, a) => {
                    let a = &before[a];
                    match op {
                        UnaryOp::Neg => unary(dst, a, whole, |x| -x),
                        UnaryOp::Abs => unary(dst, a, whole, f32::abs),
                        UnaryOp::Sqrt => unary(dst, a, whole, f32::sqrt),
                        UnaryOp::Rsqrt => unary(dst, a, whole, |x| 1.0 / x.sqrt()),
                        UnaryOp::Recip => unary(dst, a, whole, |x| 1.0 / x),
                        UnaryOp::Exp => unary(dst, a, whole, math::exp),
                        _ => unary(dst, a, whole, math::tanh),
                    }
                }
                Kind::Binary(op, a, b) => {
                    let (a, b) = (&before[a], &before[b]);
                    match op {
                        BinaryOp::Add => binary(dst, a, b, whole, |x, y| x + y),
                        BinaryOp::Sub => binary(dst, a, b, whole, |x, y| x - y),
                        BinaryOp::Mul => binary(dst, a, b, whole, |x, y| x * y),
                        BinaryOp::Div => binary(dst, a, b, whole, |x, y| x / y),
                        BinaryOp::Min => binary(dst, a, b, whole, |x, y| if x < y || x.is_nan() { x } else { y }),
                        _ => binary(dst, a, b, whole, |x, y| if x > y || x.is_nan() { x } else { y }),
                    }
                }
                _ => {}
            }
        }
    }
}

#[inline(always)]
fn unary(dst: &mut Register, a: &Register, n: usize, f: impl Fn(f32) -> f32) {
    for (d, &x) in dst[..n].iter_mut().zip(&a[..n]) {
        *d = f(x);
    }
}

#[inline(always)]
fn binary(dst: &mut Register, a: &Register, b: &Register, n: usize, f: impl Fn(f32, f32) -> f32) {
    for ((d, &x), &y) in dst[..n].iter_mut().zip(&a[..n]).zip(&b[..n]) {
        *d = f(x, y);
    }
}
