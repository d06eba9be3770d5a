//! From a region to its kernels.

use crate::families::{self, Offer, Subject};
use crate::family::{self, Candidate};
use crate::program::TileProgram;
use crate::{Error, Guard, Implementation, Result};
use kiln_fuse::Region;
use kiln_graph::{Bindings, Symbols};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tile::pass::Pass;
use kiln_tile::pass::lower::entry;
use std::fmt::Display;
use std::sync::Arc;

/// Is shown the kernel's name, a pass of the tile compiler and what it leaves behind; the text is only made if it is written somewhere.
pub type Watch<'a> = dyn FnMut(&str, Pass, &dyn Display) + 'a;

/// Implementations of a region, each for when its guard holds: the first whose guard does runs, and the last one's always does.
pub type Variants = Vec<(Guard, Implementation)>;

/// Kernels for `region` on `arch`. `symbols` gives the ranges of the symbolic dimensions.
pub fn lower(region: &Region, arch: Arch, symbols: &Symbols) -> Result<Variants> {
    lower_within(region, arch, symbols, &[])
}

/// [`lower`] where the values of some inputs are known to lie within ranges, as those of constants do: indices that cannot be out of range
/// are not checked. One entry an input; those left out are unknown.
pub fn lower_within(region: &Region, arch: Arch, symbols: &Symbols, ranges: &[Option<(i64, i64)>]) -> Result<Variants> {
    lower_watched(&subject(region, symbols, ranges), arch, &mut |_, _, _| {})
}

/// [`lower_within`] with all that is known about a region, showing `watch` what each pass of the tile compiler leaves behind, and of which kernel.
pub fn lower_watched(subject: &Arc<Subject>, arch: Arch, watch: &mut Watch<'_>) -> Result<Variants> {
    let Subject { region, symbols, ranges, .. } = &**subject;
    let _span = tracing::debug_span!("region", name = region.name).entered();
    let offers = offers(subject, arch)?;
    if offers.is_empty() {
        return Ok(vec![(Guard::always(), implementation(first(region, arch, symbols, ranges)?, arch, watch)?)]);
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

/// [`lower`] with every Config that the region's family has, in the order in which the cost formula ranks them: the first is the one that
/// [`lower`] takes.
pub fn candidates(region: &Region, arch: Arch, symbols: &Symbols) -> Result<Vec<Implementation>> {
    let offers = offers(&subject(region, symbols, &[]), arch)?;
    if !offers.is_empty() {
        let compile = |offer: &Offer| families::implementation(offer, &offer.build()?, arch, &mut |_, _, _| {});
        return offers.iter().map(compile).collect();
    }
    let all = family::programs(region, arch, symbols, &[], usize::MAX)?;
    all.into_iter().map(|candidate| implementation(candidate, arch, &mut |_, _, _| {})).collect()
}

fn subject(region: &Region, symbols: &Symbols, ranges: &[Option<(i64, i64)>]) -> Arc<Subject> {
    Arc::new(Subject::new(region, symbols, ranges, &Bindings::new()))
}

/// What families on the tile IR offer on the typical GPU of an architecture; nothing for what they do not take.
fn offers(subject: &Arc<Subject>, arch: Arch) -> Result<Vec<Offer>> {
    Gpu::typical(arch).map_or(Ok(vec![]), |gpu| families::offers(subject, &gpu))
}

/// The tile programs that [`lower`] compiles for regions that [`families`] do not take, in launch order: what the tile interpreter can run in
/// their place.
pub fn tile_programs(region: &Region, arch: Arch, symbols: &Symbols) -> Result<Vec<TileProgram>> {
    first(region, arch, symbols, &[]).map(|candidate| candidate.programs)
}

fn first(region: &Region, arch: Arch, symbols: &Symbols, ranges: &[Option<(i64, i64)>]) -> Result<Candidate> {
    let candidate = family::programs(region, arch, symbols, ranges, 1)?.into_iter().next();
    candidate.ok_or_else(|| Error::Malformed { region: region.name.clone(), what: "no family takes it".into() })
}

fn implementation(candidate: Candidate, arch: Arch, watch: &mut Watch<'_>) -> Result<Implementation> {
    let mut compile = |p: &TileProgram| {
        let name = entry(&p.program);
        p.compile_watched(arch, &mut |pass, text| watch(&name, pass, text))
    };
    let kernels = candidate.programs.iter().map(&mut compile).collect::<Result<_>>()?;
    Ok(Implementation::new(candidate.family, candidate.config, kernels))
}
