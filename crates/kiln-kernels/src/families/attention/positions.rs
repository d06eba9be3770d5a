//! Masks of positions: which keys a row sees by where it stands (causal, sliding windows), so that tiles of keys that no row sees are never
//! read, and those that all rows see are not masked.

use crate::value::Values;
use kiln_graph::{BinaryOp, CompareOp, DType, Dim, Node, Op, UnaryOp, ValueId};

/// Where the keys that a row sees end, or begin: at its position and an offset.
pub struct Bound {
    /// The axis of the scores that positions are along.
    pub axis: usize,
    /// After how many they begin again: heads that share keys are rows of one axis.
    pub period: Option<Dim>,
    /// How far from its position the last key is, or the first.
    pub offset: Dim,
    /// Whether it is the last.
    pub last: bool,
}

/// What of the scores is minus infinity by its position.
#[derive(Default)]
pub struct Positions {
    /// The axis of keys.
    keys: usize,
    pub bounds: Vec<Bound>,
    /// Selections that are decided where no bound hides anything, in order, and what is selected there.
    pub decided: Vec<(ValueId, ValueId)>,
}

/// An index of a value that follows from that of a score.
#[derive(Clone, PartialEq)]
enum At {
    Axis(usize),
    /// The position along the axis modulo an extent.
    Within(usize, Dim),
    Zero,
    Other,
}

/// An integer that is a sum of positions.
#[derive(Default)]
struct Linear {
    /// How often the position of the key counts, and that of the row.
    key: i64,
    row: i64,
    at: Option<(usize, Option<Dim>)>,
    rest: Dim,
}

impl Positions {
    /// What the masks in `x`, scores `[.., keys]`, hide by positions.
    pub fn of(values: &Values, x: ValueId) -> Positions {
        let rank = values.shape(x).len();
        let mut found = Positions { keys: rank.saturating_sub(1), ..Positions::default() };
        let index: Vec<At> = (0..rank).map(At::Axis).collect();
        found.hidden(values, x, &index);
        found.decided.sort();
        found
    }

    /// The number that `v` is where it is not minus infinity by a mask of positions alone.
    pub fn mask(&self, values: &Values, v: ValueId) -> Option<f64> {
        let mut v = v;
        while let (Op::Broadcast { .. } | Op::Reshape { .. }, [x]) =
            (&values.graph.producer(v).op, &values.graph.producer(v).inputs[..])
        {
            v = *x;
        }
        let (_, seen) = self.decided.iter().find(|(of, _)| *of == v)?;
        literal(values, *seen)
    }

    /// Notes where `v` is minus infinity. Beside it only a NaN or the other infinity makes something else of a sum.
    fn hidden(&mut self, values: &Values, v: ValueId, index: &[At]) {
        let node = values.graph.producer(v);
        match (&node.op, &node.inputs[..]) {
            // Types that have infinities.
            (Op::Cast { to: DType::F16 | DType::BF16 | DType::F32 | DType::F64, .. }, [x]) => {
                self.hidden(values, *x, index);
            }
            (Op::Broadcast { .. } | Op::Reshape { .. } | Op::Permute { .. }, [x]) => {
                self.hidden(values, *x, &moved(values, node, index));
            }
            (Op::Binary(BinaryOp::Add), [a, b]) => {
                self.hidden(values, *a, index);
                self.hidden(values, *b, index);
            }
            (Op::Binary(BinaryOp::Mul), [a, b]) => {
                for (x, factor) in [(a, b), (b, a)] {
                    if literal(values, *factor).is_some_and(|factor| factor > 0.0) {
                        self.hidden(values, *x, index);
                    }
                }
            }
            (Op::Select, [cond, a, b]) => {
                let gone = |v: ValueId| literal(values, v) == Some(f64::NEG_INFINITY);
                let (seen, when) = if gone(*b) { (*a, true) } else { (*b, false) };
                if gone(*b) || gone(*a) {
                    if self.seen(values, *cond, when, index) {
                        self.decided.push((v, seen));
                    }
                    self.hidden(values, seen, index);
                }
            }
            _ => {}
        }
    }

    /// Notes what a row does not see unless `cond` is `when`; says whether that is all that the condition depends on.
    fn seen(&mut self, values: &Values, cond: ValueId, when: bool, index: &[At]) -> bool {
        let node = values.graph.producer(cond);
        match (&node.op, &node.inputs[..]) {
            (Op::Broadcast { .. } | Op::Reshape { .. } | Op::Permute { .. }, [x]) => {
                self.seen(values, *x, when, &moved(values, node, index))
            }
            (Op::Unary(UnaryOp::Not), [x]) => self.seen(values, *x, !when, index),
            (Op::Binary(op @ (BinaryOp::And | BinaryOp::Or)), [a, b]) if (*op == BinaryOp::And) == when => {
                let all = [a, b].map(|x| self.seen(values, *x, when, index));
                all == [true; 2]
            }
            (Op::Compare(op), [left, right]) => {
                let sum = |v: ValueId| linear(values, v, index, self.keys);
                let bound = sum(*left).zip(sum(*right)).and_then(|(left, right)| left.plus(right, -1));
                let bound = bound.and_then(|difference| difference.bound(*op, when));
                let found = bound.is_some();
                self.bounds.extend(bound);
                found
            }
            _ => false,
        }
    }
}

