//! The graph: an arena of nodes and values in topological order.

use crate::{Atom, Attached, Bindings, DType, Dim, Error, Op, Result, Symbols, Tensor, infer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Index of a value in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueId(pub u32);

/// Index of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u32);

impl ValueId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Dtype and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type from a dtype and anything that becomes dims.
    pub fn new<D: Into<Dim>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> TensorType {
        TensorType { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The extents when all are constant.
    pub fn const_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.as_const().and_then(|v| usize::try_from(v).ok())).collect()
    }

    /// Number of elements, as an expression.
    pub fn numel(&self) -> Dim {
        self.shape.iter().fold(Dim::from(1), |n, d| n * d.clone())
    }

    /// The concrete extents under `bindings`.
    pub fn concrete(&self, bindings: &Bindings) -> Result<Vec<usize>> {
        self.shape.iter().map(|d| d.eval_extent(bindings)).collect()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// One SSA value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Value {
    /// Its type.
    pub ty: TensorType,
    /// The node that defines it.
    pub node: NodeId,
    /// Which result of that node.
    pub result: u32,
    /// The model's name for it (may be empty).
    pub name: String,
}

/// One application of a primitive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// The primitive.
    pub op: Op,
    /// Operands, all defined by earlier nodes.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
    /// The model's name for it (may be empty): layers, files and errors refer to it.
    pub name: String,
}

/// How two dims must stand to each other once symbols are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Relation {
    /// Both are equal.
    Equal,
    /// The left one is 1, and repeated, or both are equal.
    Broadcasts,
    /// The left one is not the larger.
    AtMost,
    /// The left one is a multiple of the right one, which is above 0.
    Multiple,
}

impl Relation {
    /// Whether it holds between two extents.
    pub fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Relation::Equal => left == right,
            Relation::Broadcasts => left == 1 || left == right,
            Relation::AtMost => left <= right,
            Relation::Multiple => right > 0 && left % right == 0,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relation::Equal => "==",
            Relation::Broadcasts => "->",
            Relation::AtMost => "<=",
            Relation::Multiple => "%",
        })
    }
}

/// A relation of two dims that cannot be proved before symbols are bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Requirement {
    /// One side.
    pub left: Dim,
    /// What must hold.
    pub relation: Relation,
    /// The other.
    pub right: Dim,
}

impl Requirement {
    /// `left == right`.
    pub fn equal(left: Dim, right: Dim) -> Requirement {
        Requirement { left, relation: Relation::Equal, right }
    }

    /// `left` is 1 or `right`.
    pub fn broadcasts(left: Dim, right: Dim) -> Requirement {
        Requirement { left, relation: Relation::Broadcasts, right }
    }

    /// `left <= right`.
    pub fn at_most(left: Dim, right: Dim) -> Requirement {
        Requirement { left, relation: Relation::AtMost, right }
    }

    /// `left` is a multiple of `right`.
    pub fn multiple(left: Dim, right: Dim) -> Requirement {
        Requirement { left, relation: Relation::Multiple, right }
    }

    /// Whether this follows from `known`: from one of them, or from what they say of multiples.
    pub fn follows_from_all(&self, known: &[Constraint], symbols: &Symbols) -> bool {
        known.iter().any(|c| self.follows_from(&c.requirement)) || self.follows_from_multiples(known, symbols)
    }

    /// Whether this holds with each symbol of which a multiple is known replaced by that multiple of another one, which has a range too.
    fn follows_from_multiples(&self, known: &[Constraint], symbols: &Symbols) -> bool {
        let multiples = multiples(known);
        if multiples.is_empty() {
            return false;
        }
        let (mut by, mut symbols) = (BTreeMap::new(), symbols.clone());
        for (symbol, of) in multiples {
            let part = format!("{symbol}'");
            let (low, high) = symbols.range(&symbol);
            if let Some(n) = of.as_const().filter(|n| *n > 0) {
                symbols.declare(&part, low / n + i64::from(low % n != 0), high / n);
            }
            by.insert(symbol, of * Dim::sym(part));
        }
        let by = &by;
        let (left, right) = (self.left.substitute(by), self.right.substitute(by));
        match self.relation {
            Relation::Equal | Relation::Broadcasts => left == right,
            Relation::AtMost => (left - right).bounds(&symbols).1 <= 0,
            Relation::Multiple => left.exact_div(&right).is_some(),
        }
    }

    /// Whether this follows from `known` alone.
    pub fn follows_from(&self, known: &Requirement) -> bool {
        let same = (&known.left, &known.right) == (&self.left, &self.right);
        match known.relation {
            Relation::Equal if self.relation == Relation::Multiple => false,
            Relation::Equal => same || (&known.right, &known.left) == (&self.left, &self.right),
            relation => same && self.relation == relation,
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {} [{}]", self.left, self.relation, self.right)
    }
}

/// A requirement that a run must check.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Constraint {
    /// What must hold.
    #[serde(flatten)]
    pub requirement: Requirement,
    /// The node that needs it, for the message.
    pub why: String,
}

