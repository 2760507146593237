//! Fetches what keys stand on: where they begin, the base, the filter. Bounded before anything is fetched, and read off
//! the request threads.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use super::head::Want;
use crate::auth::key_store::base::{Base, Builder};
use crate::auth::key_store::{Foundation, Keys};
use crate::distribution::content::unpack;
use crate::distribution::{
    BlobRef, ContentHash, KeyChange, KeyEntry, KeysHead, Manifest, SCHEMA, Signed, Topic, decode_filter,
};
use crate::sync::client::{Client, segment};
use crate::sync::trust::Trust;

const PATIENCE: Duration = Duration::from_secs(15);
const MANIFEST_MOST: u64 = 1 << 20;

/// Ten million keys of a hundred bytes, compressed to about a third, and as they unpack. They are never in memory as text.
const BASE_MOST: u64 = 1 << 30;
const BASE_RAW_MOST: u64 = 4 << 30;

/// A hundred million keys.
const FILTER_MOST: u64 = 128 << 20;

/// A line of the base: a key with the longest names.
const LINE_MOST: u64 = 4096;

/// The manifest, which says where keys begin; None if nothing was published yet.
pub(super) async fn manifest(client: &Client, trust: &Trust, environment: &str) -> Result<Option<Manifest>, String> {
    let path = format!("/v1/environments/{}/revision?after=0&wait=0", segment(environment));
    let answer = client
        .get(&path, MANIFEST_MOST, PATIENCE)
        .await
        .map_err(|error| error.to_string())?;
    match answer.status {
        200 => {}
        304 | 404 => return Ok(None),
        status => {
            client.turn();
            return Err(format!("the manifest: status {status}"));
        }
    }
    let bad = |what: &dyn std::fmt::Display| format!("the manifest: {what}");
    let signed: Signed = answer.json().map_err(|error| bad(&error))?;
    let text = trust
        .verify(client, Topic::Manifest, &signed)
        .await
        .map_err(|error| bad(&error))?;
    let manifest: Manifest = serde_json::from_str(text).map_err(|error| bad(&error))?;
    if manifest.environment != environment {
        return Err(bad(&format!("it is of the environment \"{}\"", manifest.environment)));
    }
    if manifest.schema != SCHEMA {
        return Err(bad(&format!(
            "its format is {}, and this build reads {SCHEMA}",
            manifest.schema
        )));
    }
    Ok(Some(manifest))
}

/// What keys are to stand on.
pub(super) async fn foundation(client: &Client, head: &KeysHead, want: &Want) -> Result<Foundation, String> {
    let keys = match want {
        Want::All(None) => Keys::All(Base::default()),
        Want::All(Some((_, announced))) => {
            let announced = *announced;
            let bytes = blob(client, "base", &announced, (BASE_MOST, BASE_RAW_MOST)).await?;
            Keys::All(off_thread(move || read_base(&announced, &bytes)).await?)
        }
        Want::Filter(_, announced) => {
            let announced = *announced;
            let bytes = blob(client, "filter", &announced, (FILTER_MOST, FILTER_MOST)).await?;
            let read = move || {
                let raw = unpack(&announced, &bytes).map_err(|error| format!("the filter of keys: {error}"))?;
                decode_filter(&raw).map_err(|error| format!("the filter of keys: {error}"))
            };
            let filter = off_thread(read).await?;
            match head.revoked {
                // A filter does not know what was never a key of the log: without them, a key of a document that was
                // revoked would let in again.
                Some(revoked) => {
                    let announced = revoked.blob;
                    let bytes = blob(client, "revocations", &announced, (BASE_MOST, BASE_RAW_MOST)).await?;
                    Keys::FilterAndRevoked(filter, off_thread(move || read_base(&announced, &bytes)).await?)
                }
                None => Keys::Filter(filter),
            }
        }
    };
    Ok(Foundation {
        epoch: head.epoch,
        seq: want.seq(),
        keys,
    })
}

