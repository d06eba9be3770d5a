//! Reshapes, permutations and broadcasts.

use super::Builder;
use crate::{Dim, Op, Result, ValueId};

impl Builder {
    /// The same elements under exactly this shape; nothing if it is already that.
    pub fn reshape(&mut self, x: ValueId, shape: &[Dim]) -> Result<ValueId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.add1(Op::Reshape { shape: shape.to_vec() }, &[x])
    }

    /// ONNX reshape: a 0 copies the axis of `x` at the same place, one -1 takes what is left.
    pub fn reshape_infer(&mut self, x: ValueId, shape: &[Dim]) -> Result<ValueId> {
        let old = self.shape(x).to_vec();
        let mut new = shape.to_vec();
        for (i, d) in new.iter_mut().enumerate() {
            if d.is(0) {
                match old.get(i) {
                    Some(o) => *d = o.clone(),
                    None => {
                        return self.fail("reshape", format!("0 copies axis {i}, which {} does not have", self.ty(x)));
                    }
                }
            }
        }
        let unknown: Vec<usize> = (0..new.len()).filter(|&i| new[i].is(-1)).collect();
        match unknown.as_slice() {
            [] => {}
            &[at] => {
                // Cancel equal dims first: a product of sums is not divided term by term.
                let mut left = old;
                let mut divisor = Vec::new();
                for d in new.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d) {
                    match left.iter().position(|l| l == d) {
                        Some(i) => drop(left.swap_remove(i)),
                        None => divisor.push(d),
                    }
                }
                let (total, divisor) = (Dim::product(&left)?, Dim::product(divisor)?);
                if divisor.is(0) {
                    return self.fail("reshape", "-1 is ambiguous beside an extent of 0".into());
                }
                new[at] = total.exact_div(&divisor).unwrap_or_else(|| total.floor_div(&divisor));
            }
            _ => return self.fail("reshape", "-1 occurs more than once".into()),
        }
        self.reshape(x, &new)
    }

    /// Output axis `a` is input axis `perm[a]`.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        if perm.len() == self.rank(x) && perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        self.add1(Op::Permute { perm: perm.to_vec() }, &[x])
    }

    /// Exchanges two axes.
    pub fn swap_axes(&mut self, x: ValueId, a: i64, b: i64) -> Result<ValueId> {
        let (a, b) = (self.axis(x, a)?, self.axis(x, b)?);
        let mut perm: Vec<usize> = (0..self.rank(x)).collect();
        perm.swap(a, b);
        self.transpose(x, &perm)
    }

    /// Inserts axes of extent 1 at these places of the result.
    pub fn unsqueeze(&mut self, x: ValueId, axes: &[i64]) -> Result<ValueId> {
        let rank = self.rank(x) + axes.len();
        let mut places = axes.iter().map(|&a| self.axis_of(rank, a)).collect::<Result<Vec<_>>>()?;
        places.sort_unstable();
        let mut shape = self.shape(x).to_vec();
        for (i, &p) in places.iter().enumerate() {
            if i > 0 && places[i - 1] == p {
                return self.fail("unsqueeze", format!("axes {axes:?} are not distinct at rank {rank}"));
            }
            shape.insert(p, Dim::from(1));
        }
        self.reshape(x, &shape)
    }

    /// Removes these axes, which must have extent 1; with no axes, every axis that is 1.
    pub fn squeeze(&mut self, x: ValueId, axes: &[i64]) -> Result<ValueId> {
        let shape = self.shape(x).to_vec();
        let axes =
            if axes.is_empty() { (0..shape.len()).filter(|&i| shape[i].is(1)).collect() } else { self.axes(x, axes)? };
        if let Some(&a) = axes.iter().find(|&&a| shape[a].as_const().is_some_and(|d| d != 1)) {
            return self.fail("squeeze", format!("axis {a} of {} is not 1", self.ty(x)));
        }
        let shape: Vec<Dim> =
            shape.into_iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d).collect();
        self.reshape(x, &shape)
    }

    /// Two axes: the product of those before `axis`, and of the rest. `axis` may equal the rank.
    pub fn flatten(&mut self, x: ValueId, axis: i64) -> Result<ValueId> {
        let rank = self.rank(x);
        let axis = if axis == rank as i64 { rank } else { self.axis(x, axis)? };
        let shape = [Dim::product(&self.shape(x)[..axis])?, Dim::product(&self.shape(x)[axis..])?];
        self.reshape(x, &shape)
    }

    /// Numpy broadcast to exactly this shape; nothing if it is already that.
    pub fn broadcast_to(&mut self, x: ValueId, shape: &[Dim]) -> Result<ValueId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.add1(Op::Broadcast { shape: shape.to_vec() }, &[x])
    }

    /// ONNX Expand: broadcasts both ways, so that 1 in `shape` keeps the axis of `x`.
    pub fn expand(&mut self, x: ValueId, shape: &[Dim]) -> Result<ValueId> {
        let target = self.broadcast_shape(&[self.shape(x), shape])?;
        self.broadcast_to(x, &target)
    }

    /// Repeats `x` `repeats[a]` times along each axis `a`.
    pub fn tile(&mut self, x: ValueId, repeats: &[Dim]) -> Result<ValueId> {
        let shape = self.shape(x).to_vec();
        if repeats.len() != shape.len() {
            return self.fail("tile", format!("expected {} repeats, found {}", shape.len(), repeats.len()));
        }
        let (mut split, mut wide, mut merged) = (Vec::new(), Vec::new(), Vec::new());
        for (d, r) in shape.iter().zip(repeats) {
            if !r.is(1) {
                split.push(Dim::from(1));
                wide.push(r.clone());
            }
            split.push(d.clone());
            wide.push(d.clone());
            merged.push(d.clone() * r.clone());
        }
        let x = self.reshape(x, &split)?;
        let x = self.broadcast_to(x, &wide)?;
        self.reshape(x, &merged)
    }

    /// Every element of `axis` `times` times in a row.
    pub fn repeat_interleave(&mut self, x: ValueId, axis: i64, times: &Dim) -> Result<ValueId> {
        let axis = self.axis(x, axis)?;
        let mut merged = self.shape(x).to_vec();
        let (mut split, mut wide) = (merged.clone(), merged.clone());
        split.insert(axis + 1, Dim::from(1));
        wide.insert(axis + 1, times.clone());
        merged[axis] = merged[axis].clone() * times.clone();
        let x = self.reshape(x, &split)?;
        let x = self.broadcast_to(x, &wide)?;
        self.reshape(x, &merged)
    }
}
