//! What an Attention region is: the predicate behind its rule in [`crate::region`], and its parts.

use crate::plan::{Anchor, Region};
use crate::region::{Subgraph, SubgraphOperand, after, computed, epilogue, in_place, scales_depend};
use kiln_graph::{BinaryOp, DType, Dim, NodeId, Op, OpKind, ReduceOp, TensorType, UnaryOp, ValueId};
use kiln_target::arch::has_mma;

/// Longest head, of queries and keys or of values: kernels keep it on chip.
const MAX_HEAD: i64 = 256;

/// The parts of an Attention region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// The first contraction; its result has the shape of `x`.
    pub scores: NodeId,
    /// What the exponentials are of: f32.
    pub x: ValueId,
    /// What the second contraction weighs values by, after its cast if it has one.
    pub weights: ValueId,
    /// The second contraction.
    pub product: NodeId,
    /// What the weights are.
    pub weighing: Weighing,
    /// The greatest `x` of each row.
    pub peak: ValueId,
    /// Sums of rows of exponentials, each after those that it is made of. What is between the contractions and no exponential of `x` follows from these and `peak`.
    pub totals: Vec<(ValueId, Weighing)>,
}

/// Exponentials of scores less values of their row, times and over others: `exp(x - peak)` times a function of the row. Sums of them, over keys and of
/// values, are sums of `exp(x - peak)` times that function, and those can be had in one pass over the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weighing<V = ValueId> {
    /// Whether the row's greatest is subtracted.
    pub peak: bool,
    /// What else is; of the shape of `x`, the same for all keys of a row.
    pub shifts: Vec<V>,
    /// Factors, and whether they divide; of the shape of `x`, the same for all keys of a row.
    pub factors: Vec<(V, bool)>,
}

impl<V: Copy> Weighing<V> {
    fn map<W>(&self, to: impl Fn(V) -> Option<W>) -> Option<Weighing<W>> {
        let shifts = self.shifts.iter().map(|shift| to(*shift)).collect::<Option<_>>()?;
        let factors = self.factors.iter().map(|(factor, divides)| Some((to(*factor)?, *divides)));
        Some(Weighing { peak: self.peak, shifts, factors: factors.collect::<Option<_>>()? })
    }
}

impl Region {
    /// The parts of an Attention region; none for others.
    pub fn attention(&self) -> Option<Attention> {
        if self.anchor != Anchor::Attention {
            return None;
        }
        let parts = parts(&Subgraph::of_graph(&self.graph).ok()?).ok()?;
        let nodes: Vec<usize> = computed(&self.graph).collect();
        let node = |i: usize| nodes.get(i).map(|&n| NodeId(n as u32));
        let value = |i: usize| self.graph.node(node(i)?).outputs.first().copied();
        let total = |(sum, weighing): &(usize, Weighing<usize>)| Some((value(*sum)?, weighing.map(value)?));
        Some(Attention {
            scores: node(parts.scores)?,
            x: value(parts.x)?,
            weights: value(parts.weights)?,
            product: node(parts.product)?,
            weighing: parts.weighing.map(value)?,
            peak: value(parts.peak)?,
            totals: parts.totals.iter().map(total).collect::<Option<_>>()?,
        })
    }
}

/// [`Attention`] by places in a [`Subgraph`].
pub(crate) struct Parts {
    scores: usize,
    x: usize,
    weights: usize,
    product: usize,
    weighing: Weighing<usize>,
    peak: usize,
    totals: Vec<(usize, Weighing<usize>)>,
}

