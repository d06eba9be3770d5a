//! What a session keeps for the shapes that it has seen.

use crate::Result;
use crate::device::{Device, MemId, Place, RecordingId};
use crate::schedule::{Blocks, Schedule};
use kiln_fuse::BufferId;

/// Shapes that are kept, with their recordings. A new one takes the place of the one that was not used for longest.
const LIMIT: usize = 16;

/// Ways in which blocks lie that are kept for a shape, likewise.
const INSTANCES: usize = 16;

/// The shapes that were used last, in the order of their use.
#[derive(Default)]
pub struct Shapes(Vec<Shape>);

/// One value of each symbol.
pub struct Shape {
    key: Vec<i64>,
    /// Without the places of the arena and of what is bound.
    pub schedule: Schedule,
    /// One for each way in which blocks that change places lie, in the order of their use.
    instances: Vec<Instance>,
}

/// A schedule with all its places.
pub struct Instance {
    own: Blocks,
    blocks: Vec<MemId>,
    /// What runs.
    pub schedule: Schedule,
    /// Made when it first runs; `None` in it where the device cannot run the steps without the session.
    pub recording: Option<Option<RecordingId>>,
}

impl Shapes {
    /// The shape in use.
    pub fn current(&mut self) -> Option<&mut Shape> {
        self.0.last_mut()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Shape> {
        self.0.iter()
    }

    /// What tells the current shape from others.
    pub fn current_key(&self) -> Option<&[i64]> {
        self.0.last().map(|shape| shape.key.as_slice())
    }

    /// Makes the shape with this key the current one, if it is kept.
    pub fn recall(&mut self, key: &[i64]) -> bool {
        let Some(at) = self.0.iter().position(|shape| shape.key == key) else { return false };
        self.0[at..].rotate_left(1);
        true
    }

    /// Adds a shape and makes it the current one.
    pub fn insert(&mut self, key: Vec<i64>, schedule: Schedule, device: &mut dyn Device) {
        if self.0.len() == LIMIT {
            self.0.remove(0).release(device);
        }
        self.0.push(Shape { key, schedule, instances: Vec::new() });
    }

    /// Forgets where everything lies, because some of it moves.
    pub fn unplace(&mut self, device: &mut dyn Device) {
        self.0.iter_mut().flat_map(|shape| shape.instances.drain(..)).for_each(|instance| instance.forget(device));
    }

    /// Forgets everything.
    pub fn clear(&mut self, device: &mut dyn Device) {
        self.0.drain(..).for_each(|shape| shape.release(device));
    }
}

impl Shape {
    /// Makes the instance the current one in which the session's own blocks, and those of what is outside of them, `buffers`, lie so.
    pub fn place<'a>(
        &mut self,
        own: Blocks,
        blocks: &[MemId],
        buffers: impl Iterator<Item = &'a BufferId>,
        device: &mut dyn Device,
    ) -> Result<()> {
        if let Some(at) = self.instances.iter().position(|i| i.own == own && i.blocks == blocks) {
            self.instances[at..].rotate_left(1);
            return Ok(());
        }
        if self.instances.len() == INSTANCES {
            self.instances.remove(0).forget(device);
        }
        let bytes = buffers.map(|id| self.schedule.places[id.index()].bytes);
        let places: Vec<Place> =
            blocks.iter().zip(bytes).map(|(&mem, bytes)| Place { mem, offset: 0, bytes }).collect();
        let schedule = self.schedule.placed(own, &places)?;
        self.instances.push(Instance { own, blocks: blocks.to_vec(), schedule, recording: None });
        Ok(())
    }

    /// The current instance.
    pub fn instance(&mut self) -> Option<&mut Instance> {
        self.instances.last_mut()
    }

    fn release(self, device: &mut dyn Device) {
        self.instances.into_iter().for_each(|instance| instance.forget(device));
        self.schedule.release(device);
    }
}

impl Instance {
    fn forget(self, device: &mut dyn Device) {
        if let Some(id) = self.recording.flatten() {
            device.forget(id);
        }
    }
}
