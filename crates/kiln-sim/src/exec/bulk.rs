//! `cp.async.bulk` and `cp.async.bulk.tensor`.
//!
//! Copies into shared memory land when they are issued, or, with the async check on, at a random later time or
//! when no warp can run; until then the destination holds NaNs. Copies out of shared memory read their source
//! when the issuing thread waits for them.

use super::cluster::Cluster;
use super::memory::resolve;
use super::step::lanes;
use super::tensor::{MAP_BYTES, Map};
use super::warp::Warp;
use crate::check::{Access, FindingKind};
use crate::decode::{AtomOp, Bulk, BulkDir, Ty};
use crate::launch::Swizzle;
use crate::ptx::Space;

/// Times that a copy is passed over in the fixed schedule.
const LATE: u8 = 8;

/// One copy with its operands read.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub lane: usize,
    pub pc: u32,
    pub warp: usize,
    /// How often it was passed over when it could have landed.
    passed: u8,
    dir: BulkDir,
    /// Shared place: (CTA, offset), of the destination for loads, of the source for stores.
    shared: (usize, u32),
    /// Second shared place of a shared-to-cluster copy (its source).
    from: Option<(usize, u32)>,
    global: u64,
    bytes: u32,
    mbar: Option<(usize, u32)>,
    /// CTAs that receive a multicast.
    targets: Vec<usize>,
    tensor: Option<(Box<Map>, Vec<i32>)>,
    reduce: Option<(AtomOp, Ty)>,
}

/// Bulk groups of a warp's lanes: stores that have not been waited for.
#[derive(Default)]
pub(crate) struct State {
    open: Vec<Job>,
    groups: Vec<(usize, Vec<Job>)>,
}

