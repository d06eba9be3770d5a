//! A function made ready to be looked for.

use super::dims::{VARIABLE, variable};
use super::rows;
use super::search::Heads;
use crate::egraph::{ClassIx, Dag, build};
use crate::region::MAX_OPERANDS;
use crate::{Error, Numerics, Options, Result, rules};
use kiln_graph::{Constraint, Dim, Graph, Op, OpKind, Requirement, Symbols, Tensor, TensorType, ValueId, interpret};
use kiln_target::Target;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most nodes of a function.
const MAX_NODES: usize = 256;
/// Row axes that the leading axis of a function is tried as, besides one.
const ROW_AXES: [usize; 2] = [2, 3];

/// A function, or one of its forms with more row axes, saturated. Its symbols are variables.
pub(super) struct Variant {
    pub dag: Dag,
    pub heads: Heads,
    pub inputs: Vec<ClassIx>,
    /// In the order of the function.
    pub outputs: Vec<ClassIx>,
    /// What each symbol of the function is in terms of variables.
    pub meaning: BTreeMap<String, Dim>,
    /// What the function requires of its symbols, of variables.
    pub ranges: Vec<(Dim, (i64, i64))>,
    pub requirements: Vec<Requirement>,
}

/// Whether a graph can be a pattern.
pub(super) fn check(name: &str, graph: &Graph) -> Result<()> {
    let refuse = |message: String| Err(Error::Pattern { function: name.to_owned(), message });
    if graph.nodes.len() > MAX_NODES {
        return refuse(format!("it has {} nodes, expected at most {MAX_NODES}", graph.nodes.len()));
    }
    let operands = graph.inputs.len() + graph.outputs.len();
    if graph.outputs.is_empty() || operands > MAX_OPERANDS {
        return refuse(format!(
            "it has {} inputs and {} outputs, expected at least one output and at most {MAX_OPERANDS} together",
            graph.inputs.len(),
            graph.outputs.len()
        ));
    }
    for node in &graph.nodes {
        let what = match &node.op {
            Op::Weight { name, .. } => format!("it has the weight `{name}`; make it an input"),
            Op::Const { value } if value.len() != 1 => {
                format!("it has a constant of {} elements; make it an input", value.len())
            }
            op if op.kind() == OpKind::Opaque || node.outputs.len() != 1 => {
                format!("`{}` can stand in no kernel that is looked for; leave it to the model", op.name())
            }
            _ => continue,
        };
        return refuse(what);
    }
    let mut seen: BTreeSet<ValueId> = graph.outputs.iter().map(|(_, v)| *v).collect();
    if seen.len() < graph.outputs.len() {
        return refuse("it gives one value twice".to_owned());
    }
    for (name, v) in &graph.outputs {
        if matches!(graph.producer(*v).op, Op::Input { .. }) {
            return refuse(format!("its output `{name}` is an input"));
        }
    }
    let mut stack: Vec<ValueId> = seen.iter().copied().collect();
    while let Some(v) = stack.pop() {
        stack.extend(graph.producer(v).inputs.iter().filter(|v| seen.insert(**v)));
    }
    match graph.inputs.iter().find(|v| !seen.contains(v)) {
        Some(v) => refuse(format!("no output needs its input `{}`", graph.input_name(*v))),
        None => Ok(()),
    }
}

/// The function and its forms with more row axes.
pub(super) fn variants(graph: &Graph, numerics: Numerics) -> Result<Vec<Variant>> {
    let (plain, meaning) = with_variables(graph);
    let mut all = vec![Variant::of(graph, &plain, &meaning, numerics)?];
    for axes in ROW_AXES {
        if let Some((split, rows)) = rows::split(&plain, axes) {
            let meaning = meaning.iter().map(|(s, d)| (s.clone(), d.substitute(&rows))).collect();
            all.push(Variant::of(graph, &split, &meaning, numerics)?);
        }
    }
    Ok(all)
}

