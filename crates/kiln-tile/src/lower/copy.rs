//! Copies between global and shared memory.

use super::Lower;
use crate::error::Result;
use crate::ir::{CopyKind, Slot, View};

impl Lower<'_> {
    /// Starts a copy of a box into a slot.
    pub(super) fn copy(&mut self, _from: &View, _to: &Slot, _kind: CopyKind) -> Result<()> {
        Err(self.internal("copies are not lowered yet"))
    }

    /// Starts a copy of a slot to a box.
    pub(super) fn copy_out(&mut self, _from: &Slot, _to: &View) -> Result<()> {
        Err(self.internal("copies are not lowered yet"))
    }
}
