//! A small number for each thread, for what is kept once per thread without being bound to one.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of this thread, in the order in which threads first ask. Never given twice, so it is to be taken modulo
/// however many of something there are.
#[must_use]
pub fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}
