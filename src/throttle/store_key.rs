//! How a counter is called in the store.
//!
//! `tg1{SUBJECT}LIMIT.WINDOW`: what stands in braces is the hash tag of Redis Cluster, so all limits of a subject lie on
//! one node. Subject and limit are base64url of 16 and 8 bytes that every gateway computes alike (see
//! [`identity`](super::identity)); the window is its number. A bucket has no window.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::terms::Terms;

/// The hash tag of a subject.
#[must_use]
pub fn tag(subject: [u8; 16]) -> Vec<u8> {
    URL_SAFE_NO_PAD.encode(subject).into_bytes()
}

/// The key of the counter that a limit keeps for a subject in a window.
#[must_use]
pub fn key(subject: [u8; 16], terms: &Terms, window: u32) -> String {
    let mut key = String::with_capacity(48);
    key.push_str("tg1{");
    URL_SAFE_NO_PAD.encode_string(subject, &mut key);
    key.push('}');
    URL_SAFE_NO_PAD.encode_string(terms.name, &mut key);
    if terms.quota.shape().has_windows() {
        key.push('.');
        key.push_str(itoa::Buffer::new().format(window));
    }
    key
}
