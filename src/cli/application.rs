//! `tollgate application`

use clap::Subcommand;
use serde_json::{Value, json};

use super::published::print_published;
use super::remote::{Failure, Part, Server, finish, show};
use super::table::{cell, fact, hint_at_more, items, plain, print_facts, print_table};
use super::{Output, print_line};

/// Arguments of `application`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create an application.
    Create {
        /// Its name.
        name: String,
        /// What its access tokens may be granted, as in orders:read; may be given several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// All applications.
    List(Part),
    /// One application.
    Show {
        /// Its name.
        name: String,
    },
    /// Let an application call an API under a plan; a subscription that is there gets this plan.
    Subscribe {
        /// Its name.
        name: String,
        /// What it may call.
        #[arg(long)]
        api: String,
        /// How often.
        #[arg(long)]
        plan: String,
    },
    /// Let an application not call an API any more.
    Unsubscribe {
        /// Its name.
        name: String,
        /// What it may not call any more.
        #[arg(long)]
        api: String,
    },
    /// Delete an application and revoke its keys.
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
        Verb::Create { name, scopes } => {
            let body = json!({ "name": name, "subscriptions": [], "scopes": scopes });
            let made = remote.post(&["applications"], &body)?;
            show(output, &made, |_| {
                print_line(&format_args!("application {} created", plain(name)));
            })
        }
        Verb::List(part) => {
            let list = remote.list(&["applications"], &[], part)?;
            show(output, &list, |list| {
                let row = |application| vec![cell(application, "name"), subscriptions(application)];
                print_table(&["NAME", "SUBSCRIPTIONS"], items(list).map(row));
                hint_at_more(list);
            })
        }
        Verb::Show { name } => {
            let application = remote.get(&["applications", name], &[])?.body;
            show(output, &application, |application| {
                print_facts(&[
                    ("name", fact(application, "name")),
                    ("subscriptions", subscriptions(application)),
                    ("scopes", scopes(application)),
                ]);
            })
        }
        Verb::Subscribe { name, api, plan } => {
            let path = ["applications", name, "subscriptions", api];
            let answer = remote.put(&path, &json!({ "plan": plan }), None)?;
            show(output, &answer, |answer| {
                let [name, api, plan] = [name, api, plan].map(|text| plain(text));
                print_line(&format_args!(
                    "application {name}: subscribed to {api} under plan {plan}"
                ));
                print_published(answer);
            })
        }
        Verb::Unsubscribe { name, api } => {
            let answer = remote.delete(&["applications", name, "subscriptions", api], &[])?;
            show(output, &answer, |answer| {
                print_line(&format_args!(
                    "application {}: not subscribed to {} any more",
                    plain(name),
                    plain(api)
                ));
                print_published(answer);
            })
        }
        Verb::Delete { name } => {
            let gone = remote.delete(&["applications", name], &[])?;
            show(output, &gone, |gone| {
                print_line(&format_args!("application {} deleted, its keys revoked", plain(name)));
                print_published(gone);
            })
        }
    })
}

/// `orders:read, orders:write`
fn scopes(application: &Value) -> String {
    let all = application.get("scopes").and_then(Value::as_array);
    let all: Vec<String> = all
        .into_iter()
        .flatten()
        .filter_map(|scope| scope.as_str().map(plain))
        .collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

/// `orders (gold), catalog (bronze)`
fn subscriptions(application: &Value) -> String {
    let all: Vec<String> = application
        .get("subscriptions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|subscription| format!("{} ({})", cell(subscription, "api"), cell(subscription, "plan")))
        .collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}
