//! Loads and stores.

use super::cluster::Cluster;
use super::regs::{LANES, Lane};
use super::step::lanes;
use super::warp::Warp;
use super::{LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW};
use crate::check::{Access, FindingKind};
use crate::decode::{Addr, Move, Reg};
use crate::ptx::Space;

/// Up to 32 bytes of one lane.
pub(crate) type Words = [u32; 8];

impl Warp {
    /// The addresses of an operand on all lanes.
    #[inline(always)]
    pub(crate) fn addresses(&self, a: &Addr) -> [u64; LANES] {
        if a.wide {
            u64::get(&self.regs, a.row).map(|v| v.wrapping_add(a.off as u64))
        } else {
            u32::get(&self.regs, a.row).map(|v| u64::from(v).wrapping_add(a.off as u64))
        }
    }
}

/// The space a generic address belongs to, and the address in it.
pub(crate) fn resolve(space: Space, addr: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, addr);
    }
    match () {
        _ if addr.wrapping_sub(SHARED_BASE) < WINDOW => (Space::SharedCluster, addr - SHARED_BASE),
        _ if addr.wrapping_sub(LOCAL_BASE) < WINDOW => (Space::Local, addr - LOCAL_BASE),
        _ if addr.wrapping_sub(PARAM_BASE) < WINDOW => (Space::Param, addr - PARAM_BASE),
        _ => (Space::Global, addr),
    }
}

/// Name of a space in findings.
pub(crate) fn space_name(space: Space) -> &'static str {
    match space {
        Space::Generic => "generic",
        Space::Global => "global",
        Space::Shared | Space::SharedCluster => "shared",
        Space::Local => "local",
        Space::Param => "param",
        Space::Const => "const",
    }
}

