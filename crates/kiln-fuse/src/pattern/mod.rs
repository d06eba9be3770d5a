//! Where the function that a kernel implements occurs in a model.
//!
//! A kernel that somebody writes names a model function. That function as a graph, whose symbols are the kernel's dims, is a [`Pattern`]: it
//! is saturated by the rules that models are ([`crate::fuse`]), a few more that only pay on something so small, and matched e-graph against e-graph ([`search`]), so that the
//! model need not say it in the same words. Its symbols then stand for dims of the model ([`dims`]), and what the function requires of them must be provable. Rows may have
//! several axes in the model: the function's leading axis is also tried as two and as three ([`rows`]).
//!
//! A match is a cut of primitives like any other ([`find`]), which nothing but the kernel may be able to run in one piece ([`crate::Anchor::Kernel`]). Plans stay regions of primitives: whether a
//! kernel serves a region is asked of the region alone, by [`Pattern::bind`].

mod dims;
mod find;
mod function;
mod rows;
mod search;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use find::{Found, find};
pub(crate) use weights::permute as permute_weights;

use crate::egraph::{Dag, build};
use crate::{Error, Numerics, Region, Result};
use function::Variant;
use kiln_graph::{Dim, Graph, Symbols};
use search::{Bind, Heads, Model, Search};
use std::fmt::{self, Debug, Formatter};
use std::sync::OnceLock;

/// A function that somebody has written a kernel for.
pub struct Pattern {
    name: String,
    graph: Graph,
    /// One a [`Numerics`], made when first asked for.
    variants: [OnceLock<Result<Vec<Variant>>>; 3],
}

/// A region as an instance of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// What each symbol of the function is, in terms of the region's symbols; by name.
    pub dims: Vec<(String, Dim)>,
    /// For each input of the function, which input of the region it is. One may be several.
    pub inputs: Vec<usize>,
    /// For each output of the function, which output of the region it is.
    pub outputs: Vec<usize>,
}

impl Pattern {
    /// The pattern of a function, by the graph that tracing it gives. Symbols of its shapes are the kernel's dims; their ranges and the graph's constraints are what the
    /// kernel requires of them.
    ///
    /// # Errors
    /// What no pattern can hold: control flow, weights and tables, ops with several results, an input that no output needs or that is one, more operands than a kernel takes.
    pub fn new(name: &str, graph: &Graph) -> Result<Pattern> {
        function::check(name, graph)?;
        let pattern = Pattern { name: name.to_owned(), graph: graph.clone(), variants: Default::default() };
        pattern.variants(Numerics::Reassoc)?;
        Ok(pattern)
    }

    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The function.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether a region is an instance of the function, up to the grouping of sums and products: what the kernel's dims are there, and which of the region's inputs and outputs the function's are. All of the
    /// region's are among them. `symbols` has the ranges of the region's symbols.
    ///
    /// Of a region in canonical form all that is asked is its structure, so the answer may be kept by [`Region::identity`].
    pub fn bind(&self, region: &Region, symbols: &Symbols) -> Option<Bound> {
        let graph = &region.graph;
        if graph.outputs.len() != self.graph.outputs.len() || graph.inputs.len() > self.graph.inputs.len() {
            return None;
        }
        let built = build(graph).ok()?;
        let class = |v: &kiln_graph::ValueId| built.class_of[v.index()];
        let roots: Option<Vec<egg::Id>> = graph.outputs.iter().map(|(_, v)| class(v)).collect();
        let dag = Dag::new(&built.egraph, &roots?);
        let place = |v: &kiln_graph::ValueId| class(v).and_then(|id| dag.find(&built.egraph, id));
        let bind = Bind {
            inputs: graph.inputs.iter().map(place).collect::<Option<_>>()?,
            outputs: graph.outputs.iter().map(|(_, v)| place(v)).collect::<Option<_>>()?,
        };
        let heads = Heads::of(&dag);
        let model = Model { dag: &dag, heads: &heads, symbols, constraints: &graph.constraints, bind: Some(&bind) };
        let variants = self.variants(Numerics::Reassoc).ok()?;
        variants.iter().find_map(|variant| {
            let found = Search::new(variant, &model, Numerics::Reassoc).whole()?;
            let at = |all: &[_], c| all.iter().position(|one| *one == c);
            Some(Bound {
                inputs: found.inputs.iter().map(|c| at(&bind.inputs, *c)).collect::<Option<_>>()?,
                outputs: found.outputs.iter().map(|c| at(&bind.outputs, *c)).collect::<Option<_>>()?,
                dims: found.dims,
            })
        })
    }

    /// The function and its forms with more row axes, saturated by the rules that `numerics` allows.
    fn variants(&self, numerics: Numerics) -> Result<&[Variant]> {
        let made = self.variants[numerics as usize].get_or_init(|| function::variants(&self.graph, numerics));
        made.as_deref().map_err(Error::clone)
    }
}

impl Debug for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.name)
    }
}
