//! Convolutions whose images are of any size.

use super::{Data, Draft, Drawn, one_in, outputs, pick};
use crate::common::drawn::Size;
use kiln_fuse::Anchor;
use kiln_graph::{Builder, ConvSpec, DType, Dim, Result, Rng, ValueId};

/// Convolutions that are products: all channels, or groups that tiles have whole columns of.
pub fn conv(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    let groups = if one_in(rng, 6) { 2 } else { 1 };
    let channels = pick(rng, &[1, 3, 4, 8, 16, 24, 32, 64, 64, 72]);
    let filters = if groups > 1 { 32 } else { pick(rng, &[1, 3, 8, 17, 32, 64, 80]) };
    drawn(rng, dtype, [groups, channels, filters])
}

/// Convolutions of any groups, most of one channel each.
pub fn grouped_conv(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    let groups = pick(rng, &[1, 2, 3, 8, 16, 24, 64]);
    let [channels, filters] = [(); 2].map(|()| if one_in(rng, 3) { pick(rng, &[2, 3, 4]) } else { 1 });
    drawn(rng, dtype, [groups, channels, filters])
}

/// An input whose axes lie in this order, or with channels last.
fn lying(d: &mut Draft, b: &mut Builder, dtype: DType, shape: &[Dim], last: bool) -> Result<ValueId> {
    if !last {
        return d.input(b, dtype, shape, Data::Tame);
    }
    let rank = shape.len();
    let mut whole = shape.to_vec();
    let channels = whole.remove(1);
    whole.push(channels);
    let x = d.input(b, dtype, &whole, Data::Tame)?;
    let order: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    b.transpose(x, &order)
}

fn drawn(rng: &mut Rng, dtype: DType, [groups, channels, filters]: [i64; 3]) -> Result<Drawn> {
    let (mut d, mut b) = (Draft::new(rng), Builder::new("conv"));
    let space = pick(d.rng, &[1, 2, 2, 2, 3]);
    let mut spec = ConvSpec { strides: vec![], pads: vec![], dilations: vec![], groups: groups as usize };
    let images = d.symbol("B", Size::Between(1, 3));
    let mut image = vec![images, Dim::from(groups * channels)];
    let mut filter = vec![Dim::from(groups * filters), Dim::from(channels)];
    for name in ["H", "W", "D"].into_iter().take(space) {
        let taps = pick(d.rng, if space == 3 { &[1, 2, 3] } else { &[1, 1, 3, 3, 2, 5] });
        let (stride, dilation) = (pick(d.rng, &[1, 1, 2, 3]), pick(d.rng, &[1, 1, 2]));
        // However small the image, one window is in what it is padded to.
        let reach = ((taps - 1) * dilation) as usize;
        let before = d.rng.range(0, reach as i64) as usize;
        let after = reach - before + d.rng.range(0, 2) as usize;
        spec.strides.push(stride);
        spec.dilations.push(dilation as usize);
        spec.pads.push((before, after));
        image.push(match one_in(d.rng, 3) {
            true => Dim::from(pick(d.rng, &[1, 3, 7, 8])),
            false => d.symbol(name, Size::Between(1, if space == 3 { 6 } else { 13 })),
        });
        filter.push(Dim::from(taps));
    }
    let [of_image, of_filter, of_result] = [(); 3].map(|()| !one_in(d.rng, 3));
    let x = lying(&mut d, &mut b, dtype, &image, of_image)?;
    let w = lying(&mut d, &mut b, dtype, &filter, of_filter)?;
    let (sums, out) = match dtype {
        _ if dtype.is_int() && dtype.bits() <= 32 => (DType::I32, DType::I32),
        _ if dtype.is_f8() => (DType::F32, DType::F32),
        _ => (dtype.accumulator(), dtype),
    };
    let mut y = b.conv_as(x, w, spec, sums, out)?;
    let shape = b.shape(y).to_vec();
    let behind = d.rng.range(0, 3);
    if behind >= 1 {
        let each: Vec<Dim> = [shape[1].clone()].into_iter().chain((0..space).map(|_| Dim::from(1))).collect();
        let bias = d.input(&mut b, out, &shape[1..2], Data::Tame)?;
        let bias = b.reshape(bias, &each)?;
        y = b.plus(y, bias)?;
        y = if out.is_float() { b.silu(y)? } else { b.relu(y)? };
    }
    let mut results = vec![];
    if behind >= 2 {
        let residual = lying(&mut d, &mut b, out, &shape, of_result)?;
        if behind == 3 {
            results.push(y);
        }
        y = b.plus(y, residual)?;
    }
    results.push(y);
    if of_result {
        let order: Vec<usize> = [0].into_iter().chain(2..shape.len()).chain([1]).collect();
        results = results.into_iter().map(|y| b.transpose(y, &order)).collect::<Result<_>>()?;
    }
    outputs(&mut b, results);
    let name = format!("conv_{dtype}_{groups}x{channels}_{filters}_{behind}");
    Ok(d.done(&name, Anchor::Conv, 64.0, 1_500_000, b))
}
