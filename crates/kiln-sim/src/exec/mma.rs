//! mma.sync: fragments to matrices, one product, matrices to fragments.

use std::sync::LazyLock;

use super::cluster::Cluster;
use super::regs::{LANES, Regs, wide};
use super::step::Flow;
use super::warp::Warp;
use crate::decode::{Mma, Reg, Ty};
use crate::num::{E4M3, E5M2, f16_to_f32, f32_to_f16};

/// Largest K of a floating-point mma.
const MAX_K: usize = 32;

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
            Ty::U8 | Ty::S8 | Ty::U4 | Ty::S4 | Ty::B1 => integer_mma(&mut w.regs, d),
            _ => wide(
                #[inline(always)]
                || float_mma(&mut w.regs, d),
            ),
        }
        Flow::Next
    }
}

/// Spreads the registers of one packed operand; `place` gets (register, lane quad row g, first k, lane).
#[inline(always)]
fn unpack_f32<const P: usize>(regs: &Regs, list: &[Reg], ty: Ty, mut place: impl FnMut(usize, usize, [f32; P])) {
    for (r, reg) in list.iter().enumerate() {
        let words = row32(regs, *reg);
        let mut values = [[0f32; LANES]; P];
        for (i, row) in values.iter_mut().enumerate() {
            for lane in 0..LANES {
                row[lane] = element(ty, words[lane], i as u32);
            }
        }
        for lane in 0..LANES {
            place(r, lane, std::array::from_fn(|i| values[i][lane]));
        }
    }
}

#[inline(always)]
fn load_operands<const P: usize>(regs: &Regs, d: &Mma, a: &mut [[f32; MAX_K]; 16], b: &mut [[f32; 8]; MAX_K]) {
    unpack_f32::<P>(regs, &d.a, d.a_ty, |r, lane, v| {
        let row = lane / 4 + 8 * (r % 2);
        let k = 4 * P * (r / 2) + P * (lane % 4);
        a[row][k..k + P].copy_from_slice(&v);
    });
    unpack_f32::<P>(regs, &d.b, d.b_ty, |r, lane, v| {
        let k = 4 * P * r + P * (lane % 4);
        for (i, v) in v.into_iter().enumerate() {
            b[k + i][lane / 4] = v;
        }
    });
}

#[inline(always)]
fn float_mma(regs: &mut Regs, d: &Mma) {
    let mut a = [[0f32; MAX_K]; 16];
    let mut b = [[0f32; 8]; MAX_K];
    match d.a_ty {
        Ty::F16 | Ty::Bf16 => load_operands::<2>(regs, d, &mut a, &mut b),
        Ty::Tf32 => load_operands::<1>(regs, d, &mut a, &mut b),
        _ => load_operands::<4>(regs, d, &mut a, &mut b),
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

fn integer_mma(regs: &mut Regs, d: &Mma) {
    let p = (32 / d.a_ty.bits()) as usize;
    let (rows, k) = (d.m as usize, d.k as usize);
    let mut a = vec![0i32; rows * k];
    let mut b = vec![0i32; 8 * k];
    for (r, reg) in d.a.iter().enumerate() {
        let v = row32(regs, *reg);
        for lane in 0..LANES {
            let (row, at) = if rows == 8 {
                (lane / 4, 4 * p * r + p * (lane % 4))
            } else {
                (lane / 4 + 8 * (r % 2), 4 * p * (r / 2) + p * (lane % 4))
            };
            for i in 0..p {
                a[row * k + at + i] = integer_element(d.a_ty, v[lane], i as u32);
            }
        }
    }
    for (r, reg) in d.b.iter().enumerate() {
        let v = row32(regs, *reg);
        for lane in 0..LANES {
            for i in 0..p {
                b[(lane / 4) * k + 4 * p * r + p * (lane % 4) + i] = integer_element(d.b_ty, v[lane], i as u32);
            }
        }
    }
    let c: Vec<[u32; LANES]> = d.c.iter().map(|r| *row32(regs, *r)).collect();
    for (i, reg) in d.d.iter().enumerate() {
        let Reg::R(out) = *reg else { continue };
        for lane in 0..LANES {
            let (row, col) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let (x, y) = (&a[row * k..(row + 1) * k], &b[col * k..(col + 1) * k]);
            let sum: i64 = match (d.a_ty, d.b1_and) {
                (Ty::B1, true) => x.iter().zip(y).map(|(x, y)| i64::from(x & y)).sum(),
                (Ty::B1, false) => x.iter().zip(y).map(|(x, y)| i64::from(x ^ y)).sum(),
                _ => x.iter().zip(y).map(|(x, y)| i64::from(x * y)).sum(),
            };
            let total = i64::from(c[i][lane] as i32) + sum;
            let total = if d.satfinite { total.clamp(i32::MIN.into(), i32::MAX.into()) } else { total };
            regs.r[out as usize][lane] = total as u32;
        }
    }
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
