//! Where the elements of a view lie in the memory of what it is a view of, if each of its axes walks through that with one step.

use kiln_graph::{Dim, Op};
use std::ops::Range;

/// An axis of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryAxis {
    /// Positions that there are.
    pub extent: Dim,
    /// The first position that the view has.
    pub start: Dim,
    /// How many it has from there on.
    pub len: Dim,
}

impl MemoryAxis {
    /// All of an axis.
    pub fn whole(extent: Dim) -> MemoryAxis {
        MemoryAxis { len: extent.clone(), extent, start: Dim::from(0) }
    }

    /// Whether the view has all positions.
    pub fn is_whole(&self) -> bool {
        self.start.is(0) && self.len == self.extent
    }

    /// This axis and the one within it as one, if the view walks through both as through one: it has all of the inner, or one position of the outer.
    pub fn with(&self, inner: &MemoryAxis) -> Option<MemoryAxis> {
        (inner.is_whole() || self.len.is(1)).then(|| MemoryAxis {
            extent: self.extent.clone() * inner.extent.clone(),
            start: self.start.clone() * inner.extent.clone() + inner.start.clone(),
            len: self.len.clone() * inner.len.clone(),
        })
    }

    /// The axis as several, of so many positions each that the view has.
    fn split(&self, lens: &[Dim]) -> Option<Vec<MemoryAxis>> {
        let inner = numel(lens.get(1..)?);
        if self.len != numel(lens) {
            return None;
        }
        let extent = if self.is_whole() { lens[0].clone() } else { self.extent.exact_div(&inner)? };
        let mut axes = vec![MemoryAxis { extent, start: self.start.exact_div(&inner)?, len: lens[0].clone() }];
        axes.extend(lens[1..].iter().cloned().map(MemoryAxis::whole));
        Some(axes)
    }
}

/// A view of a row-major tensor.
#[derive(Clone, Debug)]
pub struct Strided {
    /// The view's shape.
    shape: Vec<Dim>,
    /// The tensor's memory, row-major, outermost axis first.
    memory: Vec<MemoryAxis>,
    /// Which of those each axis of the view walks along; none where it repeats what is there.
    walks: Vec<Option<usize>>,
}

impl Strided {
    /// A tensor as it is.
    pub fn of(shape: &[Dim]) -> Strided {
        Strided {
            shape: shape.to_vec(),
            memory: shape.iter().cloned().map(MemoryAxis::whole).collect(),
            walks: (0..shape.len()).map(Some).collect(),
        }
    }

    /// The view's shape.
    pub fn shape(&self) -> &[Dim] {
        &self.shape
    }

    /// What a view of shape `to` makes of it; `None` where an axis would have no one step, or the op is no such view.
    pub fn through(&self, op: &Op, to: &[Dim]) -> Option<Strided> {
        let mut found = Strided { shape: to.to_vec(), ..self.clone() };
        match op {
            Op::Permute { perm } => found.walks = perm.iter().map(|&axis| self.walks[axis]).collect(),
            Op::Slice { starts, steps, .. } if steps.iter().all(|step| *step == 1) => {
                for (axis, walk) in self.walks.iter().enumerate() {
                    let Some(walk) = walk else { continue };
                    let along = &mut found.memory[*walk];
                    along.start = along.start.clone() + starts[axis].clone();
                    along.len = to[axis].clone();
                }
            }
            Op::Broadcast { .. } => {
                let lead = to.len().checked_sub(self.shape.len())?;
                found.walks = vec![None; lead];
                for (axis, own) in self.shape.iter().enumerate() {
                    let repeats = own.is(1) && !to[lead + axis].is(1);
                    if !repeats && *own != to[lead + axis] {
                        return None;
                    }
                    found.walks.push(self.walks[axis].filter(|_| !repeats));
                }
            }
            Op::Reshape { .. } => return self.reshaped(to),
            _ => return None,
        }
        Some(found)
    }

