//! From a region to its kernels.

use crate::program::TileProgram;
use crate::{Implementation, Result, family};
use kiln_fuse::Region;
use kiln_graph::{Dim, Symbols};
use kiln_target::arch::Arch;

/// Kernels for `region` on `arch`. `symbols` gives the ranges of the symbolic dimensions.
pub fn lower(region: &Region, arch: Arch, symbols: &Symbols) -> Result<Implementation> {
    let made = family::programs(region, arch, symbols)?;
    Ok(Implementation {
        family: made.family.to_owned(),
        config: made.config,
        kernels: made.programs.iter().map(|p| p.compile(arch)).collect::<Result<_>>()?,
        scratch_bytes: Dim::from(0),
    })
}

/// The tile programs that [`lower`] compiles, in launch order: what the tile interpreter can run in their place.
pub fn tile_programs(region: &Region, arch: Arch, symbols: &Symbols) -> Result<Vec<TileProgram>> {
    family::programs(region, arch, symbols).map(|made| made.programs)
}
