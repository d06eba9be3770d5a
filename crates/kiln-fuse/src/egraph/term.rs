//! Terms: an op's code over children. Attributes are interned and ride along as the first child, so that patterns bind them.

use egg::{FromOp, Id, Language};
use kiln_graph::OpCode;

/// What a term applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Head {
    /// A primitive. Those that have attributes have them as their first child.
    Op(OpCode),
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

impl FromOp for Term {
    type Error = String;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, String> {
        let code = OpCode::from_name(op).ok_or_else(|| format!("no op is called `{op}`"))?;
        Ok(Term { head: Head::Op(code), children })
    }
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.head {
            Head::Op(code) => write!(f, "{code}"),
            Head::Attr(i) => write!(f, "@{i}"),
            Head::Result(i) => write!(f, "result{i}"),
            Head::Opaque(i) => write!(f, "opaque{i}"),
        }
    }
}
