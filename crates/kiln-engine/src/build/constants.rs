//! What a plan's constants are called, and how they come of the model's weights.

use crate::engine::Port;
use crate::refit::Refit;
use crate::{Error, Result};
use kiln_fuse::{BufferKind, Plan, Step};
use kiln_graph::{Graph, Node, Op, Tensor, TensorType};
use std::collections::{BTreeMap, BTreeSet};

/// The constants of all targets so far.
#[derive(Clone)]
pub(super) struct Constants {
    pub weights: BTreeMap<String, Tensor>,
    pub refit: Refit,
    /// Weights of branches and bodies that are not the model's under their name.
    foreign: BTreeSet<String>,
}

impl Constants {
    /// None yet, of a graph's weights.
    pub fn of(graph: &Graph) -> Constants {
        let parameter = |(name, tensor): (&String, &Tensor)| {
            let ty = TensorType::new(tensor.dtype(), tensor.shape().iter().copied());
            Port { name: name.clone(), ty }
        };
        let mut foreign = BTreeSet::new();
        find_foreign(graph, &graph.weights, &mut foreign);
        let parameters = graph.weights.iter().map(parameter).collect();
        let refit = Refit { structure: structure(graph), parameters, ..Refit::default() };
        Constants { weights: BTreeMap::new(), refit, foreign }
    }

    /// Moves the weights of a plan and its nested plans here. What is not a weight of the model under its name (folding makes others of them,
    /// differently for each target) is named by how it is made, so that no target's names depend on another's.
    pub fn take(&mut self, plan: &mut Plan, model: &Graph) -> Result<()> {
        let mut names = BTreeMap::new();
        let mut folded = std::mem::take(&mut plan.folded);
        for (name, tensor) in std::mem::take(&mut plan.weights) {
            let own = |recipe: &Graph| !weights_of(recipe).any(|weight| self.foreign.contains(weight));
            let chosen = match (folded.remove(&name).filter(own), model.weights.get(&name)) {
                (Some(recipe), _) => {
                    let hash = blake3::hash(&recipe.interface_bytes()).to_hex();
                    let chosen = format!("{name}#{}", &hash[..16]);
                    self.refit.recipes.insert(chosen.clone(), recipe);
                    chosen
                }
                (None, Some(own)) if *own == tensor => name.clone(),
                (None, _) => format!("{name}#{}", &tensor_hash(&tensor).to_hex()[..16]),
            };
            let kept = self.weights.entry(chosen.clone()).or_insert_with(|| tensor.clone());
            if *kept != tensor {
                return Err(Error::Internal {
                    place: "the build".into(),
                    message: format!("two weights are called `{chosen}`"),
                });
            }
            names.insert(name, chosen);
        }
        for buffer in &mut plan.buffers {
            if let BufferKind::Weight(name) = &mut buffer.kind
                && let Some(chosen) = names.get(name)
            {
                name.clone_from(chosen);
            }
        }
        for step in &mut plan.steps {
            match step {
                Step::If { then_plan, else_plan, .. } => {
                    self.take(then_plan, model)?;
                    self.take(else_plan, model)?;
                }
                Step::Loop { body, .. } => self.take(body, model)?,
                Step::Run { .. } => {}
            }
        }
        Ok(())
    }

    /// Notes within what the integers lie by which kernels of a plan take elements: they are made for those.
    pub fn note_ranges(&mut self, plan: &Plan) {
        for name in super::indexing(plan).into_iter().flat_map(|(_, inputs)| inputs).flatten() {
            if let Some(range) = self.weights.get(name).and_then(range) {
                self.refit.ranges.insert(name.to_owned(), range);
            }
        }
    }
}

/// The least and the greatest of integers.
pub(crate) fn range(tensor: &Tensor) -> Option<(i64, i64)> {
    let values = tensor.to_i128_vec()?;
    let (low, high) = (values.iter().min()?, values.iter().max()?);
    Some((i64::try_from(*low).ok()?, i64::try_from(*high).ok()?))
}

fn weights_of(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Weight { name, .. } => Some(name.as_str()),
        _ => None,
    })
}

fn find_foreign(graph: &Graph, model: &BTreeMap<String, Tensor>, found: &mut BTreeSet<String>) {
    for inner in graph.nodes.iter().flat_map(inside) {
        let foreign = inner.weights.iter().filter(|(name, tensor)| model.get(*name) != Some(tensor));
        found.extend(foreign.map(|(name, _)| name.clone()));
        find_foreign(inner, model, found);
    }
}

fn inside(node: &Node) -> Vec<&Graph> {
    match &node.op {
        Op::If { then_graph, else_graph } => vec![then_graph, else_graph],
        Op::Loop { body, .. } => vec![body],
        _ => vec![],
    }
}

fn tensor_hash(tensor: &Tensor) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(tensor.dtype().name().as_bytes());
    for extent in tensor.shape() {
        hasher.update(&extent.to_le_bytes());
    }
    hasher.update_rayon(tensor.data());
    hasher.finalize()
}

/// BLAKE3 of the canonical form of a graph: everything but the data of its weights.
pub fn structure(graph: &Graph) -> String {
    blake3::hash(&graph.interface_bytes()).to_hex().to_string()
}

/// BLAKE3 of the canonical form of a graph and of its weights.
pub fn graph_hash(graph: &Graph) -> String {
    hash_with_weights(&structure(graph), &graph.weights)
}

/// [`graph_hash`] of the graph of a structure with these weights.
pub(crate) fn hash_with_weights(structure: &str, weights: &BTreeMap<String, Tensor>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(structure.as_bytes());
    for (name, tensor) in weights {
        hasher.update(name.as_bytes());
        hasher.update_rayon(tensor.data());
    }
    hasher.finalize().to_hex().to_string()
}
