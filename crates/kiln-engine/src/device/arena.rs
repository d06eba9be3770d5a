//! Host memory for the CPU device.
#![allow(unsafe_code, reason = "blocks may be the user's memory")]

use super::user::UserMemory;

/// Bytes that the start of a block is a multiple of.
pub const LINE: usize = 64;

/// A block of host memory that starts on a cache line. The default has no bytes.
pub struct Block(Storage);

enum Storage {
    Own { storage: Vec<u8>, start: usize, bytes: usize },
    User(UserMemory),
}

impl Default for Block {
    fn default() -> Block {
        Block(Storage::Own { storage: Vec::new(), start: 0, bytes: 0 })
    }
}

impl Block {
    /// A zeroed block, or `None` if there is not the memory.
    pub fn new(bytes: usize) -> Option<Block> {
        let total = bytes.checked_add(LINE)?;
        let mut storage = kiln_host::reserve(total).ok()?;
        storage.resize(total, 0);
        let start = storage.as_ptr().align_offset(LINE);
        Some(Block(Storage::Own { storage, start, bytes }))
    }

    /// Memory that was checked to start on a line.
    pub fn of_user(memory: UserMemory) -> Block {
        Block(Storage::User(memory))
    }

    /// Read access.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Storage::Own { storage, start, bytes } => &storage[*start..*start + *bytes],
            // SAFETY: this process's by the user's word, and borrowed as this block is, which alone has it.
            Storage::User(memory) => unsafe { memory.slice() },
        }
    }

    /// Write access.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Storage::Own { storage, start, bytes } => &mut storage[*start..*start + *bytes],
            // SAFETY: as above.
            Storage::User(memory) => unsafe { memory.slice_mut() },
        }
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }
}
