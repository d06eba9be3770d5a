//! Activation functions. Narrow floats are computed in f32.

use super::Builder;
use crate::{BinaryOp, CompareOp, Result, ValueId};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

impl Builder {
    /// `max(x, 0)`.
    pub fn relu(&mut self, x: ValueId) -> Result<ValueId> {
        self.binary_scalar(BinaryOp::Max, x, 0.0)
    }

    /// `x < 0 ? slope * x : x`.
    pub fn leaky_relu(&mut self, x: ValueId, slope: f64) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let scaled = b.mul_scalar(x, slope)?;
            let negative = b.compare_scalar(CompareOp::Lt, x, 0.0)?;
            b.select(negative, scaled, x)
        })
    }

    /// [`Builder::leaky_relu`] with a slope tensor that broadcasts to `x`.
    pub fn prelu(&mut self, x: ValueId, slope: ValueId) -> Result<ValueId> {
        let scaled = self.mul(x, slope)?;
        let negative = self.compare_scalar(CompareOp::Lt, x, 0.0)?;
        self.select(negative, scaled, x)
    }

    /// `1 / (1 + exp(-x))`.
    pub fn sigmoid(&mut self, x: ValueId) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let n = b.neg(x)?;
            let e = b.exp(n)?;
            let d = b.plus_scalar(e, 1.0)?;
            b.recip(d)
        })
    }

    /// `x * sigmoid(x)`.
    pub fn silu(&mut self, x: ValueId) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let s = b.sigmoid(x)?;
            b.mul(x, s)
        })
    }

    /// `x / 2 * (1 + erf(x / sqrt 2))`.
    pub fn gelu(&mut self, x: ValueId) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let z = b.mul_scalar(x, FRAC_1_SQRT_2)?;
            let e = b.erf(z)?;
            let p = b.plus_scalar(e, 1.0)?;
            let h = b.mul_scalar(x, 0.5)?;
            b.mul(h, p)
        })
    }

    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    pub fn gelu_tanh(&mut self, x: ValueId) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let square = b.mul(x, x)?;
            let cube = b.mul(square, x)?;
            let cubic = b.mul_scalar(cube, 0.044_715)?;
            let sum = b.plus(x, cubic)?;
            let z = b.mul_scalar(sum, FRAC_2_PI.sqrt())?;
            let t = b.tanh(z)?;
            let p = b.plus_scalar(t, 1.0)?;
            let h = b.mul_scalar(x, 0.5)?;
            b.mul(h, p)
        })
    }

    /// `x > 0 ? x : alpha * (exp(x) - 1)`.
    pub fn elu(&mut self, x: ValueId, alpha: f64) -> Result<ValueId> {
        self.selu(x, alpha, 1.0)
    }

    /// `gamma * (x > 0 ? x : alpha * (exp(x) - 1))`.
    pub fn selu(&mut self, x: ValueId, alpha: f64, gamma: f64) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let e = b.expm1(x)?;
            let left = b.mul_scalar(e, alpha * gamma)?;
            let right = if gamma == 1.0 { x } else { b.mul_scalar(x, gamma)? };
            let positive = b.compare_scalar(CompareOp::Gt, x, 0.0)?;
            b.select(positive, right, left)
        })
    }

    /// `clip(alpha * x + beta, 0, 1)`.
    pub fn hard_sigmoid(&mut self, x: ValueId, alpha: f64, beta: f64) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let scaled = b.mul_scalar(x, alpha)?;
            let shifted = b.plus_scalar(scaled, beta)?;
            b.clip(shifted, Some(0.0), Some(1.0))
        })
    }

    /// `x * hard_sigmoid(x, 1/6, 1/2)`.
    pub fn hard_swish(&mut self, x: ValueId) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let s = b.hard_sigmoid(x, 1.0 / 6.0, 0.5)?;
            b.mul(x, s)
        })
    }

    /// `log(1 + exp(x))`, without overflow.
    pub fn softplus(&mut self, x: ValueId) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let magnitude = b.abs(x)?;
            let n = b.neg(magnitude)?;
            let e = b.exp(n)?;
            let l = b.log1p(e)?;
            let r = b.relu(x)?;
            b.plus(r, l)
        })
    }

    /// `x * tanh(softplus(x))`.
    pub fn mish(&mut self, x: ValueId) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let s = b.softplus(x)?;
            let t = b.tanh(s)?;
            b.mul(x, t)
        })
    }

    /// Clamps to `low..=high`; NaN stays NaN.
    pub fn clip(&mut self, x: ValueId, low: Option<f64>, high: Option<f64>) -> Result<ValueId> {
        let x = match low {
            Some(low) => self.binary_scalar(BinaryOp::Max, x, low)?,
            None => x,
        };
        match high {
            Some(high) => self.binary_scalar(BinaryOp::Min, x, high),
            None => Ok(x),
        }
    }
}
