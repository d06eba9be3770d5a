//! Views: the same elements at other places.

use super::dtype::register;
use super::{HEAVY, LIGHT, Values, Writer};
use crate::Result;
use kiln_graph::{Dim, Node, Op, Symbols, ValueId};
use kiln_tile::expr::UnaryOp;
use kiln_tile::{Expr, Type};

impl Values<'_> {
    /// The value of `v`, the result of a view, at `index`.
    pub(super) fn view(&mut self, k: &mut dyn Writer, v: ValueId, index: &[Expr]) -> Result<Expr> {
        let graph = self.graph;
        let node = graph.producer(v);
        match &node.op {
            Op::Pad { .. } => self.padded(k, node, index),
            Op::Concat { axis } => self.concatenated(k, &node.inputs, *axis, index),
            _ => {
                let at = self.source_index(k, v, index)?;
                self.value(k, node.inputs[0], &at)
            }
        }
    }

    /// Where in its operand a permute, reshape, broadcast or slice finds the element at `index` of its result `v`.
    pub fn source_index(&mut self, k: &mut dyn Writer, v: ValueId, index: &[Expr]) -> Result<Vec<Expr>> {
        let graph = self.graph;
        let node = graph.producer(v);
        let from = &graph.ty(node.inputs[0]).shape;
        Ok(match &node.op {
            Op::Permute { perm } => {
                let mut at = index.to_vec();
                perm.iter().zip(index).for_each(|(&axis, i)| at[axis] = i.clone());
                at
            }
            Op::Reshape { shape } => self.reshaped(k, shape, from, index),
            Op::Broadcast { shape } => {
                let lead = shape.len() - from.len();
                let mut at = Vec::with_capacity(from.len());
                for (axis, d) in from.iter().enumerate() {
                    let (i, to) = (&index[lead + axis], &shape[lead + axis]);
                    at.push(match repeats(d, to, self.symbols) {
                        Repeat::Always => Expr::index(0),
                        Repeat::Never => i.clone(),
                        Repeat::If(step) => i * self.dim(k, &step),
                    });
                }
                at
            }
            Op::Slice { starts, steps, .. } => {
                let mut at = Vec::with_capacity(index.len());
                for ((start, &step), i) in starts.iter().zip(steps).zip(index) {
                    at.push(i * step + self.dim(k, start));
                }
                at
            }
            op => return self.malformed(format!("`{}` stands where only views may", op.name())),
        })
    }

    /// Where in what views in place show as `v` the element at `index` is.
    pub fn leaf_index(&mut self, k: &mut dyn Writer, v: ValueId, index: Vec<Expr>) -> Result<Vec<Expr>> {
        if self.graph.inputs.contains(&v) {
            return Ok(index);
        }
        let at = self.source_index(k, v, &index)?;
        self.leaf_index(k, self.graph.producer(v).inputs[0], at)
    }

    /// Where the last of some permutes and reshapes, given from that one on, shows the element at `index` of what the first is of.
    pub fn viewed(&mut self, k: &mut dyn Writer, views: &[ValueId], index: &[Expr]) -> Result<Vec<Expr>> {
        let graph = self.graph;
        views.iter().rev().try_fold(index.to_vec(), |at, view| {
            let node = graph.producer(*view);
            match &node.op {
                Op::Permute { perm } => Ok(perm.iter().map(|&axis| at[axis].clone()).collect()),
                Op::Reshape { shape } => Ok(self.reshaped(k, self.shape(node.inputs[0]), shape, &at)),
                op => self.malformed(format!("`{}` stands behind a product", op.name())),
            }
        })
    }

    /// Where `whole`, values side by side, has the element at `index` of one of them.
    pub fn joined(
        &mut self,
        k: &mut dyn Writer,
        whole: ValueId,
        part: usize,
        mut index: Vec<Expr>,
    ) -> Result<Vec<Expr>> {
        let node = self.graph.producer(whole);
        let Op::Concat { axis } = node.op else { return self.malformed("parts that are not side by side") };
        let before = node.inputs[..part].iter().map(|v| self.shape(*v)[axis].clone());
        let start = before.fold(Dim::from(0), |sum, extent| sum + extent);
        index[axis] = &index[axis] + self.dim(k, &start);
        Ok(index)
    }

    /// Where a slice of step 1 has the element at `index` of what it is of, and whether it has it.
    pub fn sliced(&mut self, k: &mut dyn Writer, slice: ValueId, index: &[Expr]) -> Result<(Vec<Expr>, Expr)> {
        let node = self.graph.producer(slice);
        let Op::Slice { starts, sizes, .. } = &node.op else { return self.malformed("a slice that is none") };
        let (mut at, mut inside) = (index.to_vec(), Expr::bool(true));
        for (axis, extent) in self.shape(node.inputs[0]).iter().enumerate() {
            let (start, end) = (&starts[axis], starts[axis].clone() + sizes[axis].clone());
            if !start.is(0) {
                let start = self.dim(k, start);
                inside = inside.and(index[axis].ge(&start));
                at[axis] = &index[axis] - start;
            }
            if end != *extent {
                inside = inside.and(index[axis].lt(self.dim(k, &end)));
            }
        }
        Ok((at, inside))
    }

    fn padded(&mut self, k: &mut dyn Writer, node: &Node, index: &[Expr]) -> Result<Expr> {
        let Op::Pad { low, high, interior } = &node.op else { return self.malformed("a pad that is none") };
        let (x, fill) = (node.inputs[0], node.inputs[1]);
        let fill = self.value(k, fill, &[])?;
        let from = self.shape(x);
        let mut at = Vec::with_capacity(index.len());
        let mut inside = Expr::bool(true);
        for (axis, i) in index.iter().enumerate() {
            let period = interior[axis] + 1;
            if low[axis].is(0) && high[axis].is(0) && period == 1 {
                at.push(i.clone());
                continue;
            }
            let low_end = self.dim(k, &low[axis]);
            let shifted = self.name(k, "shifted", i - low_end);
            let extent = self.dim(k, &from[axis]);
            if !low[axis].is(0) {
                inside = inside.and(shifted.ge(0));
            }
            if period == 1 {
                inside = inside.and(shifted.lt(&extent));
                at.push(shifted);
            } else {
                inside = inside.and((&shifted % period).eq(0)).and((&shifted / period).lt(&extent));
                at.push(shifted / period);
            }
        }
        self.within(k, x, &at, inside, |_| fill)
    }

    /// The value of `v` at an index where `inside` holds, else a filling of the type it is given.
    pub fn within(
        &mut self,
        k: &mut dyn Writer,
        v: ValueId,
        at: &[Expr],
        inside: Expr,
        fill: impl FnOnce(Type) -> Expr,
    ) -> Result<Expr> {
        match inside.as_const() {
            Some(0) => return Ok(fill(register(self.graph.ty(v).dtype).into())),
            Some(_) => return self.value(k, v, at),
            None => {}
        }
        let inside = self.name(k, "inside", inside);
        let x = self.inside(k, v, at, &inside)?;
        let fill = fill(x.ty());
        Ok(inside.select(&x, fill))
    }

    fn concatenated(&mut self, k: &mut dyn Writer, parts: &[ValueId], axis: usize, index: &[Expr]) -> Result<Expr> {
        let (mut start, mut behind) = (Dim::from(0), Expr::bool(true));
        let mut pieces: Vec<(Expr, Expr)> = Vec::with_capacity(parts.len());
        for (i, &part) in parts.iter().enumerate() {
            let offset = self.dim(k, &start);
            start = start + self.shape(part)[axis].clone();
            let end = self.dim(k, &start);
            let here = if i + 1 == parts.len() { Expr::bool(true) } else { index[axis].lt(end) };
            // A part that a constant index does not reach has no such element.
            if here.as_const() == Some(0) {
                continue;
            }
            let mut at = index.to_vec();
            at[axis] = self.name(k, "shifted", &at[axis] - offset);
            let reached = behind.and(&here);
            let value = match reached.as_const() {
                Some(1) => self.value(k, part, &at)?,
                _ => self.inside(k, part, &at, &reached)?,
            };
            pieces.push((here.clone(), value));
            if here.as_const() == Some(1) {
                break;
            }
            behind = behind.and(here.unary(UnaryOp::Not));
        }
        let Some((_, last)) = pieces.pop() else { return self.malformed("a concatenation of nothing") };
        Ok(pieces.into_iter().rev().fold(last, |rest, (here, value)| here.select(&value, rest)))
    }

    /// The value of `v` at an index that is outside of its shape unless `reached` holds, where the result does not count. A light value is
    /// left to a conditional expression to skip; a heavy one is computed at the nearest element, so that it can be named.
    fn inside(&mut self, k: &mut dyn Writer, v: ValueId, at: &[Expr], reached: &Expr) -> Result<Expr> {
        let shape = self.shape(v);
        let weight = self.weights[v.index()];
        let occupied = shape.iter().all(|d| d.bounds(self.symbols).0 > 0);
        if weight > LIGHT && occupied && !self.is_guarded() {
            let mut nearest = Vec::with_capacity(at.len());
            for (i, d) in at.iter().zip(shape) {
                let last = self.dim(k, &(d.clone() - Dim::from(1)));
                nearest.push(self.name(k, "nearest", i.max(0).min(last)));
            }
            return self.value(k, v, &nearest);
        }
        if weight > HEAVY {
            let help = "give the symbols of its shape ranges that start at 1, or split the model before the padding";
            return self.unsupported("a computation beside padding or concatenation that is too large", help);
        }
        self.guarded(reached.clone(), |values| values.value(k, v, at))
    }
}

/// Whether a broadcast repeats an axis.
enum Repeat {
    Always,
    Never,
    /// Only a run can tell: the operand's step is 0 where it does and 1 where it does not.
    If(Dim),
}

fn repeats(from: &Dim, to: &Dim, symbols: &Symbols) -> Repeat {
    let one = Dim::from(1);
    if from.is(1) {
        return Repeat::Always;
    }
    if from == to || from.differs(&one, symbols) {
        return Repeat::Never;
    }
    let longer = from.clone() - one.clone();
    let step = if from.bounds(symbols).0 < 1 { longer.maximum(&Dim::from(0)) } else { longer };
    Repeat::If(step.minimum(&one))
}