    fn reshaped(&self, to: &[Dim]) -> Option<Strided> {
        let in_order = self.walks.iter().copied().eq((0..self.memory.len()).map(Some));
        if in_order && self.memory.iter().all(MemoryAxis::is_whole) {
            return Some(Strided::of(to));
        }
        // What stands in place of each axis of memory, and for each axis of the result where among that.
        let mut instead: Vec<Vec<MemoryAxis>> = self.memory.iter().map(|axis| vec![axis.clone()]).collect();
        let mut walks: Vec<Option<(usize, usize)>> = vec![None; to.len()];
        let long = |shape: &[Dim], of: Range<usize>| -> Vec<usize> { of.filter(|i| !shape[*i].is(1)).collect() };
        for (new, old) in reshape_groups(to, &self.shape) {
            let (new, old) = (long(to, new), long(&self.shape, old));
            let same = |(a, b): (&usize, &usize)| to[*a] == self.shape[*b];
            if new.len() == old.len() && new.iter().zip(&old).all(same) {
                for (new, old) in new.iter().zip(&old) {
                    walks[*new] = self.walks[*old].map(|walk| (walk, 0));
                }
                continue;
            }
            let from: Vec<usize> = old.iter().map(|axis| self.walks[*axis]).collect::<Option<_>>()?;
            let (first, rest) = from.split_first()?;
            let mut merged = self.memory[*first].clone();
            let mut last = *first;
            for next in rest {
                // Axes of one element between are nowhere.
                let between = self.memory.get(last + 1..*next)?;
                if !between.iter().all(|axis| axis.extent.is(1)) {
                    return None;
                }
                merged = merged.with(&self.memory[*next])?;
                instead[*next].clear();
                last = *next;
            }
            let lens: Vec<Dim> = new.iter().map(|axis| to[*axis].clone()).collect();
            instead[*first] = merged.split(&lens)?;
            new.iter().enumerate().for_each(|(place, axis)| walks[*axis] = Some((*first, place)));
        }
        let begins = |walk: usize| instead[..walk].iter().map(Vec::len).sum::<usize>();
        let walks = walks.into_iter().map(|walk| walk.map(|(walk, place)| begins(walk) + place)).collect();
        Some(Strided { shape: to.to_vec(), walks, memory: instead.concat() })
    }

    /// The memory as a row-major box, outermost axis first: its axes, each with that of the view which walks along it. Axes of the view that are not
    /// `walked` stand where they begin. `None` where nothing walks along neighbours.
    pub fn boxed(&self, walked: impl Fn(usize) -> bool) -> Option<Vec<(usize, MemoryAxis)>> {
        let mut found = vec![];
        // What stands still moves the start of the axis within it.
        let mut still: Option<MemoryAxis> = None;
        for (i, axis) in self.memory.iter().enumerate() {
            let walk = self.walks.iter().position(|walk| *walk == Some(i)).filter(|axis| walked(*axis));
            let own = if walk.is_some() { axis.clone() } else { MemoryAxis { len: Dim::from(1), ..axis.clone() } };
            let own = match still.take() {
                Some(outer) => outer.with(&own)?,
                None => own,
            };
            match walk {
                Some(walk) => found.push((walk, own)),
                None => still = Some(own),
            }
        }
        still.is_none_or(|axis| axis.extent.is(1)).then_some(found)
    }
}

fn numel(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1), |n, d| n * d.clone())
}

