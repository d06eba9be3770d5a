//! What the cost model says of an engine's regions, and of which GPU: what `kiln inspect --diff` and `kiln report` share.

use kiln_engine::{Compiled, TargetImage, Used};
use kiln_kernels::{Implementation, Way, candidates};
use kiln_target::Gpu;
use kiln_target::arch::Arch;

/// The GPU that the kernels of an image were chosen for; none for the CPU.
pub fn chosen_for(image: &TargetImage) -> Option<Gpu> {
    let typical = || image.target.parse().ok().and_then(Gpu::typical);
    image.gpu.as_deref().and_then(Gpu::named).or_else(typical)
}

/// The table's GPU of an architecture that a driver calls so.
pub fn product(arch: Arch, name: &str) -> Option<Gpu> {
    let of_that_name = Gpu { name: name.to_owned(), ..Gpu::typical(arch)? };
    Gpu::named(&of_that_name.key())
}

/// Which of a region's candidates an implementation is.
pub fn way<'w>(ways: &'w [Way], made: &Implementation) -> Option<&'w Way> {
    ways.iter().find(|way| way.family == made.family && way.config == made.config)
}

/// Microseconds that the cost model gives the variant that runs at the sizes of a region's symbols.
pub fn modelled_us(used: &Used, compiled: &Compiled, gpu: &Gpu) -> Option<f64> {
    let made = &compiled.at(&used.subject.sizes)?.implementation;
    Some(way(&candidates(&used.subject, gpu).ok()?, made)?.estimate?.seconds * 1e6)
}
