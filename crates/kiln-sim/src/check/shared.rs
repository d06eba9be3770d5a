//! Shadow of shared memory: which bytes are written, which are owned by a copy in flight, and who touched each word
//! last.

use super::{Access, Clocks, FindingKind};
use crate::exec::Cluster;
use crate::exec::Warp;

/// State of one word.
#[derive(Clone, Copy, Default)]
struct Cell {
    /// Bytes that have been written.
    init: u8,
    /// Bytes that a copy in flight owns.
    pending: u8,
    /// Bytes of the last write, and whether it was atomic or by the generic proxy.
    written: u8,
    atomic: bool,
    generic: bool,
    writer: u16,
    writer_pc: u32,
    writer_time: u32,
    reader_pc: u32,
}

/// Shadow of one CTA's shared memory.
pub(crate) struct SharedShadow {
    cells: Vec<Cell>,
    /// Time of the last read by each warp and each tensor core of the cluster, one clock a word; grown on first use.
    reads: Vec<u32>,
}

impl SharedShadow {
    pub(crate) fn new(bytes: u32) -> Self {
        SharedShadow { cells: vec![Cell::default(); bytes.div_ceil(4) as usize], reads: Vec::new() }
    }
}

/// Read time of an asynchronous operation that has not been waited for: after everything.
const HELD: u32 = u32::MAX;

