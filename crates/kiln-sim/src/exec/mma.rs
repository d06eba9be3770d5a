//! mma.sync: one product of fragments.

use std::sync::LazyLock;

use super::cluster::Cluster;
use super::regs::{LANES, Regs, wide};
use super::step::Flow;
use super::warp::Warp;
use crate::decode::{Mma, Reg, Ty};
use crate::num::{f16_to_f32, f32_to_f16};
use kiln_num::{E4M3, E5M2};

static E4M3_TABLE: LazyLock<Box<[f32; 256]>> =
    LazyLock::new(|| Box::new(std::array::from_fn(|c| E4M3.decode(c as u32) as f32)));
static E5M2_TABLE: LazyLock<Box<[f32; 256]>> =
    LazyLock::new(|| Box::new(std::array::from_fn(|c| E5M2.decode(c as u32) as f32)));

/// Element `i` of a register as f32, for every floating-point operand type.
#[inline(always)]
pub(crate) fn element(ty: Ty, word: u32, i: u32) -> f32 {
    match ty {
        Ty::F16 => f16_to_f32(word >> (16 * i) & 0xffff),
        Ty::Bf16 => f32::from_bits((word >> (16 * i)) << 16),
        // The tensor core ignores the low 13 bits.
        Ty::Tf32 => f32::from_bits(word & 0xffff_e000),
        Ty::E4m3 => E4M3_TABLE[(word >> (8 * i) & 0xff) as usize],
        Ty::E5m2 => E5M2_TABLE[(word >> (8 * i) & 0xff) as usize],
        _ => f32::from_bits(word),
    }
}

/// Element `i` of a register of an integer type.
pub(crate) fn integer_element(ty: Ty, word: u32, i: u32) -> i32 {
    match ty {
        Ty::S8 => i32::from((word >> (8 * i)) as i8),
        Ty::U8 => (word >> (8 * i) & 0xff) as i32,
        Ty::S4 => ((word >> (4 * i)) as i32) << 28 >> 28,
        Ty::U4 => (word >> (4 * i) & 0xf) as i32,
        _ => (word >> i & 1) as i32,
    }
}

fn row32(regs: &Regs, r: Reg) -> &[u32; LANES] {
    static ZERO: [u32; LANES] = [0; LANES];
    match r {
        Reg::R(row) => &regs.r[row as usize],
        _ => &ZERO,
    }
}

impl Cluster<'_> {
    pub(crate) fn mma(&mut self, w: &mut Warp, d: &Mma, m: u32) -> Flow {
        if !self.whole_warp(w, m) {
            return Flow::Moved;
        }
        if let Some(c) = &mut self.counters {
            c.mma(w.pc, u64::from(2 * d.m * d.n * d.k), true);
        }
        match d.a_ty {
            Ty::F64 => f64_mma(&mut w.regs, d),
            Ty::B1 => bit_mma(&mut w.regs, d),
            Ty::U8 | Ty::S8 | Ty::U4 | Ty::S4 => wide(
                #[inline(always)]
                || integer_mma(&mut w.regs, d),
            ),
            _ => wide(
                #[inline(always)]
                || float_mma(&mut w.regs, d),
            ),
        }
        Flow::Next
    }
}

/// The registers of an operand as numbers: element `i` of register `r` in lane `l` is at `[r][i][l]`.
type Values<const P: usize> = [[[f32; LANES]; P]; 4];

#[inline(always)]
fn read<const P: usize>(out: &mut Values<P>, regs: &Regs, operand: &[Reg], convert: impl Fn(u32, u32) -> f32) {
    for (out, reg) in out.iter_mut().zip(operand) {
        let words = row32(regs, *reg);
        for (i, row) in out.iter_mut().enumerate() {
            for lane in 0..LANES {
                row[lane] = convert(words[lane], i as u32);
            }
        }
    }
}

/// Accumulators: row `r` holds the even columns of the product's row, then the odd ones, which is how fragments hold them.
type Sums = [[f32; 8]; 16];

/// Column of an accumulator's element.
#[inline(always)]
const fn column(place: usize) -> usize {
    2 * (place % 4) + place / 4
}

