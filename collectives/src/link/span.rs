//! A piece of a caller's buffer whose borrow the compiler cannot follow: an operation reads one part
//! of a buffer while it writes another, and a stream reads a part after the call that queued it.
//!
//! Carries no lifetime; `communicator` keeps each span inside the call that borrowed the buffer.

#![expect(unsafe_code, reason = "raw parts of buffers, see the module's text")]

/// A start and a length; valid as long as the buffer it was cut from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    start: *mut u8,
    len: usize,
}

// SAFETY: a span is an address; whoever dereferences it vouches for the access.
unsafe impl Send for Span {}

impl Span {
    /// # Safety
    /// The span, and all cut from it, is only read, and only while the slice's borrow lasts.
    pub(crate) unsafe fn from_slice(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr().cast_mut(), len: bytes.len() }
    }

    /// # Safety
    /// The span, and all cut from it, is used only while the slice's borrow lasts.
    pub(crate) unsafe fn from_slice_mut(bytes: &mut [u8]) -> Self {
        Self { start: bytes.as_mut_ptr(), len: bytes.len() }
    }

    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// True if both start at one place; spans of one length are then the same bytes.
    pub(crate) fn is_same(self, other: Self) -> bool {
        self.start == other.start
    }

    /// The part from `from` to `to`.
    pub(crate) fn range(self, from: usize, to: usize) -> Self {
        assert!(from <= to && to <= self.len, "a span is cut inside its bounds");
        // SAFETY: `from` is within the buffer, checked above.
        Self { start: unsafe { self.start.add(from) }, len: to - from }
    }

    /// # Safety
    /// Nobody writes these bytes while the slice lives.
    pub(crate) unsafe fn as_slice<'a>(self) -> &'a [u8] {
        // SAFETY: the constructor's caller vouches for validity, this one's for the aliasing.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// # Safety
    /// Nobody else reads or writes these bytes while the slice lives.
    pub(crate) unsafe fn as_slice_mut<'a>(self) -> &'a mut [u8] {
        // SAFETY: the constructor's caller vouches for validity, this one's for the aliasing.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// # Safety
    /// As [`Self::as_slice_mut`]; `bytes` has this length and lies elsewhere.
    pub(crate) unsafe fn fill_from(self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.len, "as many bytes arrive as were asked for");
        // SAFETY: lengths are equal, and the caller vouches that the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, self.len) };
    }
}
