//! `tollgate revision export`: what gateways fetch, as files with the same paths. A directory, a web server or a bucket
//! then stands in for the control plane: everything in it is signed, or named by its hash.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::remote::{Failure, Remote, strange};
use crate::control_plane::secrets;
use crate::distribution::protocol::KEY_EXPORT_MOST;
use crate::distribution::{
    BlobRef, Content, ContentHash, KeyPage, Manifest, PublicKey, SCHEMA, Signed, Topic, content,
};
use crate::document::quote;

/// The largest manifest, list of keys, and page of the key log that are read.
const SMALL: u64 = 8 << 20;
/// The largest page of the key log that a gateway reads.
const LARGEST_PAGE: usize = 4 << 20;
/// The largest blob, as it is sent and as it unpacks.
const LARGEST_BLOB: u64 = 1 << 30;

/// The answer of `/v1/signing-keys`.
#[derive(Deserialize)]
struct SigningKeys {
    keys: Vec<String>,
}

/// What one environment comes to. Everything is fetched and verified before anything is written.
struct Export {
    environment: String,
    manifest: Manifest,
    /// As they came: signed.
    manifest_bytes: Vec<u8>,
    blobs: Vec<(ContentHash, Vec<u8>)>,
    /// None: there is nothing in it that is not in the base.
    log_bytes: Option<Vec<u8>>,
    log_head: u64,
}

/// Writes these environments to a directory, and says what was written.
pub fn export(remote: &Remote, environments: &[String], to: &Path) -> Result<Value, Failure> {
    let keys_bytes = remote.bytes(&["signing-keys"], &[], SMALL)?;
    let trusted = public_keys(&keys_bytes)?;
    let exports: Vec<Export> = environments
        .iter()
        .map(|environment| Export::fetch(remote, environment, &trusted))
        .collect::<Result<_, _>>()?;

    // In this order, so that who reads meanwhile finds whatever a manifest names.
    write(to, &["v1", "signing-keys"], &keys_bytes)?;
    let mut items = Vec::new();
    for export in &exports {
        export.write(to)?;
        items.push(json!({
            "environment": export.environment,
            "seq": export.manifest.seq,
            "root": export.manifest.root,
            "key_seq": export.log_head,
            "files": export.blobs.len() + 2 + usize::from(export.log_bytes.is_some()),
        }));
    }
    Ok(json!({ "items": items }))
}

impl Export {
    fn fetch(remote: &Remote, environment: &str, trusted: &[PublicKey]) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::Failed(format!("environment {environment}: {what}; nothing was written"));
        // It becomes a name on disk too. No environment is called so, but a control plane might say that it is.
        if environment.starts_with('.') || environment.contains(['/', '\\', '\0']) {
            return Err(Failure::Usage(format!(
                "{environment:?} is not the name of an environment"
            )));
        }
        let path = ["environments", environment, "revision"];
        let manifest_bytes = match remote.bytes(&path, &[("after", "0"), ("wait", "0")], SMALL) {
            Err(Failure::Problem(problem)) if problem.is_nothing_new() => {
                return Err(wrong("nothing was ever published to it".to_owned()));
            }
            other => other?,
        };
        let manifest: Manifest = verified(&manifest_bytes, Topic::Manifest, trusted)
            .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
            .map_err(|why| wrong(format!("manifest: {why}")))?;
        if manifest.environment != environment {
            return Err(wrong("this manifest is of another environment".to_owned()));
        }
        if manifest.schema != SCHEMA {
            return Err(wrong(format!(
                "the manifest has format {}, this program knows {SCHEMA}; use the program that the control plane runs",
                manifest.schema
            )));
        }

        let bytes = blob(remote, &manifest.snapshot)?;
        let content =
            Content::from_snapshot(&manifest.snapshot, &bytes).map_err(|error| wrong(format!("snapshot: {error}")))?;
        if !manifest.is_of(&content) {
            return Err(wrong(
                "the snapshot does not have the root that the manifest names".to_owned(),
            ));
        }
        if let Some(why) = secret_in_clear(&content) {
            return Err(wrong(why));
        }
        let mut blobs = vec![(manifest.snapshot.sha256, bytes)];
        let keys = [manifest.keys.base, manifest.keys.filter, manifest.keys.revoked];
        for keys in keys.into_iter().flatten() {
            let bytes = blob(remote, &keys.blob)?;
            content::unpack(&keys.blob, &bytes).map_err(|error| wrong(format!("keys: {error}")))?;
            blobs.push((keys.blob.sha256, bytes));
        }

