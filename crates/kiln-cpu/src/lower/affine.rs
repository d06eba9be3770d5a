//! Affine index maps from loop coordinates to the coordinates of a value.

/// `offset + sum(coefficient * loop coordinate)`; terms sorted by dim, no zero coefficients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Affine {
    pub(crate) offset: isize,
    pub(crate) terms: Vec<(usize, isize)>,
}

impl Affine {
    /// One loop dim.
    pub(crate) fn dim(d: usize) -> Affine {
        Affine { offset: 0, terms: vec![(d, 1)] }
    }

    /// `self + by * other`.
    pub(crate) fn plus(mut self, other: &Affine, by: isize) -> Affine {
        self.offset += other.offset * by;
        for &(d, c) in &other.terms {
            match self.terms.binary_search_by_key(&d, |t| t.0) {
                Ok(at) => self.terms[at].1 += c * by,
                Err(at) => self.terms.insert(at, (d, c * by)),
            }
        }
        self.terms.retain(|t| t.1 != 0);
        self
    }

    /// `self * by + offset`.
    pub(crate) fn scaled(&self, by: isize, offset: isize) -> Affine {
        let mut a = Affine::default().plus(self, by);
        a.offset += offset;
        a
    }
}

/// Row-major strides in elements.
pub(crate) fn dense_strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1].saturating_mul(shape[i + 1].max(1) as isize);
    }
    strides
}

/// The row-major linear index of `coords` in `shape`.
pub(crate) fn linear(coords: &[Affine], shape: &[usize]) -> Affine {
    let strides = dense_strides(shape);
    coords.iter().zip(strides).fold(Affine::default(), |sum, (c, s)| sum.plus(c, s))
}

/// Why a linear index does not split into coordinates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsplit {
    /// It would if loop dim `dim` were two dims, the inner of extent `inner`.
    Refine { dim: usize, inner: usize },
    /// It does not.
    Never,
}

/// Splits a linear index over loop dims of `extents` into coordinates of `shape`.
pub(crate) fn split(index: &Affine, extents: &[usize], shape: &[usize]) -> Result<Vec<Affine>, Unsplit> {
    let strides = dense_strides(shape);
    let mut coords = vec![Affine::default(); shape.len()];
    // Reach of each axis: the largest coordinate that its terms can give.
    let mut offset = index.offset;
    for (axis, &s) in strides.iter().enumerate() {
        if shape[axis] > 1 {
            coords[axis].offset = offset.div_euclid(s);
            offset = offset.rem_euclid(s);
        }
    }
    if offset != 0 {
        return Err(Unsplit::Never);
    }
    for &(dim, c) in &index.terms {
        let extent = extents[dim] as isize;
        if extent <= 1 {
            continue;
        }
        if c < 0 {
            return Err(Unsplit::Never);
        }
        // The axis whose stride divides the coefficient and whose span exceeds it.
        let axis =
            (0..shape.len()).find(|&a| shape[a] > 1 && c % strides[a] == 0 && c < strides[a] * shape[a] as isize);
        let Some(axis) = axis else { return Err(Unsplit::Never) };
        let span = strides[axis] * shape[axis] as isize;
        if c * (extent - 1) >= span {
            // The dim runs over the end of the axis: it must be cut where the axis ends.
            let inner = span / c;
            if span % c == 0 && inner > 1 && extent % inner == 0 && inner < extent {
                return Err(Unsplit::Refine { dim, inner: inner as usize });
            }
            return Err(Unsplit::Never);
        }
        coords[axis] = std::mem::take(&mut coords[axis]).plus(&Affine::dim(dim), c / strides[axis]);
    }
    for (axis, coord) in coords.iter().enumerate() {
        let reach = coord.terms.iter().fold(coord.offset, |r, &(d, c)| r + c * (extents[d] as isize - 1).max(0));
        if shape[axis] > 1 && (reach >= shape[axis] as isize || coord.offset < 0) {
            return Err(Unsplit::Never);
        }
    }
    Ok(coords)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_axis_splits_back() {
        // One loop dim over 12 = 3 * 4.
        assert_eq!(split(&Affine::dim(0), &[12], &[3, 4]), Err(Unsplit::Refine { dim: 0, inner: 4 }));
        let index = Affine { offset: 0, terms: vec![(0, 4), (1, 1)] };
        assert_eq!(split(&index, &[3, 4], &[3, 4]), Ok(vec![Affine::dim(0), Affine::dim(1)]));
        assert_eq!(split(&index, &[3, 4], &[12]), Ok(vec![index.clone()]));
        assert_eq!(split(&index, &[3, 4], &[2, 6]), Err(Unsplit::Never));
    }

    #[test]
    fn a_split_index_points_at_the_same_element() {
        let mut rng = kiln_graph::Rng::new(5);
        let mut hits = 0;
        for _ in 0..5000 {
            let extents: Vec<usize> = (0..3).map(|_| rng.range(1, 4) as usize).collect();
            let shape: Vec<usize> = (0..3).map(|_| rng.range(1, 6) as usize).collect();
            let index = Affine { offset: rng.range(0, 3) as isize, terms: Vec::new() };
            let index = (0..3).fold(index, |a, d| a.plus(&Affine::dim(d), rng.range(0, 12) as isize));
            let Ok(coords) = split(&index, &extents, &shape) else { continue };
            hits += 1;
            let value = |a: &Affine, at: &[usize]| a.terms.iter().fold(a.offset, |s, &(d, c)| s + c * at[d] as isize);
            for i in 0..extents.iter().product::<usize>() {
                let at = [i / (extents[1] * extents[2]), i / extents[2] % extents[1], i % extents[2]];
                let c: Vec<isize> = coords.iter().map(|a| value(a, &at)).collect();
                assert!(
                    c.iter().zip(&shape).all(|(&c, &s)| c >= 0 && c < s as isize),
                    "{index:?} {shape:?} {at:?} {c:?}"
                );
                assert_eq!(value(&linear(&coords, &shape), &at), value(&index, &at));
            }
        }
        assert!(hits > 100);
    }
}