/// `sums += A B`, ascending along K. `P` is the number of elements in a register, so one register of B spans `4 P` of K.
///
/// The fragments are used as they lie: a row's multiplier is a lane of A's register; only B is transposed.
#[inline(always)]
fn product<const P: usize>(sums: &mut Sums, halves: usize, depth: usize, a: &Values<P>, b: &Values<P>) {
    for block in 0..depth {
        let mut lines = [[0f32; 8]; 32];
        for t in 0..4 {
            for i in 0..P {
                for (place, to) in lines[P * t + i].iter_mut().enumerate() {
                    *to = b[block][i][4 * column(place) + t];
                }
            }
        }
        for half in 0..halves {
            let a = &a[halves * block + half];
            let mut acc = [[0f32; 8]; 8];
            acc.copy_from_slice(&sums[8 * half..8 * half + 8]);
            for t in 0..4 {
                for i in 0..P {
                    let line = &lines[P * t + i];
                    for (g, acc) in acc.iter_mut().enumerate() {
                        let x = a[i][4 * g + t];
                        for (acc, y) in acc.iter_mut().zip(line) {
                            *acc = x.mul_add(*y, *acc);
                        }
                    }
                }
            }
            sums[8 * half..8 * half + 8].copy_from_slice(&acc);
        }
    }
}

/// The product of an mma's fragments of `P` elements a register, added to `sums`.
#[inline(always)]
fn multiply<const P: usize>(
    regs: &Regs,
    d: &Mma,
    sums: &mut Sums,
    a: impl Fn(u32, u32) -> f32,
    b: impl Fn(u32, u32) -> f32,
) {
    let mut values: [Values<P>; 2] = [[[[0.0; LANES]; P]; 4]; 2];
    read(&mut values[0], regs, &d.a, a);
    read(&mut values[1], regs, &d.b, b);
    product(sums, d.m as usize / 8, d.b.len(), &values[0], &values[1]);
}

#[inline(always)]
fn float_mma(regs: &mut Regs, d: &Mma) {
    let mut sums: Sums = [[0.0; 8]; 16];
    for (i, reg) in d.c.iter().enumerate() {
        let words = row32(regs, *reg);
        if d.c_ty == Ty::F16 {
            fill(&mut sums, i, 0, words, |v| f16_to_f32(v & 0xffff));
            fill(&mut sums, i, 1, words, |v| f16_to_f32(v >> 16));
        } else {
            fill(&mut sums, i / 2, i % 2, words, f32::from_bits);
        }
    }
    match d.a_ty {
        Ty::F16 => {
            let half = |w: u32, i: u32| f16_to_f32(w >> (16 * i) & 0xffff);
            multiply::<2>(regs, d, &mut sums, half, half);
        }
        Ty::Bf16 => {
            let half = |w: u32, i: u32| f32::from_bits(w >> (16 * i) << 16);
            multiply::<2>(regs, d, &mut sums, half, half);
        }
        Ty::Tf32 => {
            let word = |w: u32, _: u32| element(Ty::Tf32, w, 0);
            multiply::<1>(regs, d, &mut sums, word, word);
        }
        _ => multiply::<4>(regs, d, &mut sums, |w, i| element(d.a_ty, w, i), |w, i| element(d.b_ty, w, i)),
    }
    for (i, reg) in d.d.iter().enumerate() {
        let Reg::R(out) = *reg else { continue };
        regs.r[out as usize].0 = if d.d_ty == Ty::F16 {
            let (even, odd) = (column_of(&sums, i, 0), column_of(&sums, i, 1));
            let mut packed = [0; LANES];
            for lane in 0..LANES {
                packed[lane] = f32_to_f16(even[lane]) | f32_to_f16(odd[lane]) << 16;
            }
            packed
        } else {
            column_of(&sums, i / 2, i % 2).map(f32::to_bits)
        };
    }
}

/// Puts a register of C into the accumulators: rows of a half, even (0) or odd (1) columns.
#[inline(always)]
fn fill(sums: &mut Sums, half: usize, odd: usize, words: &[u32; LANES], convert: impl Fn(u32) -> f32) {
    for g in 0..8 {
        for t in 0..4 {
            sums[8 * (half & 1) + g][4 * (odd & 1) + t] = convert(words[4 * g + t]);
        }
    }
}

/// The inverse of [`fill`].
#[inline(always)]
fn column_of(sums: &Sums, half: usize, odd: usize) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for g in 0..8 {
        for t in 0..4 {
            out[4 * g + t] = sums[8 * (half & 1) + g][4 * (odd & 1) + t];
        }
    }
    out
}

