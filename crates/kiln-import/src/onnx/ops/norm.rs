//! Normalizations.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{BinaryOp, CompareOp, Dim, ReduceOp};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "BatchNormalization" => batch_norm,
        "LayerNormalization" => layer_norm,
        "RMSNormalization" => rms_norm,
        "InstanceNormalization" => instance_norm,
        "GroupNormalization" => group_norm,
        "LpNormalization" => lp_norm,
        "MeanVarianceNormalization" => mean_variance,
        "LRN" => local_response,
        _ => return None,
    };
    Some(handler)
}

fn batch_norm<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let [scale, bias, mean, var] = [l.arg(n, 1)?, l.arg(n, 2)?, l.arg(n, 3)?, l.arg(n, 4)?];
    let eps = n.float("epsilon", 1e-5)?;
    if !n.flag("spatial", true)? {
        return unsupported("statistics of each activation (spatial = 0)");
    }
    if !n.flag("training_mode", false)? {
        if n.wants(1) {
            return unsupported("running statistics outside training_mode");
        }
        let y = l.batch_norm(x, scale, bias, mean, var, eps)?;
        return l.done(y);
    }
    // Training: statistics of the batch, and running averages of them.
    let axes: Vec<i64> = (0..l.rank(x) as i64).filter(|&a| a != 1).collect();
    let wide = l.widen(x)?;
    let batch_mean = l.mean(wide, &axes, false)?;
    let batch_var = l.var(wide, &axes, 0, false)?;
    let y = l.batch_norm(x, scale, bias, batch_mean, batch_var, eps)?;
    let momentum = n.float("momentum", 0.9)?;
    let mut vals = vec![l.run(y)];
    for (old, new) in [(mean, batch_mean), (var, batch_var)] {
        let running = l.widened(old, |b, old| {
            let kept = b.mul_scalar(old, momentum)?;
            let dtype = b.dtype(old);
            let new = b.cast(new, dtype)?;
            let added = b.mul_scalar(new, 1.0 - momentum)?;
            b.plus(kept, added)
        })?;
        vals.push(l.run(running));
    }
    Ok(vals)
}

fn layer_norm<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, scale, bias) = (l.arg(n, 0)?, l.arg(n, 1)?, l.maybe_arg(n, 2)?);
    let (axis, eps) = (n.int("axis", -1)?, n.float("epsilon", 1e-5)?);
    let y = l.layer_norm(x, axis, Some(scale), bias, eps)?;
    let mut vals = vec![l.run(y)];
    if n.wants(1) || n.wants(2) {
        let first = l.axis(x, axis)? as i64;
        let axes: Vec<i64> = (first..l.rank(x) as i64).collect();
        let dtype = l.dtype(x);
        let wide = l.cast(x, dtype.accumulator())?;
        let mean = l.mean(wide, &axes, true)?;
        let var = l.var(wide, &axes, 0, true)?;
        let shifted = l.plus_scalar(var, eps)?;
        let inverse = l.rsqrt(shifted)?;
        vals.extend([l.run(mean), l.run(inverse)]);
    }
    Ok(vals)
}

fn rms_norm<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, scale) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let y = l.rms_norm(x, n.int("axis", -1)?, Some(scale), n.float("epsilon", 1e-5)?)?;
    l.done(y)
}

fn instance_norm<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, scale, bias) = (l.arg(n, 0)?, l.arg(n, 1)?, l.arg(n, 2)?);
    let y = l.instance_norm(x, Some(scale), Some(bias), n.float("epsilon", 1e-5)?)?;
    l.done(y)
}

fn group_norm<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, mut scale, mut bias) = (l.arg(n, 0)?, l.arg(n, 1)?, l.arg(n, 2)?);
    let groups = n.int("num_groups", 0)?;
    if !(1..=1 << 24).contains(&groups) {
        return invalid(format!("num_groups is {groups}"));
    }
    // Operator sets before 21 give scale and bias by group instead of by channel.
    let channels = l.shape(x).get(1).cloned().unwrap_or_default();
    if n.version < 21 {
        let Some(each) = channels.exact_div(&Dim::from(groups)) else {
            return invalid(format!("{channels} channels do not divide into {groups} groups"));
        };
        for v in [&mut scale, &mut bias] {
            let column = l.unsqueeze(*v, &[1])?;
            let wide = l.broadcast_to(column, &[Dim::from(groups), each.clone()])?;
            *v = l.reshape(wide, std::slice::from_ref(&channels))?;
        }
    }
    let y = l.group_norm(x, groups as usize, Some(scale), Some(bias), n.float("epsilon", 1e-5)?)?;
    l.done(y)
}

fn lp_norm<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let axis = [n.int("axis", -1)?];
    let p = n.int("p", 2)?;
    if !matches!(p, 1 | 2) {
        return invalid(format!("p is {p}, expected 1 or 2"));
    }
    let y = l.widened(x, |b, x| {
        let norm = if p == 1 {
            let a = b.abs(x)?;
            b.sum(a, &axis, true)?
        } else {
            let s = b.mul(x, x)?;
            let s = b.sum(s, &axis, true)?;
            b.sqrt(s)?
        };
        // A zero vector stays zero.
        let zero = b.compare_scalar(CompareOp::Eq, norm, 0.0)?;
        let dtype = b.dtype(x);
        let one = b.scalar(dtype, 1.0)?;
        let divisor = b.select(zero, one, norm)?;
        b.div(x, divisor)
    })?;
    l.done(y)
}

fn mean_variance<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let axes = n.ints("axes")?.unwrap_or(&[0, 2, 3]);
    let y = l.widened(x, |b, x| {
        let mean = b.mean(x, axes, true)?;
        let var = b.var(x, axes, 0, true)?;
        let centred = b.sub(x, mean)?;
        let deviation = b.sqrt(var)?;
        let shifted = b.plus_scalar(deviation, 1e-9)?;
        b.div(centred, shifted)
    })?;
    l.done(y)
}

/// `x / (bias + alpha / size * sum of squares over size channels) ^ beta`.
fn local_response<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let size = n.int("size", 0)?;
    if l.rank(x) < 2 || !(1..=1 << 24).contains(&size) {
        return invalid(format!("needs x[N, C, ..] and a size, found {} and {size}", l.ty(x)));
    }
    let (alpha, beta, bias) = (n.float("alpha", 1e-4)?, n.float("beta", 0.75)?, n.float("bias", 1.0)?);
    let last: Vec<usize> = std::iter::once(0).chain(2..l.rank(x)).chain([1]).collect();
    let back: Vec<usize> = std::iter::once(0).chain([l.rank(x) - 1]).chain(1..l.rank(x) - 1).collect();
    let size = size as usize;
    let spec = kiln_graph::WindowSpec {
        window: vec![size],
        strides: vec![1],
        pads: vec![((size - 1) / 2, size - 1 - (size - 1) / 2)],
        dilations: vec![1],
    };
    let y = l.widened(x, |b, x| {
        let square = b.mul(x, x)?;
        let moved = b.transpose(square, &last)?;
        let sums = b.window(ReduceOp::Sum, moved, spec)?;
        let sums = b.transpose(sums, &back)?;
        let scaled = b.mul_scalar(sums, alpha / size as f64)?;
        let shifted = b.plus_scalar(scaled, bias)?;
        let power = b.binary_scalar(BinaryOp::Pow, shifted, beta)?;
        b.div(x, power)
    })?;
    l.done(y)
}
