//! Shadow of global memory for the cross-CTA race check.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::Access;

/// Words of one lazily made page.
const PAGE: usize = 1024;

/// The last writer and reader of every word of an allocation, made on first use.
///
/// An entry packs writer (bits 0-23), bytes written (24-27), write was atomic (28), reader (32-55), bytes read
/// (56-59), several readers (60). CTAs count from 1.
#[derive(Default)]
pub(crate) struct GlobalShadow {
    pages: OnceLock<Box<[OnceLock<Page>]>>,
}

type Page = Box<[AtomicU64]>;

const CTA: u64 = (1 << 24) - 1;

impl GlobalShadow {
    /// Forgets everything, at the start of a launch.
    pub(crate) fn clear(&self) {
        for page in self.pages.get().into_iter().flatten().filter_map(OnceLock::get) {
            page.iter().for_each(|w| w.store(0, Relaxed));
        }
    }

    /// Notes an access by CTA `me`; returns the CTA and the kind of an unordered conflicting access.
    pub(crate) fn touch(
        &self,
        len: u64,
        off: u64,
        bytes: u32,
        access: Access,
        me: u32,
        sync: &GridSync,
    ) -> Option<(u32, &'static str)> {
        if u64::from(me) > CTA {
            return None;
        }
        let pages = self
            .pages
            .get_or_init(|| (0..(len.div_ceil(4) as usize).div_ceil(PAGE)).map(|_| OnceLock::new()).collect());
        let mut found = None;
        let (mut at, end) = (off, off + u64::from(bytes));
        while at < end {
            let n = (end - at).min(4 - at % 4);
            let mask = ((1u64 << n) - 1) << (at % 4);
            let word = (at / 4) as usize;
            at += n;
            let Some(page) = pages.get(word / PAGE) else { continue };
            let page = page.get_or_init(|| (0..PAGE).map(|_| AtomicU64::new(0)).collect());
            let cell = &page[word % PAGE];
            let old =
                cell.fetch_update(Relaxed, Relaxed, |v| Some(update(v, mask, access, u64::from(me)))).unwrap_or(0);
            if found.is_none() {
                found = conflict(old, mask, access, me).filter(|(other, _)| !sync.ordered(*other, me));
            }
        }
        found
    }
}

fn update(v: u64, mask: u64, access: Access, me: u64) -> u64 {
    if access.writes() {
        let same = v & CTA == me;
        let bytes = if same { v >> 24 & 0xf | mask } else { mask };
        let atomic = u64::from(access == Access::Atomic);
        return v & !0xffff_ffff | me | bytes << 24 | atomic << 28;
    }
    let reader = v >> 32 & CTA;
    if reader == 0 || reader == me { v & !(CTA << 32) | me << 32 | mask << 56 } else { v | 1 << 60 | mask << 56 }
}

fn conflict(v: u64, mask: u64, access: Access, me: u32) -> Option<(u32, &'static str)> {
    let writer = (v & CTA) as u32;
    let both_atomic = access == Access::Atomic && v >> 28 & 1 != 0;
    if writer != 0 && writer != me && v >> 24 & mask != 0 && !both_atomic {
        return Some((writer, if v >> 28 & 1 != 0 { "atomic" } else { "write" }));
    }
    let reader = (v >> 32 & CTA) as u32;
    if access.writes() && reader != 0 && reader != me && v >> 56 & mask != 0 {
        return Some((reader, "read"));
    }
    None
}

/// Order between CTAs made by fences and atomics: a fence before an atomic publishes, a fence after one acquires.
#[derive(Default)]
pub(crate) struct GridSync(Mutex<SyncState>);

#[derive(Default)]
struct SyncState {
    /// CTAs that have fenced since their start.
    fenced: BTreeSet<u32>,
    /// By address of an atomic: the CTAs whose work it publishes.
    published: HashMap<u64, BTreeSet<u32>>,
    /// By CTA: what its atomics have seen, and what it has acquired.
    seen: HashMap<u32, BTreeSet<u32>>,
    acquired: HashMap<u32, BTreeSet<u32>>,
}

impl GridSync {
    fn with<R>(&self, f: impl FnOnce(&mut SyncState) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn fence(&self, me: u32) {
        self.with(|s| {
            s.fenced.insert(me);
            let seen = s.seen.get(&me).cloned().unwrap_or_default();
            s.acquired.entry(me).or_default().extend(seen);
        });
    }

    /// Before an atomic (or strong load or store) at `addr`. CTAs run at once, and the next of these may come between this and the access.
    pub(crate) fn publish(&self, me: u32, addr: u64, ordered: bool) {
        self.with(|s| {
            let mut mine = s.acquired.get(&me).cloned().unwrap_or_default();
            if ordered || s.fenced.contains(&me) {
                mine.insert(me);
            }
            s.published.entry(addr).or_default().extend(mine);
        });
    }

    /// After the access: whose ever it found has published before.
    pub(crate) fn observe(&self, me: u32, addr: u64, ordered: bool) {
        self.with(|s| {
            let before = s.published.get(&addr).cloned().unwrap_or_default();
            if ordered {
                s.acquired.entry(me).or_default().extend(before.iter().copied());
            }
            s.seen.entry(me).or_default().extend(before);
        });
    }

    fn ordered(&self, other: u32, me: u32) -> bool {
        self.with(|s| s.acquired.get(&me).is_some_and(|a| a.contains(&other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_ctas_conflict_on_the_same_bytes_only() {
        let (s, sync) = (GlobalShadow::default(), GridSync::default());
        assert_eq!(s.touch(64, 8, 2, Access::Write, 1, &sync), None);
        assert_eq!(s.touch(64, 10, 2, Access::Write, 2, &sync), None);
        assert_eq!(s.touch(64, 10, 2, Access::Read, 1, &sync), Some((2, "write")));
        assert_eq!(s.touch(64, 40, 4, Access::Atomic, 1, &sync), None);
        assert_eq!(s.touch(64, 40, 4, Access::Atomic, 2, &sync), None);
        assert_eq!(s.touch(64, 44, 4, Access::Read, 3, &sync), None);
        assert_eq!(s.touch(64, 44, 4, Access::Write, 4, &sync), Some((3, "read")));
    }

    #[test]
    fn fences_around_an_atomic_order_two_ctas() {
        let (s, sync) = (GlobalShadow::default(), GridSync::default());
        s.touch(64, 0, 4, Access::Write, 1, &sync);
        // The second CTA's atomic begins first, and finds the first one's.
        sync.publish(2, 99, false);
        sync.fence(1);
        sync.publish(1, 99, false);
        sync.observe(2, 99, false);
        assert!(s.touch(64, 0, 4, Access::Read, 3, &sync).is_some());
        sync.fence(2);
        assert_eq!(s.touch(64, 0, 4, Access::Read, 2, &sync), None);
    }
}