/// What is wrong with an access: the kind, and the other access as (what, warp, PC).
type Conflict = (FindingKind, &'static str, Option<(u16, u32)>);

impl SharedShadow {
    #[allow(clippy::too_many_arguments)]
    fn touch(
        &mut self,
        word: usize,
        bytes: u8,
        access: Access,
        warp: usize,
        pc: u32,
        tensor_core: Option<(usize, u32)>,
        clocks: Option<&Clocks>,
        checks: &crate::Checks,
    ) -> Option<Conflict> {
        let entries = clocks.map_or(0, Clocks::entries);
        let cell = self.cells.get_mut(word)?;
        let mut found = None;
        let mut raise = |c: Conflict| {
            found.get_or_insert(c);
        };
        let landing = matches!(access, Access::AsyncLand | Access::BulkLand);
        if access == Access::AsyncDone {
            // Everything was checked when the operation was issued.
            if let (Some(c), Some(time)) = (clocks, self.reads.get_mut(word * entries + warp)) {
                *time = c.time(warp);
            }
            return None;
        }
        if cell.pending & bytes != 0 && !landing {
            raise((
                FindingKind::AsyncPending,
                "the bytes belong to a copy in flight",
                Some((cell.writer, cell.writer_pc)),
            ));
        }
        if !access.writes() && checks.uninitialized && cell.init & bytes != bytes && cell.pending & bytes == 0 {
            raise((FindingKind::Uninitialized, "the bytes were never written", None));
        }
        if access == Access::Atomic && checks.uninitialized && cell.init & bytes != bytes {
            // An mbarrier's init is an atomic too, and is what initialises it.
            cell.init |= bytes;
        }
        if let Some(c) = clocks {
            let both_atomic = access == Access::Atomic && cell.atomic;
            // A landing was checked when the copy was issued.
            if cell.written & bytes != 0
                && usize::from(cell.writer) != warp
                && !both_atomic
                && !landing
                && !c.ordered(warp, cell.writer.into(), cell.writer_time)
            {
                raise((FindingKind::SharedRace, "unordered with a write", Some((cell.writer, cell.writer_pc))));
            }
            if matches!(access, Access::AsyncRead | Access::AsyncHold)
                && checks.proxy_fences
                && cell.generic
                && cell.written & bytes != 0
                && !c.fenced_after(cell.writer.into(), cell.writer.into(), cell.writer_time)
                && !c.fenced_after(warp, cell.writer.into(), cell.writer_time)
            {
                raise((
                    FindingKind::ProxyFence,
                    "no fence.proxy.async after the write",
                    Some((cell.writer, cell.writer_pc)),
                ));
            }
            if self.reads.is_empty() {
                self.reads = vec![0; self.cells.len() * entries];
            }
            let cell = &mut self.cells[word];
            let reads = &mut self.reads[word * entries..(word + 1) * entries];
            if access.writes() {
                if !landing {
                    for (r, time) in reads.iter_mut().enumerate() {
                        if *time == HELD || r != warp && *time != 0 && !c.ordered(warp, r, *time) {
                            found.get_or_insert((
                                FindingKind::SharedRace,
                                "unordered with a read",
                                Some((r as u16, cell.reader_pc)),
                            ));
                        }
                        *time = 0;
                    }
                }
                cell.writer_time = c.time(warp);
            } else {
                match tensor_core {
                    Some((entry, group)) => reads[entry] = group.max(reads[entry]),
                    None if access == Access::AsyncHold => reads[warp] = HELD,
                    None => reads[warp] = c.time(warp),
                }
                cell.reader_pc = pc;
            }
        }
        let cell = &mut self.cells[word];
        if access.writes() {
            (cell.writer, cell.writer_pc) = (warp as u16, pc);
            cell.written = bytes;
            cell.atomic = access == Access::Atomic;
            cell.generic = access != Access::BulkLand;
            match access {
                Access::AsyncIssue => cell.pending |= bytes,
                _ => {
                    cell.pending &= !bytes;
                    cell.init |= bytes;
                }
            }
        }
        found
    }
}

impl Cluster<'_> {
    /// Notes an access of `bytes` bytes to shared memory and reports what is wrong with it.
    #[inline]
    pub(crate) fn shared_access(&mut self, w: &Warp, lane: usize, cta: usize, off: u32, bytes: u32, access: Access) {
        if self.ctas[cta].shadow.is_some() {
            self.shared_access_checked(w, lane, cta, off, bytes, access, None);
        }
    }

    /// Notes a read by a wgmma that belongs to a group of its warpgroup: (entry of the tensor core, number of the group).
    pub(crate) fn tensor_core_read(
        &mut self,
        w: &Warp,
        lane: usize,
        (cta, off): (usize, u32),
        bytes: u32,
        group: (usize, u32),
    ) {
        if self.ctas[cta].shadow.is_some() {
            self.shared_access_checked(w, lane, cta, off, bytes, Access::AsyncRead, Some(group));
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn shared_access_checked(
        &mut self,
        w: &Warp,
        lane: usize,
        cta: usize,
        off: u32,
        bytes: u32,
        access: Access,
        tensor_core: Option<(usize, u32)>,
    ) {
        let warps = self.warps.len();
        let mut conflict = None;
        let Some(shadow) = &mut self.ctas[cta].shadow else { return };
        let (mut at, end) = (off, off + bytes);
        while at < end {
            let in_word = (end - at).min(4 - at % 4);
            let mask = (((1u32 << in_word) - 1) << (at % 4)) as u8;
            let c = shadow.touch(
                at as usize / 4,
                mask,
                access,
                w.index,
                w.pc,
                tensor_core,
                self.clocks.as_ref(),
                &self.run.options.checks,
            );
            if conflict.is_none() {
                conflict = c.map(|c| (c, at));
            }
            at += in_word;
        }
        if let Some(((kind, what, other), at)) = conflict {
            let text = match other {
                Some((warp, pc)) => {
                    let inst = &self.run.program.insts[pc as usize];
                    let by = match usize::from(warp).checked_sub(warps) {
                        None => format!("warp {warp}"),
                        Some(core) => format!("a wgmma of warpgroup {core} that has not been waited for since"),
                    };
                    format!(
                        "{} of {bytes} bytes: {what} by {by} at source line {} (PTX line {})",
                        access.name(),
                        inst.loc.1,
                        inst.line
                    )
                }
                None => format!("{} of {bytes} bytes: {what}", access.name()),
            };
            self.report(w, lane, kind, Some(("shared", at.into())), text);
        }
    }

    /// Fills the destination of a copy in flight with NaNs and marks it as owned.
    pub(crate) fn poison(&mut self, w: &Warp, lane: usize, cta: usize, off: u32, bytes: u32) {
        self.shared_access(w, lane, cta, off, bytes, Access::AsyncIssue);
        let memory = &mut self.ctas[cta].shared;
        let (from, to) = (off as usize / 4, (off + bytes) as usize / 4);
        if let Some(range) = memory.get_mut(from..to) {
            range.fill(u32::MAX);
        }
    }

    pub(crate) fn arrive_clock(&mut self, w: &Warp) {
        if let Some(c) = &mut self.clocks {
            c.arrive(w.index);
        }
    }

    pub(crate) fn proxy_fence(&mut self, w: &Warp) {
        if let Some(c) = &mut self.clocks {
            c.fence(w.index);
        }
    }

    pub(crate) fn mbar_release(&mut self, w: &Warp, object: (usize, u32)) {
        if let Some(c) = &mut self.clocks {
            c.release(w.index, object);
        }
    }

    pub(crate) fn mbar_acquire(&mut self, w: &Warp, object: (usize, u32)) {
        if let Some(c) = &mut self.clocks {
            c.acquire(w.index, object);
        }
    }

    pub(crate) fn mbar_phase(&mut self, object: (usize, u32)) {
        if let Some(c) = &mut self.clocks {
            c.phase(object);
        }
    }
}
