//! What goes with a model beside its computation.

use crate::{Graph, Op};
use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What goes with a model without being part of what it computes, opaque here: kernels that it was written with. Equality, hashes, text and files leave it
/// out.
#[derive(Clone, Default)]
pub struct Attached(Vec<Arc<dyn Any + Send + Sync>>);

impl Attached {
    /// Adds a thing once.
    pub fn add(&mut self, thing: Arc<dyn Any + Send + Sync>) {
        if !self.0.iter().any(|other| Arc::ptr_eq(other, &thing)) {
            self.0.push(thing);
        }
    }
}

impl PartialEq for Attached {
    fn eq(&self, _: &Attached) -> bool {
        true
    }
}

impl Eq for Attached {}

impl Hash for Attached {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attached({})", self.0.len())
    }
}

impl Graph {
    /// What is attached to the graph and to the bodies of its control flow that is a `T`.
    pub fn attached<T: Any + Send + Sync>(&self) -> Vec<Arc<T>> {
        let own = self.attached.0.iter().filter_map(|thing| thing.clone().downcast().ok());
        let inner = self.nodes.iter().flat_map(|node| match &node.op {
            Op::If { then_graph, else_graph } => [then_graph.attached(), else_graph.attached()].concat(),
            Op::Loop { body, .. } => body.attached(),
            _ => vec![],
        });
        let mut all: Vec<Arc<T>> = vec![];
        for thing in own.chain(inner) {
            if !all.iter().any(|other| Arc::ptr_eq(other, &thing)) {
                all.push(thing);
            }
        }
        all
    }
}
