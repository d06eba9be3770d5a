//! Operators that move elements: joins, cuts, padding and block rearrangement.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{Dim, PadMode};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Concat" => concat,
        "Split" => split,
        "Slice" => slice,
        "Pad" => pad,
        "DepthToSpace" => depth_to_space,
        "SpaceToDepth" => space_to_depth,
        "CenterCropPad" => center_crop_pad,
        "Trilu" => trilu,
        _ => return None,
    };
    Some(handler)
}

fn concat<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let count = n.variadic()?.len();
    let parts = (0..count).map(|i| l.arg(n, i)).collect::<OpResult<Vec<_>>>()?;
    let y = l.concat(&parts, n.int("axis", 1)?)?;
    l.done(y)
}

fn split<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let axis = n.int("axis", 0)?;
    let given = match n.optional(1) {
        Some(v) if n.version >= 13 => Some(l.known_dims(v, "the split")?),
        _ => n.ints("split")?.map(|s| s.iter().map(|&v| Dim::from(v)).collect::<Vec<_>>()),
    };
    let x = l.arg(n, 0)?;
    let parts = match given {
        Some(sizes) => l.split(x, axis, &sizes)?,
        None => {
            let count = usize::try_from(n.int("num_outputs", n.proto.output.len() as i64)?).unwrap_or(0);
            if count != n.proto.output.len() {
                return invalid(format!("splits in {count}, but has {} outputs", n.proto.output.len()));
            }
            l.chunk(x, axis, count)?
        }
    };
    Ok(parts.into_iter().map(|p| l.run(p)).collect())
}

/// Bounds beyond the 32-bit range mean "to the end", in models written for either width.
fn bound(d: Dim) -> Dim {
    match d.as_const() {
        Some(v) if v >= i64::from(i32::MAX) => Dim::from(i64::MAX),
        Some(v) if v <= i64::from(i32::MIN) => Dim::from(i64::MIN / 2),
        _ => d,
    }
}

fn slice<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let constants = |list: &[i64]| list.iter().map(|&v| Dim::from(v)).collect::<Vec<_>>();
    let (starts, ends, axes, steps) = if n.version < 10 {
        let (Some(starts), Some(ends)) = (n.ints("starts")?, n.ints("ends")?) else {
            return invalid("attributes `starts` and `ends` are needed");
        };
        (constants(starts), constants(ends), n.ints("axes")?.map(<[i64]>::to_vec), None)
    } else {
        (
            l.known_dims(n.input(1)?, "the starts")?,
            l.known_dims(n.input(2)?, "the ends")?,
            n.optional(3).map(|v| l.known_ints(v, "the axes")).transpose()?,
            n.optional(4).map(|v| l.known_ints(v, "the steps")).transpose()?,
        )
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return invalid(format!(
            "{} starts, {} ends, {} axes and {} steps",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        ));
    }
    let mut x = l.arg(n, 0)?;
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        if step == i64::MIN {
            return invalid("the step overflows");
        }
        x = l.slice_range(x, axis, &bound(start), &bound(end), step)?;
    }
    l.done(x)
}

fn pad<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let pads = if n.version < 11 {
        match n.ints("pads")? {
            Some(pads) => pads.iter().map(|&v| Dim::from(v)).collect(),
            None => return invalid("attribute `pads` is missing"),
        }
    } else {
        l.known_dims(n.input(1)?, "the pads")?
    };
    let x = l.arg(n, 0)?;
    let rank = l.rank(x);
    let axes = match n.optional(3) {
        Some(v) => {
            let list = l.known_ints(v, "the axes")?;
            list.iter().map(|&a| l.axis(x, a)).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return invalid(format!("expected {} pads, found {}", 2 * axes.len(), pads.len()));
    }
    let (mut low, mut high) = (vec![Dim::from(0); rank], vec![Dim::from(0); rank]);
    for (i, &axis) in axes.iter().enumerate() {
        low[axis] = pads[i].clone();
        high[axis] = pads[axes.len() + i].clone();
    }
    let mode = match n.string("mode", "constant")? {
        "constant" if n.version < 11 => PadMode::Constant(n.float("value", 0.0)?),
        "constant" => match n.optional(2) {
            None => PadMode::Constant(0.0),
            Some(value) => {
                let negative = |d: &Dim| d.bounds(&l.graph().symbols).0 < 0;
                if low.iter().chain(&high).any(negative) {
                    let value = l.known_floats(value, "the padding value")?;
                    PadMode::Constant(value.first().copied().unwrap_or(0.0))
                } else {
                    let value = l.value(value)?;
                    let value = l.reshape(value, &[])?;
                    let y = l.pad_with(x, value, &low, &high, &vec![0; rank])?;
                    return l.done(y);
                }
            }
        },
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return invalid(format!("mode is `{other}`, expected constant, reflect, edge or wrap")),
    };
    let y = l.pad(x, &low, &high, mode)?;
    l.done(y)
}

