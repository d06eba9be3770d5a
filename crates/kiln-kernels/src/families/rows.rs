//! Reductions and what surrounds them: softmax, normalizations, plain and arg-reductions, several at once.
//!
//! A CTA takes a few rows. A row that is short enough is a tile in registers, padded with what changes nothing: it is read once, and every level
//! of reductions, and what follows them, works on what is there (the persistent softmax of Apex and of Triton's tutorials). A longer one is
//! walked in chunks, once for each level; partial results stay spread over threads until the end of the walk, and what a level reads again
//! comes from the level-2 cache. Threads share a row by shuffles, and warps through shared memory (Harris, "Optimizing Parallel Reduction in CUDA").
//! Where CTAs run in clusters, a cluster may share a row of more than 16k elements: each holds, or walks, a part of it, and what each level combines is put
//! together through distributed shared memory (QuACK, "Getting Memory-bound Kernels to Speed-of-Light"). So rows of up to eight times what one CTA holds are
//! read once too, and few rows have more SMs to read them.
//!
//! Where the reduced axes are not the last ones, lanes lie along the last kept axis: neighbouring threads read neighbouring rows.
//!
//! State: the row's elements in registers, one for each value that a later level needs. Floor: operands once, results once, the region's arithmetic.

mod config;
mod plan;
mod program;

use super::cost::{Stream, flops};
use super::{Built, KernelFamily, Subject};
use crate::value::Values;
use crate::value::dims::{multiple, numel};
use crate::{Condition, Guard, Result};
pub use config::Config;
use config::Shape;
use kiln_fuse::Anchor;
use kiln_graph::Dim;
use kiln_target::{Estimate, Gpu};
use plan::Plan;
use std::sync::Arc;

/// The family.
pub struct Rows;

/// Rows and what is done to them.
pub struct Problem {
    subject: Arc<Subject>,
    plan: Plan,
    /// How many rows, and elements of each.
    count: Dim,
    length: Dim,
    /// What Configs depend on.
    shape: Shape,
}

impl KernelFamily for Rows {
    type Config = Config;
    type Problem = Problem;

    fn name(&self) -> &'static str {
        "rows"
    }

    fn accept(&self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Problem>> {
        let region = &subject.region;
        if region.anchor != Anchor::Reduce {
            return Ok(None);
        }
        let plan = Plan::of(region, &Values::new(region, &subject.symbols)?)?;
        let (count, length) = (numel(&plan.rows.reduced()), numel(&plan.columns));
        let graph = &region.graph;
        let values = graph.inputs.iter().copied().chain(graph.outputs.iter().map(|(_, v)| *v));
        let full = values.filter(|v| numel(&graph.ty(*v).shape) == numel(&plan.rows.shape));
        let bytes: Vec<u32> = full.map(|v| (graph.ty(v).dtype.bits() / 8).max(1)).collect();
        let last = plan.rows.shape.iter().rposition(|d| !d.is(1));
        let contiguous = last.is_none_or(|last| plan.rows.axes.contains(&last));
        let (_, longest) = length.bounds(&subject.symbols);
        let along = if contiguous { &length } else { plan.rows.shape.last().unwrap_or(&count) };
        let shape = Shape {
            contiguous,
            longest: length.as_const().map(|length| length.max(1) as u64),
            bounded: longest,
            typical: subject.size(&length).max(1.0) as u64,
            multiple: multiple(along) as u64,
            narrow: bytes.iter().copied().min().unwrap_or(4),
            words: plan.words(region),
            clusters: gpu.arch.has_clusters(),
        };
        let problem = Problem { subject: subject.clone(), plan, count, length, shape };
        if let Some(config) = problem.shape.space().first() {
            self.build(&problem, config)?;
        }
        Ok(Some(problem))
    }

    fn space(&self, problem: &Problem, _: &Gpu) -> Vec<Config> {
        problem.shape.space()
    }

    fn estimate(&self, problem: &Problem, config: &Config, gpu: &Gpu) -> Estimate {
        let subject = &problem.subject;
        let graph = &subject.region.graph;
        let (rows, length) = (subject.size(&problem.count), subject.size(&problem.length).max(1.0));
        let bytes = subject.bytes();
        let full = |shape: &[Dim]| numel(shape) == numel(&problem.plan.rows.shape);
        let width = |v| f64::from(graph.ty(v).dtype.bits()) / 8.0;
        let read: f64 = graph.inputs.iter().filter(|v| full(&graph.ty(**v).shape)).map(|v| width(*v)).sum();
        let walks = problem.plan.walks(graph) as f64;
        let again = if config.whole { 0.0 } else { (walks - 1.0) * rows * length * read };
        // What pads a row is computed too.
        let (cluster, span) = (f64::from(config.cluster), f64::from(config.span()));
        let steps = (length / span).ceil().max(1.0);
        let padding = steps * span / length;
        let shares = f64::from(config.sharing(&problem.shape));
        let reductions = problem.plan.reductions() as f64;
        let elements = f64::from(config.rows) * f64::from(config.columns) / f64::from(config.threads());
        let words = if config.whole { problem.plan.held } else { problem.shape.words };
        let vector = f64::from(problem.shape.vector());
        let across_warps = shares > 32.0 || !problem.shape.contiguous;
        let exchanges = if across_warps { reductions } else { 0.0 };
        Stream {
            ctas: (rows / f64::from(config.rows)).ceil() * cluster,
            threads: config.threads(),
            registers: (elements * f64::from(words)).ceil() as u32,
            ahead: (elements * read)
                .min(length / cluster * f64::from(config.rows) * read / f64::from(config.threads())),
            bytes,
            cached: again,
            flops: flops(subject) * padding,
            accesses: (bytes + again) / (vector * f64::from(problem.shape.narrow)),
            // Every thread reads what every CTA of the cluster has.
            shuffles: rows * reductions * cluster * shares * (shares.log2() + cluster - 1.0),
            barriers: exchanges + if config.whole { 0.0 } else { walks * steps },
            meetings: problem.plan.combinations(graph) as f64 * cluster.log2(),
        }
        .estimate(gpu)
    }

    fn build(&self, problem: &Problem, config: &Config) -> Result<Built> {
        let built = Built::one(program::launch(problem, config)?);
        let fits = !config.whole || problem.shape.bounded <= i64::from(config.span());
        let guard = match fits {
            true => Guard::always(),
            false => Guard(vec![Condition::AtMost(problem.length.clone(), config.span().into())]),
        };
        Ok(Built { guard, ..built })
    }
}