/// 8- and 4-bit integers. A sum of 64 products of 8-bit numbers is exact in f32; only the addition of C can wrap.
#[inline(always)]
fn integer_mma(regs: &mut Regs, d: &Mma) {
    let mut sums: Sums = [[0.0; 8]; 16];
    let signed = |ty: Ty, v: u32, bits: u32| (v as i32) - if ty.signed() { ((v << 1) & (1 << bits)) as i32 } else { 0 };
    if d.a_ty.bits() == 8 {
        let byte = |ty: Ty| move |w: u32, i: u32| signed(ty, w >> (8 * i) & 0xff, 8) as f32;
        multiply::<4>(regs, d, &mut sums, byte(d.a_ty), byte(d.b_ty));
    } else {
        let nibble = |ty: Ty| move |w: u32, i: u32| signed(ty, w >> (4 * i) & 0xf, 4) as f32;
        multiply::<8>(regs, d, &mut sums, nibble(d.a_ty), nibble(d.b_ty));
    }
    // Adding 1.5 * 2^23 leaves an integer below 2^22 in the low bits.
    const ONE_AND_A_HALF: f32 = 12_582_912.0;
    let integer = |v: f32| (v + ONE_AND_A_HALF).to_bits() as i32 - ONE_AND_A_HALF.to_bits() as i32;
    finish_integers(regs, d, |i| column_of(&sums, i / 2, i % 2).map(integer));
}

/// Adds C to the sums of each register and writes D.
#[inline(always)]
fn finish_integers(regs: &mut Regs, d: &Mma, sums: impl Fn(usize) -> [i32; LANES]) {
    // D may overlap C.
    let mut c = [[0u32; LANES]; 4];
    for (to, reg) in c.iter_mut().zip(&d.c) {
        *to = *row32(regs, *reg);
    }
    for (i, reg) in d.d.iter().enumerate() {
        let Reg::R(out) = *reg else { continue };
        let (out, sums) = (&mut regs.r[out as usize], sums(i));
        for lane in 0..LANES {
            out[lane] = c[i][lane].wrapping_add(sums[lane] as u32);
        }
        if d.satfinite {
            for lane in 0..LANES {
                out[lane] = (c[i][lane] as i32).saturating_add(sums[lane]) as u32;
            }
        }
    }
}

/// Single bits: 32 a register, so words are combined whole.
fn bit_mma(regs: &mut Regs, d: &Mma) {
    let words = d.k as usize / 32;
    let mut a = [[0u32; 8]; 16];
    let mut b = [[0u32; 8]; 8];
    for (r, reg) in d.a.iter().enumerate() {
        let v = row32(regs, *reg);
        let (half, k) = if d.m == 8 { (0, 4 * r) } else { (8 * (r % 2), 4 * (r / 2)) };
        for lane in 0..LANES {
            a[lane / 4 + half][k + lane % 4] = v[lane];
        }
    }
    for (r, reg) in d.b.iter().enumerate() {
        let v = row32(regs, *reg);
        for lane in 0..LANES {
            b[lane / 4][4 * r + lane % 4] = v[lane];
        }
    }
    let and = d.b1_and;
    finish_integers(regs, d, |i| {
        std::array::from_fn(|lane| {
            let (a, b) = (&a[lane / 4 + 8 * (i / 2)], &b[2 * (lane % 4) + i % 2]);
            let bits = a.iter().zip(b).take(words).map(|(a, b)| if and { a & b } else { a ^ b }.count_ones());
            bits.sum::<u32>() as i32
        })
    });
}

fn f64_mma(regs: &mut Regs, d: &Mma) {
    let read = |regs: &Regs, r: Reg| match r {
        Reg::D(row) => regs.d[row as usize].map(f64::from_bits),
        _ => [0.0; LANES],
    };
    let (rows, k) = (d.m as usize, d.k as usize);
    let mut a = [[0f64; 16]; 16];
    let mut b = [[0f64; 8]; 16];
    let mut c = [[0f64; 8]; 16];
    for (r, reg) in d.a.iter().enumerate() {
        let v = read(regs, *reg);
        for (lane, v) in v.into_iter().enumerate() {
            let (row, at) = if rows == 8 { (lane / 4, 4 * r) } else { (lane / 4 + 8 * (r % 2), 4 * (r / 2)) };
            a[row][at + lane % 4] = v;
        }
    }
    for (r, reg) in d.b.iter().enumerate() {
        for (lane, v) in read(regs, *reg).into_iter().enumerate() {
            b[4 * r + lane % 4][lane / 4] = v;
        }
    }
    for (i, reg) in d.c.iter().enumerate() {
        for (lane, v) in read(regs, *reg).into_iter().enumerate() {
            c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = v;
        }
    }
    for (acc, a) in c.iter_mut().zip(&a).take(rows) {
        for (x, y) in a.iter().zip(&b).take(k) {
            for (acc, y) in acc.iter_mut().zip(y) {
                *acc = x.mul_add(*y, *acc);
            }
        }
    }
    for (i, reg) in d.d.iter().enumerate() {
        let Reg::D(out) = *reg else { continue };
        for lane in 0..LANES {
            regs.d[out as usize][lane] = c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2].to_bits();
        }
    }
}
