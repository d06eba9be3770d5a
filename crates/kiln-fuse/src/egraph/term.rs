//! Terms: an op's mnemonic over children. Attributes are interned and ride along as the first child, so that patterns bind them.

use egg::{FromOp, Id, Language};
use kiln_graph::{BinaryOp, CompareOp, UnaryOp};

/// What a term applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Head {
    /// A primitive by its mnemonic. Unary, binary, compare and select have no attribute child; all others have one.
    Op(&'static str),
    /// An interned op with its attributes.
    Attr(u32),
    /// One result of an op with several.
    Result(u32),
    /// An op that rules never look into (control flow), unique by node.
    Opaque(u32),
}

/// One e-node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Term {
    pub head: Head,
    pub children: Vec<Id>,
}

impl Language for Term {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head
    }

    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// Mnemonics of ops with attributes that patterns may name.
const WITH_ATTRIBUTES: &[&str] = &[
    "cast",
    "reduce_sum",
    "reduce_prod",
    "reduce_max",
    "reduce_min",
    "reduce_all",
    "reduce_any",
    "contract",
    "conv",
    "permute",
    "reshape",
    "broadcast",
    "slice",
    "pad",
    "concat",
    "gather",
];

impl FromOp for Term {
    type Error = String;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, String> {
        let name = WITH_ATTRIBUTES
            .iter()
            .copied()
            .find(|n| *n == op)
            .or_else(|| UnaryOp::from_name(op).map(UnaryOp::name))
            .or_else(|| BinaryOp::from_name(op).map(BinaryOp::name))
            .or_else(|| CompareOp::from_name(op).map(CompareOp::name))
            .or_else(|| (op == "select").then_some("select"))
            .ok_or_else(|| format!("no op is called `{op}`"))?;
        Ok(Term { head: Head::Op(name), children })
    }
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.head {
            Head::Op(name) => f.write_str(name),
            Head::Attr(i) => write!(f, "@{i}"),
            Head::Result(i) => write!(f, "result{i}"),
            Head::Opaque(i) => write!(f, "opaque{i}"),
        }
    }
}
