//! Views: all of them are strided reads or writes.

use super::array::{Array, Data, Eval, strides, write_strided};
use super::elementwise::fill;

pub(super) fn broadcast(x: &Array, shape: &[usize]) -> Eval<Array> {
    let own = strides(&x.shape);
    let lead = shape.len() - x.shape.len();
    let mut wide = vec![0; shape.len()];
    for (i, &d) in x.shape.iter().enumerate() {
        if d != 1 {
            if d != shape[lead + i] {
                return Err(format!("{:?} does not broadcast to {shape:?}", x.shape));
            }
            wide[lead + i] = own[i];
        }
    }
    Ok(x.view(shape.to_vec(), &wide, 0))
}

pub(super) fn slice(x: &Array, starts: &[i64], sizes: &[usize], steps: &[i64]) -> Eval<Array> {
    let own = strides(&x.shape);
    let mut offset = 0;
    let mut walked = vec![0; own.len()];
    if sizes.contains(&0) {
        // Nothing is read, so it does not matter where the slice starts.
        return Ok(x.view(sizes.to_vec(), &walked, 0));
    }
    for a in 0..own.len() {
        let n = x.shape[a] as i64;
        let last = (sizes[a] as i64 - 1).checked_mul(steps[a]).and_then(|d| d.checked_add(starts[a]));
        let inside = |i: i64| (0..n).contains(&i);
        if !inside(starts[a]) || !last.is_some_and(inside) {
            return Err(format!(
                "slice of axis {a} takes {} elements from {} in steps of {}, outside its extent {n}",
                sizes[a], starts[a], steps[a]
            ));
        }
        offset += own[a] * starts[a] as isize;
        // The step of a single element is never taken, and may be anything.
        walked[a] = if sizes[a] > 1 { own[a] * steps[a] as isize } else { 0 };
    }
    Ok(x.view(sizes.to_vec(), &walked, offset))
}

pub(super) fn pad(x: &Array, value: &Array, low: &[i64], interior: &[i64], shape: &[usize]) -> Eval<Array> {
    if let Some(l) = low.iter().find(|l| **l < 0) {
        return Err(format!("padding by {l}; amounts must be at least 0"));
    }
    let own = strides(shape);
    let mut data = fill(value, shape.iter().product())?;
    if x.len() == 0 {
        return Ok(Array::new(x.dtype, shape.to_vec(), data));
    }
    let offset: isize = own.iter().zip(low).map(|(s, &l)| s * l as isize).sum();
    // The gap after a single element is never taken, and may be anything.
    let gap = |a: usize| if x.shape[a] > 1 { interior[a] as isize + 1 } else { 0 };
    let spread: Vec<isize> = own.iter().enumerate().map(|(a, s)| s * gap(a)).collect();
    write(&mut data, x, &spread, offset)?;
    Ok(Array::new(x.dtype, shape.to_vec(), data))
}

pub(super) fn concat(parts: &[Array], axis: usize, shape: &[usize]) -> Eval<Array> {
    let own = strides(shape);
    let count = shape.iter().product();
    let mut data = match parts[0].data.as_ref() {
        Data::Float(_) => Data::Float(vec![0.0; count]),
        Data::Int(_) => Data::Int(vec![0; count]),
    };
    let mut start = 0;
    for part in parts {
        write(&mut data, part, &own, own[axis] * start)?;
        start += part.shape[axis] as isize;
    }
    Ok(Array::new(parts[0].dtype, shape.to_vec(), data))
}

/// Writes `part` to strided places.
fn write(data: &mut Data, part: &Array, strides: &[isize], offset: isize) -> Eval<()> {
    match (data, part.data.as_ref()) {
        (Data::Float(d), Data::Float(s)) => write_strided(d, s, &part.shape, strides, offset),
        (Data::Int(d), Data::Int(s)) => write_strided(d, s, &part.shape, strides, offset),
        _ => return Err("operands differ in kind".into()),
    }
    Ok(())
}