/// Runs of axes of both shapes of a reshape with equal products, as short as can be proved. Axes of extent 1 that end a shape are in none.
pub fn reshape_groups(to: &[Dim], from: &[Dim]) -> Vec<(Range<usize>, Range<usize>)> {
    let mut groups = vec![];
    let (mut i, mut j) = (0, 0);
    while i < to.len() && j < from.len() {
        let ends = (2..=to.len() - i + from.len() - j)
            .flat_map(|total| (1..total).map(move |a| (a, total - a)))
            .filter(|&(a, b)| i + a <= to.len() && j + b <= from.len())
            .find(|&(a, b)| numel(&to[i..i + a]) == numel(&from[j..j + b]));
        // Products that cannot be proved equal are equal when nothing is left out.
        let (a, b) = ends.unwrap_or((to.len() - i, from.len() - j));
        groups.push((i..i + a, j..j + b));
        (i, j) = (i + a, j + b);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::Rng;

    fn d(text: &[&str]) -> Vec<Dim> {
        text.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn groups_are_as_short_as_possible() {
        let of = |a: &[&str], b: &[&str]| reshape_groups(&d(a), &d(b));
        assert_eq!(of(&["B", "S", "384"], &["B", "S", "12", "32"]), [(0..1, 0..1), (1..2, 1..2), (2..3, 2..4)]);
        assert_eq!(of(&["B*S", "8"], &["B", "S", "8"]), [(0..1, 0..2), (1..2, 2..3)]);
        assert_eq!(of(&["6", "4"], &["8", "3"]), [(0..2, 0..2)]);
        assert_eq!(of(&["1", "5", "1"], &["5"]), [(0..2, 0..1)]);
        assert_eq!(of(&["5"], &["1", "5"]), [(0..1, 0..2)]);
    }

    fn slice(axis: usize, start: &str, shape: &[Dim], len: &str) -> (Op, Vec<Dim>) {
        let mut starts = vec![Dim::from(0); shape.len()];
        let mut sizes = shape.to_vec();
        (starts[axis], sizes[axis]) = (start.parse().unwrap(), len.parse().unwrap());
        (Op::Slice { starts, sizes: sizes.clone(), steps: vec![1; shape.len()] }, sizes)
    }

    #[test]
    fn heads_of_a_part_of_a_row() {
        let all = d(&["N", "S", "96"]);
        let (op, part) = slice(2, "32", &all, "32");
        let part = Strided::of(&all).through(&op, &part).unwrap();
        let heads = d(&["N", "S", "4", "8"]);
        let heads = part.through(&Op::Reshape { shape: heads.clone() }, &heads).unwrap();
        let turned = heads.through(&Op::Permute { perm: vec![0, 2, 1, 3] }, &d(&["N", "4", "S", "8"])).unwrap();
        let axes = turned.boxed(|_| true).unwrap();
        assert_eq!(axes.iter().map(|(walk, _)| *walk).collect::<Vec<_>>(), [0, 2, 1, 3]);
        let of = |f: fn(&MemoryAxis) -> &Dim| axes.iter().map(|(_, axis)| f(axis).clone()).collect::<Vec<_>>();
        assert_eq!(of(|axis| &axis.extent), d(&["N", "S", "12", "8"]));
        assert_eq!(of(|axis| &axis.start), d(&["0", "0", "4", "0"]));
        assert_eq!(of(|axis| &axis.len), d(&["N", "S", "4", "8"]));
        // Heads that do not begin where one does, and heads put side by side in another order, have no one step.
        let (op, odd) = slice(2, "33", &all, "32");
        let odd = Strided::of(&all).through(&op, &odd).unwrap();
        let shape = d(&["N", "S", "4", "8"]);
        assert!(odd.through(&Op::Reshape { shape: shape.clone() }, &shape).is_none());
        let flat = d(&["N", "4*S", "8"]);
        assert!(turned.through(&Op::Reshape { shape: flat.clone() }, &flat).is_none());
    }

    #[test]
    fn an_axis_that_stands_still_moves_the_start_of_the_one_within() {
        let all = d(&["S", "3", "4", "8"]);
        let (op, one) = slice(1, "2", &all, "1");
        let one = Strided::of(&all).through(&op, &one).unwrap();
        let flat = d(&["S", "32"]);
        let flat = one.through(&Op::Reshape { shape: flat.clone() }, &flat).unwrap();
        let axes = flat.boxed(|_| true).unwrap();
        let axis = |extent: &str, start: &str, len: &str| {
            let [extent, start, len] = [extent, start, len].map(|text| text.parse().unwrap());
            MemoryAxis { extent, start, len }
        };
        assert_eq!(axes, [(0, axis("S", "0", "S")), (1, axis("96", "64", "32"))]);
        // Of the innermost axis one position: nothing walks along neighbours.
        let (op, last) = slice(3, "5", &all, "1");
        let last = Strided::of(&all).through(&op, &last).unwrap();
        assert!(last.boxed(|axis| axis != 3).is_none());
    }

    /// Random chains of views against the place of every element, found by going through the views backwards.
    #[test]
    fn every_element_is_where_the_axes_say() {
        let (mut rng, mut moved) = (Rng::new(11), 0);
        for _ in 0..400 {
            let mut shape: Vec<usize> =
                (0..rng.range(1, 4)).map(|_| [1, 2, 3, 4, 6][rng.range(0, 4) as usize]).collect();
            let dims = |shape: &[usize]| shape.iter().map(|n| Dim::from(*n)).collect::<Vec<Dim>>();
            let mut view = Some(Strided::of(&dims(&shape)));
            let mut places: Vec<usize> = (0..shape.iter().product()).collect();
            for _ in 0..rng.range(1, 4) {
                let rank = shape.len();
                let at = |mut flat: usize, shape: &[usize]| {
                    let mut index = vec![0; shape.len()];
                    for axis in (0..shape.len()).rev() {
                        (index[axis], flat) = (flat % shape[axis], flat / shape[axis]);
                    }
                    index
                };
                let flat = |index: &[usize], shape: &[usize]| index.iter().zip(shape).fold(0, |n, (i, e)| n * e + i);
                let (op, to): (Op, Vec<usize>) = match rng.range(0, 3) {
                    0 => {
                        let mut perm: Vec<usize> = (0..rank).collect();
                        perm.rotate_left(rng.range(0, rank as i64) as usize % rank);
                        let to: Vec<usize> = perm.iter().map(|axis| shape[*axis]).collect();
                        (Op::Permute { perm }, to)
                    }
                    1 => {
                        let axis = rng.range(0, rank as i64 - 1) as usize;
                        let start = rng.range(0, shape[axis] as i64 - 1) as usize;
                        let len = rng.range(1, (shape[axis] - start) as i64) as usize;
                        let mut to = shape.clone();
                        to[axis] = len;
                        let mut starts = vec![Dim::from(0); rank];
                        starts[axis] = Dim::from(start);
                        (Op::Slice { starts, sizes: dims(&to), steps: vec![1; rank] }, to)
                    }
                    2 => {
                        let mut to: Vec<usize> = shape.iter().map(|n| if *n == 1 { 3 } else { *n }).collect();
                        to.insert(0, 2);
                        (Op::Broadcast { shape: dims(&to) }, to)
                    }
                    _ => {
                        let mut to = shape.clone();
                        match to.iter().position(|n| n % 2 == 0 && *n > 2) {
                            Some(axis) if rng.range(0, 1) == 0 => {
                                to[axis] /= 2;
                                to.insert(axis + 1, 2);
                            }
                            _ if rank > 1 => {
                                let last = to.remove(rank - 1);
                                to[rank - 2] *= last;
                            }
                            _ => to.push(1),
                        }
                        (Op::Reshape { shape: dims(&to) }, to)
                    }
                };
                let from = |index: &[usize]| match &op {
                    Op::Permute { perm } => {
                        let mut own = vec![0; rank];
                        perm.iter().zip(index).for_each(|(axis, i)| own[*axis] = *i);
                        flat(&own, &shape)
                    }
                    Op::Slice { starts, .. } => {
                        let own: Vec<usize> =
                            index.iter().zip(starts).map(|(i, s)| i + s.as_const().unwrap() as usize).collect();
                        flat(&own, &shape)
                    }
                    Op::Broadcast { .. } => {
                        let own: Vec<usize> = index[1..].iter().zip(&shape).map(|(i, n)| i % n).collect();
                        flat(&own, &shape)
                    }
                    _ => flat(index, &to),
                };
                places = (0..to.iter().product()).map(|i| places[from(&at(i, &to))]).collect();
                view = view.and_then(|view| view.through(&op, &dims(&to)));
                shape = to;
            }
            let Some(axes) = view.and_then(|view| view.boxed(|_| true)) else { continue };
            moved += 1;
            let number = |d: &Dim| d.as_const().unwrap() as usize;
            for (i, place) in places.iter().enumerate() {
                let mut rest = i;
                let mut index = vec![0; shape.len()];
                for axis in (0..shape.len()).rev() {
                    (index[axis], rest) = (rest % shape[axis], rest / shape[axis]);
                }
                let offset = axes.iter().fold(0, |offset, (walk, axis)| {
                    let at = number(&axis.start) + index[*walk];
                    offset * number(&axis.extent) + at
                });
                assert_eq!(offset, *place, "{axes:?}");
                assert!(axes.iter().all(|(_, a)| number(&a.start) + number(&a.len) <= number(&a.extent)));
            }
        }
        assert!(moved > 100, "{moved}");
    }
}
