//! `tollgate pool`

use std::str::FromStr;

use clap::Subcommand;
use serde_json::{Value, json};

use super::remote::{Failure, Part, Server, finish, show};
use super::table::{cell, hint_at_more, items, plain, print_table};
use super::{Output, print_line};

/// Arguments of `pool`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a pool.
    Create {
        /// Its name.
        name: String,
        /// How many gateways may be in it at a time, or none for any number.
        #[arg(long, value_name = "N", default_value = "none")]
        max: Max,
    },
    /// All pools.
    List(Part),
    /// Say how many gateways may be in a pool. Fewer than there are stops nobody; nobody new is let in.
    SetMaxInstances {
        /// Its name.
        name: String,
        /// A number, or none for any number.
        #[arg(value_name = "N")]
        max: Max,
    },
    /// Delete a pool.
    Delete {
        /// Its name.
        name: String,
    },
}

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Max(Option<u32>);

impl FromStr for Max {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(max) => Ok(Self(Some(max))),
                Err(_) => Err("write a whole number, or none for any number".to_owned()),
            },
        }
    }
}

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    let remote = args.server.remote()?;
    Ok(match &args.verb {
        Verb::Create { name, max } => {
            let made = remote.post(&["pools"], &json!({ "name": name, "max_instances": max.0 }))?;
            show(output, &made, |pool| say(pool, name))
        }
        Verb::List(part) => {
            let list = remote.list(&["pools"], &[], part)?;
            show(output, &list, |list| {
                let row = |pool: &Value| {
                    let [name, live, over] = ["name", "live", "over_by"].map(|member| cell(pool, member));
                    vec![name, live, limit(pool), over]
                };
                print_table(&["NAME", "LIVE", "MAX", "OVER BY"], items(list).map(row));
                hint_at_more(list);
            })
        }
        Verb::SetMaxInstances { name, max } => {
            let before = remote.get(&["pools", name], &[])?;
            let body = json!({ "name": name, "max_instances": max.0 });
            let after = remote.put(&["pools", name], &body, before.etag.as_ref())?;
            show(output, &after, |pool| say(pool, name))
        }
        Verb::Delete { name } => {
            let gone = remote.delete(&["pools", name], &[])?;
            show(output, &gone, |_| {
                print_line(&format_args!("pool {} deleted", plain(name)));
            })
        }
    })
}

fn say(pool: &Value, name: &str) {
    let over = match pool.get("over_by").and_then(Value::as_u64) {
        None | Some(0) => String::new(),
        Some(over) => format!("; {over} too many, which go on; nobody new is let in"),
    };
    print_line(&format_args!(
        "pool {}: max instances {}, {} live{over}",
        plain(name),
        limit(pool),
        plain(&cell(pool, "live"))
    ));
}

fn limit(pool: &Value) -> String {
    match cell(pool, "max_instances").as_str() {
        "-" => "none".to_owned(),
        max => max.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_has_to_be_said() {
        assert_eq!("none".parse(), Ok(Max(None)));
        assert_eq!("0".parse(), Ok(Max(Some(0))));
        assert_eq!("12".parse(), Ok(Max(Some(12))));
        for text in ["", "-1", "no", "1.5", "4294967296"] {
            assert!(text.parse::<Max>().is_err(), "{text}");
        }
    }
}