/// The graph with variables for symbols, and what became of each symbol.
fn with_variables(graph: &Graph) -> (Graph, BTreeMap<String, Dim>) {
    let mut used = BTreeSet::new();
    graph.values.iter().flat_map(|v| &v.ty.shape).for_each(|d| d.symbols(&mut used));
    graph.nodes.iter().for_each(|n| n.op.dims(&mut |d| d.symbols(&mut used)));
    let meaning: BTreeMap<String, Dim> = used.into_iter().map(|s| (s.clone(), Dim::sym(variable(&s)))).collect();
    let mut own = graph.clone();
    own.values.iter_mut().flat_map(|v| &mut v.ty.shape).for_each(|d| *d = d.substitute(&meaning));
    own.nodes.iter_mut().for_each(|n| n.op.dims_mut(&mut |d| *d = d.substitute(&meaning)));
    for Constraint { requirement, .. } in &mut own.constraints {
        requirement.left = requirement.left.substitute(&meaning);
        requirement.right = requirement.right.substitute(&meaning);
    }
    own.symbols = Symbols::default();
    for symbol in meaning.keys() {
        let (low, high) = graph.symbols.range(symbol);
        own.symbols.declare(&variable(symbol), low, high);
    }
    (own, meaning)
}

impl Variant {
    /// `form` saturated; `meaning` says what the symbols of `function` are there.
    fn of(function: &Graph, form: &Graph, meaning: &BTreeMap<String, Dim>, numerics: Numerics) -> Result<Variant> {
        let built = build(form)?;
        let options = Options { numerics, ..Options::new(Target::cpu()) };
        let (egraph, _) = rules::saturate(built.egraph, rules::of_functions()?, &options)?;
        let missing =
            || Error::Pattern { function: form.name.clone(), message: "a value is not in its e-graph".into() };
        let class = |v: &ValueId| built.class_of[v.index()].ok_or_else(missing);
        let roots = form.outputs.iter().map(|(_, v)| class(v)).collect::<Result<Vec<_>>>()?;
        let dag = Dag::new(&egraph, &roots);
        let place = |id: egg::Id| dag.find(&egraph, id).ok_or_else(missing);
        let outputs = roots.iter().map(|id| place(*id)).collect::<Result<_>>()?;
        let inputs = form.inputs.iter().map(|v| place(class(v)?)).collect::<Result<_>>()?;
        let ranges = meaning.iter().map(|(symbol, dim)| (dim.clone(), function.symbols.range(symbol))).collect();
        let requirement = |c: &Constraint| Requirement {
            left: c.requirement.left.substitute(meaning),
            relation: c.requirement.relation,
            right: c.requirement.right.substitute(meaning),
        };
        let requirements = function.constraints.iter().map(requirement).collect();
        Ok(Variant { heads: Heads::of(&dag), dag, inputs, outputs, meaning: meaning.clone(), ranges, requirements })
    }

    /// The value of all elements of a class that depends on literals and dims alone, for these values of the variables.
    pub fn scalar(&self, class: ClassIx, dims: &BTreeMap<String, Dim>) -> Option<f64> {
        let mut graph = Graph::new("");
        let value = self.scalar_in(&mut graph, &mut HashMap::new(), class, dims)?;
        graph.outputs.push(("y".to_owned(), value));
        interpret(&graph, &[]).ok()?.first()?.to_f64_vec().first().copied()
    }

    fn scalar_in(
        &self,
        graph: &mut Graph,
        known: &mut HashMap<ClassIx, ValueId>,
        class: ClassIx,
        dims: &BTreeMap<String, Dim>,
    ) -> Option<ValueId> {
        if let Some(v) = known.get(&class) {
            return Some(*v);
        }
        let made = self.dag.class(class).nodes.iter().find_map(|node| {
            let op = match node.op.as_ref()? {
                Op::Const { value } if value.len() == 1 => {
                    Op::Const { value: Tensor::full(value.dtype(), &[], *value.to_f64_vec().first()?).ok()? }
                }
                Op::DimValue { dim } => Op::Const { value: Tensor::scalar(dim.substitute(dims).as_const()?) },
                // Every value is one element here.
                Op::Broadcast { .. } | Op::Reshape { .. } => {
                    return self.scalar_in(graph, known, *node.operands.first()?, dims);
                }
                op if op.kind() == OpKind::Elementwise => op.clone(),
                _ => return None,
            };
            let operands: Option<Vec<ValueId>> =
                node.operands.iter().map(|c| self.scalar_in(graph, known, *c, dims)).collect();
            graph.add(op, &operands?, "").ok()?.first().copied()
        })?;
        known.insert(class, made);
        Some(made)
    }

    /// The type of a class, in variables.
    pub fn ty(&self, class: ClassIx) -> &TensorType {
        self.dag.class(class).ty()
    }
}

/// Whether a symbol is a variable: those of models are none.
pub(super) fn is_variable(symbol: &str) -> bool {
    symbol.starts_with(VARIABLE)
}
