//! Attention: two products with a softmax of rows between them, or other exponentials of scores ([`kiln_fuse::Weighing`]), whose functions of the row are
//! applied at the end. A CTA has a tile of queries and streams through the keys, so that scores never
//! reach memory: the greatest score and the sum of each row so far are kept, and everything accumulated is scaled when the greatest changes
//! (Milakov and Gimelshein, "Online normalizer calculation for softmax"; Dao, "FlashAttention-2"; roles and overlap as in Shah et al.,
//! "FlashAttention-3"). Powers are of two.
//!
//! What stands between the products (scale, mask, cap) is computed in registers. Where that is a factor and no more, it goes into the exponents.
//! Only tiles of keys that some row sees by its position are visited, and only those at an end, at the diagonal or at the edge of a window are
//! masked. Heads that share keys and values
//! are CTAs of their own, which read them from the level-2 cache. Queries, keys and values may be parts of one tensor, or of longer ones: boxes that begin
//! and end there.
//!
//! Exact products of f32 have no instruction on matrices: there threads multiply blocks of rows and columns, and the weights of a tile go through
//! shared memory to the second product.
//!
//! Where rows are few, CTAs share the keys of a tile, and a second kernel puts together what they leave ([`parts`]).
//!
//! State: weighted sums and a tile of scores in registers, the queries and a few tiles of keys and values in shared memory. Floor: operands once,
//! results once, the products.

mod config;
mod cost;
mod parts;
mod positions;
mod program;
mod streamed;

use super::{Built, KernelFamily, Subject};
use crate::Result;
use crate::value::Values;
use crate::value::dims::numel;
pub use config::Config;
use kiln_fuse::Anchor;
use kiln_target::{Estimate, Gpu};
use kiln_tile::passes::Machine;
use std::sync::Arc;
use streamed::{Feed, Group, Streamed};

/// The family.
pub struct Attention;

/// An attention, and how its operands can come.
pub struct Problem {
    subject: Arc<Subject>,
    streamed: Streamed,
    /// Of queries, keys, values.
    feeds: [Feed; 3],
    /// Columns of queries and keys, and of values.
    heads: [i64; 2],
    /// 32-bit registers for what a score is made of beside its sum.
    beside: u32,
    /// Bytes of an element of all results that are boxes.
    stored_bytes: u32,
    /// The instructions that there are.
    machine: Machine,
}

impl Problem {
    /// Whether tensor cores take the type; else threads multiply.
    fn tensor(&self) -> bool {
        self.machine.arch().mma(self.streamed.dtype).is_some()
    }

    /// Whether keys and values go from memory to shared memory without registers between.
    fn direct(&self) -> bool {
        self.machine.has_cp_async()
            && self.feeds[1..].iter().all(|feed| matches!(feed, Feed::Pieces(_) | Feed::Boxes(_)))
    }

    /// A typical extent of a group.
    fn size(&self, group: &Group) -> f64 {
        self.subject.size(&group.total()).max(1.0)
    }

    /// Typical coordinates of the grid.
    fn outer(&self) -> f64 {
        let outer: Vec<_> = self.streamed.grid.iter().map(|(_, dim)| dim.clone()).collect();
        self.subject.size(&numel(&outer)).max(1.0)
    }

    /// Typical tiles of queries.
    fn tiles(&self, config: &Config) -> f64 {
        self.outer() * (self.size(&self.streamed.rows) / f64::from(config.bm)).ceil()
    }

    /// Whether all operands are made of boxes.
    fn boxed(&self) -> bool {
        self.feeds.iter().all(|feed| matches!(feed, Feed::Boxes(_)))
    }
}

impl KernelFamily for Attention {
    type Config = Config;
    type Problem = Problem;

    fn name(&self) -> &'static str {
        "attention"
    }

    fn accept(&self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Problem>> {
        let region = &subject.region;
        if region.anchor != Anchor::Attention {
            return Ok(None);
        }
        let graph = &region.graph;
        let values = Values::new(region, &subject.symbols)?;
        let streamed = Streamed::of(&values, &|dim| subject.size(dim))?;
        let [depth, columns] = [&streamed.depth, &streamed.columns].map(|group| group.total().as_const());
        let (Some(depth), Some(columns)) = (depth, columns) else {
            return values.malformed("a head has no fixed extent");
        };
        let feeds = streamed.groups().map(|(operand, groups)| streamed.feed(operand, groups));
        let operands = streamed.groups().map(|(operand, _)| operand.input);
        let keys = streamed.keys.total();
        // Inputs that tell keys apart are tiles as large as the scores'.
        let beside = graph.inputs.iter().enumerate().filter(|(i, v)| {
            !operands.contains(i) && graph.ty(**v).shape.last().is_some_and(|last| *last == keys && !last.is(1))
        });
        let beside = beside.map(|(_, v)| graph.ty(*v).dtype.bits().div_ceil(32)).sum();
        let boxes = graph.outputs.iter().zip(&streamed.boxes).filter(|(_, labels)| labels.is_some());
        let stored_bytes = boxes.map(|((_, v), _)| graph.ty(*v).dtype.bits() / 8).sum();
        let problem = Problem {
            subject: subject.clone(),
            streamed,
            feeds,
            heads: [depth, columns],
            beside,
            stored_bytes,
            machine: Machine::new(gpu.arch),
        };
        let Some(config) = config::space(&problem, gpu).first().copied() else {
            return values.unsupported(
                format!("heads of {depth} and {columns} columns of {} in one kernel", problem.streamed.dtype),
                "build with `--numerics exact`, which keeps the products apart",
            );
        };
        self.build(&problem, &config)?;
        Ok(Some(problem))
    }

    fn space(&self, problem: &Problem, gpu: &Gpu) -> Vec<Config> {
        config::space(problem, gpu)
    }

    fn estimate(&self, problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
        cost::estimate(problem, config, gpu)
    }

    fn build(&self, problem: &Problem, config: &Config) -> Result<Built> {
        let mut built = Built::one(program::launch(problem, config)?);
        if config.parts > 1 {
            built.launches.push(parts::combination(problem, config)?);
        }
        Ok(Built { scratch_bytes: parts::scratch_bytes(problem, config), ..built })
    }
}
