//! A small seeded generator for test data and placeholder weights.

use crate::{DType, Result, Tensor};

/// SplitMix64: tiny, seeded, the same everywhere. Not for cryptography.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that yields the same sequence for the same seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[-1, 1)`.
    pub fn signed(&mut self) -> f64 {
        self.unit() * 2.0 - 1.0
    }

    /// Uniform in `low..=high`.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        let span = (i128::from(high) - i128::from(low) + 1).max(1) as u128;
        (i128::from(low) + (u128::from(self.next_u64()) % span) as i128) as i64
    }
}

impl Tensor {
    /// Random values: floats uniform in [-1, 1), integers uniform in -8..=7 (0..=15 when unsigned), bools fair.
    pub fn random(dtype: DType, shape: &[usize], seed: u64) -> Result<Tensor> {
        let mut rng = Rng::new(seed);
        Tensor::generate(dtype, shape, |_| match dtype {
            DType::Bool => rng.range(0, 1) as f64,
            _ if dtype.is_float() => rng.signed(),
            _ if dtype.is_signed() => rng.range(-8, 7) as f64,
            _ => rng.range(0, 15) as f64,
        })
    }
}
