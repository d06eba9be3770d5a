//! Shares work out over threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The threads that share work: those of a pool, which need not be the current one, or `None`: rayon's current pool. Work for one thread
/// stays on the caller's, so that small kernels wake nobody.
pub(crate) type Pool<'a> = Option<&'a rayon::ThreadPool>;

/// Calls `f(scratch, range)` until `units` are done, from at most `parts` threads, each with its own `part_bytes` of `scratch`. Ranges are
/// handed out as threads become free.
pub(crate) fn share(
    pool: Pool<'_>,
    parts: usize,
    units: usize,
    scratch: &mut [u8],
    part_bytes: usize,
    f: impl Fn(&mut [u8], &mut dyn FnMut() -> Option<std::ops::Range<usize>>) + Sync,
) {
    if units == 0 {
        return;
    }
    let parts = parts.min(units);
    if parts <= 1 {
        let mut once = Some(0..units);
        f(&mut scratch[..part_bytes], &mut || once.take());
        return;
    }
    let step = units.div_ceil(parts * 4);
    let next = AtomicUsize::new(0);
    let claim = || {
        let start = next.fetch_add(step, Ordering::Relaxed);
        (start < units).then(|| start..units.min(start + step))
    };
    let (f, claim) = (&f, &claim);
    let mut all = move || spread(parts, scratch, part_bytes, &|own| f(own, &mut || claim()));
    match pool {
        Some(pool) => pool.install(all),
        None => all(),
    }
}

/// Calls `f` from `parts` threads, each with its part of `scratch`. Halving needs no memory of the queue's, as a list of tasks would.
fn spread(parts: usize, scratch: &mut [u8], part_bytes: usize, f: &(impl Fn(&mut [u8]) + Sync)) {
    if parts <= 1 {
        return f(&mut scratch[..part_bytes]);
    }
    let (left, right) = scratch.split_at_mut(parts / 2 * part_bytes);
    rayon::join(|| spread(parts / 2, left, part_bytes, f), || spread(parts - parts / 2, right, part_bytes, f));
}

/// [`share`] without scratch, one unit a call.
pub(crate) fn each(pool: Pool<'_>, parts: usize, units: usize, f: impl Fn(usize) + Sync) {
    share(pool, parts, units, &mut [], 0, |_, next| {
        while let Some(range) = next() {
            range.for_each(&f);
        }
    });
}

/// Threads worth waking for an amount of work in elements or multiply-adds.
pub(crate) fn threads_for(work: usize, threads: usize) -> usize {
    const GRAIN: usize = 16 * 1024;
    threads.min(work / GRAIN).max(1)
}

/// [`threads_for`] for multiply-adds in vector registers, which are far cheaper than an element of a loop nest.
pub(crate) fn threads_for_products(macs: usize, threads: usize) -> usize {
    threads_for(macs / 16, threads)
}