impl Cluster<'_> {
    /// The CTA and offset of a shared address (see `mapa` for the encoding of peers).
    pub(crate) fn shared_place(&self, w: &Warp, addr: u64) -> (usize, u32) {
        let addr = addr as u32;
        match addr >> 24 {
            0 => (w.cta, addr),
            peer => (peer as usize - 1, addr & 0xff_ffff),
        }
    }

    /// Checks bounds of a shared access and returns its place.
    pub(crate) fn shared_checked(
        &mut self,
        w: &Warp,
        lane: usize,
        addr: u64,
        bytes: u32,
        what: &str,
    ) -> Option<(usize, u32)> {
        let (cta, off) = self.shared_place(w, addr);
        let size = self.run.program.shared + self.run.dynamic;
        if cta < self.ctas.len() && off < size && size - off >= bytes {
            return Some((cta, off));
        }
        let text = format!("{what} of {bytes} bytes; the CTA has {size} bytes of shared memory");
        self.report(w, lane, FindingKind::OutOfBounds, Some(("shared", addr & 0xffff_ffff)), text);
        None
    }

    fn misaligned(&mut self, w: &Warp, lane: usize, space: Space, addr: u64, bytes: u32, what: &str) {
        let text = format!("{what} of {bytes} bytes at an address that is not a multiple of {bytes}");
        self.report(w, lane, FindingKind::Misaligned, Some((space_name(space), addr)), text);
    }

    pub(crate) fn load(&mut self, w: &mut Warp, mv: &Move, m: u32) {
        if self.fast_load(w, mv, m) {
            return;
        }
        let addrs = w.addresses(&mv.addr);
        let mut words: [Words; LANES] = [[u32::MAX; 8]; LANES];
        self.fetch(w, mv.space, &addrs, m, mv.total, &mut words);
        for (i, reg) in mv.regs.iter().enumerate() {
            let at = i * mv.size as usize;
            let element = |v: &Words| -> u64 {
                match mv.size {
                    8 => u64::from(v[at / 4]) | u64::from(v[at / 4 + 1]) << 32,
                    4 => u64::from(v[at / 4]),
                    _ => u64::from(v[at / 4] >> (8 * (at % 4))) & ((1 << (8 * mv.size)) - 1),
                }
            };
            let extend = |v: u64| {
                if !mv.signed {
                    return v;
                }
                let shift = 64 - 8 * mv.size;
                ((v << shift) as i64 >> shift) as u64
            };
            match *reg {
                Reg::R(row) => u32::put(&mut w.regs, row, &words.map(|v| extend(element(&v)) as u32), m),
                Reg::D(row) => u64::put(&mut w.regs, row, &words.map(|v| extend(element(&v))), m),
                Reg::Q(row) => {
                    let half = |k: usize| words.map(|v| u64::from(v[at / 4 + k]) | u64::from(v[at / 4 + k + 1]) << 32);
                    u64::put(&mut w.regs, row, &half(0), m);
                    u64::put(&mut w.regs, row + 1, &half(2), m);
                }
                Reg::None => {}
            }
        }
    }

    /// Reads `bytes` bytes for every lane of `m`. Lanes that fault keep what `out` held.
    pub(crate) fn fetch(
        &mut self,
        w: &mut Warp,
        space: Space,
        addrs: &[u64; LANES],
        m: u32,
        bytes: u32,
        out: &mut [Words; LANES],
    ) {
        self.count_access(w, space, addrs, m, bytes, false);
        for lane in lanes(m) {
            let (space, addr) = resolve(space, addrs[lane]);
            if !addr.is_multiple_of(u64::from(bytes)) {
                self.misaligned(w, lane, space, addr, bytes, "load");
                continue;
            }
            match space {
                Space::Global | Space::Const | Space::Generic => {
                    if let Some((i, off)) = self.global_checked(w, lane, addr, bytes, "load") {
                        self.global_access(w, lane, i, off, bytes, Access::Read);
                        let buffer = &self.run.buffers[i];
                        read_words(off, bytes, |off| buffer.word(off), &mut out[lane]);
                    }
                }
                Space::Shared | Space::SharedCluster => {
                    if let Some((cta, off)) = self.shared_checked(w, lane, addr, bytes, "load") {
                        self.shared_access(w, lane, cta, off, bytes, Access::Read);
                        let shared = &self.ctas[cta].shared;
                        read_words(u64::from(off), bytes, |off| shared[off as usize / 4], &mut out[lane]);
                    }
                }
                Space::Local => {
                    if let Some(base) = self.local_checked(w, lane, addr, bytes, "load") {
                        let local = &w.local;
                        read_words(addr, bytes, |off| local[base + off as usize / 4], &mut out[lane]);
                    }
                }
                Space::Param => {
                    let size = u64::from(self.run.program.param_bytes);
                    if addr >= size || size - addr < u64::from(bytes) {
                        let text = format!("load of {bytes} bytes; the kernel has {size} bytes of parameters");
                        self.report(w, lane, FindingKind::OutOfBounds, Some(("param", addr)), text);
                        continue;
                    }
                    let params = &self.run.params;
                    read_words(addr, bytes, |off| params[off as usize / 4], &mut out[lane]);
                }
            }
        }
    }

    /// First word of a lane's local frame, if the access is inside.
    fn local_checked(&mut self, w: &Warp, lane: usize, addr: u64, bytes: u32, what: &str) -> Option<usize> {
        let frame = u64::from(self.run.program.frame);
        if addr < frame && frame - addr >= u64::from(bytes) {
            return Some(lane * frame as usize / 4);
        }
        let text = format!("{what} of {bytes} bytes; the thread has {frame} bytes of local memory");
        self.report(w, lane, FindingKind::OutOfBounds, Some(("local", addr)), text);
        None
    }

    pub(crate) fn store(&mut self, w: &mut Warp, mv: &Move, m: u32) {
        if self.fast_store(w, mv, m) {
            return;
        }
        let addrs = w.addresses(&mv.addr);
        let mut words: [Words; LANES] = [[0; 8]; LANES];
        for (i, reg) in mv.regs.iter().enumerate() {
            let at = i * mv.size as usize;
            let narrow = |v: u32| if mv.size >= 4 { v } else { v & ((1 << (8 * mv.size)) - 1) };
            match *reg {
                Reg::R(row) => {
                    for (o, v) in words.iter_mut().zip(w.regs.r[row as usize].iter()) {
                        o[at / 4] |= narrow(*v) << (8 * (at % 4));
                    }
                }
                Reg::D(row) => {
                    for (o, v) in words.iter_mut().zip(w.regs.d[row as usize].iter()) {
                        o[at / 4] |= narrow(*v as u32) << (8 * (at % 4));
                        if mv.size == 8 {
                            o[at / 4 + 1] = (*v >> 32) as u32;
                        }
                    }
                }
                Reg::Q(row) => {
                    for (lane, o) in words.iter_mut().enumerate() {
                        for k in 0..2 {
                            let v = w.regs.d[row as usize + k][lane];
                            o[at / 4 + 2 * k] = v as u32;
                            o[at / 4 + 2 * k + 1] = (v >> 32) as u32;
                        }
                    }
                }
                Reg::None => {}
            }
        }
        self.put(w, mv.space, &addrs, m, mv.total, &words);
    }

    /// Writes `bytes` bytes for every lane of `m`, in lane order.
    pub(crate) fn put(
        &mut self,
        w: &mut Warp,
        space: Space,
        addrs: &[u64; LANES],
        m: u32,
        bytes: u32,
        words: &[Words; LANES],
    ) {
        self.count_access(w, space, addrs, m, bytes, true);
        for lane in lanes(m) {
            let (space, addr) = resolve(space, addrs[lane]);
            if !addr.is_multiple_of(u64::from(bytes)) {
                self.misaligned(w, lane, space, addr, bytes, "store");
                continue;
            }
            let data = &words[lane];
            match space {
                Space::Global | Space::Generic => {
                    if let Some((i, off)) = self.global_checked(w, lane, addr, bytes, "store") {
                        self.global_access(w, lane, i, off, bytes, Access::Write);
                        let buffer = &self.run.buffers[i];
                        if bytes >= 4 {
                            for k in 0..bytes / 4 {
                                buffer.set_word(off + u64::from(4 * k), data[k as usize]);
                            }
                        } else {
                            let shift = 8 * (off % 4) as u32;
                            buffer.set_bits(off, data[0] << shift, ((1 << (8 * bytes)) - 1) << shift);
                        }
                    }
                }
                Space::Shared | Space::SharedCluster => {
                    if let Some((cta, off)) = self.shared_checked(w, lane, addr, bytes, "store") {
                        self.shared_access(w, lane, cta, off, bytes, Access::Write);
                        write_words(off as usize, bytes, &mut self.ctas[cta].shared, data);
                    }
                }
                Space::Local => {
                    if let Some(base) = self.local_checked(w, lane, addr, bytes, "store") {
                        write_words(base * 4 + addr as usize, bytes, &mut w.local, data);
                    }
                }
                Space::Param | Space::Const => {
                    let text = format!("store of {bytes} bytes to read-only memory");
                    self.report(w, lane, FindingKind::OutOfBounds, Some((space_name(space), addr)), text);
                }
            }
        }
    }
}

#[inline(always)]
fn read_words(off: u64, bytes: u32, word: impl Fn(u64) -> u32, out: &mut Words) {
    if bytes >= 4 {
        for k in 0..bytes / 4 {
            out[k as usize] = word(off + u64::from(4 * k));
        }
    } else {
        out[0] = (word(off) >> (8 * (off % 4))) & ((1 << (8 * bytes)) - 1);
    }
}

#[inline(always)]
fn write_words(off: usize, bytes: u32, memory: &mut [u32], data: &Words) {
    if bytes >= 4 {
        let n = bytes as usize / 4;
        memory[off / 4..off / 4 + n].copy_from_slice(&data[..n]);
    } else {
        let shift = 8 * (off % 4) as u32;
        let mask = ((1 << (8 * bytes)) - 1) << shift;
        let word = &mut memory[off / 4];
        *word = *word & !mask | data[0] << shift & mask;
    }
}
