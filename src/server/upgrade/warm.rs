//! What a process hands on beside its sockets.

use std::borrow::Cow;

/// A part of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Whose.
    pub name: Cow<'static, str>,
    /// Of its format.
    pub version: u16,
    /// At most 256 KiB.
    pub bytes: Vec<u8>,
}
