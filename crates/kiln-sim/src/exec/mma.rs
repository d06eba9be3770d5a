//! mma.sync: fragments to matrices, one product, matrices to fragments.

use std::sync::LazyLock;

use super::cluster::Cluster;
use super::regs::{LANES, Regs, wide};
use super::step::Flow;
use super::warp::Warp;
use crate::decode::{Mma, Reg, Ty};
use crate::num::{E4M3, E5M2, f16_to_f32, f32_to_f16};

/// Largest K of an mma but those of single bits.
const MAX_K: usize = 64;

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
            c.mma(w.pc, u64::from(2 * d.m * d.n * d.k));
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

/// Spreads the registers of A and B over matrices; `conv` gives element `i` of a register.
#[inline(always)]
fn spread<const P: usize, T: Copy + Default>(
    regs: &Regs,
    d: &Mma,
    a: &mut [[T; MAX_K]; 16],
    b: &mut [[T; 8]; MAX_K],
    conv: impl Fn(Ty, u32, u32) -> T,
) {
    let element_rows = |ty: Ty, reg: Reg| -> [[T; LANES]; P] {
        let words = row32(regs, reg);
        let mut values = [[T::default(); LANES]; P];
        for (i, row) in values.iter_mut().enumerate() {
            for lane in 0..LANES {
                row[lane] = conv(ty, words[lane], i as u32);
            }
        }
        values
    };
    for (r, reg) in d.a.iter().enumerate() {
        let values = element_rows(d.a_ty, *reg);
        let (half, k) = if d.m == 8 { (0, 4 * P * r) } else { (8 * (r % 2), 4 * P * (r / 2)) };
        for lane in 0..LANES {
            for i in 0..P {
                a[lane / 4 + half][k + P * (lane % 4) + i] = values[i][lane];
            }
        }
    }
    for (r, reg) in d.b.iter().enumerate() {
        let values = element_rows(d.b_ty, *reg);
        for lane in 0..LANES {
            for i in 0..P {
                b[4 * P * r + P * (lane % 4) + i][lane / 4] = values[i][lane];
            }
        }
    }
}

#[inline(always)]
fn float_mma(regs: &mut Regs, d: &Mma) {
    let mut a = [[0f32; MAX_K]; 16];
    let mut b = [[0f32; 8]; MAX_K];
    match d.a_ty {
        Ty::F16 => spread::<2, f32>(regs, d, &mut a, &mut b, |_, w, i| f16_to_f32(w >> (16 * i) & 0xffff)),
        Ty::Bf16 => spread::<2, f32>(regs, d, &mut a, &mut b, |_, w, i| f32::from_bits(w >> (16 * i) << 16)),
        Ty::Tf32 => spread::<1, f32>(regs, d, &mut a, &mut b, |_, w, _| f32::from_bits(w & 0xffff_e000)),
        _ => spread::<4, f32>(regs, d, &mut a, &mut b, element),
    }
    let mut c = [[0f32; 8]; 16];
    if d.c_ty == Ty::F16 {
        for (i, reg) in d.c.iter().enumerate() {
            let v = row32(regs, *reg);
            for lane in 0..LANES {
                let (row, col) = (lane / 4 + 8 * i, 2 * (lane % 4));
                c[row][col] = f16_to_f32(v[lane] & 0xffff);
                c[row][col + 1] = f16_to_f32(v[lane] >> 16);
            }
        }
    } else {
        for (i, reg) in d.c.iter().enumerate() {
            let v = row32(regs, *reg);
            for lane in 0..LANES {
                c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = f32::from_bits(v[lane]);
            }
        }
    }
    let k = d.k as usize;
    for (row, acc) in c.iter_mut().enumerate() {
        for (x, y) in a[row][..k].iter().zip(&b[..k]) {
            for (n, acc) in acc.iter_mut().enumerate() {
                *acc = x.mul_add(y[n], *acc);
            }
        }
    }
    for (i, reg) in d.d.iter().enumerate() {
        let Reg::R(out) = *reg else { continue };
        let out = &mut regs.r[out as usize];
        for (lane, out) in out.iter_mut().enumerate() {
            *out = if d.d_ty == Ty::F16 {
                let (row, col) = (lane / 4 + 8 * i, 2 * (lane % 4));
                f32_to_f16(c[row][col]) | f32_to_f16(c[row][col + 1]) << 16
            } else {
                c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2].to_bits()
            };
        }
    }
}

/// 8- and 4-bit integers. A sum of 64 products of 8-bit numbers fits 32 bits; only the addition of C can wrap.
#[inline(always)]
fn integer_mma(regs: &mut Regs, d: &Mma) {
    let mut a = [[0i32; MAX_K]; 16];
    let mut b = [[0i32; 8]; MAX_K];
    if d.a_ty.bits() == 8 {
        spread::<4, i32>(regs, d, &mut a, &mut b, |ty, w, i| {
            let v = (w >> (8 * i) & 0xff) as i32;
            let sign = if ty == Ty::S8 { 0x80 } else { 0 };
            v - ((v & sign) << 1)
        });
    } else {
        spread::<8, i32>(regs, d, &mut a, &mut b, integer_element);
    }
    let mut sums = [[0i32; 8]; 16];
    let k = d.k as usize;
    for (acc, row) in sums.iter_mut().zip(&a).take(d.m as usize) {
        for (x, y) in row[..k].iter().zip(&b[..k]) {
            for (n, acc) in acc.iter_mut().enumerate() {
                *acc += x * y[n];
            }
        }
    }
    finish_integers(regs, d, |row, col| sums[row][col]);
}

/// Adds C to the sums and writes D.
#[inline(always)]
fn finish_integers(regs: &mut Regs, d: &Mma, sum: impl Fn(usize, usize) -> i32) {
    // D may overlap C.
    let mut c = [[0u32; LANES]; 4];
    for (to, reg) in c.iter_mut().zip(&d.c) {
        *to = *row32(regs, *reg);
    }
    for (i, reg) in d.d.iter().enumerate() {
        let Reg::R(out) = *reg else { continue };
        for lane in 0..LANES {
            let old = c[i][lane] as i32;
            let sum = sum(lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let total = if d.satfinite { old.saturating_add(sum) } else { old.wrapping_add(sum) };
            regs.r[out as usize][lane] = total as u32;
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
    finish_integers(regs, d, |row, col| {
        (0..words).map(|k| (if and { a[row][k] & b[col][k] } else { a[row][k] ^ b[col][k] }).count_ones() as i32).sum()
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
