//! Normalizations. Statistics of narrow floats are taken in f32, and so are scale and bias applied.

use super::Builder;
use crate::{Dim, Result, ValueId};

impl Builder {
    /// `(x - mean) / sqrt(var + eps) * scale + bias` over the axes from `axis` on.
    pub fn layer_norm(
        &mut self,
        x: ValueId,
        axis: i64,
        scale: Option<ValueId>,
        bias: Option<ValueId>,
        eps: f64,
    ) -> Result<ValueId> {
        let first = self.axis(x, axis)? as i64;
        let axes: Vec<i64> = (first..self.rank(x) as i64).collect();
        self.widened(x, |b, x| {
            let y = b.standardize(x, &axes, eps)?;
            b.affine(y, scale, bias)
        })
    }

    /// `x / sqrt(mean(x^2) + eps) * scale` over the axes from `axis` on.
    pub fn rms_norm(&mut self, x: ValueId, axis: i64, scale: Option<ValueId>, eps: f64) -> Result<ValueId> {
        let first = self.axis(x, axis)? as i64;
        let axes: Vec<i64> = (first..self.rank(x) as i64).collect();
        self.widened(x, |b, x| {
            let square = b.mul(x, x)?;
            let mean = b.mean(square, &axes, true)?;
            let shifted = b.plus_scalar(mean, eps)?;
            let r = b.rsqrt(shifted)?;
            let y = b.mul(x, r)?;
            b.affine(y, scale, None)
        })
    }

    /// Inference batch norm of `x[N, C, ..]` with per-channel vectors.
    pub fn batch_norm(
        &mut self,
        x: ValueId,
        scale: ValueId,
        bias: ValueId,
        mean: ValueId,
        var: ValueId,
        eps: f64,
    ) -> Result<ValueId> {
        self.widened(x, |b, x| {
            let [scale, bias, mean, var] = [scale, bias, mean, var].map(|v| b.widen(v));
            let shifted = b.plus_scalar(var?, eps)?;
            let r = b.rsqrt(shifted)?;
            let factor = b.mul(scale?, r)?;
            let mean = b.per_channel(x, mean?)?;
            let factor = b.per_channel(x, factor)?;
            let bias = b.per_channel(x, bias?)?;
            let centred = b.sub(x, mean)?;
            let scaled = b.mul(centred, factor)?;
            b.plus(scaled, bias)
        })
    }

    /// Group norm of `x[N, C, ..]`: statistics over the channels of a group and all spatial axes.
    pub fn group_norm(
        &mut self,
        x: ValueId,
        groups: usize,
        scale: Option<ValueId>,
        bias: Option<ValueId>,
        eps: f64,
    ) -> Result<ValueId> {
        let shape = self.shape(x).to_vec();
        if shape.len() < 2 || groups == 0 {
            return self.fail(
                "group_norm",
                format!("needs x[N, C, ..] and at least 1 group, found {} and {groups}", self.ty(x)),
            );
        }
        let groups = Dim::from(groups);
        let Some(each) = shape[1].exact_div(&groups) else {
            return self.fail(
                "group_norm",
                format!("{} channels of {} do not divide into {groups} groups", shape[1], self.ty(x)),
            );
        };
        let mut split = vec![shape[0].clone(), groups, each];
        split.extend_from_slice(&shape[2..]);
        let axes: Vec<i64> = (2..split.len() as i64).collect();
        self.widened(x, |b, x| {
            let grouped = b.reshape(x, &split)?;
            let y = b.standardize(grouped, &axes, eps)?;
            let y = b.reshape(y, &shape)?;
            b.affine_per_channel(y, scale, bias)
        })
    }

    /// Instance norm of `x[N, C, ..]`: statistics over the spatial axes.
    pub fn instance_norm(
        &mut self,
        x: ValueId,
        scale: Option<ValueId>,
        bias: Option<ValueId>,
        eps: f64,
    ) -> Result<ValueId> {
        let axes: Vec<i64> = (2..self.rank(x) as i64).collect();
        self.widened(x, |b, x| {
            let y = b.standardize(x, &axes, eps)?;
            b.affine_per_channel(y, scale, bias)
        })
    }

    /// `(x - mean) * rsqrt(var + eps)`.
    fn standardize(&mut self, x: ValueId, axes: &[i64], eps: f64) -> Result<ValueId> {
        let mean = self.mean(x, axes, true)?;
        let centred = self.sub(x, mean)?;
        let square = self.mul(centred, centred)?;
        let var = self.mean(square, axes, true)?;
        let shifted = self.plus_scalar(var, eps)?;
        let r = self.rsqrt(shifted)?;
        self.mul(centred, r)
    }

    fn affine(&mut self, x: ValueId, scale: Option<ValueId>, bias: Option<ValueId>) -> Result<ValueId> {
        let mut y = x;
        if let Some(scale) = scale {
            let scale = self.cast(scale, self.dtype(x))?;
            y = self.mul(y, scale)?;
        }
        if let Some(bias) = bias {
            let bias = self.cast(bias, self.dtype(x))?;
            y = self.plus(y, bias)?;
        }
        Ok(y)
    }

    fn affine_per_channel(&mut self, x: ValueId, scale: Option<ValueId>, bias: Option<ValueId>) -> Result<ValueId> {
        let scale = scale.map(|v| self.per_channel(x, v)).transpose()?;
        let bias = bias.map(|v| self.per_channel(x, v)).transpose()?;
        self.affine(x, scale, bias)
    }

    /// A vector `[C]` shaped to broadcast over `x[N, C, ..]`.
    pub fn per_channel(&mut self, x: ValueId, v: ValueId) -> Result<ValueId> {
        let axes: Vec<i64> = (1..self.rank(x) as i64 - 1).collect();
        self.unsqueeze(v, &axes)
    }
}
