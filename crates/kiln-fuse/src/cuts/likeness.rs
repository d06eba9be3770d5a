//! A number for what a cone computes, to decide between cones of equal cost: numbers of classes would decide otherwise in each of several equal layers.

use super::cut::Inner;
use crate::egraph::{ClassIx, Dag};
use kiln_graph::Encoder;
use std::collections::HashMap;

/// How far below a class its number looks.
const DEPTH: usize = 4;

/// Numbers of classes and e-nodes that depend on ops, attributes, types and literals alone.
pub(super) struct Likeness {
    classes: Vec<u64>,
    nodes: Vec<Vec<u64>>,
    /// Numbers of the types of classes and of the ops of e-nodes, one for all that are equal.
    types: Vec<u64>,
    ops: Vec<Vec<u64>>,
}

impl Likeness {
    pub fn of(dag: &Dag) -> Likeness {
        let own = dag.classes.iter().map(|class| {
            let each = class.nodes.iter().map(|node| {
                let mut to = Encoder::new();
                to.number(node.part as u64);
                node.op.iter().for_each(|op| to.op(op));
                to.finish()
            });
            let mut ty = Encoder::new();
            class.types.iter().for_each(|t| ty.ty(t));
            (ty.finish(), each.collect::<Vec<_>>())
        });
        let own: Vec<(Vec<u8>, Vec<Vec<u8>>)> = own.collect();
        let mut known: HashMap<&[u8], u64> = HashMap::new();
        let mut number = |bytes| {
            let next = known.len() as u64;
            *known.entry(bytes).or_insert(next)
        };
        let types = own.iter().map(|(ty, _)| number(&ty[..])).collect();
        let ops = own.iter().map(|(_, each)| each.iter().map(|op| number(&op[..])).collect()).collect();
        let classes = own.iter().map(|(ty, _)| hash(ty)).collect();
        let mut found = Likeness { classes, nodes: Vec::new(), types, ops };
        for _ in 0..DEPTH {
            let nodes = dag.classes.iter().zip(&own).map(|(class, (_, each))| {
                let node = |(node, op): (&crate::egraph::DagNode, &Vec<u8>)| {
                    let mut to = Encoder::new();
                    to.bytes(op);
                    node.operands.iter().for_each(|o| to.number(found.classes[o.index()]));
                    hash(&to.finish())
                };
                class.nodes.iter().zip(each).map(node).collect::<Vec<u64>>()
            });
            let nodes: Vec<Vec<u64>> = nodes.collect();
            found.classes = own
                .iter()
                .zip(&nodes)
                .map(|((ty, _), nodes)| {
                    let mut to = Encoder::new();
                    to.bytes(ty);
                    to.sorted(nodes.iter().map(|n| n.to_be_bytes().to_vec()).collect());
                    hash(&to.finish())
                })
                .collect();
            found.nodes = nodes;
        }
        found
    }

    /// What a class is: equal types have one number, and classes that look alike as far down as that goes another.
    pub fn class(&self, class: ClassIx) -> [u64; 2] {
        [self.types[class.index()], self.classes[class.index()]]
    }

    /// What an e-node is: equal ops have one number, and those that look alike as far down as that goes another.
    pub fn node(&self, (class, node): Inner) -> [u64; 2] {
        let node = usize::from(node);
        [self.ops[class.index()][node], self.nodes[class.index()][node]]
    }

    /// The number of a cone: of what it computes and what it reads.
    pub fn cone(&self, inner: &[Inner], leaves: &[ClassIx]) -> u64 {
        let computed = inner.iter().map(|(class, node)| self.nodes[class.index()][usize::from(*node)]);
        let read = leaves.iter().map(|leaf| self.classes[leaf.index()].rotate_left(1));
        computed.chain(read).fold(0, u64::wrapping_add)
    }
}

fn hash(data: &[u8]) -> u64 {
    let hash = blake3::hash(data);
    hash.as_bytes().iter().take(8).fold(0, |v, b| v << 8 | u64::from(*b))
}
