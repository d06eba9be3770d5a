//! Kernels that were read from a file: guards, launches and their parameters.

use super::Check;
use crate::engine::{Compiled, Variant};
use kiln_fuse::Region;
use kiln_graph::Dim;
use kiln_kernels::{Condition, Grid, Kernel, MAX_CLUSTER, Param, Pointer};
use kiln_target::arch::Arch;
use std::collections::BTreeSet;

/// Threads that a block may have on every GPU.
const MAX_THREADS: u32 = 1024;

/// Checks the kernels of a region. They may go by the symbols that the region declares: for those every step that runs it has values.
pub fn region(region: &Region, compiled: &Compiled, target: &str) -> Check {
    let symbols = &region.graph.symbols.iter().map(|(name, _)| name.to_owned()).collect();
    let at = |i: usize| format!("variant {i} of region `{}` for {target}", region.name);
    let last = compiled.variants.len().checked_sub(1);
    let last = last.ok_or_else(|| format!("region `{}` for {target} lacks code", region.name))?;
    for (i, variant) in compiled.variants.iter().enumerate() {
        let always = variant.guard.is_always();
        if always != (i == last) {
            let expected = if always { "a condition, for others follow" } else { "`true`, for it is the last" };
            return Err(format!("{} has the guard `{}`; expected {expected}", at(i), variant.guard));
        }
        for condition in &variant.guard.0 {
            known(condition.dim(), &symbols).map_err(|e| format!("the guard `{}` of {} {e}", variant.guard, at(i)))?;
            if matches!(condition, Condition::MultipleOf(_, factor) if *factor <= 0) {
                return Err(format!("the guard `{}` of {} divides by less than 1", variant.guard, at(i)));
            }
        }
        self::variant(region, variant, target.parse().ok(), &symbols).map_err(|e| format!("{}: {e}", at(i)))?;
    }
    Ok(())
}

fn known(dim: &Dim, symbols: &BTreeSet<String>) -> Check {
    let mut used = BTreeSet::new();
    dim.symbols(&mut used);
    match used.difference(symbols).next() {
        Some(name) => Err(format!("names the symbol `{name}`, which the region lacks")),
        None => Ok(()),
    }
}

fn variant(region: &Region, variant: &Variant, arch: Option<Arch>, symbols: &BTreeSet<String>) -> Check {
    let made = &variant.implementation;
    if variant.images.len() != made.kernels.len() {
        return Err(format!("it lacks code for a kernel: {} of {}", variant.images.len(), made.kernels.len()));
    }
    for dim in [&made.scratch_bytes, &made.zeroed_bytes] {
        known(dim, symbols).map_err(|e| format!("its memory of `{dim}` bytes {e}"))?;
    }
    let fits = |pointer: Pointer| match pointer {
        Pointer::Input(i) => i < region.graph.inputs.len(),
        Pointer::Output(i) => i < region.graph.outputs.len(),
        Pointer::Scratch => made.scratch_bytes != Dim::from(0),
        Pointer::Zeroed => made.zeroed_bytes != Dim::from(0),
        Pointer::Packed(i) => i < made.packed.len(),
    };
    for kernel in &made.kernels {
        let named = |e: String| format!("kernel `{}`: {e}", kernel.entry);
        geometry(kernel, arch, symbols).map_err(named)?;
        for (i, param) in kernel.launch.params.iter().enumerate() {
            let fits = match param {
                Param::Fault | Param::FaultCode => !kernel.checks.is_empty(),
                _ => param.pointer().is_none_or(fits),
            };
            if !fits {
                return Err(named(format!("it takes {param:?}, which the region lacks")));
            }
            let parameter = |e: String| named(format!("parameter {i} {e}"));
            param.dims().into_iter().try_for_each(|dim| known(dim, symbols)).map_err(parameter)?;
            if let Param::TensorMap(map) = param {
                map.check_form().map_err(|e| parameter(format!("is a tensor map whose {e}")))?;
                if arch.is_some_and(|arch| !arch.has_clusters()) {
                    return Err(parameter("is a tensor map, which needs compute capability 9.0".into()));
                }
            }
        }
    }
    Ok(())
}

fn geometry(kernel: &Kernel, arch: Option<Arch>, symbols: &BTreeSet<String>) -> Check {
    let launch = &kernel.launch;
    let product = |extents: [u32; 3]| extents.iter().try_fold(1u32, |n, &extent| n.checked_mul(extent)).unwrap_or(0);
    let within = |what: &str, extents: [u32; 3], most: u32| match (1..=most).contains(&product(extents)) {
        true => Ok(()),
        false => Err(format!("its {what} is {extents:?}; expected 1 to {most} in all")),
    };
    within("block", launch.block, MAX_THREADS)?;
    within("cluster", launch.cluster, MAX_CLUSTER)?;
    if launch.clustered() && arch.is_some_and(|arch| !arch.has_clusters()) {
        return Err(format!("its cluster is {:?}, which needs compute capability 9.0", launch.cluster));
    }
    if let Some(most) = arch.map(Arch::max_shared_per_block).filter(|&most| launch.dynamic_shared > most) {
        return Err(format!(
            "it takes {} bytes of dynamic shared memory; expected at most {most}",
            launch.dynamic_shared
        ));
    }
    let dims = match &launch.grid {
        Grid::Fixed(dims) => dims.as_slice(),
        Grid::Persistent { per_sm: 0, .. } => return Err("its grid has 0 blocks an SM; expected 1 or more".into()),
        Grid::Persistent { .. } if launch.cluster[1..] != [1, 1] => {
            return Err(format!("its grid has one axis, and its cluster is {:?}", launch.cluster));
        }
        Grid::Persistent { tiles, .. } => std::slice::from_ref(tiles),
    };
    dims.iter().try_for_each(|dim| known(dim, symbols)).map_err(|e| format!("its grid {e}"))
}
