//! E-graph against e-graph: the places of a function's values among a model's.
//!
//! A class of the function is at a class of the model if an e-node of the one and an e-node of the other apply the same op to classes that are at each other in turn, with attributes
//! and types that unify ([`super::dims`]). Inputs of the function may be any class of their type; one class has one place. Elements that are all one number are compared as numbers,
//! which takes in those that the model computed when it was made (`1 / sqrt 2`, the extent that a mean divides by).
//!
//! What could be at what is first asked without regard to the rest and remembered ([`Search::likely`]), which leaves the search itself next to nothing to take back.

use super::dims::{Facts, Unified};
use super::function::Variant;
use crate::Numerics;
use crate::canonical::relabel;
use crate::egraph::{ClassIx, Dag, DagNode, commutes};
use kiln_graph::{CompareOp, Constraint, DType, Dim, EinsumSpec, Op, Symbols, TensorType};
use std::collections::HashMap;

/// Steps in which one function is looked for: so many, and so many a class of the model. What is found or not takes a few a class.
const EFFORT: (usize, usize) = (50_000, 50);
/// Most that literals of a model may differ from the function's where sums may be regrouped, in units of the last place: what rounding a quotient or a root in another order does.
const LITERAL_ULPS: f64 = 2.0;

/// The ops of a dag without what unification decides, dims, and what means nothing, as how a contraction's axes are called.
pub(crate) struct Heads(Vec<Vec<Option<Op>>>);

impl Heads {
    pub fn of(dag: &Dag) -> Heads {
        let bare = |node: &DagNode| {
            let mut op = node.op.clone()?;
            op.dims_mut(&mut |d| *d = Dim::default());
            match &mut op {
                Op::Contract { spec, .. } => relabel(spec),
                // It says nothing of other dtypes.
                Op::Cast { to, saturate } if !to.is_f8() => *saturate = false,
                _ => {}
            }
            Some(op)
        };
        Heads(dag.classes.iter().map(|class| class.nodes.iter().map(bare).collect()).collect())
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Op> {
        self.0.iter().flatten().flatten()
    }

    fn at(&self, class: ClassIx, node: usize) -> Option<&Op> {
        self.0[class.index()][node].as_ref()
    }
}

/// Where a function is looked for.
pub(crate) struct Model<'a> {
    pub dag: &'a Dag,
    pub heads: &'a Heads,
    pub symbols: &'a Symbols,
    pub constraints: &'a [Constraint],
    /// All of it must be the function.
    pub bind: Option<&'a Bind>,
}

/// The ends of a region, all of which a function must use.
pub(crate) struct Bind {
    pub inputs: Vec<ClassIx>,
    pub outputs: Vec<ClassIx>,
}

impl<'a> Model<'a> {
    fn facts(&self) -> Facts<'a> {
        Facts { symbols: self.symbols, constraints: self.constraints }
    }
}

/// How a class of the function is computed at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// It is an input of the function.
    Read,
    /// It is a known number.
    Literal,
    /// By this node of the model's class.
    Node(u16),
}

/// A place of the function.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    /// What each symbol of the function stands for.
    pub dims: Vec<(String, Dim)>,
    /// Where its inputs and outputs are, in its order.
    pub inputs: Vec<ClassIx>,
    pub outputs: Vec<ClassIx>,
    /// All classes of the model that have a part in it, and how. Where one is met twice, the first.
    pub places: HashMap<ClassIx, Via>,
}

/// What is decided so far.
#[derive(Clone)]
struct State {
    /// By class of the function.
    places: Vec<Option<(ClassIx, Via)>>,
    dims: Unified,
    /// Classes of the function that must have this value.
    scalars: Vec<(ClassIx, DType, f64)>,
}

#[derive(Clone, Copy)]
enum Goal {
    /// A class of the function is at one of the model.
    At(ClassIx, ClassIx),
    /// An output has a place, by number.
    Output(usize),
}

/// One way to compute a class of the function at a class of the model.
struct Way<'a> {
    via: Via,
    operands: Vec<(ClassIx, ClassIx)>,
    ops: Option<(&'a Op, &'a Op)>,
    scalar: Option<f64>,
}

/// A search for one function in one model.
pub(crate) struct Search<'a> {
    variant: &'a Variant,
    model: &'a Model<'a>,
    numerics: Numerics,
    likely: HashMap<(ClassIx, ClassIx), bool>,
    /// Pairs of classes compared and ways tried.
    steps: usize,
}

