use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::*;
use crate::cli::remote::testing::Double;
use crate::distribution::manifest::KeysBlob;
use crate::distribution::{KeyChange, KeyHash, KeyRecord, KeysHead, Kind, SigningKey};
use crate::revision::EnvironmentType;

/// What is answered under which path; anything else is 404.
type Files = Arc<Mutex<HashMap<String, Vec<u8>>>>;

struct Plane {
    double: Double,
    files: Files,
    signing: SigningKey,
    manifest: Manifest,
}

impl Plane {
    /// A control plane with one revision, a key base up to record 5, and one record after it.
    fn start() -> Self {
        let files = Files::default();
        let answer = async |State(files): State<Files>, request: Request| match files
            .lock()
            .unwrap()
            .get(request.uri().path())
        {
            Some(bytes) => bytes.clone().into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        };
        let double = Double::start(Router::new().fallback(answer).with_state(Arc::clone(&files)));
        let (signing, _) = SigningKey::generate().unwrap();
        let mut content = Content::default();
        content.insert(Kind::Plan, "gold", &json!({ "name": "gold", "limits": [] }));
        let (snapshot, bytes) = content.to_snapshot().unwrap();
        let (base, base_bytes) = content::pack(b"{}\n").unwrap();
        let manifest = Manifest {
            environment: "Default".to_owned(),
            environment_type: EnvironmentType::Hybrid,
            seq: 3,
            schema: SCHEMA,
            requires: Vec::new(),
            published_at_ms: 0,
            root: content.root(),
            snapshot,
            routes: 0,
            keys: KeysHead {
                epoch: 9,
                count: 1,
                base: Some(KeysBlob { seq: 5, blob: base }),
                filter: None,
                revoked: None,
            },
            spread_ms: 0,
            wait_s: 0,
        };
        let plane = Self {
            double,
            files,
            signing,
            manifest,
        };
        let keys = json!({ "keys": [plane.signing.public().to_string()] });
        plane.put("/v1/signing-keys", keys.to_string().into_bytes());
        plane.put(&format!("/v1/blobs/{}", snapshot.sha256), bytes);
        plane.put(&format!("/v1/blobs/{}", base.sha256), base_bytes);
        plane.sign_manifest(&plane.manifest);
        plane.sign_log(&plane.page(6));
        plane
    }

    fn put(&self, path: &str, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert(path.to_owned(), bytes);
    }

    fn sign(&self, path: &str, topic: Topic, text: String) {
        self.put(
            path,
            serde_json::to_vec(&Signed::new(topic, text, &self.signing)).unwrap(),
        );
    }

    fn sign_manifest(&self, manifest: &Manifest) {
        let text = serde_json::to_string(manifest).unwrap();
        self.sign("/v1/environments/Default/revision", Topic::Manifest, text);
    }

    fn sign_log(&self, page: &KeyPage) {
        let text = serde_json::to_string(page).unwrap();
        self.sign("/v1/environments/Default/keys/log", Topic::Keys, text);
    }

    fn page(&self, head: u64) -> KeyPage {
        KeyPage {
            environment: "Default".to_owned(),
            epoch: self.manifest.keys.epoch,
            after: 5,
            head,
            records: vec![KeyRecord {
                seq: 6,
                at_ms: 0,
                change: KeyChange::Del { hash: KeyHash([1; 16]) },
            }],
        }
    }

