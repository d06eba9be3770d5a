//! Global memory from a kernel's side: bounds and the cross-CTA race check.

use super::cluster::Cluster;
use super::step::lanes;
use super::warp::Warp;
use crate::check::{Access, FindingKind};
use crate::ptx::Space;

impl Cluster<'_> {
    /// Index of the allocation that holds an access, and the offset in it.
    #[inline]
    pub(crate) fn global_checked(
        &mut self,
        w: &mut Warp,
        lane: usize,
        addr: u64,
        bytes: u32,
        what: &str,
    ) -> Option<(usize, u64)> {
        let buffers = &self.run.buffers;
        if let Some(b) = buffers.get(w.last_buffer)
            && b.holds(addr, bytes.into())
        {
            return Some((w.last_buffer, addr - b.base));
        }
        let after = buffers.partition_point(|b| b.base <= addr);
        let near = after.checked_sub(1);
        if let Some(i) = near
            && buffers[i].holds(addr, bytes.into())
        {
            w.last_buffer = i;
            return Some((i, addr - buffers[i].base));
        }
        let text = match near {
            Some(i) => {
                let b = &buffers[i];
                let past = addr.wrapping_sub(b.base + b.len);
                format!(
                    "{what} of {bytes} bytes; the nearest allocation below is {:#x} of {} bytes ({} bytes before the access)",
                    b.base, b.len, past as i64
                )
            }
            None => format!("{what} of {bytes} bytes; no allocation lies below"),
        };
        self.report(w, lane, FindingKind::OutOfBounds, Some(("global", addr)), text);
        None
    }

    /// Notes an access for the cross-CTA race check.
    #[inline]
    pub(crate) fn global_access(&mut self, w: &Warp, lane: usize, buffer: usize, off: u64, bytes: u32, access: Access) {
        if !self.run.options.checks.global_races || self.run.grid.iter().all(|g| *g == 1) {
            return;
        }
        let b = &self.run.buffers[buffer];
        let me = self.index as u32 + 1;
        if let Some(other) = b.shadow.touch(b.len, off, bytes, access, me, &self.run.sync) {
            let at = b.base + off;
            let text = format!(
                "{} races with a {} by CTA {} without atomics or a fence between them",
                access.name(),
                other.1,
                other.0 - 1
            );
            self.report(w, lane, FindingKind::GlobalRace, Some(("global", at)), text);
        }
    }

    /// A fence at GPU scope: publishes what came before, and acquires what was read from atomics.
    pub(crate) fn grid_fence(&self) {
        if self.run.options.checks.global_races {
            self.run.sync.fence(self.index as u32 + 1);
        }
    }

    /// Counts a request.
    pub(crate) fn count_access(&mut self, w: &Warp, space: Space, addrs: &[u64; 32], m: u32, bytes: u32, store: bool) {
        let Some(c) = &mut self.counters else { return };
        let (mut global, mut shared) = ([u64::MAX; 32], [u64::MAX; 32]);
        let (mut ng, mut ns) = (0, 0);
        for lane in lanes(m) {
            match super::memory::resolve(space, addrs[lane]) {
                (Space::Global | Space::Const, a) => {
                    global[ng] = a;
                    ng += 1;
                }
                (Space::Shared | Space::SharedCluster, a) => {
                    shared[ns] = a & 0xff_ffff;
                    ns += 1;
                }
                _ => {}
            }
        }
        if ng > 0 {
            c.global(w.pc, &global[..ng], bytes, store);
        }
        if ns > 0 {
            c.shared(w.pc, &shared[..ns], bytes);
        }
    }
}