/// The parts of a subgraph if it may be an Attention region, else why not.
pub(crate) fn parts(sub: &Subgraph) -> Result<Parts, &'static str> {
    let mut contractions = (0..sub.nodes.len()).filter(|&i| sub.nodes[i].op.kind() == OpKind::Contract);
    let (Some(scores), Some(product), None) = (contractions.next(), contractions.next(), contractions.next()) else {
        return Err("an attention is two contractions");
    };
    let (inside, behind) = (after(sub, &[scores]), after(sub, &[product]));
    let keyed = keyed(sub, scores).ok_or("a first contraction that makes no scores")?;
    let (weights, valued) = valued(sub, product, &inside).ok_or("a second contraction that weighs no values")?;
    if sub.nodes[scores].operands[0].ty.dtype != sub.nodes[weights].ty.dtype {
        return Err("keys and values of different types");
    }
    if !keyed.iter().zip(&valued).any(|(k, v)| !k && !v) {
        return Err("an attention without rows of queries");
    }
    let mut rows = Rows {
        sub,
        shape: &sub.nodes[scores].ty.shape,
        kinds: vec![None; sub.nodes.len()],
        x: None,
        peak: None,
        totals: vec![],
    };
    rows.kinds[scores] = Some(Kind::Score);
    for (i, node) in sub.nodes.iter().enumerate().filter(|(i, _)| ![scores, product].contains(i)) {
        if behind[i] {
            if node.operands.iter().filter_map(|o| o.inner).any(|j| inside[j] && !behind[j]) {
                return Err("an epilogue that reads what is between the contractions");
            }
        } else if inside[i] {
            let kind = rows.kind(i, &inside).ok_or(
                "other than exponentials of scores, their sums and what follows from those between two contractions",
            )?;
            rows.kinds[i] = Some(kind);
        } else if !matches!(node.op.kind(), OpKind::Nullary | OpKind::Elementwise | OpKind::View) {
            return Err("other than a map beside an attention");
        }
    }
    let of_row = |i: &usize| matches!(rows.kinds[*i], Some(Kind::Row));
    let (between, results): (Vec<usize>, Vec<usize>) = sub.outputs.iter().partition(|&&o| inside[o] && !behind[o]);
    if !between.iter().all(of_row) {
        return Err("a result between the products that does not follow from a row's greatest score and total");
    }
    epilogue(sub, &[product], &behind, &results)?;
    let Rows { kinds, x: Some(x), peak: Some(peak), totals, .. } = rows else {
        return Err("no exponentials of scores less their greatest between two contractions");
    };
    match kinds.into_iter().nth(weights) {
        Some(Some(Kind::Weight(weighing))) => Ok(Parts { scores, x, weights, product, weighing, peak, totals }),
        _ => Err("a second contraction that weighs by other than exponentials of scores"),
    }
}

/// What a value between the contractions is to a row of scores.
#[derive(Clone, Debug)]
enum Kind {
    /// Of every score by itself.
    Score,
    /// `x` less values of its row.
    Shifted(Weighing<usize>),
    /// Exponentials of such.
    Weight(Weighing<usize>),
    /// A value of each row.
    Row,
    /// A value of its row for every score.
    Spread,
}

/// What is known of the values between the contractions, in order.
struct Rows<'s, 'a> {
    sub: &'s Subgraph<'a>,
    /// That of the scores.
    shape: &'s [Dim],
    kinds: Vec<Option<Kind>>,
    /// What exponentials are of, and its greatest.
    x: Option<usize>,
    peak: Option<usize>,
    totals: Vec<(usize, Weighing<usize>)>,
}

