//! Shared views of the operands, results and scratch memory of one run.
//!
//! This is the one module with `unsafe` code: threads of a stage write disjoint elements of one buffer, possibly interleaved (a
//! transposed store), which slices cannot express.
#![allow(unsafe_code)]

use bytemuck::Pod;
use std::marker::PhantomData;

/// A buffer of a run. Stages uphold two rules that make its use sound: a stage never reads a slot that it writes (lowering gives every
/// stage result a slot of its own, defined once), and two threads never write the same element. Where a scatter's result lies in the place of what it updates, it looks at the result alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a> {
    ptr: *mut u8,
    len: usize,
    writable: bool,
    _of: PhantomData<&'a mut [u8]>,
}

// SAFETY: a slot is a borrowed byte range; concurrent use follows the rules of the type's doc.
unsafe impl Send for Slot<'_> {}
// SAFETY: as above.
unsafe impl Sync for Slot<'_> {}

impl<'a> Slot<'a> {
    /// A read-only slot.
    pub(crate) fn read(bytes: &'a [u8]) -> Slot<'a> {
        Slot { ptr: bytes.as_ptr().cast_mut(), len: bytes.len(), writable: false, _of: PhantomData }
    }

    /// A slot that stages may write.
    pub(crate) fn write(bytes: &'a mut [u8]) -> Slot<'a> {
        Slot { ptr: bytes.as_mut_ptr(), len: bytes.len(), writable: true, _of: PhantomData }
    }

    /// Whether both are the same memory.
    pub(crate) fn is(&self, other: &Slot<'_>) -> bool {
        std::ptr::eq(self.ptr, other.ptr) && self.len == other.len
    }

    /// Its contents.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        // SAFETY: the range is borrowed for 'a; no stage reads a slot that it writes.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// Its contents as elements. Slots are aligned for their dtype when a run starts.
    pub(crate) fn typed<T: Pod>(&self) -> &'a [T] {
        bytemuck::cast_slice(&self.bytes()[..self.len / size_of::<T>() * size_of::<T>()])
    }

    /// Exclusive access to elements `start..start + len`: callers give each range to one thread of a stage only.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the callers' rule, see the type")]
    pub(crate) fn range_mut<T: Pod>(&self, start: usize, len: usize) -> &'a mut [T] {
        let size = size_of::<T>();
        let fits = start.checked_add(len).and_then(|end| end.checked_mul(size)).is_some_and(|end| end <= self.len);
        assert!(fits && self.writable, "range {start}+{len} outside a slot of {} bytes", self.len);
        // SAFETY: in bounds of a range borrowed mutably for 'a, and not aliased by the callers' rule.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start * size), len * size) };
        bytemuck::cast_slice_mut(bytes)
    }

    /// A part of this slot, of `len` bytes from `start`.
    pub(crate) fn part(&self, start: usize, len: usize) -> Slot<'a> {
        assert!(
            start <= self.len && len <= self.len - start,
            "part {start}+{len} outside a slot of {} bytes",
            self.len
        );
        // SAFETY: in bounds, so that the sum stays within the borrowed range.
        Slot { ptr: unsafe { self.ptr.add(start) }, len, ..*self }
    }

    /// Writes one element.
    #[inline(always)]
    pub(crate) fn put<T: Pod>(&self, at: usize, value: T) {
        assert!(
            self.writable && (at + 1) * size_of::<T>() <= self.len,
            "element {at} outside a slot of {} bytes",
            self.len
        );
        // SAFETY: in bounds, writable, and written by one thread only by the callers' rule. Unaligned writes are allowed for.
        unsafe { self.ptr.add(at * size_of::<T>()).cast::<T>().write_unaligned(value) }
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
