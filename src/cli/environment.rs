//! `tollgate environment`

use clap::{ArgAction, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::published::print_published;
use super::remote::{Failure, Part, Server, finish, show};
use super::table::{cell, fact, hint_at_more, items, plain, print_facts, print_table};
use super::{Output, print_line};

/// Arguments of `environment`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create an environment.
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// All environments.
    List(Part),
    /// One environment.
    Show {
        /// Its name.
        name: String,
    },
    /// Change what is named; everything else stays.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        fields: Fields,
    },
    /// Delete an environment.
    Delete {
        /// Its name.
        name: String,
        /// Also when gateways serve it.
        #[arg(long)]
        force: bool,
    },
}

/// What an environment is, as far as it was said.
#[derive(Debug, clap::Args)]
struct Fields {
    /// Which keys it lets in [default: hybrid].
    #[arg(long = "type", value_enum)]
    kind: Option<Type>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// Its public address; nothing ("") takes it away.
    #[arg(long, value_name = "URL")]
    http: Option<String>,
    /// Its public address with TLS; nothing ("") takes it away.
    #[arg(long, value_name = "URL")]
    https: Option<String>,
    /// A label; may be repeated. All of them are replaced; nothing ("") takes them away.
    #[arg(long = "label", value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// A role that it is shown to; may be repeated. Without any, to everybody.
    #[arg(long = "allow", value_name = "ROLE", value_delimiter = ',')]
    allow: Vec<String>,
    /// A role that it is hidden from; may be repeated.
    #[arg(long = "deny", value_name = "ROLE", value_delimiter = ',')]
    deny: Vec<String>,
    /// Whether it is in the catalogue [default: true].
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    in_catalogue: Option<bool>,
    /// Whether the catalogue shows where tokens are issued [default: true].
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    token_endpoint_shown: Option<bool>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    /// Keys of both types.
    Hybrid,
    /// Production keys only.
    Production,
    /// Sandbox keys only.
    Sandbox,
}

/// What can be written; the rest of an environment is only shown.
const WRITABLE: [&str; 8] = [
    "name",
    "type",
    "description",
    "endpoints",
    "labels",
    "visibility",
    "in_catalogue",
    "token_endpoint_shown",
];

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    let remote = args.server.remote()?;
    Ok(match &args.verb {
        Verb::Create { name, fields } => {
            let mut body = Map::from_iter([("name".to_owned(), json!(name)), ("type".to_owned(), json!("hybrid"))]);
            fields.write(&mut body);
            let made = remote.post(&["environments"], &Value::Object(body))?;
            show(output, &made, |made| say(made, name, "created"))
        }
        Verb::List(part) => {
            let list = remote.list(&["environments"], &[], part)?;
            show(output, &list, |list| {
                print_table(
                    &["NAME", "TYPE", "REVISION", "HTTP", "HTTPS", "LABELS", "DESCRIPTION"],
                    items(list).map(row),
                );
                hint_at_more(list);
            })
        }
        Verb::Show { name } => {
            let environment = remote.get(&["environments", name], &[])?.body;
            show(output, &environment, facts)
        }
        Verb::Update { name, fields } => {
            let before = remote.get(&["environments", name], &[])?;
            let mut body = before.body.as_object().cloned().unwrap_or_default();
            body.retain(|field, _| WRITABLE.contains(&field.as_str()));
            fields.write(&mut body);
            let path = ["environments", name.as_str()];
            let after = remote.put(&path, &Value::Object(body), before.etag.as_ref())?;
            show(output, &after, |after| say(after, name, "updated"))
        }
        Verb::Delete { name, force } => {
            let query: &[(&str, &str)] = if *force { &[("force", "true")] } else { &[] };
            let gone = remote.delete(&["environments", name], query)?;
            show(output, &gone, |gone| say(gone, name, "deleted"))
        }
    })
}

