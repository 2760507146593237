//! What travels from a control plane to its gateways: the language of both, and of whatever stands between them.
//!
//! Everything that is large is immutable and named by its hash, so that any web server, proxy or directory can carry it.
//! What changes is small and signed. From the signature over the manifest follow the hashes, and from the hashes
//! everything else: a cache in between can be slow or away, but it can not lie (`config-sync` protocol, version 1).

pub mod cache_log;
pub mod content;
pub mod hash;
pub mod key_filter;
pub mod key_log;
pub mod manifest;
pub mod protocol;
pub mod signature;

pub use cache_log::{CachePage, CacheRecord};
pub use content::{Content, ContentError, Kind};
pub use hash::ContentHash;
pub use key_filter::{KeyFilter, decode_filter, encode_filter};
pub use key_log::{KeyChange, KeyEntry, KeyHash, KeyPage, KeyRecord};
pub use manifest::{BlobRef, KeysHead, Manifest, SCHEMA};
pub use signature::{PublicKey, SignatureError, Signed, SigningKey, Topic};
