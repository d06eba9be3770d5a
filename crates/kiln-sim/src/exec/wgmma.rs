//! wgmma.mma_async ("Asynchronous Warpgroup-Level Matrix Instructions").
//!
//! Each warp of a warpgroup holds 16 of the 64 rows of A and D, so a warp computes its rows on its own. The product
//! is still one operation of the warpgroup ("`wgmma.commit_group` creates a new wgmma-group per warpgroup"), which is
//! complete only when every warp has issued its part. So `wgmma.wait_group` sleeps until all four warps have committed
//! what it waits for, and then no operand is read any more, by none of them: one thread may tell the producer on behalf
//! of its warpgroup, as CUTLASS does. What each warp does with its own registers is ordered by its own wait only.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::cluster::Cluster;
use super::mma::{element, integer_element};
use super::regs::{LANES, Regs, Row, wide};
use super::step::Flow;
use super::warp::{Wait, Warp};
use crate::check::FindingKind;
use crate::decode::{Op, Reg, Ty, Wgmma, WgmmaA};
use crate::launch::Swizzle;
use crate::num::{f16_to_f32, f32_to_f16};

/// Rows of one warp.
const ROWS: usize = 16;
/// Largest N.
const COLS: usize = 256;
/// Warps of a warpgroup.
const WARPS: usize = 4;
/// Largest K (8-bit types).
const DEPTH: usize = 32;

/// Groups of a warp that have not been waited for. Operands are read at issue, and are nobody's to overwrite until the
/// wait; results land at the wait, and their registers hold NaNs until then.
#[derive(Default)]
pub(crate) struct State {
    /// Rows of accumulators of the group that is being made.
    open: Vec<u32>,
    /// The same of each group that has been committed.
    groups: VecDeque<Vec<u32>>,
    /// Groups committed so far.
    committed: u32,
    /// Instructions and descriptors of the group that is being made, and of each that was committed, as hashes: they
    /// must be those of the other warps.
    operands: u64,
    operands_of: Vec<u64>,
    /// Accumulators in flight, by row.
    results: HashMap<u32, [u32; LANES]>,
}

impl State {
    /// Whether registers are in flight.
    #[inline(always)]
    pub(crate) fn busy(&self) -> bool {
        !self.open.is_empty() || !self.groups.is_empty()
    }

    /// Adds an instruction with its descriptors to the group that is being made.
    fn issue(&mut self, pc: u32, a: u64, b: u64) {
        let mut hasher = DefaultHasher::new();
        (self.operands, pc, a, b).hash(&mut hasher);
        self.operands = hasher.finish();
    }

    fn owns(&self, row: u32) -> bool {
        self.groups.iter().chain([&self.open]).any(|rows| rows.contains(&row))
    }

    fn disown(&mut self, row: u32) {
        for rows in self.groups.iter_mut().chain([&mut self.open]) {
            rows.retain(|r| *r != row);
        }
        self.results.remove(&row);
    }

    /// Puts the results that these accumulators will have into their registers, for the next wgmma to add to.
    fn reveal(&self, regs: &mut Regs, rows: &[u32]) {
        for row in rows {
            if let Some(result) = self.results.get(row) {
                regs.r[*row as usize] = Row(*result);
            }
        }
    }

    /// Takes what a wgmma computed and leaves NaNs.
    fn hide(&mut self, regs: &mut Regs, rows: Vec<u32>) {
        for row in &rows {
            self.results.insert(*row, std::mem::replace(&mut regs.r[*row as usize].0, [u32::MAX; LANES]));
        }
        self.open.extend(rows);
    }
}

/// A shared-memory matrix descriptor ("Matrix Descriptor Format").
struct Desc {
    start: u32,
    leading: u32,
    stride: u32,
    base_offset: u32,
    swizzle: Swizzle,
}

impl Desc {
    fn new(bits: u64) -> Desc {
        let field = |at: u32| ((bits >> at & 0x3fff) as u32) << 4;
        Desc {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::B128,
                2 => Swizzle::B64,
                _ => Swizzle::B32,
            },
        }
    }

    /// Shared byte address of element (`mn`, `k`), `size` bytes each. `transposed` means MN-major.
    ///
    /// The canonical layouts are those of "Shared Memory Matrix Layout": K-major atoms are 8 rows of one span;
    /// MN-major atoms are one span of MN by 8 of K.
    fn address(&self, mn: u32, k: u32, size: u32, transposed: bool) -> u32 {
        let span = match self.swizzle {
            Swizzle::None => 16,
            s => s.span() as u32,
        };
        let linear = if transposed {
            let per = span / size;
            let (in_span, atom) = (mn % per * size, mn / per);
            let (row, group) = (k % 8, k / 8);
            match self.swizzle {
                Swizzle::None => in_span + row * 16 + atom * self.stride + group * self.leading,
                _ => in_span + row * span + atom * self.leading + group * self.stride,
            }
        } else {
            let byte = k * size;
            let row = mn % 8 * span + mn / 8 * self.stride;
            match self.swizzle {
                Swizzle::None => row + byte % 16 + byte / 16 * self.leading,
                _ => row + byte,
            }
        };
        self.swizzle.apply(self.start + linear)
    }
}

