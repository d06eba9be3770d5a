//! What a device and those that were forked from it share: what is loaded, and only read.

use super::{KernelId, MemId};
use slab::Slab;
use std::sync::{Arc, PoisonError, RwLock};

/// Marks the ids of shared memory: those of a device's own are small numbers.
const SHARED: usize = 1 << (usize::BITS - 2);

/// Code of regions, memory of the device that is mapped, and memory of the host that is pinned. Their ids are the same on all devices that share it.
pub struct Shared<R, M, H = ()> {
    regions: RwLock<Vec<Arc<R>>>,
    memory: RwLock<Slab<Kept<M, H>>>,
}

enum Kept<M, H> {
    Mapped(Arc<M>),
    Pinned(Arc<H>),
}

impl<R, M, H> Default for Shared<R, M, H> {
    fn default() -> Self {
        Shared { regions: RwLock::default(), memory: RwLock::default() }
    }
}

// A panic elsewhere leaves nothing half-written: entries are added and taken out whole.
impl<R, M, H> Shared<R, M, H> {
    /// Adds code, which stays.
    pub fn load(&self, region: R) -> KernelId {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        regions.push(Arc::new(region));
        KernelId(regions.len() - 1)
    }

    /// Code by its id.
    pub fn region(&self, kernel: KernelId) -> Option<Arc<R>> {
        self.regions.read().unwrap_or_else(PoisonError::into_inner).get(kernel.0).cloned()
    }

    /// Adds memory of the device.
    pub fn map(&self, memory: M) -> MemId {
        self.keep(Kept::Mapped(Arc::new(memory)))
    }

    /// Adds memory of the host.
    pub fn pin(&self, memory: H) -> MemId {
        self.keep(Kept::Pinned(Arc::new(memory)))
    }

    fn keep(&self, kept: Kept<M, H>) -> MemId {
        MemId(SHARED | self.memory.write().unwrap_or_else(PoisonError::into_inner).insert(kept))
    }

    /// Memory of the device by its id; `None` for what is not shared, or is gone.
    pub fn memory(&self, mem: MemId) -> Option<Arc<M>> {
        let at = mem.0.checked_sub(SHARED)?;
        match self.memory.read().unwrap_or_else(PoisonError::into_inner).get(at)? {
            Kept::Mapped(memory) => Some(memory.clone()),
            Kept::Pinned(_) => None,
        }
    }

    /// Memory of the host, likewise.
    pub fn pinned(&self, mem: MemId) -> Option<Arc<H>> {
        let at = mem.0.checked_sub(SHARED)?;
        match self.memory.read().unwrap_or_else(PoisonError::into_inner).get(at)? {
            Kept::Pinned(memory) => Some(memory.clone()),
            Kept::Mapped(_) => None,
        }
    }

    /// Takes memory out: no device may use it any more.
    pub fn free(&self, mem: MemId) {
        if let Some(at) = mem.0.checked_sub(SHARED) {
            self.memory.write().unwrap_or_else(PoisonError::into_inner).try_remove(at);
        }
    }
}
