//! From a region to its kernels: the choice of a family.

use crate::{Error, Implementation, Result};
use kiln_fuse::Region;
use kiln_graph::Symbols;
use kiln_target::arch::Arch;

/// Kernels for `region` on `arch`. `symbols` gives the ranges of the symbolic dimensions.
pub fn lower(region: &Region, arch: Arch, symbols: &Symbols) -> Result<Implementation> {
    let _ = symbols;
    Err(Error::Unsupported {
        region: region.name.clone(),
        summary: region.summary.clone(),
        what: format!("no kernel family takes {:?} regions on {arch} yet", region.anchor),
        help: "run the model on the CPU device".to_owned(),
    })
}
