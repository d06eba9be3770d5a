//! What the cost model says of an engine's regions, and of which GPU: what `kiln inspect --diff`, `--why` and `kiln report` share.

use kiln_engine::{Compiled, TargetImage, Used};
use kiln_kernels::{Implementation, Way, candidates};
use kiln_target::arch::Arch;
use kiln_target::{Detected, Gpu};
use kiln_tune::{Problem, Times};
use std::collections::BTreeMap;

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

/// A GPU as it was when it measured: name, MHz, GB/s.
pub type Machine<'p> = (&'p str, u32, u32);

/// The GPU of a problem.
pub fn machine(problem: &Problem) -> Machine<'_> {
    (&problem.gpu, problem.clock_mhz, problem.memory_gbs)
}

/// The GPU that a machine has: the table's, with its own clocks.
pub fn measured_on((name, clock_mhz, memory_gbs): Machine<'_>, arch: Arch) -> Option<Gpu> {
    let known = product(arch, name).or_else(|| Gpu::typical(arch))?;
    Gpu::detected(&Detected {
        name: name.to_owned(),
        arch,
        sms: known.sms,
        clock_ghz: Some(f64::from(clock_mhz) / 1e3),
        memory_bytes: (known.memory_gb * 1e9) as u64,
        bandwidth_gbs: Some(f64::from(memory_gbs)),
        l2_bytes: known.l2_bytes,
    })
}

/// A GPU as it was when most of its times in a timing cache were measured; as it is given where there are none.
pub fn as_measured(times: &Times, gpu: &Gpu) -> Gpu {
    let mut counts: BTreeMap<Machine<'_>, usize> = BTreeMap::new();
    for record in times.records().filter(|record| record.problem.arch == gpu.arch.name()) {
        *counts.entry(machine(&record.problem)).or_default() += 1;
    }
    let all = counts.into_iter().filter_map(|(machine, count)| Some((count, measured_on(machine, gpu.arch)?)));
    let own = all.filter(|(_, other)| other.key() == gpu.key()).max_by_key(|(count, _)| *count);
    own.map_or_else(|| gpu.clone(), |(_, found)| found)
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
