//! The walk over an ONNX graph: scopes of names, nested graphs and their captures, and the list of what is unsupported.

use super::external::ExternalData;
use super::fold;
use super::node::{Attributes, Node};
use super::ops;
use super::order;
use super::proto::{FunctionProto, GraphProto, NodeProto};
use super::prune::prune;
use super::shape_values;
use super::tensor::{self, TensorError};
use super::value::{Constant, Val};
use crate::{Error, UnsupportedOps};
use kiln_graph::{Builder, DType, Dim, Graph, Op, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Why one node cannot be lowered.
#[derive(Debug)]
pub(super) enum OpError {
    /// Valid ONNX that Kiln has no lowering for.
    Unsupported(String),
    /// The value of an input must be known to build the graph, and is not; `inputs` are the graph inputs it depends on.
    NeedsValue { what: String, inputs: BTreeSet<String> },
    /// Contradicts the specification.
    Invalid(String),
    /// Inference refuses the lowering.
    Graph(kiln_graph::Error),
    /// An operand comes from a node that is itself unsupported.
    Poisoned,
    /// Constant folding met a value that is not constant after all.
    NotConstant,
    /// Ends the import.
    Fatal(Error),
}

impl From<kiln_graph::Error> for OpError {
    fn from(e: kiln_graph::Error) -> OpError {
        OpError::Graph(e)
    }
}

impl From<TensorError> for OpError {
    fn from(e: TensorError) -> OpError {
        match e {
            TensorError::Unsupported(reason) => OpError::Unsupported(reason),
            TensorError::Malformed(e) => OpError::Fatal(e),
        }
    }
}

pub(super) type OpResult<T> = Result<T, OpError>;

/// Shorthand for an unsupported use of an operator.
pub(super) fn unsupported<T>(reason: impl Into<String>) -> OpResult<T> {
    Err(OpError::Unsupported(reason.into()))
}

/// Shorthand for a node that contradicts the specification.
pub(super) fn invalid<T>(message: impl Into<String>) -> OpResult<T> {
    Err(OpError::Invalid(message.into()))
}

/// Versions of the operator sets by domain; the default domain is the empty string.
pub(super) type Opsets = Rc<BTreeMap<String, i64>>;

/// What is fixed for one model.
pub(super) struct ModelParts<'m> {
    pub(super) functions: BTreeMap<(&'m str, &'m str, &'m str), &'m FunctionProto>,
    pub(super) external: ExternalData,
    /// Nodes that may be lowered in all, function calls and unrolled bodies included.
    pub(super) node_budget: usize,
}

/// Names visible in one ONNX graph or function body. A `None` marks the result of an unsupported node.
struct Scope<'m> {
    names: HashMap<&'m str, Option<Val>>,
    /// Set for the body of a function, which does not see the names around it.
    function: Option<FunctionScope<'m>>,
}

struct FunctionScope<'m> {
    attributes: Attributes<'m>,
    opsets: Opsets,
}

/// One Kiln graph under construction: the model's own, the body of an `If` or `Loop`, or a scratch graph for folding.
pub(super) struct Frame {
    pub(super) builder: Builder,
    /// Values of the enclosing graph that this one uses, with their inputs here.
    pub(super) captures: Vec<(ValueId, ValueId)>,
    constants: HashMap<*const Constant, (Rc<Constant>, ValueId)>,
    folding: bool,
}

impl Frame {
    /// The finished graph.
    pub(super) fn finish(self) -> Graph {
        prune(self.builder.finish())
    }

    fn new(builder: Builder, folding: bool) -> Frame {
        Frame { builder, captures: Vec::new(), constants: HashMap::new(), folding }
    }
}

/// The state of an import.
pub(super) struct Lower<'m> {
    pub(super) parts: &'m ModelParts<'m>,
    pub(super) frames: Vec<Frame>,
    scopes: Vec<Scope<'m>>,
    /// Name of the ONNX node being lowered.
    at: String,
    pub(super) unsupported: UnsupportedOps,
    /// Initializers that the caller gives a value, as inputs of the graph or as constants.
    pub(super) overridden: BTreeSet<&'m str>,
    /// Graph inputs whose values lowering asked for.
    pub(super) needed: BTreeSet<String>,
    lowered: usize,
}

/// Deepest nesting of functions and subgraphs.
const MAX_DEPTH: usize = 48;

