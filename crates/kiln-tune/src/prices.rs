//! What fusion asks of those who make kernels, answered by the timing cache where it knows.
//!
//! A measured time and a model's are on one scale: the model's coefficients are fitted to such times. Both are of one launch among others of a replayed CUDA graph, its launch included,
//! whose operands no cache holds.

use crate::cache::known;
use crate::compile::code;
use crate::{Problem, Record, Result, Times, Tuning, shipped};
use kiln_cuda::{Compiler, Nvrtc};
use kiln_engine::{BuildOptions, Toolchain, toolchain};
use kiln_fuse::{Kernels, Price, Region};
use kiln_graph::{Bindings, Symbols};
use kiln_kernels::candidates;
use kiln_kernels::families::{Families, Subject};
use kiln_target::Gpu;
use std::sync::Arc;

/// Prices of kernels for a GPU that is about to be tuned: the time that tuning will find in the timing cache, where that has times of the region at these sizes, else what the
/// families' models say. Of other GPUs the models' alone, for nothing is tuned for them.
#[derive(Debug)]
pub struct Prices {
    models: Families,
    gpu: Gpu,
    toolchain: Toolchain,
    times: Times,
}

impl Prices {
    /// [`Prices::open`] for a build with these options.
    ///
    /// # Errors
    /// There is no NVRTC, the timing cache cannot be read.
    pub fn of_build(tuning: &Tuning, gpu: &Gpu, options: &BuildOptions) -> Result<Prices> {
        let compiler = Compiler::new(&Nvrtc::discover(&options.home)?);
        let toolchain = toolchain(&compiler, gpu.arch.name(), options.numerics, options.line_info);
        Prices::open(tuning, gpu, toolchain, options.tf32)
    }

    /// What is known now; what is measured later does not change it. `toolchain` is what the GPU's kernels are compiled with.
    ///
    /// # Errors
    /// The timing cache cannot be read.
    pub fn open(tuning: &Tuning, gpu: &Gpu, toolchain: Toolchain, tf32: bool) -> Result<Prices> {
        let before = if tuning.shipped { shipped(gpu) } else { Times::default() };
        let times = known(tuning.timings.as_ref(), before)?;
        Ok(Prices { models: Families { tf32 }, gpu: gpu.clone(), toolchain, times })
    }

    /// Seconds of the fastest candidate that was measured. None where nothing was, or the fastest was of other code: then nothing that is known of the region counts.
    fn measured(&self, region: &Region, symbols: &Symbols, sizes: &Bindings) -> Option<f64> {
        let subject = Arc::new(Subject::new(region, symbols, &[], sizes).with_tf32(self.models.tf32));
        let problem = Problem::of(region.identity(), &subject, &self.gpu, &self.toolchain);
        let timed: Vec<(u64, &Record)> =
            self.times.of(&problem).filter_map(|record| Some((record.outcome.median()?, record))).collect();
        if timed.is_empty() {
            return None;
        }
        let ways = candidates(&subject, &self.gpu).ok()?;
        let way = |record: &Record| ways.iter().find(|way| way.family == record.family && way.config == record.config);
        let made = timed.into_iter().filter_map(|(ns, record)| Some((ns, record, way(record)?)));
        let (ns, record, way) = made.min_by_key(|(ns, ..)| *ns)?;
        let (_, implementation) = way.make().ok()?;
        (code(&implementation) == record.code).then_some(ns as f64 * 1e-9)
    }
}

impl Kernels for Prices {
    fn price(&self, region: &Region, gpu: &Gpu, symbols: &Symbols, sizes: &Bindings) -> Price {
        let measured = if *gpu == self.gpu { self.measured(region, symbols, sizes) } else { None };
        match measured {
            Some(seconds) => Price::Measured(seconds),
            None => self.models.price(region, gpu, symbols, sizes),
        }
    }
}