async fn blob(
    client: &Client,
    what: &str,
    announced: &BlobRef,
    (most, raw_most): (u64, u64),
) -> Result<Vec<u8>, String> {
    if announced.raw_size > raw_most {
        return Err(format!(
            "the {what} of keys has {} bytes, and a gateway takes {raw_most}; set \"keys: filter\"",
            announced.raw_size
        ));
    }
    let bytes = client.blob(announced, most).await;
    bytes.map_err(|error| format!("the {what} of keys: {error}"))
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("reading the keys panicked; this is a bug of tollgate".to_owned()))
}

/// Reads a base line by line, so that its text is never in memory as a whole. A line is a key, or a revocation of one
/// that stands in a published document.
fn read_base(announced: &BlobRef, bytes: &[u8]) -> Result<Base, String> {
    if ContentHash::of(bytes) != announced.sha256 {
        return Err("the base of keys: its bytes are not those that the manifest names".to_owned());
    }
    let bad = |line: u64, what: &dyn std::fmt::Display| format!("the base of keys: line {line}: {what}");
    let unpacked = zstd::stream::read::Decoder::new(bytes).map_err(|error| bad(0, &error))?;
    let mut unpacked = BufReader::with_capacity(1 << 16, unpacked.take(announced.raw_size.saturating_add(1)));
    let (mut builder, mut total, mut number) = (Builder::default(), 0, 0_u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        number += 1;
        let length = (&mut unpacked)
            .take(LINE_MOST)
            .read_until(b'\n', &mut line)
            .map_err(|error| bad(number, &error))?;
        if length == 0 {
            break;
        }
        total += length as u64;
        if line.pop_if(|last| *last == b'\n').is_none() && length as u64 == LINE_MOST {
            return Err(bad(number, &"it is longer than any key"));
        }
        let added = match serde_json::from_slice::<KeyEntry>(&line) {
            _ if line.is_empty() => Ok(()),
            Ok(entry) => builder.push_entry(&entry),
            Err(error) => match serde_json::from_slice::<KeyChange>(&line) {
                Ok(KeyChange::Del { hash }) => builder.push_revoked(hash, true),
                _ => return Err(bad(number, &error)),
            },
        };
        added.map_err(|error| bad(number, &error))?;
    }
    if total != announced.raw_size {
        return Err(bad(number, &"it is not as long as announced"));
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key_store::base::InBase;
    use crate::distribution::KeyHash;
    use crate::distribution::content::pack;

    const KEY: &str = r#"{"h":"01010101010101010101010101010101","id":"a-1","app":"a","type":"production"}"#;
    const GONE: &str = r#"{"op":"del","h":"02020202020202020202020202020202"}"#;

    fn read(text: &str) -> Result<Base, String> {
        let (announced, bytes) = pack(text.as_bytes()).unwrap();
        read_base(&announced, &bytes)
    }

    #[test]
    fn a_base_has_a_line_for_each_key_and_for_each_revoked_key_of_a_document() {
        let base = read(&format!("{KEY}\n{GONE}\n")).unwrap();
        assert!(matches!(base.find(&KeyHash([1; 16])), Some(InBase::Key(key)) if key.id.as_str() == "a-1"));
        assert_eq!(base.find(&KeyHash([2; 16])), Some(InBase::Revoked { foreign: true }));
        assert_eq!(read("").unwrap().len(), 0);
        assert_eq!(read(KEY).unwrap().len(), 1, "without an end of line");
    }

    #[test]
    fn what_is_not_a_base_says_where() {
        let refused = |text: &str| read(text).unwrap_err();
        assert!(refused(&format!("{KEY}\nnonsense\n")).contains("line 2"));
        assert!(refused(&format!("{}\n", KEY.replace("0101", "zz"))).contains("32 hexadecimal digits"));
        assert!(refused(&format!("{KEY}{}\n", " ".repeat(5000))).contains("longer than any key"));
        let (mut announced, bytes) = pack(format!("{KEY}\n").as_bytes()).unwrap();
        announced.raw_size -= 1;
        assert!(read_base(&announced, &bytes).unwrap_err().contains("as announced"));
        announced.sha256 = ContentHash([0; 32]);
        assert!(
            read_base(&announced, &bytes)
                .unwrap_err()
                .contains("not those that the manifest names")
        );
    }
}