/// Largest constant, in elements, written as a literal instead of a weight.
const LITERAL: usize = 16;

impl<'m> Lower<'m> {
    pub(super) fn new(parts: &'m ModelParts<'m>, graph: Graph, opsets: Opsets) -> Lower<'m> {
        let function = Some(FunctionScope { attributes: Attributes::new(), opsets });
        Lower {
            parts,
            frames: vec![Frame::new(Builder::from_graph(graph), false)],
            scopes: vec![Scope { names: HashMap::new(), function }],
            at: String::new(),
            unsupported: UnsupportedOps::default(),
            overridden: BTreeSet::new(),
            needed: BTreeSet::new(),
            lowered: 0,
        }
    }

    // Graphs

    pub(super) fn level(&self) -> usize {
        self.frames.len() - 1
    }

    /// Starts a nested graph.
    pub(super) fn push_frame(&mut self, folding: bool) {
        let mut builder = Builder::new(self.at.clone());
        builder.graph_mut().symbols = self.graph().symbols.clone();
        builder.push_scope(self.at.clone());
        self.frames.push(Frame::new(builder, folding));
    }

    pub(super) fn pop_frame(&mut self) -> Option<Frame> {
        if self.frames.len() > 1 { self.frames.pop() } else { None }
    }

    /// A result of the current graph as an ONNX value.
    pub(super) fn run(&self, id: ValueId) -> Val {
        Val::Run { level: self.level(), id, ty: self.ty(id).clone() }
    }

    /// The outcome of an operator with one result.
    pub(super) fn done(&self, id: ValueId) -> OpResult<Vec<Val>> {
        Ok(vec![self.run(id)])
    }

    /// The graph value of a required input.
    pub(super) fn arg(&mut self, node: &Node<'_>, i: usize) -> OpResult<ValueId> {
        self.value(node.input(i)?)
    }

    /// The graph value of an optional input.
    pub(super) fn maybe_arg(&mut self, node: &Node<'_>, i: usize) -> OpResult<Option<ValueId>> {
        node.optional(i).map(|v| self.value(v)).transpose()
    }

    /// The graph value that holds `val`, materialized or captured if need be.
    pub(super) fn value(&mut self, val: &Val) -> OpResult<ValueId> {
        let level = self.level();
        match val {
            Val::Run { level: from, id, .. } => self.capture(*from, *id, level),
            Val::Const(c) => self.materialize(c, level),
            Val::Dims(d) => {
                let mut parts = Vec::with_capacity(d.dims.len());
                for dim in &d.dims {
                    let v = self.dim_value(dim, DType::I64)?;
                    parts.push(self.reshape(v, &[Dim::from(1)])?);
                }
                let flat = self.concat(&parts, 0)?;
                let shape: Vec<Dim> = d.shape.iter().map(|&n| Dim::from(n)).collect();
                let shaped = self.reshape(flat, &shape)?;
                Ok(self.cast(shaped, d.dtype)?)
            }
        }
    }

    /// Makes a value of the graph at level `from` available at level `to`.
    fn capture(&mut self, from: usize, id: ValueId, to: usize) -> OpResult<ValueId> {
        if from == to {
            return Ok(id);
        }
        if from > to || self.frames[to].folding {
            return Err(OpError::NotConstant);
        }
        let outer = self.capture(from, id, to - 1)?;
        if let Some((_, inner)) = self.frames[to].captures.iter().find(|(o, _)| *o == outer) {
            return Ok(*inner);
        }
        let ty = self.frames[to - 1].builder.ty(outer).clone();
        let name = format!("capture{}", self.frames[to].captures.len());
        let inner = self.frames[to].builder.input(&name, ty.dtype, &ty.shape)?;
        self.frames[to].captures.push((outer, inner));
        Ok(inner)
    }

    fn materialize(&mut self, c: &Rc<Constant>, level: usize) -> OpResult<ValueId> {
        if let Some((_, id)) = self.frames[level].constants.get(&Rc::as_ptr(c)) {
            return Ok(*id);
        }
        let small = c.tensor.len() <= LITERAL;
        let id = if small || self.frames[level].folding {
            self.frames[level].builder.constant(c.tensor.clone())?
        } else if level > 0 {
            // Weights live in the outermost graph, so that they are stored once.
            let outer = self.materialize(c, level - 1)?;
            return self.capture(level - 1, outer, level);
        } else {
            let graph = self.frames[0].builder.graph_mut();
            let mut name = if c.name.is_empty() { format!("folded.{}", graph.weights.len()) } else { c.name.clone() };
            while graph.weights.contains_key(&name) {
                name.push('\'');
            }
            graph.weights.insert(name.clone(), c.tensor.clone());
            let ty = Val::Const(c.clone()).ty();
            let id = graph.add1(Op::Weight { name: name.clone(), ty }, &[], &name)?;
            self.frames[0].builder.set_name(id, name);
            id
        };
        self.frames[level].constants.insert(Rc::as_ptr(c), (c.clone(), id));
        Ok(id)
    }

    /// The error that says a value must be known, with the graph inputs that would make it so.
    pub(super) fn needs(&self, val: &Val, what: &str) -> OpError {
        let mut inputs = BTreeSet::new();
        let settled = match val {
            Val::Run { level, id, .. } => self.roots(*level, *id, &mut inputs),
            _ => false,
        };
        if settled && !inputs.is_empty() {
            OpError::NeedsValue { what: what.to_owned(), inputs }
        } else {
            OpError::Unsupported(format!("{what} is computed from data, and must be known when the graph is built"))
        }
    }

    /// The graph inputs whose shapes set an extent, with those shapes as `--profile` writes them.
    pub(super) fn inputs_with(&self, extent: &Dim) -> Vec<(String, String)> {
        let mut wanted = BTreeSet::new();
        extent.symbols(&mut wanted);
        let graph = self.frames[0].builder.graph();
        let mut found = Vec::new();
        for &id in &graph.inputs {
            let mut own = BTreeSet::new();
            let shape = &graph.ty(id).shape;
            shape.iter().for_each(|d| d.symbols(&mut own));
            if !own.is_disjoint(&wanted) {
                found.push((graph.input_name(id), shape.iter().map(Dim::to_string).collect::<Vec<_>>().join("x")));
            }
        }
        found
    }

    /// Collects the graph inputs that a value depends on; false if it also depends on something that no input settles.
    fn roots(&self, level: usize, id: ValueId, into: &mut BTreeSet<String>) -> bool {
        let frame = &self.frames[level];
        let mut seen = vec![false; frame.builder.graph().values.len()];
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut seen[id.index()], true) {
                continue;
            }
            let node = frame.builder.graph().producer(id);
            match &node.op {
                Op::Input { name, .. } if level == 0 => {
                    into.insert(name.clone());
                }
                Op::Input { .. } => match frame.captures.iter().find(|(_, inner)| *inner == id) {
                    Some((outer, _)) => {
                        if !self.roots(level - 1, *outer, into) {
                            return false;
                        }
                    }
                    None => return false,
                },
                _ => stack.extend(&node.inputs),
            }
        }
        true
    }

    // Names

    pub(super) fn bind(&mut self, name: &'m str, val: Option<Val>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name, val);
        }
    }

    pub(super) fn lookup(&self, name: &str) -> OpResult<Val> {
        for scope in self.scopes.iter().rev() {
            if let Some(val) = scope.names.get(name) {
                return val.clone().ok_or(OpError::Poisoned);
            }
            if scope.function.is_some() {
                break;
            }
        }
        invalid(format!("input `{name}` is not defined before this node"))
    }

    fn function_scope(&self) -> &FunctionScope<'m> {
        let found = self.scopes.iter().rev().find_map(|s| s.function.as_ref());
        found.expect("the outermost scope is one")
    }

    // Walking

    /// Lowers the nodes of a graph or function with these inputs in the current scope and frame.
    pub(super) fn nodes(&mut self, nodes: &'m [NodeProto], given: &HashSet<&'m str>) -> Result<(), Error> {
        for node in order::sorted(nodes, given)? {
            self.lowered += 1;
            if self.lowered > self.parts.node_budget {
                return Err(Error::malformed("the model", "its functions and loops expand without end"));
            }
            self.node(node)?;
        }
        Ok(())
    }

    fn node(&mut self, proto: &'m NodeProto) -> Result<(), Error> {
        let name = match proto.name() {
            "" => proto.output.first().map_or("", String::as_str),
            name => name,
        };
        let outer = std::mem::replace(&mut self.at, name.to_owned());
        self.push_scope(name);
        let result = self.outputs_of(proto);
        self.pop_scope();
        self.at = outer;
        let op = match domain(proto.domain()) {
            "" => proto.op_type().to_owned(),
            d => format!("{d}.{}", proto.op_type()),
        };
        let fail = |message| Err(Error::Node { node: name.to_owned(), op: op.clone(), message });
        match result {
            Ok(vals) => {
                let mut vals = vals.into_iter().map(Some);
                for (i, output) in proto.output.iter().enumerate() {
                    let val = vals.next().flatten();
                    if output.is_empty() {
                        continue;
                    }
                    if val.is_none() {
                        self.unsupported.push(&op, name, format!("output {i} is not computed"));
                    }
                    self.name_value(val.as_ref(), output);
                    self.bind(output, val);
                }
                return Ok(());
            }
            Err(OpError::Poisoned) => {}
            Err(OpError::Unsupported(reason)) => self.unsupported.push(&op, name, reason),
            Err(OpError::NotConstant) => {
                self.unsupported.push(&op, name, "uses a value of an unfinished subgraph".into());
            }
            Err(OpError::NeedsValue { what, inputs }) => {
                let list = inputs.iter().map(|i| format!("`{i}`")).collect::<Vec<_>>().join(", ");
                let reason = format!("{what} depends on the data of {list}; give their values as constants");
                self.needed.extend(inputs);
                self.unsupported.push(&op, name, reason);
            }
            Err(OpError::Invalid(message)) => return fail(message),
            Err(OpError::Graph(e)) => return fail(e.to_string()),
            Err(OpError::Fatal(e)) => return Err(e),
        }
        for output in &proto.output {
            self.bind(output, None);
        }
        Ok(())
    }

    /// Gives a graph value the model's name for it.
    fn name_value(&mut self, val: Option<&Val>, name: &str) {
        if let Some(Val::Run { level, id, .. }) = val {
            let builder = &mut self.frames[*level].builder;
            if builder.graph().value(*id).name.is_empty() {
                builder.set_name(*id, name);
            }
        }
    }

    fn outputs_of(&mut self, proto: &'m NodeProto) -> OpResult<Vec<Val>> {
        let domain = domain(proto.domain());
        let function = self.parts.functions.get(&(domain, proto.op_type(), proto.overload())).copied();
        let handler = ops::lookup(domain, proto.op_type());
        if let (Some(function), true) = (function, handler.is_none() || !domain.is_empty()) {
            return self.call(function, proto);
        }
        let Some(handler) = handler else { return unsupported("no lowering for this operator") };
        let scope = self.function_scope();
        let version = scope.opsets.get(domain).copied();
        let version = version.ok_or_else(|| OpError::Invalid(format!("operator set `{domain}` is not imported")))?;
        let attributes = resolve(proto, &scope.attributes);
        let inputs = self.inputs(proto)?;
        let node = Node { proto, attributes, inputs, version };
        if let Some(vals) = shape_values::fold(self, &node)? {
            return Ok(vals);
        }
        if let Some(vals) = fold::constants(self, &node, handler)? {
            return Ok(vals);
        }
        handler(self, &node)
    }

    fn inputs(&self, proto: &NodeProto) -> OpResult<Vec<Option<Val>>> {
        proto.input.iter().map(|name| if name.is_empty() { Ok(None) } else { self.lookup(name).map(Some) }).collect()
    }

    /// Expands a call of a model-local function.
    fn call(&mut self, function: &'m FunctionProto, proto: &'m NodeProto) -> OpResult<Vec<Val>> {
        self.check_depth()?;
        let inputs = self.inputs(proto)?;
        let mut attributes = resolve(proto, &self.function_scope().attributes);
        for default in &function.attribute_proto {
            attributes.entry(default.name()).or_insert(default);
        }
        let opsets = super::opsets(&function.opset_import).map_err(OpError::Fatal)?;
        let mut names = HashMap::new();
        for (formal, actual) in function.input.iter().zip(inputs) {
            if let Some(actual) = actual {
                names.insert(formal.as_str(), Some(actual));
            }
        }
        self.scopes.push(Scope { names, function: Some(FunctionScope { attributes, opsets }) });
        let given = function.input.iter().map(String::as_str).collect();
        let result = self.nodes(&function.node, &given).map_err(OpError::Fatal).and_then(|()| {
            // Outputs that the call leaves out need not be defined.
            let wanted = function.output.iter().zip(&proto.output).take_while(|(_, o)| !o.is_empty());
            wanted.map(|(formal, _)| self.lookup(formal)).collect()
        });
        self.scopes.pop();
        result
    }

    fn check_depth(&self) -> OpResult<()> {
        if self.scopes.len() > MAX_DEPTH { invalid("functions or subgraphs nest too deeply") } else { Ok(()) }
    }

    /// Lowers a subgraph in the current frame with its inputs bound to `args`; returns its outputs.
    pub(super) fn subgraph(&mut self, graph: &'m GraphProto, args: Vec<Val>) -> OpResult<Vec<Val>> {
        self.check_depth()?;
        let names = graph.input.iter().map(|i| i.name()).zip(args.into_iter().map(Some)).collect();
        self.scopes.push(Scope { names, function: None });
        let result = self.graph_body(graph);
        self.scopes.pop();
        result
    }

    /// Initializers, nodes and outputs of a graph whose inputs are bound.
    pub(super) fn graph_body(&mut self, graph: &'m GraphProto) -> OpResult<Vec<Val>> {
        if !graph.sparse_initializer.is_empty() {
            self.unsupported.push("sparse_initializer", graph.name(), "sparse tensors are not supported".into());
        }
        for t in &graph.initializer {
            // The outermost graph's may be inputs with a value of their own.
            if self.overridden.contains(t.name()) && self.scopes.len() == 1 {
                continue;
            }
            let val = match tensor::tensor(t, &self.parts.external) {
                Ok(tensor) => Some(Val::Const(Rc::new(Constant { name: t.name().to_owned(), tensor }))),
                Err(TensorError::Unsupported(reason)) => {
                    self.unsupported.push("initializer", t.name(), reason);
                    None
                }
                Err(TensorError::Malformed(e)) => return Err(OpError::Fatal(e)),
            };
            self.bind(t.name(), val);
        }
        let initializers = graph.initializer.iter().map(|t| t.name());
        let given = graph.input.iter().map(|i| i.name()).chain(initializers).collect();
        self.nodes(&graph.node, &given).map_err(OpError::Fatal)?;
        graph.output.iter().map(|o| self.lookup(o.name())).collect()
    }

    // Known values

    /// A constant operand.
    pub(super) fn known(&self, val: &Val, what: &str) -> OpResult<Tensor> {
        val.as_const().cloned().ok_or_else(|| self.needs(val, what))
    }

    /// A constant integer operand, flattened.
    pub(super) fn known_ints(&self, val: &Val, what: &str) -> OpResult<Vec<i64>> {
        let t = self.known(val, what)?;
        t.to_i64_vec().ok_or_else(|| OpError::Invalid(format!("{what} must be integers, found {}", t.dtype())))
    }

    /// A constant operand as f64, flattened.
    pub(super) fn known_floats(&self, val: &Val, what: &str) -> OpResult<Vec<f64>> {
        Ok(self.known(val, what)?.to_f64_vec())
    }

    /// A small integer operand as dimension expressions, flattened.
    pub(super) fn known_dims(&self, val: &Val, what: &str) -> OpResult<Vec<Dim>> {
        match val.as_dims() {
            Some(d) => Ok(d.dims),
            None if val.as_const().is_some() => unsupported(format!("{what} has too many elements")),
            None => Err(self.needs(val, what)),
        }
    }
}

/// The builder of the graph under construction.
impl Deref for Lower<'_> {
    type Target = Builder;

    fn deref(&self) -> &Builder {
        &self.frames[self.level()].builder
    }
}

impl DerefMut for Lower<'_> {
    fn deref_mut(&mut self) -> &mut Builder {
        let level = self.level();
        &mut self.frames[level].builder
    }
}

/// The default domain has two spellings.
pub(super) fn domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// A node's attributes, references to attributes of the enclosing function replaced by their values or dropped.
fn resolve<'m>(proto: &'m NodeProto, function: &Attributes<'m>) -> Attributes<'m> {
    let mut resolved = Attributes::new();
    for a in &proto.attribute {
        match a.ref_attr_name() {
            "" => {
                resolved.insert(a.name(), a);
            }
            reference => {
                if let Some(given) = function.get(reference) {
                    resolved.insert(a.name(), given);
                }
            }
        }
    }
    resolved
}