impl Fields {
    /// Puts what was said into an environment.
    fn write(&self, body: &mut Map<String, Value>) {
        let kind = self.kind.map(|kind| match kind {
            Type::Hybrid => "hybrid",
            Type::Production => "production",
            Type::Sandbox => "sandbox",
        });
        let said = [
            ("type", kind.map(|kind| json!(kind))),
            ("description", self.description.as_ref().map(|text| json!(text))),
            ("labels", names(&self.labels)),
            ("in_catalogue", self.in_catalogue.map(|shown| json!(shown))),
            (
                "token_endpoint_shown",
                self.token_endpoint_shown.map(|shown| json!(shown)),
            ),
        ];
        body.extend(
            said.into_iter()
                .filter_map(|(field, value)| Some((field.to_owned(), value?))),
        );
        let url = |url: &Option<String>| url.as_ref().map(|url| text_or_nothing(url));
        write_into(
            body,
            "endpoints",
            [("http", url(&self.http)), ("https", url(&self.https))],
        );
        write_into(
            body,
            "visibility",
            [("allow", names(&self.allow)), ("deny", names(&self.deny))],
        );
    }
}

/// Puts what was said into an object within the object.
fn write_into(body: &mut Map<String, Value>, name: &str, said: [(&str, Option<Value>); 2]) {
    for (field, value) in said {
        let Some(value) = value else { continue };
        let inner = body.entry(name).or_insert_with(|| json!({}));
        if let Some(inner) = inner.as_object_mut() {
            inner.insert(field.to_owned(), value);
        }
    }
}

/// A list, if anything was said; a list of nothing is an empty one.
fn names(given: &[String]) -> Option<Value> {
    let names: Vec<&String> = given.iter().filter(|name| !name.is_empty()).collect();
    (!given.is_empty()).then(|| json!(names))
}

fn text_or_nothing(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

/// Says what was done, and what was published because of it.
fn say(answer: &Value, name: &str, done: &str) {
    print_line(&format_args!("environment {} {done}", plain(name)));
    print_published(answer);
}

fn row(environment: &Value) -> Vec<String> {
    let endpoint = |name| environment.get("endpoints").map_or("-".to_owned(), |of| cell(of, name));
    vec![
        cell(environment, "name"),
        cell(environment, "type"),
        cell(environment, "revision"),
        endpoint("http"),
        endpoint("https"),
        cell(environment, "labels"),
        cell(environment, "description"),
    ]
}

fn facts(environment: &Value) {
    let inner = |name, member| environment.get(name).map(|of| fact(of, member)).unwrap_or_default();
    print_facts(&[
        ("name", fact(environment, "name")),
        ("type", fact(environment, "type")),
        ("description", fact(environment, "description")),
        ("revision", cell(environment, "revision")),
        ("http", inner("endpoints", "http")),
        ("https", inner("endpoints", "https")),
        ("labels", fact(environment, "labels")),
        ("shown to", inner("visibility", "allow")),
        ("hidden from", inner("visibility", "deny")),
        ("in catalogue", fact(environment, "in_catalogue")),
        ("token endpoint shown", fact(environment, "token_endpoint_shown")),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        fields: Fields,
    }

    fn written(before: Value, line: &[&str]) -> Value {
        let fields = Line::parse_from([&["x"], line].concat()).fields;
        let mut body = before.as_object().cloned().unwrap();
        fields.write(&mut body);
        Value::Object(body)
    }

    #[test]
    fn an_update_changes_what_was_said_and_nothing_else() {
        let before =
            json!({ "type": "hybrid", "labels": ["a", "b"], "endpoints": { "http": "http://a", "https": null } });
        assert_eq!(written(before.clone(), &[]), before);
        assert_eq!(
            written(
                before.clone(),
                &["--type", "sandbox", "--https", "https://a", "--deny", "guest"]
            ),
            json!({ "type": "sandbox", "labels": ["a", "b"],
                    "endpoints": { "http": "http://a", "https": "https://a" }, "visibility": { "deny": ["guest"] } })
        );
        assert_eq!(
            written(before, &["--label", "", "--http", "", "--in-catalogue", "false"]),
            json!({ "type": "hybrid", "labels": [], "endpoints": { "http": null, "https": null }, "in_catalogue": false })
        );
    }
}
