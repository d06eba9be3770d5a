//! From a region to its kernels.

use crate::families::{self, Model, Offer, Subject};
use crate::family::{self, Candidate};
use crate::program::TileProgram;
use crate::{Error, Guard, Implementation, Result};
use kiln_fuse::Region;
use kiln_graph::Symbols;
use kiln_target::arch::Arch;
use kiln_target::{Estimate, Gpu};
use kiln_tile::pass::Pass;
use kiln_tile::pass::lower::entry;
use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

/// Is shown the kernel's name, a pass of the tile compiler and what it leaves behind; the text is only made if it is written somewhere.
pub type Watch<'a> = dyn FnMut(&str, Pass, &dyn Display) + 'a;

/// Implementations of a region, each for when its guard holds: the first whose guard does runs, and the last one's always does.
pub type Variants = Vec<(Guard, Implementation)>;

/// The kernels of a region that the cost model holds for the fastest on a GPU.
pub fn lower(subject: &Arc<Subject>, gpu: &Gpu) -> Result<Variants> {
    lower_watched(subject, gpu, &mut |_, _, _| {})
}

/// [`lower`], showing `watch` what each pass of the tile compiler leaves behind, and of which kernel.
pub fn lower_watched(subject: &Arc<Subject>, gpu: &Gpu, watch: &mut Watch<'_>) -> Result<Variants> {
    let Subject { region, symbols, ranges, .. } = &**subject;
    let _span = tracing::debug_span!("region", name = region.name).entered();
    let (offers, arch) = (families::offers(subject, gpu)?, gpu.arch);
    if offers.is_empty() {
        return Ok(vec![(Guard::always(), implementation(&family::programs(region, symbols, ranges)?, arch, watch)?)]);
    }
    // The cheapest, and where that is not for all sizes, the cheapest that is.
    let mut variants = vec![];
    for offer in offers {
        let built = offer.build()?;
        if variants.is_empty() || built.guard.is_always() {
            variants.push((built.guard.clone(), families::implementation(&offer, &built, arch, watch)?));
        }
        if built.guard.is_always() {
            return Ok(variants);
        }
    }
    Err(Error::Malformed { region: region.name.clone(), what: "no kernel is for all sizes".into() })
}

/// One way to make a region, compiled on demand.
pub struct Way {
    /// The family that makes it.
    pub family: Cow<'static, str>,
    /// Its Config, as JSON.
    pub config: serde_json::Value,
    /// The Config, for people.
    pub text: String,
    /// Modelled cost; none where the family has no cost model but an order.
    pub estimate: Option<Estimate>,
    /// The same for another GPU, or other coefficients.
    pub model: Option<Model>,
    make: Box<dyn Fn() -> Result<(Guard, Implementation)> + Send + Sync>,
}

impl Way {
    /// What is made already.
    pub fn made(guard: Guard, implementation: Implementation) -> Way {
        let (family, config) = (implementation.family.clone().into(), implementation.config.clone());
        let make = move || Ok((guard.clone(), implementation.clone()));
        Way { family, text: config.to_string(), config, estimate: None, model: None, make: Box::new(make) }
    }

    /// Its kernels, and for which sizes they may run.
    ///
    /// # Errors
    /// Defects of the family, or of the tile compiler.
    pub fn make(&self) -> Result<(Guard, Implementation)> {
        (self.make)()
    }
}

/// Every way to make a region on a GPU, in the order in which the cost model ranks them: the first is the one that [`lower`] takes.
pub fn candidates(subject: &Arc<Subject>, gpu: &Gpu) -> Result<Vec<Way>> {
    let Subject { region, symbols, ranges, .. } = &**subject;
    let (offers, arch) = (families::offers(subject, gpu)?, gpu.arch);
    if !offers.is_empty() {
        let way = |offer: Offer| {
            let offer = Arc::new(offer);
            let modelled = offer.clone();
            Way {
                family: offer.family.clone(),
                config: offer.config.clone(),
                text: offer.text.clone(),
                estimate: Some(offer.estimate),
                model: Some(Box::new(move |gpu| (modelled.model)(gpu))),
                make: Box::new(move || {
                    let built = offer.build()?;
                    let made = families::implementation(&offer, &built, arch, &mut |_, _, _| {})?;
                    Ok((built.guard, made))
                }),
            }
        };
        return Ok(offers.into_iter().map(way).collect());
    }
    let candidate = family::programs(region, symbols, ranges)?;
    let config = serde_json::json!({});
    Ok(vec![Way {
        family: candidate.family.into(),
        text: config.to_string(),
        config,
        estimate: None,
        model: None,
        make: Box::new(move || Ok((Guard::always(), implementation(&candidate, arch, &mut |_, _, _| {})?))),
    }])
}

/// The tile programs that [`lower`] compiles for regions that [`families`] do not take, in launch order: what the tile interpreter can run in
/// their place.
pub fn tile_programs(region: &Region, symbols: &Symbols) -> Result<Vec<TileProgram>> {
    family::programs(region, symbols, &[]).map(|candidate| candidate.programs)
}

fn implementation(candidate: &Candidate, arch: Arch, watch: &mut Watch<'_>) -> Result<Implementation> {
    let mut compile = |p: &TileProgram| {
        let name = entry(&p.program);
        p.compile_watched(arch, &mut |pass, text| watch(&name, pass, text))
    };
    let kernels = candidate.programs.iter().map(&mut compile).collect::<Result<_>>()?;
    Ok(Implementation::new(candidate.family, serde_json::json!({}), kernels))
}