impl Rows<'_, '_> {
    /// What a node is that depends on the scores; `None` where one pass over the keys cannot make it.
    fn kind(&mut self, i: usize, inside: &[bool]) -> Option<Kind> {
        let node = &self.sub.nodes[i];
        let kind = |o: &SubgraphOperand| o.inner.and_then(|j| self.kinds[j].as_ref());
        let (wide, lead) = (self.shape, &self.shape[..self.shape.len() - 1]);
        match (node.op, &node.operands[..]) {
            (Op::Reduce { op, axes }, [of]) if axes[..] == [lead.len()] => match (op, kind(of)?) {
                (ReduceOp::Max, Kind::Score) if self.peak.is_none() => {
                    self.is_x(of.inner?)?;
                    self.peak = Some(i);
                    Some(Kind::Row)
                }
                (ReduceOp::Sum, Kind::Weight(weighing)) => {
                    self.totals.push((i, weighing.clone()));
                    Some(Kind::Row)
                }
                _ => None,
            },
            (Op::Broadcast { shape }, [of]) => {
                let kept = of.ty.shape.split_last().is_some_and(|(last, rest)| last.is(1) && rest == lead);
                (matches!(kind(of)?, Kind::Row) && kept && shape == wide).then_some(Kind::Spread)
            }
            (Op::Reshape { .. }, [of]) => (matches!(kind(of)?, Kind::Row) && self.is_row(node.ty)).then_some(Kind::Row),
            (Op::Binary(BinaryOp::Sub), [of, shift]) if matches!(kind(shift), Some(Kind::Spread)) => {
                let shift = shift.inner?;
                let mut less = match kind(of)? {
                    Kind::Shifted(less) => less.clone(),
                    Kind::Score => {
                        self.is_x(of.inner?)?;
                        Weighing::default()
                    }
                    _ => return None,
                };
                match self.is_peak(shift) && !less.peak {
                    true => less.peak = true,
                    false => less.shifts.push(shift),
                }
                Some(Kind::Shifted(less))
            }
            (Op::Unary(UnaryOp::Exp), [of]) if matches!(kind(of), Some(Kind::Shifted(_))) => match kind(of)? {
                Kind::Shifted(less) => Some(Kind::Weight(less.clone())),
                _ => None,
            },
            (Op::Binary(op @ (BinaryOp::Mul | BinaryOp::Div)), [a, b])
                if [a, b].iter().any(|o| matches!(kind(o), Some(Kind::Weight(_)))) =>
            {
                let divides = *op == BinaryOp::Div;
                let (weighing, factor) = match (kind(a), kind(b)) {
                    (Some(Kind::Weight(weighing)), _) => (weighing, b),
                    (_, Some(Kind::Weight(weighing))) if !divides => (weighing, a),
                    _ => return None,
                };
                let of_row = match kind(factor) {
                    Some(kind) => matches!(kind, Kind::Spread),
                    None => self.repeats(factor),
                };
                let mut weighing = weighing.clone();
                weighing.factors.push((factor.inner?, divides));
                of_row.then_some(Kind::Weight(weighing))
            }
            (Op::Cast { .. }, [of]) if matches!(kind(of), Some(Kind::Weight(_))) => kind(of).cloned(),
            (op, operands) if op.kind() == OpKind::Elementwise && !scales_depend(node, inside) => {
                let of = || operands.iter().filter(|o| o.inner.is_some_and(|j| inside[j])).map(kind);
                if node.ty.shape == wide && of().all(|kind| matches!(kind, Some(Kind::Score))) {
                    return Some(Kind::Score);
                }
                (self.is_row(node.ty) && of().all(|kind| matches!(kind, Some(Kind::Row)))).then_some(Kind::Row)
            }
            _ => None,
        }
    }

    /// Takes a score for what all exponentials are of, unless that is another.
    fn is_x(&mut self, score: usize) -> Option<()> {
        let x = *self.x.get_or_insert(score);
        (x == score && self.sub.nodes[x].ty.dtype == DType::F32).then_some(())
    }

    /// Whether a type is that of a value of each row, with one element along the last axis or without it.
    fn is_row(&self, ty: &TensorType) -> bool {
        let lead = &self.shape[..self.shape.len() - 1];
        ty.shape == lead || ty.shape.split_last().is_some_and(|(last, rest)| last.is(1) && rest == lead)
    }