impl<'a> Search<'a> {
    pub fn new(variant: &'a Variant, model: &'a Model<'a>, numerics: Numerics) -> Search<'a> {
        Search { variant, model, numerics, likely: HashMap::new(), steps: 0 }
    }

    /// Steps that it took.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Whether it gave up somewhere.
    pub fn exhausted(&self) -> bool {
        self.steps >= EFFORT.0 + EFFORT.1 * self.model.dag.classes.len()
    }

    /// The function as all of the model, whose ends are given.
    pub fn whole(&mut self) -> Option<Match> {
        let goals = self.outputs();
        self.solve(goals, self.start())
    }

    /// The function with the last of its outputs at this class.
    pub fn at(&mut self, class: ClassIx) -> Option<Match> {
        let mut goals = self.outputs();
        let Some(Goal::Output(root)) = goals.pop() else { return None };
        let root = self.variant.outputs[root];
        if !self.likely(root, class) {
            return None;
        }
        goals.push(Goal::At(root, class));
        self.solve(goals, self.start())
    }

    /// Outputs, that which is computed last at the end, for goals are taken from there.
    fn outputs(&self) -> Vec<Goal> {
        let mut order: Vec<usize> = (0..self.variant.outputs.len()).collect();
        order.sort_by_key(|&o| self.variant.outputs[o]);
        order.into_iter().map(Goal::Output).collect()
    }

    fn start(&self) -> State {
        State { places: vec![None; self.variant.dag.classes.len()], dims: Unified::default(), scalars: Vec::new() }
    }

    /// Reaches all goals, the last first.
    fn solve(&mut self, mut goals: Vec<Goal>, mut state: State) -> Option<Match> {
        while let Some(goal) = goals.pop() {
            let (own, class) = match goal {
                Goal::At(own, class) => (own, class),
                Goal::Output(o) => {
                    let own = self.variant.outputs[o];
                    if state.places[own.index()].is_some() {
                        continue;
                    }
                    let all: Vec<ClassIx> = match self.model.bind {
                        Some(bind) => bind.outputs.clone(),
                        None => self.model.dag.indices().collect(),
                    };
                    return all.into_iter().find_map(|class| {
                        if !self.likely(own, class) {
                            return None;
                        }
                        let goals = [&goals[..], &[Goal::At(own, class)]].concat();
                        self.solve(goals, state.clone())
                    });
                }
            };
            if let Some((place, _)) = state.places[own.index()] {
                if place != class {
                    return None;
                }
                continue;
            }
            if !self.likely(own, class) || !self.unify_types(own, class, &mut state) {
                return None;
            }
            let mut ways = self.ways(own, class);
            let last = ways.pop()?;
            for way in ways {
                let mut state = state.clone();
                let mut goals = goals.clone();
                if self.take(own, class, way, &mut goals, &mut state)
                    && let Some(found) = self.solve(goals, state)
                {
                    return Some(found);
                }
            }
            if !self.take(own, class, last, &mut goals, &mut state) {
                return None;
            }
        }
        self.settle(state)
    }

    /// Decides for a way, whose operands become goals. False: it does not unify.
    fn take(&mut self, own: ClassIx, class: ClassIx, way: Way<'a>, goals: &mut Vec<Goal>, state: &mut State) -> bool {
        if self.exhausted() {
            return false;
        }
        self.steps += 1;
        state.places[own.index()] = Some((class, way.via));
        if let Some(value) = way.scalar {
            state.scalars.push((own, self.variant.ty(own).dtype, value));
        }
        // First operands first.
        goals.extend(way.operands.iter().rev().map(|(a, b)| Goal::At(*a, *b)));
        let Some((ours, theirs)) = way.ops else { return true };
        let (mut a, mut b) = (Vec::new(), Vec::new());
        ours.dims(&mut |d| a.push(d.clone()));
        theirs.dims(&mut |d| b.push(d.clone()));
        let facts = self.model.facts();
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| state.dims.unify(a, b, facts))
    }

    fn unify_types(&self, own: ClassIx, class: ClassIx, state: &mut State) -> bool {
        let (a, b) = (self.variant.ty(own), self.model.dag.class(class).ty());
        a.shape.iter().zip(&b.shape).all(|(a, b)| state.dims.unify(a, b, self.model.facts()))
    }