    fn export(&self, to: &Path) -> Result<Value, String> {
        match export(&self.double.remote(""), &["Default".to_owned()], to) {
            Ok(exported) => Ok(exported),
            Err(Failure::Failed(text) | Failure::Usage(text)) => Err(text),
            Err(Failure::Problem(problem)) => Err(problem.to_string()),
        }
    }
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(format!("/{}", path.strip_prefix(directory).unwrap().display()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_directory_has_the_paths_and_the_bytes_of_the_control_plane() {
    let plane = Plane::start();
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("new");
    // Twice: what is there is replaced.
    for _ in 0..2 {
        let exported = plane.export(&to).unwrap();
        assert_eq!(exported["items"][0]["seq"], 3);
        assert_eq!(exported["items"][0]["key_seq"], 6);
        let served = plane.files.lock().unwrap();
        let mut paths: Vec<String> = served.keys().cloned().collect();
        paths.sort();
        assert_eq!(files_below(&to), paths);
        for (path, bytes) in served.iter() {
            assert_eq!(
                &fs::read(to.join(path.trim_start_matches('/'))).unwrap(),
                bytes,
                "{path}"
            );
        }
    }
}

#[test]
fn what_does_not_hold_what_is_signed_is_not_written() {
    /// What is wrong, and how it comes about.
    type Spoiled = (&'static str, fn(&Plane));
    let spoiled: [Spoiled; 7] = [
        ("other bytes", |plane| {
            let mut bytes =
                plane.files.lock().unwrap()[&format!("/v1/blobs/{}", plane.manifest.snapshot.sha256)].clone();
            bytes[10] ^= 1;
            plane.put(&format!("/v1/blobs/{}", plane.manifest.snapshot.sha256), bytes);
        }),
        ("signature", |plane| {
            let (other, _) = SigningKey::generate().unwrap();
            let text = serde_json::to_string(&plane.manifest).unwrap();
            let mut signed = Signed::new(Topic::Manifest, text, &other);
            signed.key = plane.signing.public().id();
            plane.put(
                "/v1/environments/Default/revision",
                serde_json::to_vec(&signed).unwrap(),
            );
        }),
        ("of another environment", |plane| {
            plane.sign_manifest(&Manifest {
                environment: "Other".to_owned(),
                ..plane.manifest.clone()
            });
        }),
        ("has format 2", |plane| {
            plane.sign_manifest(&Manifest {
                schema: 2,
                ..plane.manifest.clone()
            });
        }),
        ("the root", |plane| {
            plane.sign_manifest(&Manifest {
                root: ContentHash::of(b"other"),
                ..plane.manifest.clone()
            });
        }),
        ("not the page", |plane| {
            plane.sign_log(&KeyPage {
                epoch: 1,
                ..plane.page(6)
            });
        }),
        ("more than one page", |plane| plane.sign_log(&plane.page(7))),
    ];
    for (expected, spoil) in spoiled {
        let plane = Plane::start();
        spoil(&plane);
        let directory = tempfile::tempdir().unwrap();
        let error = plane.export(directory.path()).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(files_below(directory.path()), [""; 0], "{expected}");
    }
}

#[test]
fn a_secret_in_clear_is_not_exported_and_a_reference_to_one_is() {
    for (secret, is_exported) in [("hush-hush", false), ("${cred:partner}", true)] {
        let mut plane = Plane::start();
        let mut content = Content::default();
        let introspection = json!({ "url": "https://i.example/", "client_id": "us", "client_secret": secret });
        let issuer = json!({ "name": "partner", "introspection": introspection });
        content.insert(Kind::Issuer, "partner", &issuer);
        let (snapshot, bytes) = content.to_snapshot().unwrap();
        plane.put(&format!("/v1/blobs/{}", snapshot.sha256), bytes);
        plane.manifest.snapshot = snapshot;
        plane.manifest.root = content.root();
        plane.sign_manifest(&plane.manifest);
        let directory = tempfile::tempdir().unwrap();
        match plane.export(directory.path()) {
            Ok(_) => assert!(is_exported),
            Err(error) => {
                assert!(!is_exported, "{error}");
                assert!(
                    error.contains("issuer \"partner\" has a secret in clear at introspection.client_secret"),
                    "{error}"
                );
                assert!(!error.contains(secret), "{error}");
                assert_eq!(files_below(directory.path()), [""; 0]);
            }
        }
    }
}

#[test]
fn an_environment_is_no_way_out_of_the_directory() {
    let plane = Plane::start();
    let directory = tempfile::tempdir().unwrap();
    for name in ["../../x", "..", ".x", "a/b", "a\\b"] {
        let result = export(&plane.double.remote(""), &[name.to_owned()], directory.path());
        assert!(matches!(result, Err(Failure::Usage(_))), "{name}");
    }
}