impl Constraint {
    /// Checks it under `bindings`; one that speaks of symbols without a value is left to whoever computes them.
    pub fn check(&self, bindings: &Bindings) -> Result<()> {
        let Requirement { left, relation, right } = &self.requirement;
        let mut symbols = BTreeSet::new();
        left.symbols(&mut symbols);
        right.symbols(&mut symbols);
        if !symbols.iter().all(|s| bindings.contains_key(s)) {
            return Ok(());
        }
        let (a, b) = (left.eval(bindings)?, right.eval(bindings)?);
        if relation.holds(a, b) {
            return Ok(());
        }
        let message = match relation {
            Relation::Equal => format!("needs `{left}` = `{right}`, found {a} and {b} for these input shapes"),
            Relation::Broadcasts => {
                format!("needs `{left}` to be 1 or `{right}`, found {a} and {b} for these input shapes")
            }
            Relation::AtMost => format!("needs `{left}` <= `{right}`, found {a} and {b} for these input shapes"),
            Relation::Multiple if right.as_const().is_some() => {
                format!("needs `{left}` to be a multiple of {b}, found {a} for these input shapes")
            }
            Relation::Multiple => {
                format!("needs `{left}` to be a multiple of `{right}`, found {a} and {b} for these input shapes")
            }
        };
        Err(Error::Binding { what: self.why.clone(), message })
    }
}

/// What each symbol is known to be a multiple of. With `S` as `4*S'`, `floor(S, 4)*4` is `S` again.
fn multiples(known: &[Constraint]) -> BTreeMap<String, Dim> {
    let mut all: BTreeMap<String, Dim> = BTreeMap::new();
    for Constraint { requirement: Requirement { left, relation, right }, .. } in known {
        let (Relation::Multiple, [([Atom::Sym(symbol)], 1)]) = (relation, left.terms().collect::<Vec<_>>().as_slice())
        else {
            continue;
        };
        let by = match all.get(symbol) {
            Some(other) => lcm(other, right).unwrap_or_else(|| other.clone()),
            None => right.clone(),
        };
        all.insert(symbol.clone(), by);
    }
    all
}

/// The least common multiple of two constants above 0.
fn lcm(a: &Dim, b: &Dim) -> Option<Dim> {
    let (a, b) = (a.as_const().filter(|v| *v > 0)?, b.as_const().filter(|v| *v > 0)?);
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x).checked_mul(b).map(Dim::from)
}

/// A typed SSA tensor graph. Nodes are stored in topological order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    /// Nodes, operands before users.
    pub nodes: Vec<Node>,
    /// Values, in order of definition.
    pub values: Vec<Value>,
    /// Values of the `Op::Input` nodes, in the order of the signature.
    pub inputs: Vec<ValueId>,
    /// Named results.
    pub outputs: Vec<(String, ValueId)>,
    /// Data of `Op::Weight` nodes by name; a weight may still be unbound.
    pub weights: BTreeMap<String, Tensor>,
    /// Symbols that occur in shapes, with their ranges.
    pub symbols: Symbols,
    /// What a run must check of its shapes.
    pub constraints: Vec<Constraint>,
    /// What goes with it for rooms above.
    #[serde(skip)]
    pub attached: Attached,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// The value behind an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    /// The node behind an id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node that defines a value.
    pub fn producer(&self, id: ValueId) -> &Node {
        self.node(self.value(id).node)
    }

    /// The public name of an input, from the node that defines it.
    pub fn input_name(&self, id: ValueId) -> String {
        match &self.producer(id).op {
            Op::Input { name, .. } => name.clone(),
            _ => self.value(id).name.clone(),
        }
    }

    /// For each value, the nodes that use it (a node once a use).
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                users[input.index()].push(NodeId(i as u32));
            }
        }
        users
    }

    /// Appends a node whose result types are already known. Everything but parsers and rewriters goes through [`Graph::add`], which infers
    /// them.
    pub fn push_node(&mut self, op: Op, inputs: &[ValueId], types: Vec<TensorType>, name: &str) -> Vec<ValueId> {
        let node = NodeId(self.nodes.len() as u32);
        let outputs: Vec<ValueId> = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                let id = ValueId(self.values.len() as u32);
                self.values.push(Value { ty, node, result: i as u32, name: String::new() });
                id
            })
            .collect();
        if let Op::Input { .. } = op {
            self.inputs.extend(&outputs);
        }
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), name: name.to_owned() });
        outputs
    }

    /// Adds a requirement unless it follows from one that is recorded. `why` names what needs it.
    pub fn require(&mut self, requirement: Requirement, why: impl FnOnce() -> String) {
        if !requirement.follows_from_all(&self.constraints, &self.symbols) {
            self.constraints.push(Constraint { requirement, why: why() });
        }
    }

    /// Appends a node, inferring its result types. `name` is the model's name for it (may be empty) and goes into messages. What cannot be
    /// proved of its operands' extents is recorded in [`Graph::constraints`].
    pub fn add(&mut self, op: Op, inputs: &[ValueId], name: &str) -> Result<Vec<ValueId>> {
        let label = |op: &str| if name.is_empty() { op.to_owned() } else { format!("{op} `{name}`") };
        if let Some(id) = inputs.iter().find(|id| id.index() >= self.values.len()) {
            return Err(Error::Infer { op: label(op.name()), message: format!("operand %{} does not exist", id.0) });
        }
        let types: Vec<&TensorType> = inputs.iter().map(|&id| self.ty(id)).collect();
        let inference = infer(&op, &types, &self.symbols).map_err(|e| match e {
            Error::Infer { op, message } => Error::Infer { op: label(&op), message },
            other => other,
        })?;
        for requirement in inference.constraints {
            self.require(requirement, || label(op.name()));
        }
        Ok(self.push_node(op, inputs, inference.results, name))
    }

    /// [`Graph::add`] for an op with exactly one result.
    pub fn add1(&mut self, op: Op, inputs: &[ValueId], name: &str) -> Result<ValueId> {
        let mnemonic = op.name();
        match self.add(op, inputs, name)?.as_slice() {
            [id] => Ok(*id),
            ids => Err(Error::Infer {
                op: mnemonic.to_owned(),
                message: format!("expected one result, found {}", ids.len()),
            }),
        }
    }
}