        let after = manifest.keys.base.map_or(0, |base| base.seq);
        let path = ["environments", environment, "keys", "log"];
        // A file has no query: whoever reads the directory gets this one page, so that it has to have everything.
        let (from, limit) = (after.to_string(), KEY_EXPORT_MOST.to_string());
        let part = [("after", from.as_str()), ("wait", "0"), ("limit", limit.as_str())];
        let log_bytes = match remote.bytes(&path, &part, SMALL) {
            // Nothing happened since the base, or ever: a reader of the directory finds no log and has missed nothing.
            Err(Failure::Problem(problem)) if problem.is_nothing_new() => None,
            other => Some(other?),
        };
        let log_head = match &log_bytes {
            None => after,
            Some(bytes) => {
                whole_page(bytes, &manifest, after, trusted).map_err(|why| wrong(format!("key log: {why}")))?
            }
        };
        Ok(Self {
            environment: environment.to_owned(),
            manifest,
            manifest_bytes,
            blobs,
            log_bytes,
            log_head,
        })
    }

    /// Blobs first, the manifest last.
    fn write(&self, to: &Path) -> Result<(), Failure> {
        for (hash, bytes) in &self.blobs {
            write(to, &["v1", "blobs", &hash.to_string()], bytes)?;
        }
        let environment = ["v1", "environments", &self.environment];
        let log = [&environment[..], &["keys", "log"]].concat();
        match &self.log_bytes {
            Some(bytes) => write(to, &log, bytes)?,
            // An older page would be of no use beside a newer base.
            None => match fs::remove_file(place(to, &log)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::Failed(format!("{}: {error}", place(to, &log).display())));
                }
                _ => {}
            },
        }
        write(to, &[&environment[..], &["revision"]].concat(), &self.manifest_bytes)
    }
}

/// The first secret that whoever reads the directory would read: the control plane shows contents to gateways only, a web
/// server to anybody.
fn secret_in_clear(content: &Content) -> Option<String> {
    content.iter().find_map(|(kind, name, value)| {
        let mut value: Value = serde_json::from_str(value).ok()?;
        let path = secrets::hide(&mut value).into_iter().next()?;
        Some(format!(
            "{} {} has a secret in clear at {path}; write ${{cred:name}}, publish, and export again",
            kind.as_str(),
            quote(name)
        ))
    })
}

fn public_keys(bytes: &[u8]) -> Result<Vec<PublicKey>, Failure> {
    let keys: SigningKeys = serde_json::from_slice(bytes).map_err(|_| strange("no signing keys"))?;
    keys.keys
        .iter()
        .map(|key| key.parse().map_err(|error| strange(&format!("signing key: {error}"))))
        .collect()
}

/// The text of something signed by one of these keys.
fn verified(bytes: &[u8], topic: Topic, trusted: &[PublicKey]) -> Result<String, String> {
    let signed: Signed = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let text = signed.verify(topic, trusted).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// The end of the key log, if all of it from `after` on is in this page.
fn whole_page(bytes: &[u8], manifest: &Manifest, after: u64, trusted: &[PublicKey]) -> Result<u64, String> {
    let text = verified(bytes, Topic::Keys, trusted)?;
    let page: KeyPage = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if page.environment != manifest.environment || page.epoch != manifest.keys.epoch || page.after != after {
        return Err("this is not the page that was asked for".to_owned());
    }
    let last = page.records.last().map_or(after, |record| record.seq);
    if last < page.head || bytes.len() > LARGEST_PAGE {
        // Gateways would never hear of a revocation in the next page.
        return Err(format!(
            "{} keys changed since the last key base, which is more than one page that gateways read, and a directory \
             holds one; export again in ten minutes, when there may be a new base, have the control plane make bases \
             more often (keys.base_every), or let gateways ask it",
            page.head - after
        ));
    }
    Ok(last)
}

fn blob(remote: &Remote, blob: &BlobRef) -> Result<Vec<u8>, Failure> {
    let hash = blob.sha256.to_string();
    if blob.size > LARGEST_BLOB || blob.raw_size > LARGEST_BLOB {
        return Err(strange(&format!(
            "blob {hash} of {} bytes",
            blob.size.max(blob.raw_size)
        )));
    }
    let bytes = remote.bytes(&["blobs", &hash], &[], blob.size)?;
    if ContentHash::of(&bytes) == blob.sha256 {
        Ok(bytes)
    } else {
        Err(strange(&format!("blob {hash} has other bytes")))
    }
}

/// Writes a file in one go: who reads it meanwhile gets the old one or the new one.
fn write(to: &Path, path: &[&str], bytes: &[u8]) -> Result<(), Failure> {
    let path = place(to, path);
    replace(&path, bytes).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn place(to: &Path, path: &[&str]) -> PathBuf {
    to.iter().chain(path.iter().map(OsStr::new)).collect()
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)?;
    let mut temporary = tempfile_in(directory, path)?;
    let written = temporary
        .1
        .write_all(bytes)
        .and_then(|()| temporary.1.sync_all())
        .and_then(|()| fs::rename(&temporary.0, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary.0);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// A new file beside the one that is meant, under a name that no reader asks for.
fn tempfile_in(directory: &Path, path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let file = File::create_new(&temporary)?;
    Ok((temporary, file))
}

#[cfg(test)]
mod tests;
