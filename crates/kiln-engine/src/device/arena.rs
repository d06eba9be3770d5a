//! Host memory for the CPU device.

const LINE: usize = 64;

/// A block of host memory that starts on a cache line. The default has no bytes.
#[derive(Default)]
pub struct Block {
    storage: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Block {
    /// A zeroed block, or `None` if there is not the memory.
    pub fn new(bytes: usize) -> Option<Block> {
        let total = bytes.checked_add(LINE)?;
        let mut storage = kiln_host::reserve(total).ok()?;
        storage.resize(total, 0);
        let start = storage.as_ptr().align_offset(LINE);
        Some(Block { storage, start, bytes })
    }

    /// Read access.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.bytes]
    }

    /// Write access.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.bytes]
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }
}