impl Cluster<'_> {
    pub(crate) fn wgmma(&mut self, w: &mut Warp, g: &Wgmma, m: u32) -> Flow {
        if !self.whole_warp(w, m) {
            return Flow::Moved;
        }
        if let Some(c) = &mut self.counters {
            // One warp's share of the warpgroup's instruction.
            c.mma(w.pc, u64::from(2 * 16 * g.n * g.k), (w.id as usize).is_multiple_of(WARPS));
        }
        let lead = Warp::lead(m);
        let (n, k) = (g.n as usize, g.k as usize);
        let size = g.a_ty.bits() / 8;
        let per = 32 / g.a_ty.bits();
        // Raw operand elements, zero-extended in words.
        let mut a = vec![[0u32; DEPTH]; ROWS];
        let mut b = vec![[0u32; COLS]; k];
        match &g.a {
            WgmmaA::Regs(regs) => {
                for (r, reg) in regs.iter().enumerate() {
                    let Reg::R(row) = *reg else { continue };
                    for lane in 0..LANES {
                        let word = w.regs.r[row as usize][lane];
                        let at = 4 * per as usize * (r / 2) + per as usize * (lane % 4);
                        for i in 0..per {
                            let bits = g.a_ty.bits();
                            let v = if bits == 32 { word } else { word >> (bits * i) & ((1 << bits) - 1) };
                            a[lane / 4 + 8 * (r % 2)][at + i as usize] = v;
                        }
                    }
                }
            }
            WgmmaA::Desc(row) => {
                let desc = Desc::new(w.regs.d[*row as usize][lead]);
                let first = 16 * (w.id % 4) as usize;
                self.wgmma_operand(w, lead, &desc, first..first + ROWS, k, size, g.trans_a, |mn, k, v| {
                    a[mn - first][k] = v;
                });
            }
        }
        let desc_a = if let WgmmaA::Desc(row) = g.a { w.regs.d[row as usize][lead] } else { 0 };
        let desc_b = w.regs.d[g.b as usize][lead];
        w.wgmma.issue(w.pc, desc_a, desc_b);
        let desc = Desc::new(desc_b);
        self.wgmma_operand(w, lead, &desc, 0..n, k, size, g.trans_b, |mn, k, v| b[k][mn] = v);
        let delayed = self.run.options.checks.async_copies;
        let rows: Vec<u32> = g.d.iter().filter_map(|r| if let Reg::R(row) = r { Some(*row) } else { None }).collect();
        if delayed {
            w.wgmma.reveal(&mut w.regs, &rows);
        }
        let (p, neg) = g.scale_d;
        let keep = (w.regs.p[p as usize] >> lead & 1 != 0) != neg;
        if matches!(g.a_ty, Ty::U8 | Ty::S8) {
            integer(w, g, &a, &b, keep);
        } else {
            wide(
                #[inline(always)]
                || float(w, g, &a, &b, keep),
            );
        }
        if delayed {
            w.wgmma.hide(&mut w.regs, rows);
        }
        Flow::Next
    }

    /// Reads the elements `mn` x `depth` of an operand in shared memory, 16 bytes at a time: no layout splits those.
    #[allow(clippy::too_many_arguments)]
    fn wgmma_operand(
        &mut self,
        w: &Warp,
        lane: usize,
        desc: &Desc,
        mn: std::ops::Range<usize>,
        depth: usize,
        size: u32,
        transposed: bool,
        mut take: impl FnMut(usize, usize, u32),
    ) {
        if desc.base_offset != 0 {
            let text = "a descriptor with a base offset is not supported".to_string();
            self.report(w, lane, FindingKind::InvalidOperand, None, text);
        }
        let group = (self.tensor_core(w), w.wgmma.committed + 1);
        let per = 16 / size as usize;
        let (step_mn, step_k) = if transposed { (per, 1) } else { (1, per) };
        for i in mn.step_by(step_mn) {
            for j in (0..depth).step_by(step_k) {
                let at = desc.address(i as u32, j as u32, size, transposed);
                let Some((cta, off)) = self.shared_checked(w, lane, at.into(), 16, "wgmma operand") else { continue };
                self.tensor_core_read(w, lane, (cta, off), 16, group);
                let words = &self.ctas[cta].shared[off as usize / 4..][..4];
                for e in 0..per {
                    let bit = 8 * size * e as u32;
                    let word = words[bit as usize / 32] >> (bit % 32);
                    let value = if size == 4 { word } else { word & ((1 << (8 * size)) - 1) };
                    if transposed { take(i + e, j, value) } else { take(i, j + e, value) }
                }
            }
        }
    }

    /// The entry of a warp's tensor core in the clocks.
    fn tensor_core(&self, w: &Warp) -> usize {
        let per_cta = self.warps.len() / self.ctas.len();
        self.warps.len() + w.cta * per_cta.div_ceil(WARPS) + w.id as usize / WARPS
    }

    /// Indices of the warps of a warp's warpgroup that exist.
    pub(crate) fn warpgroup(&self, w: &Warp) -> std::ops::Range<usize> {
        let per_cta = self.warps.len() / self.ctas.len();
        let first = w.index - w.id as usize % WARPS;
        first..(first + WARPS).min((w.cta + 1) * per_cta)
    }

    pub(crate) fn wgmma_commit(&mut self, w: &mut Warp, m: u32) -> Flow {
        if !self.whole_warp(w, m) {
            return Flow::Moved;
        }
        let rows = std::mem::take(&mut w.wgmma.open);
        w.wgmma.groups.push_back(rows);
        w.wgmma.committed += 1;
        w.wgmma.operands_of.push(std::mem::take(&mut w.wgmma.operands));
        self.warpgroup_moved(w);
        Flow::Next
    }

    /// Lets the warps of a warpgroup that wait for others of it look again.
    pub(crate) fn warpgroup_moved(&mut self, w: &Warp) {
        for i in self.warpgroup(w) {
            for g in self.warps[i].groups.iter_mut().filter(|g| matches!(g.wait, Wait::Wgmma(_))) {
                g.wait = Wait::Ready;
            }
        }
    }

    /// Warps of a warpgroup that have not committed group number `group`, and whether they still can.
    pub(crate) fn wgmma_missing(&self, w: &Warp, group: u32) -> impl Iterator<Item = (u32, bool)> {
        let missing = self.warpgroup(w).filter(move |i| *i != w.index && self.warps[*i].wgmma.committed < group);
        missing.map(|i| (self.warps[i].id, !self.warps[i].done()))
    }

    /// A warp of the warpgroup, and the first of the last groups up to `end` that it has made otherwise.
    fn wgmma_differs(&self, w: &Warp, end: usize) -> Option<(u32, usize)> {
        // Those before have been compared at an earlier wait.
        let new = end.saturating_sub(w.wgmma.groups.len())..end;
        self.warpgroup(w).filter(|i| *i != w.index).find_map(|i| {
            let (mine, theirs) = (&w.wgmma.operands_of, &self.warps[i].wgmma.operands_of);
            new.clone().find(|g| mine.get(*g) != theirs.get(*g)).map(|g| (self.warps[i].id, g))
        })
    }

    pub(crate) fn wgmma_wait(&mut self, w: &mut Warp, left: u32, m: u32) -> Flow {
        if !self.whole_warp(w, m) {
            return Flow::Moved;
        }
        let group = w.wgmma.committed.saturating_sub(left);
        let missing: Vec<(u32, bool)> = self.wgmma_missing(w, group).collect();
        if self.warpgroup(w).len() < WARPS || missing.iter().any(|(_, alive)| !alive) {
            let text = "wgmma is for all four warps of a warpgroup, and not all of them have executed it".to_string();
            self.report(w, Warp::lead(m), FindingKind::Wgmma, None, text);
        } else if !missing.is_empty() {
            w.park(m, Wait::Wgmma(group));
            return Flow::Moved;
        } else if let Some((other, group)) = self.wgmma_differs(w, group as usize) {
            let text = format!(
                "wgmma-group {} has other instructions or other descriptors in warp {other} of the warpgroup",
                group + 1
            );
            self.report(w, Warp::lead(m), FindingKind::Wgmma, None, text);
        }
        while w.wgmma.groups.len() > left as usize {
            let Some(rows) = w.wgmma.groups.pop_front() else { break };
            for row in rows {
                // A later group that adds to the same accumulator lands it.
                if !w.wgmma.owns(row)
                    && let Some(result) = w.wgmma.results.remove(&row)
                {
                    w.regs.r[row as usize] = Row(result);
                }
            }
        }
        let entry = self.tensor_core(w);
        if let Some(clocks) = &mut self.clocks {
            clocks.waited(w.index, entry, group);
        }
        Flow::Next
    }

    /// Reports an instruction that reads an accumulator in flight.
    pub(crate) fn wgmma_registers(&mut self, w: &mut Warp, m: u32) {
        let Some([uses, defs]) = self.run.program.row_access.get(w.pc as usize) else { return };
        if let Op::Wgmma(_) = self.run.program.insts[w.pc as usize].op {
            return;
        }
        if uses.iter().any(|r| w.wgmma.owns(*r)) {
            let text = "reads an accumulator of a wgmma that has not been waited for".to_string();
            self.report(w, Warp::lead(m), FindingKind::Wgmma, None, text);
        }
        defs.iter().for_each(|r| w.wgmma.disown(*r));
    }
}