    /// Whether a value of rows, broadcast, is the greatest of each.
    fn is_peak(&self, spread: usize) -> bool {
        let mut at = spread;
        while matches!(self.sub.nodes[at].op, Op::Broadcast { .. } | Op::Reshape { .. }) {
            match self.sub.nodes[at].operands[0].inner {
                Some(of) => at = of,
                None => return false,
            }
        }
        self.peak == Some(at)
    }

    /// Whether a value beside is the same for all keys of a row.
    fn repeats(&self, operand: &SubgraphOperand) -> bool {
        let node = operand.inner.map(|i| &self.sub.nodes[i]);
        node.is_some_and(|node| {
            matches!(node.op, Op::Broadcast { .. }) && node.operands[0].ty.shape.last().is_none_or(|last| last.is(1))
        })
    }
}

/// Which axes of the scores the keys have; `None` unless a contraction is one of queries with keys, which own the last axis.
fn keyed(sub: &Subgraph, scores: usize) -> Option<Vec<bool>> {
    let node = &sub.nodes[scores];
    let Op::Contract { spec, acc: DType::F32, out } = node.op else { return None };
    let [lhs, rhs] = node.operands[..] else { return None };
    let key = spec.out.last()?;
    let (queries, q, keys, k) = match (spec.lhs.contains(key), spec.rhs.contains(key)) {
        (false, true) => (lhs.ty, &spec.lhs, rhs.ty, &spec.rhs),
        (true, false) => (rhs.ty, &spec.rhs, lhs.ty, &spec.lhs),
        _ => return None,
    };
    let fits = in_place(sub, lhs)
        && in_place(sub, rhs)
        && is_float(lhs.ty.dtype)
        && lhs.ty.dtype == rhs.ty.dtype
        && is_float(*out)
        && k.iter().all(|l| l == key || q.contains(l))
        // Extents of one label may be equal only by a constraint, and written differently.
        && fits_head(queries, q, |l| !spec.out.contains(&l))
        && fits_head(keys, k, |l| !spec.out.contains(&l));
    fits.then(|| spec.out.iter().map(|l| k.contains(l)).collect())
}

/// The weights, and which of their axes the values have; `None` unless a contraction sums values by weights along the last axis of those. `inside` says
/// what depends on the scores.
fn valued(sub: &Subgraph, product: usize, inside: &[bool]) -> Option<(usize, Vec<bool>)> {
    let node = &sub.nodes[product];
    let Op::Contract { spec, acc: DType::F32, out } = node.op else { return None };
    let [lhs, rhs] = node.operands[..] else { return None };
    let weighs = |operand: SubgraphOperand| operand.inner.filter(|i| inside[*i]);
    let (weights, w, values, v) = match (weighs(lhs), weighs(rhs)) {
        (Some(i), None) => (i, &spec.lhs, rhs, &spec.rhs),
        (None, Some(i)) => (i, &spec.rhs, lhs, &spec.lhs),
        _ => return None,
    };
    let key = w.last()?;
    let fits = in_place(sub, values)
        && is_float(values.ty.dtype)
        && lhs.ty.dtype == rhs.ty.dtype
        && is_float(*out)
        && w.iter().all(|l| spec.out.contains(l) == (l != key))
        && fits_head(values.ty, v, |l| !w.contains(&l));
    fits.then(|| (weights, w.iter().map(|l| v.contains(l)).collect()))
}

fn is_float(dtype: DType) -> bool {
    has_mma(dtype) || dtype == DType::F32
}

/// Whether there are axes with labels that `own` picks, and their extents make a constant that kernels can keep.
fn fits_head(ty: &TensorType, labels: &[char], own: impl Fn(char) -> bool) -> bool {
    let picked: Vec<&Dim> = labels.iter().zip(&ty.shape).filter(|(l, _)| own(**l)).map(|(_, d)| d).collect();
    let product = picked.iter().try_fold(1i64, |p, d| p.checked_mul(d.as_const()?));
    !picked.is_empty() && product.is_some_and(|p| (1..=MAX_HEAD).contains(&p))
}
