//! Kernel families on the tile IR, and the one contract that they keep: [`KernelFamily`].
//!
//! A family is asked whether it takes a region ([`KernelFamily::accept`]), in which ways it could make it ([`KernelFamily::space`]), what
//! each would cost ([`KernelFamily::estimate`]), and for its tile programs ([`KernelFamily::build`]). Fusion, lowering and the tuner ask the same
//! questions through [`offers`]; nobody names a family. A family is a file and a line of `FAMILIES`; `docs/howto/add-a-kernel-family.md` walks
//! through one.

mod attention;
mod built;
mod compile;
mod conv;
mod cost;
mod gemm;
mod maps;
mod rows;
mod subject;

pub(crate) use built::dim_of;
pub use built::{Built, TileLaunch};
pub use compile::implementation;
pub use subject::Subject;

use crate::family::is_older;
use crate::{Error, Result};
use kiln_fuse::{Kernels, Price, Region};
use kiln_graph::{Bindings, Symbols};
use kiln_target::{Estimate, Gpu};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::sync::Arc;

/// What a family decides about one kernel: plain numbers. As JSON it is a key of the timing cache, its order breaks ties, and its text is what
/// people read (`warps 4, elements 8`).
pub trait Config: Serialize + DeserializeOwned + Clone + Hash + Ord + Debug + Display + Send + Sync + 'static {}

impl<C: Serialize + DeserializeOwned + Clone + Hash + Ord + Debug + Display + Send + Sync + 'static> Config for C {}

/// A way to make kernels of regions of one kind.
pub trait KernelFamily: Send + Sync + 'static {
    /// What it decides.
    type Config: Config;
    /// A region that it takes, and what it found out about it.
    type Problem: Send + Sync + 'static;

    /// One word: part of the timing cache's key.
    fn name(&self) -> &'static str;

    /// Whether it takes the region: `None` where that is of another kind. Whatever is accepted can be built with every Config of its space: what
    /// fusion asks here, the family is held to.
    ///
    /// # Errors
    /// The region is of its kind, but no kernel can express it: why, and what to do.
    fn accept(&self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Self::Problem>>;

    /// The Configs that are legal, at least one.
    fn space(&self, problem: &Self::Problem, gpu: &Gpu) -> Vec<Self::Config>;

    /// Modelled cost at the typical sizes of the [`Subject`]. All coefficients are the GPU's.
    fn estimate(&self, problem: &Self::Problem, config: &Self::Config, gpu: &Gpu) -> Estimate;

    /// The tile programs.
    ///
    /// # Errors
    /// None for what was accepted, but for defects.
    fn build(&self, problem: &Self::Problem, config: &Self::Config) -> Result<Built>;
}

/// What a Config would cost if the GPU, or what is known of it, were another.
pub type Model = Box<dyn Fn(&Gpu) -> Estimate + Send + Sync>;

/// One way to make a region: a family's Config, what it would cost, and the programs on demand.
pub struct Offer {
    /// The family's name, or `kernel` and that of one's own.
    pub family: Cow<'static, str>,
    /// The Config, as JSON.
    pub config: serde_json::Value,
    /// The Config, for people.
    pub text: String,
    /// Modelled cost.
    pub estimate: Estimate,
    pub(crate) model: Model,
    pub(crate) build: Box<dyn Fn() -> Result<Built> + Send + Sync>,
}

impl Offer {
    /// The tile programs.
    pub fn build(&self) -> Result<Built> {
        (self.build)()
    }
}

/// [`KernelFamily`] without its types.
pub trait Family: Send + Sync {
    /// [`KernelFamily::name`].
    fn name(&self) -> &'static str;
    /// Every way in which the family makes the region, the cheapest first; `None`: it does not take it.
    fn offers(&'static self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Vec<Offer>>>;
    /// The cost of the cheapest.
    fn estimate(&self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Estimate>>;
}

impl<F: KernelFamily> Family for F {
    fn name(&self) -> &'static str {
        KernelFamily::name(self)
    }

    fn offers(&'static self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Vec<Offer>>> {
        let Some(problem) = self.accept(subject, gpu)? else { return Ok(None) };
        let mut ranked: Vec<(Estimate, F::Config)> = self
            .space(&problem, gpu)
            .into_iter()
            .map(|c| (KernelFamily::estimate(self, &problem, &c, gpu), c))
            .collect();
        ranked.sort_by(|(a, x), (b, y)| a.seconds.total_cmp(&b.seconds).then_with(|| x.cmp(y)));
        let problem = Arc::new(problem);
        let offer = |(estimate, config): (Estimate, F::Config)| {
            let (problem, modelled, again) = (problem.clone(), problem.clone(), config.clone());
            Offer {
                family: KernelFamily::name(self).into(),
                config: serde_json::json!(config),
                text: config.to_string(),
                estimate,
                model: Box::new(move |gpu| KernelFamily::estimate(self, &modelled, &again, gpu)),
                build: Box::new(move || KernelFamily::build(self, &problem, &config)),
            }
        };
        Ok(Some(ranked.into_iter().map(offer).collect()))
    }

    fn estimate(&self, subject: &Arc<Subject>, gpu: &Gpu) -> Result<Option<Estimate>> {
        let Some(problem) = self.accept(subject, gpu)? else { return Ok(None) };
        let all = self.space(&problem, gpu).into_iter().map(|c| KernelFamily::estimate(self, &problem, &c, gpu));
        Ok(all.min_by(|a, b| a.seconds.total_cmp(&b.seconds)))
    }
}

/// All families.
const FAMILIES: [&dyn Family; 6] =
    [&maps::Maps, &rows::Rows, &gemm::Gemm, &conv::Conv, &conv::Direct, &attention::Attention];

/// The names of all families.
pub fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().map(Family::name)
}

/// Every way to make the region on a GPU, the cheapest first; empty where no family takes it.
///
/// # Errors
/// A malformed region; one that a family would take, but cannot express.
pub fn offers(subject: &Arc<Subject>, gpu: &Gpu) -> Result<Vec<Offer>> {
    let region = &subject.region;
    region.verify().map_err(|what| Error::Malformed { region: region.name.clone(), what })?;
    let mut all = vec![];
    for family in FAMILIES {
        all.extend(family.offers(subject, gpu)?.unwrap_or_default());
    }
    // Stable: within a family Configs of one time stay in their order.
    all.sort_by(|a, b| a.estimate.seconds.total_cmp(&b.estimate.seconds));
    Ok(all)
}

/// The kernels of this crate, as fusion asks for them.
#[derive(Debug)]
pub struct Families {
    /// Whether products of f32 may round their operands to TF32.
    pub tf32: bool,
}

impl Kernels for Families {
    /// Of what [`lower`](crate::lower) takes, at the typical sizes: the cheapest Config of all families.
    fn price(&self, region: &Region, gpu: &Gpu, symbols: &Symbols, sizes: &Bindings) -> Price {
        let subject = Arc::new(Subject::new(region, symbols, &[], sizes).with_tf32(self.tf32));
        let mut best: Option<Estimate> = None;
        for family in FAMILIES {
            let Ok(found) = family.estimate(&subject, gpu) else { return Price::Refused };
            best = best.into_iter().chain(found).min_by(|a, b| a.seconds.total_cmp(&b.seconds));
        }
        match best {
            Some(estimate) => Price::Known(estimate),
            None if is_older(region) => Price::Unmodelled,
            None => Price::Refused,
        }
    }
}
