//! What is known of each e-class: type, constant value, and whether it depends on weights alone.

use super::trace::Trace;
use super::{Effort, Head, Term};
use egg::{Analysis, DidMerge, Id};
use kiln_graph::{BinaryOp, Constraint, Graph, Op, Symbols, Tensor, TensorType, ValueId, infer, interpret};
use std::collections::HashMap;

pub(crate) type EGraph = egg::EGraph<Term, Knowledge>;

/// Facts of one class. Attributes have no types; ops with several results have one each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub types: Vec<TensorType>,
    /// Every element is this value.
    pub splat: Option<f64>,
    /// The value, of a single element computed from literals.
    pub value: Option<Tensor>,
    /// Computable from bound weights and literals.
    pub weight_only: bool,
    /// Computable from literals.
    pub literal: bool,
    /// Computable from literals and extents.
    pub shapely: bool,
    /// What computing it from weights and literals takes.
    pub effort: Effort,
}

/// Tables that the whole e-graph shares.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    pub symbols: Symbols,
    pub constraints: Vec<Constraint>,
    ops: Vec<Op>,
    index: HashMap<Op, u32>,
    /// Names of weights whose data is present.
    pub bound: std::collections::BTreeSet<String>,
    /// Unions that claimed equality of different types.
    pub unsound: Vec<String>,
    /// Which rules made what.
    pub trace: Trace,
    /// Values that are had with their axes in another order, and what has them so: there is no other way to them.
    pub twins: Vec<(Id, Id)>,
}

impl Knowledge {
    /// What is known before the first op is added.
    pub fn of(graph: &Graph) -> Knowledge {
        Knowledge {
            symbols: graph.symbols.clone(),
            constraints: graph.constraints.clone(),
            bound: graph.weights.keys().cloned().collect(),
            ..Knowledge::default()
        }
    }

    /// The number of an op with its attributes.
    pub fn intern(&mut self, op: &Op) -> u32 {
        if let Some(i) = self.known(op) {
            return i;
        }
        let i = self.fresh(op);
        self.index.insert(op.clone(), i);
        i
    }

    /// The number of an op with its attributes, if it has one.
    pub fn known(&self, op: &Op) -> Option<u32> {
        self.index.get(op).copied()
    }

    /// A number for an op that no other shares, even if equal.
    pub fn fresh(&mut self, op: &Op) -> u32 {
        self.ops.push(op.clone());
        self.ops.len() as u32 - 1
    }

    pub fn op(&self, attr: u32) -> &Op {
        &self.ops[attr as usize]
    }
}

/// Whether operands of a binary op may be exchanged.
pub(crate) fn commutes(op: BinaryOp) -> bool {
    use BinaryOp::{Add, And, Max, Min, Mul, Or, Xor};
    matches!(op, Add | Mul | Min | Max | And | Or | Xor)
}

/// The op that a term applies, and its operands.
pub(crate) fn op_of(egraph: &EGraph, term: &Term) -> Option<(Op, Vec<Id>)> {
    match term.head {
        Head::Op(code) => match code.without_attributes() {
            Some(op) => Some((op, term.children.clone())),
            None => {
                let (attr, operands) = term.children.split_first()?;
                Some((egraph.attr(*attr)?.clone(), operands.to_vec()))
            }
        },
        Head::Opaque(i) => Some((egraph.analysis.op(i).clone(), term.children.clone())),
        Head::Attr(_) | Head::Result(_) => None,
    }
}

/// Reading attributes off an e-graph.
pub(crate) trait Attributes {
    /// The op behind an attribute class.
    fn attr(&self, id: Id) -> Option<&Op>;
}

impl Attributes for EGraph {
    fn attr(&self, id: Id) -> Option<&Op> {
        self[id].nodes.iter().find_map(|n| match n.head {
            Head::Attr(i) => Some(self.analysis.op(i)),
            _ => None,
        })
    }
}

impl Analysis<Term> for Knowledge {
    type Data = Facts;

