//! `tollgate api`

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::published::print_published;
use super::remote::{Failure, Part, Remote, Server, finish, show, strange};
use super::table::{cell, fact, hint_at_more, instant, items, plain, print_facts, print_table};
use super::{Output, input, print_line};

/// Arguments of `api`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create an API; it has no revision yet.
    Create {
        /// Its name.
        name: String,
        /// What it is.
        #[arg(long)]
        description: Option<String>,
    },
    /// All APIs.
    List(Part),
    /// One API.
    Show {
        /// Its name.
        name: String,
    },
    /// Make a new revision of an API of a file. It is numbered and never changes.
    Publish {
        /// Its name.
        name: String,
        /// A piece of a revision document: this API, and the upstreams and issuers that it brings; "-" is standard input.
        #[arg(short, long)]
        file: PathBuf,
        /// Why.
        #[arg(long, default_value = "")]
        note: String,
        /// Environments to deploy it to at once.
        #[arg(long, value_name = "ENVIRONMENT", value_delimiter = ',')]
        deploy: Vec<String>,
    },
    /// The revisions of an API.
    Revisions {
        /// Its name.
        name: String,
        #[command(flatten)]
        part: Part,
    },
    /// Deploy a revision to environments: to all of them, or to none.
    Deploy {
        /// Its name.
        name: String,
        /// Which revision of the API.
        #[arg(long, value_name = "N")]
        revision: u64,
        /// Where.
        #[arg(
            short,
            long = "environment",
            value_name = "ENVIRONMENT",
            value_delimiter = ',',
            required = true
        )]
        environments: Vec<String>,
        /// Why.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Take an API away from environments: from all of them, or from none.
    Undeploy {
        /// Its name.
        name: String,
        /// Where.
        #[arg(
            short,
            long = "environment",
            value_name = "ENVIRONMENT",
            value_delimiter = ',',
            required = true
        )]
        environments: Vec<String>,
    },
    /// Delete an API that is deployed nowhere.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    let remote = args.server.remote()?;
    Ok(match &args.verb {
        Verb::Create { name, description } => {
            let mut body = json!({ "name": name });
            if let Some(description) = description {
                body["description"] = json!(description);
            }
            let made = remote.post(&["apis"], &body)?;
            show(output, &made, |_| {
                print_line(&format_args!("api {} created", plain(name)));
            })
        }
        Verb::List(part) => {
            let list = remote.list(&["apis"], &[], part)?;
            show(output, &list, |list| {
                let row = |api| {
                    let [name, latest] = ["name", "latest"].map(|member| cell(api, member));
                    vec![name, latest, deployed(api), cell(api, "description")]
                };
                print_table(&["NAME", "LATEST", "DEPLOYED", "DESCRIPTION"], items(list).map(row));
                hint_at_more(list);
            })
        }
        Verb::Show { name } => {
            let api = remote.get(&["apis", name], &[])?.body;
            show(output, &api, |api| {
                print_facts(&[
                    ("name", fact(api, "name")),
                    ("description", fact(api, "description")),
                    ("latest", cell(api, "latest")),
                    ("deployed", deployed(api)),
                ]);
            })
        }
        Verb::Publish {
            name,
            file,
            note,
            deploy,
        } => {
            let (file, document) = input::read(file)?;
            let made = remote.post(
                &["apis", name, "revisions"],
                &json!({ "document": document, "name": file, "note": note }),
            )?;
            let Some(revision) = made.get("number").and_then(Value::as_u64) else {
                return Err(strange("a revision of an API without a number"));
            };
            if deploy.is_empty() {
                return Ok(show(output, &made, |_| say_made(name, revision)));
            }
            if output == Output::Text {
                // Before the deployment, which may be refused: the revision stays.
                say_made(name, revision);
            }
            let mut both = made;
            both["deployment"] = deployment(&remote, name, revision, deploy, note)?;
            show(output, &both, |both| {
                both.get("deployment").map(print_published);
            })
        }
        Verb::Revisions { name, part } => {
            let list = remote.list(&["apis", name, "revisions"], &[], part)?;
            show(output, &list, |list| {
                let row = |revision| {
                    let [number, author, note] = ["number", "author", "note"].map(|member| cell(revision, member));
                    vec![number, instant(revision, "created_ms"), author, note]
                };
                print_table(&["REVISION", "CREATED", "AUTHOR", "NOTE"], items(list).map(row));
                hint_at_more(list);
            })
        }
        Verb::Deploy {
            name,
            revision,
            environments,
            note,
        } => {
            let answer = deployment(&remote, name, *revision, environments, note)?;
            show(output, &answer, print_published)
        }
        Verb::Undeploy { name, environments } => {
            let answer = remote.post(&["apis", name, "undeploy"], &json!({ "environments": environments }))?;
            show(output, &answer, print_published)
        }
        Verb::Delete { name } => {
            let gone = remote.delete(&["apis", name], &[])?;
            show(output, &gone, |_| {
                print_line(&format_args!("api {} deleted", plain(name)));
            })
        }
    })
}

fn deployment(
    remote: &Remote,
    name: &str,
    revision: u64,
    environments: &[String],
    note: &str,
) -> Result<Value, Failure> {
    remote.post(
        &["apis", name, "revisions", &revision.to_string(), "deploy"],
        &json!({ "environments": environments, "note": note }),
    )
}

fn say_made(name: &str, revision: u64) {
    print_line(&format_args!("api {}: revision {revision}", plain(name)));
}

/// `Production 3, Sandbox 4`
fn deployed(api: &Value) -> String {
    let places: Vec<String> = api
        .get("deployed")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(environment, revision)| format!("{environment} {revision}"))
        .collect();
    if places.is_empty() {
        "-".to_owned()
    } else {
        places.join(", ")
    }
}