impl Linear {
    /// `self + sign * other`.
    fn plus(self, other: Linear, sign: i64) -> Option<Linear> {
        let at = match (self.at, other.at) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let rest = self.rest + other.rest * Dim::from(sign);
        Some(Linear { key: self.key + sign * other.key, row: self.row + sign * other.row, at, rest })
    }

    /// What `self op 0` being `when` says of the key.
    fn bound(self, op: CompareOp, when: bool) -> Option<Bound> {
        // As `sign * self + more <= 0`.
        let (sign, more) = match (op, when) {
            (CompareOp::Le, true) | (CompareOp::Gt, false) => (1, 0),
            (CompareOp::Lt, true) | (CompareOp::Ge, false) => (1, 1),
            (CompareOp::Ge, true) | (CompareOp::Lt, false) => (-1, 0),
            (CompareOp::Gt, true) | (CompareOp::Le, false) => (-1, 1),
            _ => return None,
        };
        let (axis, period) = self.at?;
        let rest = self.rest * Dim::from(sign) + Dim::from(more);
        match (sign * self.key, sign * self.row) {
            (1, -1) => Some(Bound { axis, period, offset: -rest, last: true }),
            (-1, 1) => Some(Bound { axis, period, offset: rest, last: false }),
            _ => None,
        }
    }
}

/// The index of the operand of a view.
fn moved(values: &Values, node: &Node, index: &[At]) -> Vec<At> {
    let (from, to) = (values.shape(node.inputs[0]), values.shape(node.outputs[0]));
    match &node.op {
        Op::Permute { perm } => {
            let mut own = vec![At::Other; from.len()];
            perm.iter().zip(index).for_each(|(axis, at)| own[*axis] = at.clone());
            own
        }
        Op::Broadcast { .. } => {
            let added = to.len() - from.len();
            let whole = |(axis, extent): (usize, &Dim)| match *extent == to[axis + added] {
                true => index[axis + added].clone(),
                false if extent.is(1) => At::Zero,
                // It may be 1 when it runs.
                false => At::Other,
            };
            from.iter().enumerate().map(whole).collect()
        }
        _ => {
            let long = |shape: &[Dim]| (0..shape.len()).filter(|axis| !shape[*axis].is(1)).collect::<Vec<usize>>();
            let mut own: Vec<At> = from.iter().map(|d| if d.is(1) { At::Zero } else { At::Other }).collect();
            let (mut old, mut new) = (long(from), long(to));
            while let (Some(a), Some(b)) = (old.last(), new.last())
                && from[*a] == to[*b]
            {
                own[*a] = index[*b].clone();
                old.pop();
                new.pop();
            }
            while let (Some(a), Some(b)) = (old.first(), new.first())
                && from[*a] == to[*b]
            {
                own[*a] = index[*b].clone();
                old.remove(0);
                new.remove(0);
            }
            // An axis that is several: the last of them begins again and again.
            if let (Some(last), [whole]) = (old.last(), &new[..])
                && let At::Axis(axis) = index[*whole]
            {
                own[*last] = At::Within(axis, from[*last].clone());
            }
            own
        }
    }
}

/// A sum of positions of a score whose index `index` follows from.
fn linear(values: &Values, v: ValueId, index: &[At], keys: usize) -> Option<Linear> {
    // Narrower types wrap or round.
    if !matches!(values.graph.ty(v).dtype, DType::I32 | DType::I64) {
        return None;
    }
    let node = values.graph.producer(v);
    let constant = |rest: Dim| Some(Linear { rest, ..Linear::default() });
    match (&node.op, &node.inputs[..]) {
        (Op::Iota { axis, .. }, _) => match index.get(*axis)? {
            At::Axis(axis) if *axis == keys => Some(Linear { key: 1, ..Linear::default() }),
            At::Axis(axis) => Some(Linear { row: 1, at: Some((*axis, None)), ..Linear::default() }),
            At::Within(axis, period) if *axis != keys => {
                Some(Linear { row: 1, at: Some((*axis, Some(period.clone()))), ..Linear::default() })
            }
            At::Zero => constant(Dim::from(0)),
            At::Within(..) | At::Other => None,
        },
        (Op::DimValue { dim }, _) => constant(dim.clone()),
        (Op::Const { value }, _) => {
            let all = value.to_i128_vec()?;
            let first = *all.first()?;
            let one = all.iter().all(|x| *x == first).then_some(first)?;
            constant(Dim::from(i64::try_from(one).ok()?))
        }
        (Op::Cast { .. }, [x]) => linear(values, *x, index, keys),
        (Op::Broadcast { .. } | Op::Reshape { .. } | Op::Permute { .. }, [x]) => {
            linear(values, *x, &moved(values, node, index), keys)
        }
        (Op::Unary(UnaryOp::Neg), [x]) => Linear::default().plus(linear(values, *x, index, keys)?, -1),
        (Op::Binary(op @ (BinaryOp::Add | BinaryOp::Sub)), [a, b]) => {
            let sign = if *op == BinaryOp::Add { 1 } else { -1 };
            linear(values, *a, index, keys)?.plus(linear(values, *b, index, keys)?, sign)
        }
        _ => None,
    }
}

/// The number that all elements of a value are, as far as views show it.
pub fn literal(values: &Values, mut v: ValueId) -> Option<f64> {
    loop {
        let node = values.graph.producer(v);
        match (&node.op, &node.inputs[..]) {
            (Op::Broadcast { .. } | Op::Reshape { .. }, [x]) => v = *x,
            (Op::Const { value }, _) if value.len() == 1 => return value.to_f64_vec().first().copied(),
            _ => return None,
        }
    }
}