    fn make(egraph: &mut EGraph, term: &Term, _id: Id) -> Facts {
        match term.head {
            Head::Attr(_) => return Facts::default(),
            Head::Result(i) => {
                let of = &egraph[term.children[0]].data;
                return Facts {
                    types: of.types.get(i as usize).cloned().into_iter().collect(),
                    weight_only: of.weight_only,
                    literal: of.literal,
                    shapely: of.shapely,
                    effort: of.effort,
                    ..Facts::default()
                };
            }
            Head::Op(_) | Head::Opaque(_) => {}
        }
        let Some((op, operands)) = op_of(egraph, term) else {
            egraph.analysis.unsound.push(format!("`{term}` has no attributes"));
            return Facts::default();
        };
        let facts: Vec<&Facts> = operands.iter().map(|id| &egraph[*id].data).collect();
        let types: Option<Vec<&TensorType>> = facts.iter().map(|f| f.types.first()).collect();
        let inferred = types.ok_or("an operand has no type".to_owned()).and_then(|types| {
            infer(&op, &types, &egraph.analysis.symbols).map(|i| i.results).map_err(|e| e.to_string())
        });
        let of_operands = |f: fn(&Facts) -> bool| facts.iter().all(|x| f(x));
        let mut out = Facts::default();
        let effort = facts.iter().fold(Effort::NONE, |all, f| all.and(f.effort));
        match &op {
            Op::Input { .. } | Op::If { .. } | Op::Loop { .. } => {}
            Op::DimValue { .. } => out.shapely = true,
            Op::Weight { name, .. } => out.weight_only = egraph.analysis.bound.contains(name),
            Op::Const { .. } => {
                (out.weight_only, out.literal, out.shapely) = (true, true, true);
            }
            Op::Iota { ty, .. } => {
                let fixed = ty.const_shape().is_some();
                (out.weight_only, out.literal) = (fixed, fixed);
            }
            _ => {
                out.weight_only = of_operands(|f| f.weight_only);
                out.literal = of_operands(|f| f.literal);
                out.shapely = of_operands(|f| f.shapely);
                if matches!(op, Op::Broadcast { .. } | Op::Reshape { .. } | Op::Permute { .. } | Op::Slice { .. }) {
                    out.splat = facts[0].splat;
                }
            }
        }
        match inferred {
            Ok(types) => {
                if out.weight_only {
                    let operands: Vec<&TensorType> = facts.iter().filter_map(|f| f.types.first()).collect();
                    out.effort = effort.and(Effort::of(&op, &operands, &types));
                }
                out.types = types;
                if out.literal {
                    let known: Option<Vec<Tensor>> = facts.iter().map(|f| f.value.clone()).collect();
                    out.value = known.and_then(|known| single(&op, &known, &out.types));
                }
                if let Some(v) = &out.value {
                    out.splat = v.to_f64_vec().first().copied().filter(|x| exact(v.dtype(), *x));
                }
            }
            Err(e) => egraph.analysis.unsound.push(format!("`{term}` does not type: {e}")),
        }
        out
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        if a.types != b.types {
            let text = |f: &Facts| f.types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            self.unsound.push(format!("{} was set equal to {}", text(a), text(&b)));
        }
        let known = |f: &Facts| {
            (f.splat.map(f64::to_bits), f.value.is_some(), f.weight_only, f.literal, f.shapely, f.effort.bits())
        };
        let (before, other) = (known(a), known(&b));
        a.splat = a.splat.or(b.splat);
        a.value = a.value.take().or(b.value);
        a.weight_only |= b.weight_only;
        a.literal |= b.literal;
        a.shapely |= b.shapely;
        a.effort = a.effort.least(b.effort);
        let after = known(a);
        DidMerge(before != after, other != after)
    }

    /// A single known element is a literal: arithmetic on literals is done here, or rules would pile up powers of them.
    fn modify(egraph: &mut EGraph, id: Id) {
        let Some(value) = egraph[id].data.value.clone() else { return };
        let op = Op::Const { value };
        let attr = egraph.analysis.intern(&op);
        let attr = egraph.add(Term { head: Head::Attr(attr), children: vec![] });
        let literal = egraph.add(Term { head: Head::Op(op.code()), children: vec![attr] });
        egraph.union(id, literal);
    }
}

/// The result of an op on literals, if it is a single element that the reference interpreter can compute.
fn single(op: &Op, operands: &[Tensor], types: &[TensorType]) -> Option<Tensor> {
    let [ty] = types else { return None };
    if ty.const_shape()?.iter().any(|d| *d != 1) {
        return None;
    }
    if let Op::Const { value } = op {
        return Some(value.clone());
    }
    let mut graph = Graph::new("literal");
    for value in operands {
        let op = Op::Const { value: value.clone() };
        let ty = TensorType::new(value.dtype(), value.shape().iter().copied());
        graph.push_node(op, &[], vec![ty], "");
    }
    let inputs: Vec<_> = (0..operands.len() as u32).map(ValueId).collect();
    let result = graph.push_node(op.clone(), &inputs, types.to_vec(), "");
    graph.outputs.push(("y".to_owned(), *result.first()?));
    interpret(&graph, &[]).ok()?.pop()
}

/// Whether an f64 carries a value of this dtype without loss (64-bit integers may not fit), and is a number.
fn exact(dtype: kiln_graph::DType, v: f64) -> bool {
    !v.is_nan() && (dtype.is_float() || v.abs() < 9e15)
}