/// `N, C, H, W` and the block size.
fn blocks<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<(kiln_graph::ValueId, Vec<Dim>, Dim)> {
    let x = l.arg(n, 0)?;
    let shape = l.shape(x).to_vec();
    let block = n.int("blocksize", 0)?;
    if shape.len() != 4 || !(1..=1 << 24).contains(&block) {
        return invalid(format!("needs x[N, C, H, W] and a block size, found {} and {block}", l.ty(x)));
    }
    Ok((x, shape, Dim::from(block)))
}

fn divided(d: &Dim, by: &Dim) -> OpResult<Dim> {
    match d.exact_div(by) {
        Some(d) => Ok(d),
        None if d.as_const().is_some() => invalid(format!("{d} is not a multiple of {by}")),
        None => unsupported(format!("cannot prove that {d} is a multiple of {by}")),
    }
}

fn depth_to_space<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, s, b) = blocks(l, n)?;
    let c = divided(&s[1], &(b.clone() * b.clone()))?;
    let (split, perm) = match n.string("mode", "DCR")? {
        "DCR" => ([s[0].clone(), b.clone(), b.clone(), c.clone(), s[2].clone(), s[3].clone()], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([s[0].clone(), c.clone(), b.clone(), b.clone(), s[2].clone(), s[3].clone()], [0, 1, 4, 2, 5, 3]),
        other => return invalid(format!("mode is `{other}`, expected DCR or CRD")),
    };
    let x = l.reshape(x, &split)?;
    let x = l.transpose(x, &perm)?;
    let y = l.reshape(x, &[s[0].clone(), c, s[2].clone() * b.clone(), s[3].clone() * b])?;
    l.done(y)
}

fn space_to_depth<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, s, b) = blocks(l, n)?;
    let (h, w) = (divided(&s[2], &b)?, divided(&s[3], &b)?);
    let perm = match n.string("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return invalid(format!("mode is `{other}`, expected DCR or CRD")),
    };
    let x = l.reshape(x, &[s[0].clone(), s[1].clone(), h.clone(), b.clone(), w.clone(), b.clone()])?;
    let x = l.transpose(x, &perm)?;
    let y = l.reshape(x, &[s[0].clone(), s[1].clone() * b.clone() * b, h, w])?;
    l.done(y)
}

fn center_crop_pad<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let target = l.known_ints(n.input(1)?, "the shape")?;
    let mut x = l.arg(n, 0)?;
    let rank = l.rank(x);
    let axes: Vec<i64> = n.ints("axes")?.map_or_else(|| (0..rank as i64).collect(), <[i64]>::to_vec);
    if axes.len() != target.len() {
        return invalid(format!("{} axes and {} extents", axes.len(), target.len()));
    }
    for (&axis, &want) in axes.iter().zip(&target) {
        let at = l.axis(x, axis)?;
        let Some(have) = l.shape(x)[at].as_const() else {
            return unsupported(format!("axis {at} of {} is not constant", l.ty(x)));
        };
        if want < 0 {
            return invalid(format!("extent {want} is negative"));
        }
        if have > want {
            x = l.slice_axis(x, axis, &Dim::from((have - want) / 2), &Dim::from(want), 1)?;
        } else {
            let (mut low, mut high) = (vec![Dim::from(0); rank], vec![Dim::from(0); rank]);
            low[at] = Dim::from((want - have) / 2);
            high[at] = Dim::from(want - have - (want - have) / 2);
            x = l.pad(x, &low, &high, PadMode::Constant(0.0))?;
        }
    }
    l.done(x)
}

fn trilu<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let k = match n.optional(1) {
        Some(k) => l.known_ints(k, "the diagonal")?.first().copied().unwrap_or(0),
        None => 0,
    };
    // Beyond any extent, the diagonal's place makes no difference.
    let k = k.clamp(-(1 << 40), 1 << 40);
    let x = l.arg(n, 0)?;
    let y = if n.flag("upper", true)? { l.triu(x, k)? } else { l.tril(x, k)? };
    l.done(y)
}
