//! `tollgate revision`

mod export;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::published::{change_lines, print_published};
use super::remote::{Failure, Part, Server, finish, show};
use super::table::{cell, fact, hint_at_more, instant, items, plain, print_facts, print_table, short};
use super::{Output, input, print_line};

/// Arguments of `revision`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Publish a revision document to environments: to all of them, or to none.
    Publish {
        /// The document, as conf/revision.yaml; "-" is standard input.
        #[arg(short, long)]
        file: PathBuf,
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
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// The revisions of an environment, the newest first.
    List {
        /// Where.
        #[arg(short, long)]
        environment: String,
        #[command(flatten)]
        part: Part,
    },
    /// One revision, with its document.
    Show {
        /// Where.
        #[arg(short, long)]
        environment: String,
        /// Its number.
        seq: u64,
    },
    /// What changed from one revision to another.
    Diff {
        /// Where.
        #[arg(short, long)]
        environment: String,
        /// From this one,
        from: u64,
        /// to this one.
        to: u64,
    },
    /// Publish an old revision again, under a new number.
    Rollback {
        /// Where.
        #[arg(short, long)]
        environment: String,
        /// The number of the old one.
        seq: u64,
        /// Why.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Write what gateways fetch to a directory, from which any web server can serve it in the control plane's stead.
    ///
    /// What is written is confidential: it names upstreams, applications and hashes of keys. Let gateways read it, and
    /// nobody else.
    Export {
        /// Of these environments.
        #[arg(
            short,
            long = "environment",
            value_name = "ENVIRONMENT",
            value_delimiter = ',',
            required = true
        )]
        environments: Vec<String>,
        /// The directory; created if it is not there. What is there already is replaced file by file.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
}

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    let remote = args.server.remote()?;
    Ok(match &args.verb {
        Verb::Publish {
            file,
            environments,
            note,
            dry_run,
        } => {
            let (file, document) = input::read(file)?;
            let body = json!({
                "environments": environments, "document": document, "name": file, "note": note, "dry_run": dry_run,
            });
            let answer = remote.post(&["revisions"], &body)?;
            show(output, &answer, |answer| {
                if *dry_run {
                    print_line(&"dry run: nothing was published; this would be");
                }
                print_published(answer);
            })
        }
        Verb::List { environment, part } => {
            let list = remote.list(&["environments", environment, "revisions"], &[], part)?;
            show(output, &list, |list| {
                print_table(
                    &["SEQ", "ROOT", "ROUTES", "PUBLISHED", "AUTHOR", "NOTE"],
                    items(list).map(row),
                );
                hint_at_more(list);
            })
        }
        Verb::Show { environment, seq } => {
            let path = ["environments", environment, "revisions", &seq.to_string()];
            let revision = remote.get(&path, &[])?.body;
            show(output, &revision, |revision| facts(environment, revision))
        }
        Verb::Diff { environment, from, to } => {
            let [from, to] = [from, to].map(u64::to_string);
            let answer = remote
                .get(&["environments", environment, "diff"], &[("from", &from), ("to", &to)])?
                .body;
            show(output, &answer, |answer| {
                let changes = answer.get("differences").and_then(Value::as_array);
                let lines = change_lines(changes.into_iter().flatten());
                if lines.is_empty() {
                    print_line(&"no difference");
                }
                lines.iter().for_each(|line| print_line(&plain(line)));
            })
        }
        Verb::Rollback { environment, seq, note } => {
            let answer = remote.post(
                &["environments", environment, "rollback"],
                &json!({ "to": seq, "note": note }),
            )?;
            show(output, &answer, print_published)
        }
        Verb::Export { environments, to } => {
            let exported = export::export(&remote, environments, to)?;
            show(output, &exported, |exported| {
                for environment in items(exported) {
                    print_line(&format_args!(
                        "{}: revision {}, key log to {}, {} files in {}",
                        plain(&cell(environment, "environment")),
                        cell(environment, "seq"),
                        cell(environment, "key_seq"),
                        cell(environment, "files"),
                        to.display()
                    ));
                }
            })
        }
    })
}

fn row(revision: &Value) -> Vec<String> {
    vec![
        cell(revision, "seq"),
        short(&cell(revision, "root")),
        cell(revision, "routes"),
        instant(revision, "published"),
        cell(revision, "author"),
        note(revision),
    ]
}

fn facts(environment: &str, revision: &Value) {
    print_facts(&[
        ("environment", environment.to_owned()),
        ("revision", fact(revision, "seq")),
        ("root", fact(revision, "root")),
        ("routes", fact(revision, "routes")),
        ("published", instant(revision, "published")),
        ("author", fact(revision, "author")),
        ("rollback to", fact(revision, "rollback_of")),
        ("note", fact(revision, "note")),
    ]);
    match revision.get("document") {
        None | Some(Value::Null) => {}
        // A document of text stands as it is: its lines are what it is made of.
        Some(Value::String(document)) => {
            print_line(&"");
            document.lines().for_each(|line| print_line(&plain(line)));
        }
        Some(document) => {
            print_line(&"");
            if let Ok(text) = serde_json::to_string_pretty(document) {
                print_line(&text);
            }
        }
    }
}

/// Why; for a rollback of which nobody said why, to what.
fn note(revision: &Value) -> String {
    match (
        fact(revision, "note").as_str(),
        revision.get("rollback_of").and_then(Value::as_u64),
    ) {
        ("", Some(seq)) => format!("rollback to {seq}"),
        ("", None) => "-".to_owned(),
        (note, _) => note.to_owned(),
    }
}
