//! `cp.async.bulk` and `cp.async.bulk.tensor`.
//!
//! Copies into shared memory land when they are issued, or, with the async check on, at a random later time or
//! when no warp can run; until then the destination holds NaNs. Copies out of shared memory read their source
//! when the issuing thread waits for them.

use super::cluster::Cluster;
use super::memory::resolve;
use super::step::lanes;
use super::tensor::{Map, Piece};
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
    /// The map, and the rows of its box.
    tensor: Option<(Box<Map>, Vec<Piece>)>,
    reduce: Option<(AtomOp, Ty)>,
}

impl Job {
    /// Bytes of it that are in the tensor or array.
    fn global_bytes(&self) -> u64 {
        let inside = |p: &Piece| if p.global.is_some() { p.bytes as u64 } else { 0 };
        self.tensor.as_ref().map_or(self.bytes.into(), |(_, pieces)| pieces.iter().map(inside).sum())
    }
}

/// Bulk groups of a warp's lanes: stores that have not been waited for.
#[derive(Default)]
pub(crate) struct State {
    open: Vec<Job>,
    groups: Vec<(usize, Vec<Job>)>,
}

/// Whether tensors of this element type can be reduced so ("cp.reduce.async.bulk.tensor").
fn reduces(op: AtomOp, ty: Ty) -> bool {
    match op {
        AtomOp::Add => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64),
        AtomOp::Min | AtomOp::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::F16 | Ty::Bf16),
        AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
        _ => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
    }
}

/// Rounds an f32 to TF32, ties to even ("Tensor Dimension, size and format").
fn round_tf32(word: &mut [u8]) {
    let bits = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    if bits & 0x7f80_0000 != 0x7f80_0000 {
        word.copy_from_slice(&((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff).to_le_bytes());
    }
}

impl Cluster<'_> {
    pub(crate) fn bulk(&mut self, w: &mut Warp, b: &Bulk, m: u32) {
        let (dst, src) = (w.addresses(&b.dst), w.addresses(&b.src));
        let mbar = b.mbar.map(|a| w.addresses(&a));
        for lane in lanes(m) {
            let Some(job) = self.bulk_job(w, b, lane, dst[lane], src[lane], mbar.map(|a| a[lane])) else { continue };
            if let Some(c) = &mut self.counters {
                let global = job.global_bytes();
                let (loaded, stored) = match job.dir {
                    BulkDir::ToGlobal => (0, global),
                    BulkDir::ToShared => (global, 0),
                    BulkDir::SharedToCluster | BulkDir::Prefetch => (0, 0),
                };
                c.bulk(w.pc, job.bytes.into(), loaded, stored);
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
        let reg = |w: &Warp, row: u32| w.regs.r[row as usize][lane];
        let mut bytes = reg(w, b.bytes);
        let mask = b.multicast.map(|row| reg(w, row));
        let mut tensor = None;
        if let Some(t) = &b.tensor {
            let at = w.addresses(&t.map)[lane];
            let map = self.read_map(w, lane, at)?;
            let coords: Vec<i32> = t.coords.iter().map(|r| reg(w, *r) as i32).collect();
            let offsets: Vec<u32> = t.im2col.iter().flatten().map(|r| reg(w, *r) & 0xffff).collect();
            let wrong = match (map.is_im2col(), t.im2col.is_some()) {
                (true, false) => Err("a tiled copy with a tensor map for im2col".to_string()),
                (false, true) => Err("an im2col copy with a tensor map for tiles".to_string()),
                _ => map.check_place(&coords, &offsets),
            };
            let reduced = b.reduce.filter(|(op, _)| !reduces(*op, map.ty()));
            let wrong = wrong.and(reduced.map_or(Ok(()), |(op, _)| {
                Err(format!("a reduction {op:?} of elements of type {:?}, which there is not", map.dtype))
            }));
            if let Err(text) = wrong {
                self.report(w, lane, FindingKind::InvalidOperand, None, text);
                return None;
            }
            let size = self.run.program.shared + self.run.dynamic;
            bytes = match u32::try_from(map.box_bytes()) {
                Ok(bytes) if bytes <= size => bytes,
                _ => {
                    let text = format!(
                        "bulk copy of a box of {} bytes; the CTA has {size} bytes of shared memory",
                        map.box_bytes()
                    );
                    self.report(w, lane, FindingKind::OutOfBounds, None, text);
                    return None;
                }
            };
            let pieces = map.pieces(&coords, &offsets);
            tensor = Some((Box::new(map), pieces));
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
            (Some((map, pieces)), _) => {
                let fill = map.fill();
                for Piece { offset, bytes, global } in pieces {
                    let to = &mut data[*offset..*offset + *bytes];
                    match global {
                        Some(g) => {
                            let n = *bytes as u32;
                            let Some((i, o)) = self.global_checked(w, job.lane, *g, n, "tensor copy") else { return };
                            self.global_access(w, job.lane, i, o, n, Access::Read);
                            self.run.buffers[i].read(o, to);
                        }
                        None => to.chunks_mut(map.elem() as usize).for_each(|e| e.copy_from_slice(&fill[..e.len()])),
                    }
                }
                if map.ty() == Ty::Tf32 {
                    data.chunks_exact_mut(4).for_each(round_tf32);
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
        let whole = [Piece { offset: 0, bytes: data.len(), global: Some(job.global) }];
        let pieces = job.tensor.as_ref().map_or(&whole[..], |(_, pieces)| pieces);
        for Piece { offset, bytes, global } in pieces {
            let (Some(global), off, n) = (*global, *offset, *bytes) else { continue };
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
                    let ty = job.tensor.as_ref().map_or(ty, |(m, _)| m.ty());
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
