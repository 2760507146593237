//! What the allocator is told.

/// Gives memory that is not used any more back to the system now. The allocator does it by itself only when a thread takes
/// or frees some later on, which a gateway without traffic may not do for hours. Takes milliseconds: not for request
/// threads.
pub fn give_back() {
    // The one foreign call of this program: the allocator's crate has no safe one for it. It has no preconditions, and does
    // nothing where another allocator is used, as in tests.
    #[allow(unsafe_code)]
    // SAFETY: `mi_collect` may be called at any time by any thread.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}
