//! Memory and streams that are the user's.
#![allow(unsafe_code, reason = "whether an address may be used is the user's word")]

/// Memory of the user's that a session reads its inputs from, or writes outputs or activations to.
///
/// On a GPU the address is one of the device's, of an allocation that kernels may access (`cuMemAlloc`, `cudaMalloc`, a pool's, pinned host memory), in the primary context of
/// the session's GPU; on the CPU that of this process's memory; on the simulator one that [`SimDevice::simulated`](crate::SimDevice::simulated) has allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserMemory {
    address: u64,
    bytes: usize,
}

impl UserMemory {
    /// `bytes` bytes from an address.
    ///
    /// # Safety
    /// As long as a session has it, whenever the session is called, and until all that the session has queued is done ([`Session::synchronize`](crate::Session::synchronize)):
    /// the bytes are there and may be read and written, all of them initialized on the CPU; nothing else writes to them, nor reads those that the session writes; on the CPU nothing else, no other session either, uses them at all while this one is called. A session has the
    /// memory of an input until the input is bound again, that of an output or of the arena until it is taken back or other memory takes its place, any of it until it is dropped.
    pub unsafe fn new(address: u64, bytes: usize) -> UserMemory {
        UserMemory { address, bytes }
    }

    /// The address of its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether some byte belongs to both.
    pub fn overlaps(&self, other: &UserMemory) -> bool {
        // Ends that no address has are refused before this is asked.
        let end = |memory: &UserMemory| memory.address.saturating_add(memory.bytes as u64);
        self.address < end(other) && other.address < end(self)
    }

    /// In words, why it can be no memory of at least `bytes` bytes at a multiple of `alignment`.
    pub(crate) fn check(&self, bytes: usize, alignment: usize) -> Result<(), String> {
        let UserMemory { address, bytes: found } = *self;
        let what = match address {
            0 => "its memory is at address 0; expected an address of memory".to_owned(),
            _ if !address.is_multiple_of(alignment as u64) => {
                format!("its memory is at address {address:#x}; expected a multiple of {alignment}")
            }
            _ if found < bytes => format!("its memory is too small: expected at least {bytes} bytes, found {found}"),
            _ if isize::try_from(found).is_err() || address.checked_add(found as u64).is_none() => {
                format!("its memory is {found} bytes at {address:#x}, which no memory has")
            }
            _ => return Ok(()),
        };
        Err(what)
    }

    /// Read access.
    ///
    /// # Safety
    /// It is this process's memory, and nobody writes to it meanwhile.
    pub(super) unsafe fn slice(&self) -> &[u8] {
        // SAFETY: not null and no longer than an object can be, as was checked; there and initialized by the user's word.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.address as usize), self.bytes) }
    }

    /// Write access.
    ///
    /// # Safety
    /// It is this process's memory, and nobody else uses it meanwhile.
    pub(super) unsafe fn slice_mut(&mut self) -> &mut [u8] {
        let start = std::ptr::with_exposed_provenance_mut(self.address as usize);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start, self.bytes) }
    }
}

/// A stream of the user's on a session's GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserStream(u64);

impl UserStream {
    /// The stream with this `CUstream` (or `cudaStream_t`) as its handle; 0 is the legacy default stream.
    ///
    /// # Safety
    /// It is a stream of the primary context of the session's GPU, and is not destroyed while a session is given it.
    pub unsafe fn new(handle: u64) -> UserStream {
        UserStream(handle)
    }

    /// The handle.
    pub fn handle(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(address: u64, bytes: usize) -> UserMemory {
        // SAFETY: nothing is read or written.
        unsafe { UserMemory::new(address, bytes) }
    }

    #[test]
    fn memory_that_cannot_be_is_refused() {
        assert_eq!(memory(64, 12).check(12, 64), Ok(()));
        let cases = [
            (memory(0, 12), "address 0"),
            (memory(96, 12), "0x60; expected a multiple of 64"),
            (memory(128, 11), "at least 12 bytes, found 11"),
            (memory(64, usize::MAX), "which no memory has"),
            (memory(u64::MAX - 63, 64), "which no memory has"),
        ];
        for (memory, text) in cases {
            let error = memory.check(12, 64).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn what_touches_does_not_overlap() {
        let all = [memory(64, 10), memory(74, 1), memory(60, 4), memory(68, 0)];
        assert!(all[1..3].iter().all(|other| !all[0].overlaps(other) && !other.overlaps(&all[0])));
        for other in [memory(73, 5), memory(60, 5), memory(66, 2), memory(0, 100), all[0]] {
            assert!(all[0].overlaps(&other) && other.overlaps(&all[0]), "{other:?}");
        }
    }
}