/// Accumulator register and packing of element (row half, column) for lane: D fragments of wgmma are the C
/// fragment of mma.sync repeated every 8 columns.
#[inline(always)]
fn for_each_d(n: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    for block in 0..n / 8 {
        for half in 0..2 {
            for lane in 0..LANES {
                f(block, half, lane, lane / 4 + 8 * half);
            }
        }
    }
}

#[inline(always)]
fn float(w: &mut Warp, g: &Wgmma, a: &[[u32; DEPTH]], b: &[[u32; COLS]], keep: bool) {
    let n = g.n as usize;
    let mut acc = vec![[0f32; COLS]; ROWS];
    if keep {
        for_each_d(n, |block, half, lane, row| {
            let col = 8 * block + 2 * (lane % 4);
            if g.d_ty == Ty::F16 {
                if let Reg::R(r) = g.d[2 * block + half] {
                    let v = w.regs.r[r as usize][lane];
                    acc[row][col] = f16_to_f32(v & 0xffff);
                    acc[row][col + 1] = f16_to_f32(v >> 16);
                }
            } else {
                for i in 0..2 {
                    if let Reg::R(r) = g.d[4 * block + 2 * half + i] {
                        acc[row][col + i] = f32::from_bits(w.regs.r[r as usize][lane]);
                    }
                }
            }
        });
    }
    let sign = if g.neg_a != g.neg_b { -1.0 } else { 1.0 };
    let mut line = [0f32; COLS];
    for (k, row) in b.iter().enumerate() {
        for (to, from) in line.iter_mut().zip(row).take(n) {
            *to = element(g.b_ty, *from, 0);
        }
        for (acc, a) in acc.iter_mut().zip(a) {
            let x = sign * element(g.a_ty, a[k], 0);
            for (c, y) in acc.iter_mut().zip(&line).take(n) {
                *c = x.mul_add(*y, *c);
            }
        }
    }
    for_each_d(n, |block, half, lane, row| {
        let col = 8 * block + 2 * (lane % 4);
        if g.d_ty == Ty::F16 {
            if let Reg::R(r) = g.d[2 * block + half] {
                w.regs.r[r as usize][lane] = f32_to_f16(acc[row][col]) | f32_to_f16(acc[row][col + 1]) << 16;
            }
        } else {
            for i in 0..2 {
                if let Reg::R(r) = g.d[4 * block + 2 * half + i] {
                    w.regs.r[r as usize][lane] = acc[row][col + i].to_bits();
                }
            }
        }
    });
}

fn integer(w: &mut Warp, g: &Wgmma, a: &[[u32; DEPTH]], b: &[[u32; COLS]], keep: bool) {
    for_each_d(g.n as usize, |block, half, lane, row| {
        for i in 0..2 {
            let Reg::R(r) = g.d[4 * block + 2 * half + i] else { continue };
            let col = 8 * block + 2 * (lane % 4) + i;
            let mut sum: i64 = b
                .iter()
                .enumerate()
                .map(|(k, row_b)| {
                    i64::from(integer_element(g.a_ty, a[row][k], 0)) * i64::from(integer_element(g.b_ty, row_b[col], 0))
                })
                .sum();
            if keep {
                sum += i64::from(w.regs.r[r as usize][lane] as i32);
            }
            if g.satfinite {
                sum = sum.clamp(i32::MIN.into(), i32::MAX.into());
            }
            w.regs.r[r as usize][lane] = sum as u32;
        }
    });
}
