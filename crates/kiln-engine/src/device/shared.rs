//! What a device and those that were forked from it share: what is loaded, and only read.

use super::{KernelId, MemId};
use slab::Slab;
use std::sync::{Arc, PoisonError, RwLock};

/// Marks the ids of shared memory: those of a device's own are small numbers.
const SHARED: usize = 1 << (usize::BITS - 2);

/// Code of regions, and memory that is mapped. Their ids are the same on all devices that share it.
pub struct Shared<R, M> {
    regions: RwLock<Vec<Arc<R>>>,
    memory: RwLock<Slab<Arc<M>>>,
}

impl<R, M> Default for Shared<R, M> {
    fn default() -> Self {
        Shared { regions: RwLock::default(), memory: RwLock::default() }
    }
}

// A panic elsewhere leaves nothing half-written: entries are added and taken out whole.
impl<R, M> Shared<R, M> {
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

    /// Adds memory.
    pub fn map(&self, memory: M) -> MemId {
        let at = self.memory.write().unwrap_or_else(PoisonError::into_inner).insert(Arc::new(memory));
        MemId(SHARED | at)
    }

    /// Memory by its id; `None` for what is not shared, or is gone.
    pub fn memory(&self, mem: MemId) -> Option<Arc<M>> {
        let at = mem.0.checked_sub(SHARED)?;
        self.memory.read().unwrap_or_else(PoisonError::into_inner).get(at).cloned()
    }

    /// Takes memory out: no device may use it any more.
    pub fn free(&self, mem: MemId) -> Option<Arc<M>> {
        let at = mem.0.checked_sub(SHARED)?;
        self.memory.write().unwrap_or_else(PoisonError::into_inner).try_remove(at)
    }
}
