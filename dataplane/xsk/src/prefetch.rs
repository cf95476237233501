//! Fetching memory ahead: one instruction and no wait.

/// Asks the processor to fetch the first cache line of `bytes`.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    at(bytes.as_ptr());
}

/// The same for the line of an address, whatever is there.
#[inline]
pub(crate) fn at(pointer: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch touches no memory as far as the language is concerned.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = pointer;
}
