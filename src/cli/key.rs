//! `tollgate key`

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::published::print_published;
use super::remote::{Failure, Part, Server, finish, show, strange};
use super::table::{cell, fact, hint_at_more, instant, items, plain, print_facts, print_table};
use super::{DONE, Output, print_json, print_line};
use crate::auth::key::record_line;
use crate::auth::new_key;
use crate::names::{ApplicationName, KeyId};
use crate::revision::KeyType;

/// Arguments of `key`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key. It is printed once; only the record, which holds its hash, is to be stored. With a control plane named
    /// by --server or TOLLGATE_SERVER, it is stored there, and gateways let it in within seconds.
    New(New),
    /// Keys of a control plane.
    List {
        /// Of this application only.
        #[arg(long)]
        application: Option<String>,
        /// Of this type only.
        #[arg(long = "type", value_enum)]
        key_type: Option<Type>,
        #[command(flatten)]
        part: Part,
    },
    /// One key of a control plane.
    Show {
        /// Its public name.
        id: String,
    },
    /// Have no gateway let a key in any more.
    Revoke {
        /// Its public name.
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct New {
    /// The application that the key is for.
    #[arg(long)]
    application: String,
    /// What it may be used for.
    #[arg(long = "type", value_enum, default_value_t = Type::Production)]
    key_type: Type,
    /// Its public name; made from the application's name when absent.
    #[arg(long)]
    id: Option<String>,
    /// Refused from this instant on (RFC 3339, such as 2027-01-01T00:00:00Z).
    #[arg(long)]
    expires: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    Production,
    Sandbox,
}

impl From<Type> for KeyType {
    fn from(key_type: Type) -> Self {
        match key_type {
            Type::Production => Self::Production,
            Type::Sandbox => Self::Sandbox,
        }
    }
}

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    if let Verb::New(new) = &args.verb
        && !args.server.is_named()
    {
        return offline(new, output);
    }
    let remote = args.server.remote()?;
    Ok(match &args.verb {
        Verb::New(new) => {
            let mut body = json!({ "type": KeyType::from(new.key_type).as_str() });
            if let Some(id) = &new.id {
                body["id"] = json!(id);
            }
            if let Some(expires) = new.expires()? {
                body["expires"] = json!(expires.to_string());
            }
            let made = remote.post(&["applications", &new.application, "keys"], &body)?;
            let Some(text) = made.get("key").and_then(Value::as_str) else {
                return Err(strange("a key without its text"));
            };
            show(output, &made, |made| {
                print_line(&format_args!(
                    "key {} (shown once, hand it to the client):",
                    plain(&cell(made, "id"))
                ));
                print_line(&format_args!("  {}", plain(text)));
            })
        }
        Verb::List {
            application,
            key_type,
            part,
        } => {
            let key_type = key_type.map(KeyType::from);
            let mut query: Vec<(&str, &str)> = Vec::new();
            query.extend(application.as_deref().map(|name| ("application", name)));
            query.extend(key_type.as_ref().map(|key_type| ("type", key_type.as_str())));
            let list = remote.list(&["keys"], &query, part)?;
            show(output, &list, |list| {
                let row = |key: &Value| {
                    let [id, application, key_type] = ["id", "application", "type"].map(|member| cell(key, member));
                    let [expires, revoked] = ["expires", "revoked"].map(|member| instant_or_dash(key, member));
                    vec![id, application, key_type, expires, revoked]
                };
                print_table(
                    &["ID", "APPLICATION", "TYPE", "EXPIRES", "REVOKED"],
                    items(list).map(row),
                );
                hint_at_more(list);
            })
        }
        Verb::Show { id } => {
            let key = remote.get(&["keys", id], &[])?.body;
            show(output, &key, |key| {
                print_facts(&[
                    ("id", fact(key, "id")),
                    ("application", fact(key, "application")),
                    ("type", fact(key, "type")),
                    ("created", instant(key, "created")),
                    ("expires", instant_or_dash(key, "expires")),
                    ("revoked", instant_or_dash(key, "revoked")),
                ]);
            })
        }
        Verb::Revoke { id } => {
            let gone = remote.delete(&["keys", id], &[])?;
            show(output, &gone, |gone| {
                print_line(&format_args!("key {} revoked", plain(id)));
                print_published(gone);
            })
        }
    })
}

impl New {
    fn expires(&self) -> Result<Option<jiff::Timestamp>, Failure> {
        self.expires
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|error: jiff::Error| {
                Failure::Usage(format!(
                    "--expires: {error}; write an instant such as 2027-01-01T00:00:00Z"
                ))
            })
    }
}

/// A key that no control plane knows: its record goes into a revision.
fn offline(args: &New, output: Output) -> Result<u8, Failure> {
    let expires = args.expires()?;
    let application = ApplicationName::from(args.application.as_str());
    let key_type = KeyType::from(args.key_type);
    let key = new_key(&application, key_type, args.id.as_deref().map(KeyId::from), expires)
        .map_err(|error| Failure::Failed(format!("no key: the operating system gave no randomness: {error}")))?;
    let record = record_line(&key.record).to_string();
    if output == Output::Json {
        return Ok(print_json(&json!({
            "application": application,
            "key": key.text.reveal(),
            "record": {
                "id": key.record.id,
                "sha256": hex(&key.record.sha256),
                "type": key_type.as_str(),
                "expires": key.record.expires.map(|expires| expires.to_string()),
            },
        })));
    }
    print_line(&format_args!(
        "key (shown once, hand it to the client):\n  {}\n",
        key.text.reveal()
    ));
    print_line(&format_args!(
        "record (for applications: {application}: keys: in the revision):\n  - {record}"
    ));
    Ok(DONE)
}

fn instant_or_dash(key: &Value, name: &str) -> String {
    match instant(key, name).as_str() {
        "" => "-".to_owned(),
        instant => instant.to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
