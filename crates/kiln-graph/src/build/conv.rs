//! Convolution and its transpose.

use super::Builder;
use crate::{ConvSpec, DType, Dim, Op, Result, ValueId};

impl Builder {
    /// `x[N, C, ..] (*) w[O, C/groups, k..] + bias[O]`.
    pub fn conv(&mut self, x: ValueId, w: ValueId, bias: Option<ValueId>, spec: ConvSpec) -> Result<ValueId> {
        let dtype = self.dtype(x);
        let wide = dtype.accumulator();
        let Some(bias) = bias else { return self.conv_as(x, w, spec, wide, dtype) };
        let y = self.conv_as(x, w, spec, wide, wide)?;
        let bias = self.per_channel(y, bias)?;
        let bias = self.cast(bias, wide)?;
        let y = self.plus(y, bias)?;
        self.cast(y, dtype)
    }

    /// The convolution primitive.
    pub fn conv_as(&mut self, x: ValueId, w: ValueId, spec: ConvSpec, acc: DType, out: DType) -> Result<ValueId> {
        self.add1(Op::Conv { spec, acc, out }, &[x, w])
    }

    /// Transposed convolution of `x[N, C, ..]` with `w[C, O/groups, k..]`: the input is spread by the strides, padded and convolved with
    /// flipped weights. `spec.pads` crop the result, `output_padding` extends it.
    pub fn conv_transpose(
        &mut self,
        x: ValueId,
        w: ValueId,
        bias: Option<ValueId>,
        spec: ConvSpec,
        output_padding: &[usize],
    ) -> Result<ValueId> {
        let rank = self.rank(x);
        let spatial = spec.strides.len();
        if rank < 2 || rank != spatial + 2 || self.rank(w) != rank {
            let (x, w) = (self.ty(x), self.ty(w));
            return self.fail("conv_transpose", format!("{spatial} spatial axes do not fit x {x} and w {w}"));
        }
        let lists = [spec.pads.len(), spec.dilations.len(), output_padding.len()];
        if lists.iter().any(|&n| n != spatial) || spec.strides.contains(&0) {
            let message = format!("pads, dilations and output padding need {spatial} entries, found {lists:?}");
            return self.fail("conv_transpose", message);
        }
        self.scoped("conv_transpose", |b| {
            let w = b.flipped_weights(w, spec.groups)?;
            let (mut low, mut high) = (vec![Dim::from(0); rank], vec![Dim::from(0); rank]);
            let mut interior = vec![0; rank];
            let mut cropped = vec![0i64; rank];
            for a in 0..spatial {
                let Some(taps) = b.shape(w)[2 + a].as_const() else {
                    return b.fail("conv_transpose", "the kernel extents must be constant".into());
                };
                let [dilation, before, after, extra] =
                    [spec.dilations[a], spec.pads[a].0, spec.pads[a].1, output_padding[a]].map(clamped);
                let reach = dilation.saturating_mul(taps - 1);
                let before = reach - before;
                low[2 + a] = Dim::from(before.max(0));
                cropped[2 + a] = (-before).max(0);
                high[2 + a] = Dim::from(reach.saturating_add(extra) - after);
                interior[2 + a] = clamped(spec.strides[a]) - 1;
            }
            // What `pads` cut beyond the reach of the kernel is cut from the spread input.
            let cut_after: Vec<i64> = high.iter().map(|d| d.as_const().map_or(0, |v| (-v).max(0))).collect();
            let high: Vec<Dim> = high.iter().map(|d| Dim::from(d.as_const().map_or(0, |v| v.max(0)))).collect();
            let zero = b.scalar(b.dtype(x), 0.0)?;
            let spread = b.pad_with(x, zero, &low, &high, &interior)?;
            let starts: Vec<Dim> = cropped.iter().map(|&c| Dim::from(c)).collect();
            let sizes: Vec<Dim> =
                (0..rank).map(|a| b.shape(spread)[a].clone() - Dim::from(cropped[a] + cut_after[a])).collect();
            let spread = b.slice(spread, &starts, &sizes, &vec![1; rank])?;
            let plain = ConvSpec {
                strides: vec![1; spatial],
                pads: vec![(0, 0); spatial],
                dilations: spec.dilations,
                groups: spec.groups,
            };
            b.conv(spread, w, bias, plain)
        })
    }

    /// `[C, O/groups, k..]` to `[O, C/groups, k..]` with reversed taps.
    fn flipped_weights(&mut self, w: ValueId, groups: usize) -> Result<ValueId> {
        let shape = self.shape(w).to_vec();
        let mut w = w;
        for a in 2..shape.len() {
            w = self.flip(w, a as i64)?;
        }
        let groups_dim = Dim::from(groups);
        let Some(each) = (groups > 0).then(|| shape[0].exact_div(&groups_dim)).flatten() else {
            return self.fail("conv_transpose", format!("{} channels do not divide into {groups} groups", shape[0]));
        };
        let mut split = vec![groups_dim.clone(), each.clone(), shape[1].clone()];
        split.extend_from_slice(&shape[2..]);
        let mut merged = vec![groups_dim * shape[1].clone(), each];
        merged.extend_from_slice(&shape[2..]);
        let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.len()).collect();
        let w = self.reshape(w, &split)?;
        let w = self.transpose(w, &perm)?;
        self.reshape(w, &merged)
    }
}

/// As i64; what does not fit is large enough to be refused by inference.
fn clamped(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
