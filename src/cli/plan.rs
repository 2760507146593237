//! `tollgate plan`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::published::print_published;
use super::remote::{Failure, Part, Remote, Server, finish, show};
use super::table::{cell, fact, hint_at_more, items, plain, print_facts, print_table};
use super::{Output, input, print_line};
use crate::document::{Document, Environment};

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create or replace plans.
    Apply {
        /// A plan or a list of them, as under `plans:` of a revision, in YAML or JSON; "-" is standard input.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// All plans.
    List(Part),
    /// One plan.
    Show {
        /// Its name.
        name: String,
    },
    /// Delete a plan that nobody is subscribed under.
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
        Verb::Apply { file } => {
            let plans = plans(file)?;
            let mut answers = Vec::new();
            for (name, plan) in &plans {
                let (answer, done) = apply(&remote, name, plan)?;
                if output == Output::Text {
                    print_line(&format_args!("plan {} {done}", plain(name)));
                    print_published(&answer);
                }
                answers.push(answer);
            }
            show(output, &json!({ "items": answers }), |_| ())
        }
        Verb::List(part) => {
            let list = remote.list(&["plans"], &[], part)?;
            show(output, &list, |list| {
                print_table(
                    &["NAME", "LIMITS"],
                    items(list).map(|plan| vec![cell(plan, "name"), limits(plan)]),
                );
                hint_at_more(list);
            })
        }
        Verb::Show { name } => {
            let plan = remote.get(&["plans", name], &[])?.body;
            show(output, &plan, |plan| {
                print_facts(&[("name", fact(plan, "name"))]);
                for limit in plan.get("limits").and_then(Value::as_array).into_iter().flatten() {
                    print_facts(&[("limit", limit.to_string())]);
                }
            })
        }
        Verb::Delete { name } => {
            let gone = remote.delete(&["plans", name], &[])?;
            show(output, &gone, |_| {
                print_line(&format_args!("plan {} deleted", plain(name)));
            })
        }
    })
}

/// Creates a plan or replaces it, and tells which.
fn apply(remote: &Remote, name: &str, plan: &Value) -> Result<(Value, &'static str), Failure> {
    match remote.get(&["plans", name], &[]) {
        Ok(before) => Ok((remote.put(&["plans", name], plan, before.etag.as_ref())?, "replaced")),
        Err(Failure::Problem(problem)) if problem.is_not_found() => Ok((remote.post(&["plans"], plan)?, "created")),
        Err(failure) => Err(failure),
    }
}

/// The plans of a file, by their names.
fn plans(path: &Path) -> Result<Vec<(String, Value)>, Failure> {
    let (file, text) = input::read(path)?;
    let parsed = Document::parse(&text, &file, &Environment::of_process()).and_then(|mut document| {
        let (value, _) = document.decode::<Value>();
        document.report.finish().map(|_| value)
    });
    let value = parsed.map_err(|mistakes| Failure::Failed(mistakes.to_string()))?;
    // The list of a revision document is taken as it stands, so that it can be cut out together with its key.
    let list = match value {
        Some(Value::Array(list)) => list,
        Some(Value::Object(mut object)) if object.len() == 1 && object.contains_key("plans") => {
            match object.remove("plans") {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            }
        }
        Some(plan) => vec![plan],
        None => Vec::new(),
    };
    if list.is_empty() {
        return Err(Failure::Failed(format!("{file}: there is no plan in it")));
    }
    list.into_iter()
        .enumerate()
        .map(|(position, plan)| match plan.get("name").and_then(Value::as_str) {
            Some(name) => Ok((name.to_owned(), plan)),
            None => Err(Failure::Failed(format!(
                "{file}: plan {} has no name; a plan is {{ name: gold, limits: [{{ name: minute, rate: 5000/m }}] }}",
                position + 1
            ))),
        })
        .collect()
}

/// `burst 200/s, minute 5000/m`
fn limits(plan: &Value) -> String {
    let all: Vec<String> = plan
        .get("limits")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|limit| format!("{} {}", cell(limit, "name"), cell(limit, "rate")))
        .collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans_of(text: &str) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plans.yaml");
        std::fs::write(&path, text).unwrap();
        match plans(&path) {
            Ok(plans) => Ok(plans.into_iter().map(|(name, _)| name).collect()),
            Err(Failure::Failed(text)) => Err(text),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_holds_one_plan_or_a_list_of_them() {
        let one = "{ name: gold, limits: [] }";
        assert_eq!(plans_of(one), Ok(vec!["gold".to_owned()]));
        for list in [
            format!("- {one}\n- {{ name: tin, limits: [] }}"),
            format!("plans: [{one}, {{ name: tin }}]"),
        ] {
            assert_eq!(plans_of(&list), Ok(vec!["gold".to_owned(), "tin".to_owned()]), "{list}");
        }
        assert!(plans_of("[]").unwrap_err().ends_with("there is no plan in it"));
        assert!(plans_of("- limits: []").unwrap_err().contains("plan 1 has no name"));
        assert!(plans_of("name: [").unwrap_err().contains("plans.yaml:"));
    }
}