    /// The ways in which a class of the function may be computed at a class of the model.
    fn ways(&self, own: ClassIx, class: ClassIx) -> Vec<Way<'a>> {
        let (ours, theirs) = (self.variant.dag.class(own), self.model.dag.class(class));
        let leaf = |via, scalar| vec![Way { via, operands: vec![], ops: None, scalar }];
        if self.variant.inputs.contains(&own) {
            return if self.readable(class) { leaf(Via::Read, None) } else { vec![] };
        }
        if let (Some(a), Some(b)) = (ours.splat, theirs.splat) {
            return if self.same(ours.ty().dtype, a, b) { leaf(Via::Literal, None) } else { vec![] };
        }
        // One element, or all the same: what it is shows when dims are known.
        if let (true, Some(value)) = (ours.shapely, theirs.splat) {
            return leaf(Via::Literal, Some(value));
        }
        let (a_heads, b_heads) = (&self.variant.heads, self.model.heads);
        let mut ways = Vec::new();
        for (i, a) in ours.nodes.iter().enumerate() {
            for (j, b) in theirs.nodes.iter().enumerate() {
                let (Some(a_head), Some(b_head)) = (a_heads.at(own, i), b_heads.at(class, j)) else { continue };
                if a.operands.len() != b.operands.len() {
                    continue;
                }
                let ops = a.op.as_ref().zip(b.op.as_ref());
                let mut way = |order: &[usize]| {
                    let operands = a.operands.iter().zip(order).map(|(a, &at)| (*a, b.operands[at])).collect();
                    ways.push(Way { via: Via::Node(j as u16), operands, ops, scalar: None });
                };
                if a_head == b_head {
                    way(&(0..b.operands.len()).collect::<Vec<_>>());
                }
                if exchanged(b_head).is_some_and(|other| *a_head == other) {
                    way(&[1, 0]);
                }
            }
        }
        ways
    }

    /// Whether a class of the function may be at a class of the model, as far as ops and ranks tell.
    fn likely(&mut self, own: ClassIx, class: ClassIx) -> bool {
        if let Some(known) = self.likely.get(&(own, class)) {
            return *known;
        }
        let theirs = self.model.dag.class(class);
        if theirs.tuple || !alike(self.variant.ty(own), theirs.ty()) {
            return false;
        }
        self.steps += 1;
        let ways = self.ways(own, class);
        let found = ways.into_iter().any(|way| way.operands.into_iter().all(|(a, b)| self.likely(a, b)));
        self.likely.insert((own, class), found);
        found
    }

    /// Whether an input of the function may be this class.
    fn readable(&self, class: ClassIx) -> bool {
        self.model.bind.is_none_or(|bind| bind.inputs.contains(&class))
    }

    /// Whether two literals are the same number.
    fn same(&self, dtype: DType, a: f64, b: f64) -> bool {
        let digits = match dtype {
            DType::F64 => 52,
            DType::F32 => 23,
            DType::F16 => 10,
            DType::BF16 => 7,
            _ => return a == b,
        };
        let off = if self.numerics >= Numerics::Reassoc { LITERAL_ULPS * 2f64.powi(-digits) } else { 0.0 };
        a == b || (a - b).abs() <= off * a.abs().min(b.abs())
    }

    /// The match, if nothing was left open and the function's requirements hold.
    fn settle(&self, mut state: State) -> Option<Match> {
        let (variant, facts) = (self.variant, self.model.facts());
        if !state.dims.settle(facts) {
            return None;
        }
        let known = &state.dims.variables;
        let in_range = |(dim, (low, high)): &(Dim, (i64, i64))| {
            let bounds = dim.substitute(known).bounds(facts.symbols);
            *low <= bounds.0 && bounds.1 <= *high
        };
        let holds = |r: &kiln_graph::Requirement| {
            let (left, right) = (r.left.substitute(known), r.right.substitute(known));
            facts.prove(&kiln_graph::Requirement { left, right, relation: r.relation })
        };
        if !variant.ranges.iter().all(in_range) || !variant.requirements.iter().all(holds) {
            return None;
        }
        let right = |(own, dtype, value): &(ClassIx, DType, f64)| {
            variant.scalar(*own, known).is_some_and(|ours| self.same(*dtype, ours, *value))
        };
        if !state.scalars.iter().all(right) {
            return None;
        }
        let dims: Vec<(String, Dim)> = variant.meaning.iter().map(|(s, d)| (s.clone(), d.substitute(known))).collect();
        let mut open = std::collections::BTreeSet::new();
        dims.iter().for_each(|(_, d)| d.symbols(&mut open));
        let at = |all: &[ClassIx]| all.iter().map(|own| Some(state.places[own.index()]?.0)).collect::<Option<Vec<_>>>();
        let (inputs, outputs) = (at(&variant.inputs)?, at(&variant.outputs)?);
        let distinct = outputs.iter().enumerate().all(|(i, c)| !outputs[..i].contains(c));
        let used = self.model.bind.is_none_or(|bind| bind.inputs.iter().all(|c| inputs.contains(c)));
        if open.iter().any(|s| super::function::is_variable(s)) || !distinct || !used {
            return None;
        }
        let mut places = HashMap::new();
        for (class, via) in state.places.iter().flatten() {
            places.entry(*class).or_insert(*via);
        }
        // What is read is not computed, whatever else it is to the function.
        places.extend(inputs.iter().map(|c| (*c, Via::Read)));
        Some(Match { dims, inputs, outputs, places })
    }
}

/// Whether types could unify.
fn alike(own: &TensorType, model: &TensorType) -> bool {
    let extents = |(a, b): (&Dim, &Dim)| match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    own.dtype == model.dtype && own.rank() == model.rank() && own.shape.iter().zip(&model.shape).all(extents)
}

/// The head of an op with its two operands exchanged; `None` if they may not be.
pub(super) fn exchanged(op: &Op) -> Option<Op> {
    Some(match op {
        Op::Binary(b) if commutes(*b) => op.clone(),
        Op::Compare(c) => Op::Compare(match c {
            CompareOp::Eq | CompareOp::Ne => *c,
            CompareOp::Lt => CompareOp::Gt,
            CompareOp::Gt => CompareOp::Lt,
            CompareOp::Le => CompareOp::Ge,
            CompareOp::Ge => CompareOp::Le,
        }),
        Op::Contract { spec, acc, out } => {
            let mut spec = EinsumSpec { lhs: spec.rhs.clone(), rhs: spec.lhs.clone(), out: spec.out.clone() };
            relabel(&mut spec);
            Op::Contract { spec, acc: *acc, out: *out }
        }
        _ => return None,
    })
}