impl Cluster<'_> {
    pub(crate) fn bulk(&mut self, w: &mut Warp, b: &Bulk, m: u32) {
        let (dst, src) = (w.addresses(&b.dst), w.addresses(&b.src));
        let mbar = b.mbar.map(|a| w.addresses(&a));
        for lane in lanes(m) {
            let Some(job) = self.bulk_job(w, b, lane, dst[lane], src[lane], mbar.map(|a| a[lane])) else { continue };
            if let Some(c) = &mut self.counters {
                c.bulk(w.pc, job.bytes.into());
            }
            if job.dir == BulkDir::ToGlobal {
                let (cta, off) = job.shared;
                self.shared_access(w, lane, cta, off, job.bytes, Access::AsyncHold);
                w.bulk.open.push(job);
            } else if self.run.options.checks.async_copies {
                for cta in job.targets.clone() {
                    self.poison(w, lane, cta, job.shared.1, job.bytes);
                }
                self.inflight.push(job);
            } else {
                self.bulk_run(w, &job);
            }
        }
    }

    fn bulk_job(&mut self, w: &mut Warp, b: &Bulk, lane: usize, dst: u64, src: u64, mbar: Option<u64>) -> Option<Job> {
        let reg = |row: u32| w.regs.r[row as usize][lane];
        let mut bytes = reg(b.bytes);
        let mask = b.multicast.map(reg);
        let coords: Vec<i32> = b.tensor.iter().flat_map(|(_, rows)| rows).map(|r| reg(*r) as i32).collect();
        let mut tensor = None;
        if let Some((map, _)) = &b.tensor {
            let at = w.addresses(map)[lane];
            let map = self.read_map(w, lane, at)?;
            if map.rank != coords.len() {
                let text = format!("{} coordinates for a tensor map of rank {}", coords.len(), map.rank);
                self.report(w, lane, FindingKind::InvalidOperand, None, text);
                return None;
            }
            bytes = map.box_bytes() as u32;
            tensor = Some((Box::new(map), coords));
        }
        let align = if tensor.is_some() { 128 } else { 16 };
        if bytes % 16 != 0 {
            self.report(
                w,
                lane,
                FindingKind::Misaligned,
                None,
                format!("bulk copy of {bytes} bytes, which is not a multiple of 16"),
            );
            return None;
        }
        let (shared_addr, global) = match b.dir {
            BulkDir::ToGlobal => (src, dst),
            _ => (dst, src),
        };
        let in_shared = |a: u64| match resolve(Space::Generic, a) {
            (Space::SharedCluster, a) => a,
            _ => a,
        };
        let shared = self.shared_checked(w, lane, in_shared(shared_addr), bytes, "bulk copy")?;
        if shared.1 % align != 0 {
            let text = format!("bulk copy with a shared address that is not a multiple of {align}");
            self.report(w, lane, FindingKind::Misaligned, Some(("shared", shared.1.into())), text);
            return None;
        }
        let mut from = None;
        if b.dir == BulkDir::SharedToCluster {
            from = Some(self.shared_checked(w, lane, in_shared(src), bytes, "bulk copy")?);
        } else if tensor.is_none() {
            if global % 16 != 0 {
                let text = "bulk copy with a global address that is not a multiple of 16".to_string();
                self.report(w, lane, FindingKind::Misaligned, Some(("global", global)), text);
                return None;
            }
            if bytes > 0 {
                self.global_checked(w, lane, global, bytes, "bulk copy")?;
            }
        }
        let mbar = match mbar {
            Some(a) => Some(self.mbar_operand(w, lane, a)?),
            None => None,
        };
        let targets = match mask {
            Some(mask) => (0..self.ctas.len()).filter(|c| mask >> c & 1 != 0).collect(),
            None => vec![shared.0],
        };
        Some(Job {
            lane,
            pc: w.pc,
            warp: w.index,
            passed: 0,
            dir: b.dir,
            shared,
            from,
            global,
            bytes,
            mbar,
            targets,
            tensor,
            reduce: b.reduce,
        })
    }

    fn read_map(&mut self, w: &mut Warp, lane: usize, addr: u64) -> Option<Map> {
        let (space, at) = resolve(Space::Generic, addr);
        let mut bytes = [0u8; MAP_BYTES];
        match space {
            Space::Param => {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    let at = at as usize + i;
                    *byte = (self.run.params.get(at / 4)? >> (8 * (at % 4))) as u8;
                }
            }
            _ => {
                let (i, off) = self.global_checked(w, lane, at, MAP_BYTES as u32, "tensor map")?;
                self.run.buffers[i].read(off, &mut bytes);
            }
        }
        let map = Map::decode(&bytes);
        if map.is_none() {
            self.report(
                w,
                lane,
                FindingKind::InvalidOperand,
                Some(("generic", addr)),
                "no tensor map is stored there".into(),
            );
        }
        map
    }

    /// Performs a copy and completes its mbarriers.
    pub(crate) fn bulk_run(&mut self, w: &mut Warp, job: &Job) {
        match job.dir {
            BulkDir::ToGlobal => self.bulk_store(w, job),
            _ => {
                for cta in job.targets.clone() {
                    self.bulk_load(w, job, cta);
                    if let Some((own, off)) = job.mbar {
                        let at = if job.targets.len() > 1 || job.targets[0] != job.shared.0 { cta } else { own };
                        self.mbar_release(w, (at, off));
                        self.mbar_complete_tx(w, job.lane, at, off, job.bytes);
                    }
                }
            }
        }
    }

    fn bulk_load(&mut self, w: &mut Warp, job: &Job, cta: usize) {
        let at = job.shared.1;
        self.shared_access(w, job.lane, cta, at, job.bytes, Access::BulkLand);
        let mut data = vec![0u8; job.bytes as usize];
        match (&job.tensor, job.from) {
            (Some((map, coords)), _) => {
                let fill: &[u8] = match (map.nan_fill, map.elem) {
                    (true, 2) => &[0xff, 0x7f],
                    (true, 4) => &[0xff, 0xff, 0xff, 0x7f],
                    _ => &[0; 8],
                };
                let mut moves = Vec::new();
                map.elements(coords, |off, global| moves.push((off as usize, global)));
                let n = map.elem as usize;
                for (off, global) in moves {
                    match global {
                        Some(g) => {
                            let Some((i, o)) = self.global_checked(w, job.lane, g, n as u32, "tensor copy") else {
                                return;
                            };
                            self.global_access(w, job.lane, i, o, n as u32, Access::Read);
                            self.run.buffers[i].read(o, &mut data[off..off + n]);
                        }
                        None => data[off..off + n].copy_from_slice(&fill[..n.min(fill.len())]),
                    }
                }
            }
            (None, Some((cta, off))) => {
                for (i, byte) in data.iter_mut().enumerate() {
                    let at = off as usize + i;
                    *byte = (self.ctas[cta].shared[at / 4] >> (8 * (at % 4))) as u8;
                }
            }
            (None, None) if job.bytes > 0 => {
                let Some((i, off)) = self.global_checked(w, job.lane, job.global, job.bytes, "bulk copy") else {
                    return;
                };
                self.global_access(w, job.lane, i, off, job.bytes, Access::Read);
                self.run.buffers[i].read(off, &mut data);
            }
            (None, None) => {}
        }
        let swizzle = job.tensor.as_ref().map_or(Swizzle::None, |(m, _)| m.swizzle);
        let memory = &mut self.ctas[cta].shared;
        for (i, word) in data.chunks_exact(4).enumerate() {
            let to = swizzle.apply(at + 4 * i as u32) as usize / 4;
            if let Some(slot) = memory.get_mut(to) {
                *slot = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            }
        }
    }

    fn bulk_store(&mut self, w: &mut Warp, job: &Job) {
        let (cta, at) = job.shared;
        let swizzle = job.tensor.as_ref().map_or(Swizzle::None, |(m, _)| m.swizzle);
        self.shared_access(w, job.lane, cta, at, job.bytes, Access::AsyncDone);
        let memory = &self.ctas[cta].shared;
        let data: Vec<u8> = (0..job.bytes / 4)
            .flat_map(|i| memory.get(swizzle.apply(at + 4 * i) as usize / 4).copied().unwrap_or(0).to_le_bytes())
            .collect();
        let mut pieces = Vec::new();
        match &job.tensor {
            Some((map, coords)) => {
                let n = map.elem as usize;
                map.elements(coords, |off, global| {
                    if let Some(g) = global {
                        pieces.push((g, off as usize, n));
                    }
                });
            }
            None => pieces.push((job.global, 0, data.len())),
        }
        for (global, off, n) in pieces {
            if n == 0 {
                continue;
            }
            let Some((i, o)) = self.global_checked(w, job.lane, global, n as u32, "bulk store") else { return };
            let part = &data[off..off + n];
            match job.reduce {
                None => {
                    self.global_access(w, job.lane, i, o, n as u32, Access::Write);
                    self.run.buffers[i].write(o, part);
                }
                Some((op, ty)) => {
                    self.global_access(w, job.lane, i, o, n as u32, Access::Atomic);
                    let ty = job.tensor.as_ref().map_or(ty, |(m, _)| m.ty);
                    let size = ty.bits() as usize / 8;
                    for (k, piece) in part.chunks_exact(size).enumerate() {
                        let mut bytes = [0; 8];
                        bytes[..size].copy_from_slice(piece);
                        let a = u64::from_le_bytes(bytes);
                        self.global_update(i, o + (k * size) as u64, ty, |old| {
                            super::atomic::combine(op, ty, old, a, 0)
                        });
                    }
                }
            }
        }
    }

    pub(crate) fn bulk_commit(&mut self, w: &mut Warp, m: u32) {
        for lane in lanes(m) {
            let (mine, rest) = std::mem::take(&mut w.bulk.open).into_iter().partition(|j| j.lane == lane);
            w.bulk.open = rest;
            w.bulk.groups.push((lane, mine));
        }
    }

    /// Waits of both kinds perform the stores: nobody may rely on the writes being late.
    pub(crate) fn bulk_wait(&mut self, w: &mut Warp, left: u32, _read: bool, m: u32) {
        let mut newer = [0u32; 32];
        let mut run = Vec::new();
        let mut keep = Vec::new();
        for (lane, jobs) in std::mem::take(&mut w.bulk.groups).into_iter().rev() {
            let done = m >> lane & 1 != 0 && newer[lane] >= left;
            newer[lane] += 1;
            if done {
                run.push(jobs);
            } else {
                keep.push((lane, jobs));
            }
        }
        keep.reverse();
        w.bulk.groups = keep;
        for job in run.into_iter().rev().flatten() {
            self.bulk_run(w, &job);
        }
    }

    /// Stores that an exited warp did not wait for still happen.
    pub(crate) fn bulk_drain(&mut self, w: &mut Warp) {
        let open = std::mem::take(&mut w.bulk.open);
        let groups = std::mem::take(&mut w.bulk.groups);
        for job in groups.into_iter().flat_map(|(_, jobs)| jobs).chain(open) {
            self.bulk_run(w, &job);
        }
    }

    /// Lets some copies in flight land: all of them when nothing else can run. Otherwise a seed decides, or in the fixed schedule they are late, as
    /// is worst for who does not wait for them.
    pub(crate) fn land_copies(&mut self, all: bool) -> bool {
        let fuzz = self.run.options.seed.is_some();
        let mut landed = false;
        let mut i = 0;
        while i < self.inflight.len() {
            let passed = &mut self.inflight[i].passed;
            let lands = all || if fuzz { self.rng.u8(..4) == 0 } else { *passed == LATE };
            *passed += u8::from(!lands);
            if lands {
                let job = self.inflight.swap_remove(i);
                let mut w = std::mem::take(&mut self.warps[job.warp]);
                let pc = std::mem::replace(&mut w.pc, job.pc);
                self.bulk_run(&mut w, &job);
                w.pc = pc;
                self.warps[job.warp] = w;
                landed = true;
                if all {
                    // One at a time: what it wakes may matter to the others.
                    break;
                }
            } else {
                i += 1;
            }
        }
        landed
    }
}
