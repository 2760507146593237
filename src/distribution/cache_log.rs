//! What gateways are to forget of what they keep of answers, as it travels: numbered records beside the key log, in a log of
//! their own. A record of the key log with a new `op` would have made gateways of an older version refuse whole pages of
//! keys, revocations among them; this log they do not ask for.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheRecord {
    /// Its number: larger than that of the one before. Environments share the numbers.
    pub seq: u64,
    /// Unix milliseconds at which it was written.
    #[serde(rename = "at")]
    pub at_ms: u64,
    /// Who said it: the public id of a token.
    #[serde(rename = "by")]
    pub author: String,
    /// What is to be forgotten: an [`Order`](crate::cache::order::Order). Kept as it came, so that a gateway which does not
    /// understand all of a newer one forgets everything, instead of refusing the page.
    #[schema(value_type = Object)]
    pub what: Value,
}

/// A part of the log. Sent as the text of a [`Signed`](super::Signed), about [`Topic::Cache`](super::Topic::Cache).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachePage {
    /// Whose gateways it is for.
    pub environment: String,
    /// Which log: a random number, drawn when its store was made. Numbers of another one mean nothing here.
    #[serde(default)]
    pub epoch: u64,
    /// The number after which it begins, as it was asked for; none: only the end is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The number from which on the next page begins: that of the last record here, or the end of the log if there is no
    /// more.
    pub next: u64,
    /// With the end alone: how long ago the last record was written, in milliseconds; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_ms: Option<u64>,
    /// The records.
    pub records: Vec<CacheRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written_whatever_a_newer_control_plane_has_put_into_it() {
        let line = r#"{"seq":7,"at":1000,"by":"abc","what":{"all":true,"planets":["mars"]}}"#;
        let record: CacheRecord = serde_json::from_str(line).unwrap();
        assert_eq!((record.seq, record.at_ms, record.author.as_str()), (7, 1000, "abc"));
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}
