//! A launch: clusters as tasks on rayon's threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::buffer::Buffer;
use super::cluster::{Cluster, Run, Slice};
use crate::check::{FindingKind, Findings, Origin};
use crate::counters::Counters;
use crate::error::Result;
use crate::launch::{LaunchConfig, Options};
use crate::memory::check_memory;
use crate::module::Kernel;
use crate::report::Report;

/// Instructions before a cluster that has not finished lets another run, so that CTAs may wait for each other.
const SLICE: u64 = 4_000_000;
/// CTAs along x (CUDA C++ Programming Guide, "Technical specifications per compute capability").
const MAX_GRID_X: u32 = 0x7fff_ffff;
/// Shared memory that any target offers at most to one CTA.
const MAX_SHARED: u32 = 232_448;

fn validate(kernel: &Kernel, config: &LaunchConfig) -> Result<[u32; 3]> {
    let p = &kernel.program;
    let err = |m: String| Err(kernel.launch_error(m));
    if config.grid.contains(&0) || config.block.contains(&0) {
        return err(format!("grid {:?} and block {:?} must have no zero", config.grid, config.block));
    }
    let threads: u64 = config.block.iter().map(|b| u64::from(*b)).product();
    if threads > 1024 || config.block[2] > 64 {
        return err(format!("block {:?} has {threads} threads; the limit is 1024, and 64 along z", config.block));
    }
    if config.grid[0] > MAX_GRID_X || config.grid[1] > 65535 || config.grid[2] > 65535 {
        return err(format!("grid {:?} exceeds {MAX_GRID_X} along x or 65535 along y or z", config.grid));
    }
    if let Some(max) = p.max_threads
        && threads > max.iter().map(|b| u64::from(*b)).product()
    {
        return err(format!("block of {threads} threads exceeds the kernel's .maxntid {max:?}"));
    }
    if let Some(want) = p.req_threads
        && want != config.block
    {
        return err(format!("block {:?}, but the kernel requires {want:?}", config.block));
    }
    if u64::from(p.shared) + u64::from(config.shared) > u64::from(MAX_SHARED) {
        return err(format!(
            "{} static and {} dynamic bytes of shared memory exceed {MAX_SHARED}",
            p.shared, config.shared
        ));
    }
    let cluster = match (config.cluster, p.req_cluster) {
        (Some(a), Some(b)) if a != b => return err(format!("cluster {a:?}, but the kernel requires {b:?}")),
        (a, b) => a.or(b).unwrap_or([1, 1, 1]),
    };
    let size = cluster.iter().fold(1u64, |n, c| n.saturating_mul((*c).into()));
    if size == 0 || size > 16 {
        return err(format!("cluster {cluster:?} has {size} CTAs; expected 1 to 16"));
    }
    if let Some(i) = (0..3).find(|i| !config.grid[*i].is_multiple_of(cluster[*i])) {
        return err(format!(
            "{} CTAs along {} are no multiple of the cluster's {}: grid {:?}, cluster {cluster:?}",
            config.grid[i],
            ["x", "y", "z"][i],
            cluster[i],
            config.grid
        ));
    }
    // Made when a cluster starts, on every thread that runs one.
    let [narrow, wide, predicates] = p.rows.map(u64::from);
    let warp = (u64::from(p.frame) + 4 * narrow + 8 * wide) * 32 + 4 * predicates;
    check_memory(warp * threads.div_ceil(32) * size * rayon::current_num_threads() as u64)
        .map_err(|why| kernel.launch_error(format!("registers and local memory of a cluster: {why}")))?;
    Ok(cluster)
}

pub(crate) fn launch(
    kernel: &Kernel,
    config: LaunchConfig,
    params: &[u8],
    options: &Options,
    symbols: &[u64],
    buffers: Vec<Arc<Buffer>>,
) -> Result<Report> {
    let cluster = validate(kernel, &config)?;
    let total = (0..3).map(|i| u64::from(config.grid[i] / cluster[i])).product::<u64>();
    if options.checks.global_races {
        buffers.iter().for_each(|b| b.shadow.clear());
    }
    let run = Run {
        program: &kernel.program,
        buffers,
        symbols,
        params: params.chunks(4).map(|c| c.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b))).collect(),
        grid: config.grid,
        block: config.block,
        cluster,
        dynamic: config.shared,
        options,
        wide_atomics: Mutex::new(()),
        executed: AtomicU64::new(0),
        deadline: options.timeout.and_then(|limit| Instant::now().checked_add(limit)),
        stop: AtomicBool::new(false),
        sync: Default::default(),
        map_changes: Default::default(),
        undefined: Default::default(),
    };
    let next = AtomicU64::new(0);
    let parked: Mutex<VecDeque<Cluster<'_>>> = Mutex::default();
    let done: Mutex<(Findings, Option<Counters>)> = Mutex::default();
    let worker = || {
        let mut findings = Findings::default();
        let mut counters: Option<Counters> = None;
        while !run.stop.load(Relaxed) {
            // Fresh clusters first: one that waits for another needs that one to start.
            let index = next.fetch_add(1, Relaxed);
            let mut c = if index < total {
                Cluster::new(&run, index)
            } else {
                match parked.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                    Some(c) => c,
                    None => break,
                }
            };
            match c.slice(SLICE.min(options.budget)) {
                Slice::Yield => parked.lock().unwrap_or_else(PoisonError::into_inner).push_back(c),
                Slice::Done => {
                    findings.merge(c.findings);
                    if let Some(own) = c.counters {
                        match &mut counters {
                            Some(all) => all.merge(&own),
                            None => counters = Some(*own),
                        }
                    }
                }
            }
        }
        let mut all = done.lock().unwrap_or_else(PoisonError::into_inner);
        all.0.merge(findings);
        match (&mut all.1, counters) {
            (Some(a), Some(b)) => a.merge(&b),
            (slot @ None, b) => *slot = b,
            _ => {}
        }
    };
    let workers = (rayon::current_num_threads() as u64).min(total);
    if workers <= 1 {
        worker();
    } else {
        rayon::scope(|s| (0..workers).for_each(|_| s.spawn(|_| worker())));
    }
    let (mut findings, counters) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !run.stop.load(Relaxed) {
        // Whoever reads it later uses it.
        let undefined = run.undefined.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (at, Origin { pc, block, thread }) in undefined.left() {
            let text = "leaves a register that nothing has written in memory".to_string();
            let inst = &kernel.program.insts[pc as usize];
            let place = Some(("global", at));
            findings.add(FindingKind::UninitializedRegister, pc, inst, block, thread, place, text);
        }
    }
    Ok(Report {
        findings: findings.into_list(kernel),
        instructions: run.executed.load(Relaxed),
        counters: counters.map(|c| c.report(kernel)),
    })
}
