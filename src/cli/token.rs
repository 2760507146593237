//! `tollgate token`

use clap::Subcommand;
use serde_json::{Value, json};

use super::remote::{Failure, Part, Server, finish, show, strange};
use super::table::{cell, hint_at_more, instant, items, plain, print_table};
use super::{Output, print_line};

/// Arguments of `token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token. It is shown once.
    New {
        /// A right; may be repeated: admin, read, gateway, introspect, environments:write, apis:write, plans:write,
        /// applications:write, keys:write, revisions:publish, pools:write, gateways:write, tokens:write.
        #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        /// What it may publish to and fetch from; may be repeated. Without any, every environment.
        #[arg(short, long = "environment", value_name = "ENVIRONMENT", value_delimiter = ',')]
        environments: Vec<String>,
        /// A role of who holds it; may be repeated. Without any, yours.
        #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
        roles: Vec<String>,
        /// What it is for.
        #[arg(long, default_value = "")]
        note: String,
        /// Refused from this instant on (RFC 3339, such as 2027-01-01T00:00:00Z).
        #[arg(long, value_name = "INSTANT")]
        expires: Option<jiff::Timestamp>,
    },
    /// All tokens; their texts are nowhere.
    List(Part),
    /// Revoke a token.
    Revoke {
        /// Its id.
        id: String,
    },
}

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    let remote = args.server.remote()?;
    Ok(match &args.verb {
        Verb::New {
            scopes,
            environments,
            roles,
            note,
            expires,
        } => {
            let mut body = json!({ "scopes": scopes, "environments": environments, "note": note });
            if !roles.is_empty() {
                body["roles"] = json!(roles);
            }
            if let Some(expires) = expires {
                body["expires"] = json!(expires.to_string());
            }
            let made = remote.post(&["tokens"], &body)?;
            let Some(text) = made.get("token").and_then(Value::as_str) else {
                return Err(strange("a token without its text"));
            };
            show(output, &made, |made| {
                print_line(&format_args!("token {} (shown once):", plain(&cell(made, "id"))));
                print_line(&format_args!("  {}", plain(text)));
            })
        }
        Verb::List(part) => {
            let list = remote.list(&["tokens"], &[], part)?;
            show(output, &list, |list| {
                let row = |token: &Value| {
                    let mut row: Vec<String> = ["id", "scopes", "environments", "roles"]
                        .map(|member| cell(token, member))
                        .to_vec();
                    row.push(match instant(token, "expires").as_str() {
                        "" => "-".to_owned(),
                        instant => instant.to_owned(),
                    });
                    row.push(cell(token, "note"));
                    row
                };
                print_table(
                    &["ID", "SCOPES", "ENVIRONMENTS", "ROLES", "EXPIRES", "NOTE"],
                    items(list).map(row),
                );
                hint_at_more(list);
            })
        }
        Verb::Revoke { id } => {
            let gone = remote.delete(&["tokens", id], &[])?;
            show(output, &gone, |_| {
                print_line(&format_args!("token {} revoked", plain(id)));
            })
        }
    })
}
