//! Shares work out over rayon's current pool.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `f(scratch, range)` until `units` are done, from at most `parts` threads, each with its own `part_bytes` of `scratch`. Ranges are
/// handed out as threads become free.
pub(crate) fn share(
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
    rayon::scope(|scope| {
        let mut rest = scratch;
        for part in 0..parts {
            let (own, tail) = std::mem::take(&mut rest).split_at_mut(part_bytes);
            rest = tail;
            if part + 1 == parts {
                f(own, &mut || claim());
            } else {
                scope.spawn(move |_| f(own, &mut || claim()));
            }
        }
    });
}

/// [`share`] without scratch, one unit a call.
pub(crate) fn each(parts: usize, units: usize, f: impl Fn(usize) + Sync) {
    share(parts, units, &mut [], 0, |_, next| {
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
