//! Tensor maps in memory: reading them for a copy, `tensormap.replace`, and the proxy that copies read them through.
//!
//! A copy reads its map through the tensormap proxy. After `tensormap.replace` or `tensormap.cp_fenceproxy` on a map in
//! global memory, that proxy sees the new map only once the change has been released and the warp that issues the copy
//! has acquired it ("fence.proxy.tensormap"); anything else is a finding. Maps that plain stores write are not followed.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::cluster::Cluster;
use super::memory::{resolve, space_name};
use super::regs::Lane;
use super::step::{Flow, lanes};
use super::tensor::{MAP_BYTES, Map};
use super::warp::Warp;
use crate::check::{Access, FindingKind};
use crate::decode::Tensormap;
use crate::ptx::Space;

/// Changes of maps in global memory during a launch.
#[derive(Default)]
pub(crate) struct MapChanges {
    last: u32,
    /// By address: the number of its last change, who made it and whether it has been released.
    maps: HashMap<u64, (u32, (u64, usize), bool)>,
}

impl Cluster<'_> {
    fn map_changes<R>(&self, f: impl FnOnce(&mut MapChanges) -> R) -> R {
        f(&mut self.run.map_changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The bytes of a map, wherever it lies; a bad address has been reported when there are none.
    fn map_bytes(&mut self, w: &mut Warp, lane: usize, space: Space, addr: u64, align: u64) -> Option<[u8; MAP_BYTES]> {
        let (space, at) = resolve(space, addr);
        if !at.is_multiple_of(align) {
            let text = format!("a tensor map at an address that is not a multiple of {align}");
            self.report(w, lane, FindingKind::Misaligned, Some((space_name(space), at)), text);
            return None;
        }
        let mut bytes = [0u8; MAP_BYTES];
        match space {
            Space::Param => {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    let at = at as usize + i;
                    *byte = (self.run.params.get(at / 4)? >> (8 * (at % 4))) as u8;
                }
            }
            Space::Shared | Space::SharedCluster => {
                let (cta, off) = self.shared_checked(w, lane, at, MAP_BYTES as u32, "tensor map")?;
                self.shared_access(w, lane, cta, off, MAP_BYTES as u32, Access::Read);
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = (self.ctas[cta].shared[off as usize / 4 + i / 4] >> (8 * (i % 4))) as u8;
                }
            }
            _ => {
                let (i, off) = self.global_checked(w, lane, at, MAP_BYTES as u32, "tensor map")?;
                self.run.buffers[i].read(off, &mut bytes);
            }
        }
        Some(bytes)
    }

    /// Writes a map to shared or global memory.
    fn put_map(&mut self, w: &mut Warp, lane: usize, space: Space, addr: u64, bytes: &[u8; MAP_BYTES]) {
        let (space, at) = resolve(space, addr);
        match space {
            Space::Shared | Space::SharedCluster => {
                let place = self.shared_checked(w, lane, at, MAP_BYTES as u32, "tensor map");
                let Some((cta, off)) = place else { return };
                self.shared_access(w, lane, cta, off, MAP_BYTES as u32, Access::Write);
                for (i, word) in bytes.chunks_exact(4).enumerate() {
                    self.ctas[cta].shared[off as usize / 4 + i] =
                        u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                }
            }
            Space::Global | Space::Generic => {
                let Some((i, off)) = self.global_checked(w, lane, at, MAP_BYTES as u32, "tensor map") else { return };
                self.global_access(w, lane, i, off, MAP_BYTES as u32, Access::Write);
                self.run.buffers[i].write(off, bytes);
                let who = (self.index, w.index);
                self.map_changes(|c| {
                    c.last += 1;
                    c.maps.insert(at, (c.last, who, false));
                });
            }
            Space::Local | Space::Param | Space::Const => {
                let text = "a tensor map can be changed in global or shared memory only".to_string();
                self.report(w, lane, FindingKind::OutOfBounds, Some((space_name(space), at)), text);
            }
        }
    }

    /// The map of a copy.
    pub(crate) fn read_map(&mut self, w: &mut Warp, lane: usize, addr: u64) -> Option<Map> {
        let bytes = self.map_bytes(w, lane, Space::Generic, addr, 64)?;
        let (space, at) = resolve(Space::Generic, addr);
        let place = Some((space_name(space), at));
        if matches!(space, Space::Shared | Space::SharedCluster) {
            let text = "a copy reads its tensor map from parameters, constants or global memory".to_string();
            self.report(w, lane, FindingKind::InvalidOperand, place, text);
            return None;
        }
        if self.run.options.checks.proxy_fences
            && let Some((change, _, released)) = self.map_changes(|c| c.maps.get(&at).copied())
        {
            let text = match (released, w.maps_acquired.get(&at) == Some(&change)) {
                (true, true) => None,
                (false, _) => Some("the tensor map was changed and the change not released"),
                (true, false) => Some("the tensor map was changed and not acquired since by this warp"),
            };
            if let Some(text) = text {
                let text = format!("{text}; expected fence.proxy.tensormap::generic");
                self.report(w, lane, FindingKind::ProxyFence, place, text);
            }
        }
        let checked = match Map::decode(&bytes) {
            Some(map) => map.check().map(|()| map),
            None => Err("no tensor map is stored there".into()),
        };
        checked.map_err(|text| self.report(w, lane, FindingKind::InvalidOperand, place, text)).ok()
    }

    pub(crate) fn tensormap(&mut self, w: &mut Warp, op: &Tensormap, m: u32) -> Flow {
        match op {
            Tensormap::Replace { addr, space, field, ord, value } => {
                let (addrs, values) = (w.addresses(addr), super::atomic::values(w, *value));
                let ords = ord.map_or([0; 32], |row| u32::get(&w.regs, row));
                for lane in lanes(m) {
                    let Some(bytes) = self.map_bytes(w, lane, *space, addrs[lane], 128) else { continue };
                    let changed = match Map::decode(&bytes) {
                        Some(mut map) => map.replace(*field, ords[lane] as usize, values[lane]).map(|()| map.bytes()),
                        None => Err("no tensor map is stored there".into()),
                    };
                    match changed {
                        Ok(bytes) => self.put_map(w, lane, *space, addrs[lane], &bytes),
                        Err(text) => {
                            let (space, at) = resolve(*space, addrs[lane]);
                            self.report(w, lane, FindingKind::InvalidOperand, Some((space_name(space), at)), text);
                        }
                    }
                }
            }
            Tensormap::CopyRelease { dst, src } => {
                if !self.whole_warp(w, m) {
                    return Flow::Moved;
                }
                let lane = Warp::lead(m);
                let (dst, src) = (w.addresses(dst)[lane], w.addresses(src)[lane]);
                if let Some(bytes) = self.map_bytes(w, lane, Space::Shared, src, 128) {
                    self.put_map(w, lane, Space::Global, dst, &bytes);
                    self.release_maps(w);
                }
            }
            Tensormap::Release => self.release_maps(w),
            Tensormap::Acquire { addr } => {
                let addrs = w.addresses(addr);
                for lane in lanes(m) {
                    let (_, at) = resolve(Space::Generic, addrs[lane]);
                    if let Some((change, ..)) = self.map_changes(|c| c.maps.get(&at).copied()) {
                        w.maps_acquired.insert(at, change);
                    }
                }
            }
        }
        Flow::Next
    }

    /// Releases what this warp has changed.
    fn release_maps(&self, w: &Warp) {
        let who = (self.index, w.index);
        self.map_changes(|c| {
            c.maps.values_mut().filter(|(_, by, _)| *by == who).for_each(|(.., released)| *released = true);
        });
    }
}
