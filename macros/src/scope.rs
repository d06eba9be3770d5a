//! What names mean while a body is interpreted.

use kiln_graph::{Dim, ValueId};
use proc_macro2::TokenStream;
use std::collections::BTreeMap;
use syn::Ident;

/// The abstract value of an expression.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    /// A tensor; `None` when its type is not known before the graph is built.
    Tensor(Option<ValueId>),
    /// A tensor that may be absent, a Rust `Option`, with its type if present. `None` as for a tensor, and for `None` itself.
    Optional(Option<ValueId>),
    /// A config value.
    Host(Host),
    /// A tuple that holds tensors.
    Tuple(Vec<Val>),
    /// `()`.
    Unit,
}

/// A Rust value that is known when the graph is built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// A name that two expressions share only if they have the same value. `None`: nothing is known.
    pub name: Option<String>,
    /// Its value as a dimension, if it is an integer expression over names.
    pub dim: Option<Dim>,
    /// Whether the Rust value is a `Dim` rather than an integer: it depends on symbols.
    pub symbolic: bool,
}

impl Val {
    /// Whether tensors are involved.
    pub(crate) fn is_tensor(&self) -> bool {
        match self {
            Val::Tensor(_) | Val::Optional(_) => true,
            Val::Tuple(items) => items.iter().any(Val::is_tensor),
            Val::Host(_) | Val::Unit => false,
        }
    }

    /// For messages: what this is.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Val::Tensor(_) => "a tensor",
            Val::Optional(_) => "a tensor that may be absent",
            Val::Host(_) => "a config value",
            Val::Tuple(_) => "a tuple",
            Val::Unit => "()",
        }
    }
}

/// A variable.
#[derive(Clone, Debug)]
pub(crate) struct Var {
    /// Its present value.
    pub val: Val,
    /// Declared `mut`: a config value read through it is never the same twice.
    pub mutable: bool,
    /// The last expression assigned to it, for the span of a message about loop-carried types.
    pub assigned: Option<TokenStream>,
}

/// Nested scopes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scopes {
    stack: Vec<BTreeMap<String, Var>>,
}

impl Scopes {
    /// Opens a scope.
    pub(crate) fn enter(&mut self) {
        self.stack.push(BTreeMap::new());
    }

    /// Closes the innermost scope.
    pub(crate) fn leave(&mut self) {
        self.stack.pop();
    }

    /// Number of open scopes.
    pub(crate) fn depth(&self) -> usize {
        self.stack.len()
    }

    /// Closes scopes down to a number, after a mistake inside them.
    pub(crate) fn truncate(&mut self, depth: usize) {
        self.stack.truncate(depth);
    }

    /// Declares a variable, shadowing any of the same name.
    pub(crate) fn declare(&mut self, ident: &Ident, val: Val, mutable: bool) {
        if let Some(top) = self.stack.last_mut() {
            top.insert(ident.to_string(), Var { val, mutable, assigned: None });
        }
    }

    /// Looks a variable up.
    pub(crate) fn get(&self, name: &str) -> Option<&Var> {
        self.stack.iter().rev().find_map(|s| s.get(name))
    }

    /// Looks a variable up, to assign to it.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Var> {
        self.stack.iter_mut().rev().find_map(|s| s.get_mut(name))
    }

    /// Whether some visible or shadowed variable carries this host name.
    pub(crate) fn names_host(&self, name: &str) -> bool {
        self.stack.iter().flat_map(BTreeMap::values).any(|v| match &v.val {
            Val::Host(h) => h.name.as_deref() == Some(name),
            _ => false,
        })
    }

    /// Every variable with the present value of it, and its value in `other`, which has the same scopes.
    pub(crate) fn zip<'a>(&'a mut self, other: &'a Scopes) -> impl Iterator<Item = (&'a String, &'a mut Var, &'a Var)> {
        self.stack
            .iter_mut()
            .zip(&other.stack)
            .flat_map(|(a, b)| a.iter_mut().filter_map(move |(k, v)| b.get(k).map(|w| (k, v, w))))
    }
}
