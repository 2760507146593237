//! `tollgate gateway`

use clap::Subcommand;
use serde_json::{Value, json};

use super::remote::{Failure, Part, Server, finish, show};
use super::table::{cell, fact, hint_at_more, instant, items, plain, print_facts, print_table, short};
use super::{Output, print_line};

/// Arguments of `gateway`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All gateways: what they serve, and whether that is what they should.
    List {
        /// Of this pool only.
        #[arg(long)]
        pool: Option<String>,
        /// Of this environment only.
        #[arg(short, long)]
        environment: Option<String>,
        #[command(flatten)]
        part: Part,
    },
    /// One gateway.
    Show {
        /// Its id or name.
        id: String,
    },
    /// Have a gateway leave gracefully.
    Drain {
        /// Its id or name.
        id: String,
    },
    /// Free the seat of a gateway that is gone for good.
    Forget {
        /// Its id or name.
        id: String,
    },
}

const HEADER: [&str; 12] = [
    "NAME",
    "ENVIRONMENT",
    "POOL",
    "STATE",
    "REVISION",
    "LATEST",
    "DRIFT",
    "REQ/S",
    "ERRORS",
    "P99",
    "SEEN",
    "ID",
];

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    let remote = args.server.remote()?;
    Ok(match &args.verb {
        Verb::List {
            pool,
            environment,
            part,
        } => {
            let wanted = [("pool", pool), ("environment", environment)];
            let query: Vec<(&str, &str)> = wanted
                .iter()
                .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
                .collect();
            let list = remote.list(&["gateways"], &query, part)?;
            show(output, &list, |list| {
                print_table(&HEADER, items(list).map(row));
                hint_at_more(list);
            })
        }
        Verb::Show { id } => {
            let gateway = remote.get(&["gateways", id], &[])?.body;
            show(output, &gateway, facts)
        }
        Verb::Drain { id } => {
            let answer = remote.post(&["gateways", id, "drain"], &json!({}))?;
            show(output, &answer, |_| {
                print_line(&format_args!(
                    "gateway {}: asked to leave, with its next heartbeat",
                    plain(id)
                ));
            })
        }
        Verb::Forget { id } => {
            let gone = remote.delete(&["gateways", id], &[])?;
            show(output, &gone, |_| {
                print_line(&format_args!("gateway {} forgotten, its seat is free", plain(id)));
            })
        }
    })
}

fn row(gateway: &Value) -> Vec<String> {
    vec![
        cell(gateway, "name"),
        cell(gateway, "environment"),
        cell(gateway, "pool"),
        cell(gateway, "state"),
        applied(gateway).0,
        cell(gateway, "latest_seq"),
        drift(gateway),
        number(gateway, "requests_per_second", 1.0, ""),
        number(gateway, "errors", 100.0, "%"),
        number(gateway, "p99_ms", 1.0, "ms"),
        instant(gateway, "seen"),
        cell(gateway, "id"),
    ]
}

fn facts(gateway: &Value) {
    let (seq, root) = applied(gateway);
    let refused = gateway.get("refused").filter(|refused| refused.is_object());
    print_facts(&[
        ("id", fact(gateway, "id")),
        ("name", fact(gateway, "name")),
        ("pool", fact(gateway, "pool")),
        ("environment", fact(gateway, "environment")),
        ("labels", fact(gateway, "labels")),
        ("zone", fact(gateway, "zone")),
        ("version", fact(gateway, "version")),
        ("state", fact(gateway, "state")),
        ("serves", format!("{seq} {}", short(&root)).trim_end().to_owned()),
        ("latest", fact(gateway, "latest_seq")),
        ("drift", fact(gateway, "drift")),
        (
            "refused",
            refused.map(|refused| cell(refused, "seq")).unwrap_or_default(),
        ),
        (
            "  code",
            refused.map(|refused| fact(refused, "code")).unwrap_or_default(),
        ),
        (
            "  because",
            refused.map(|refused| fact(refused, "message")).unwrap_or_default(),
        ),
        ("requests per second", number(gateway, "requests_per_second", 1.0, "")),
        ("errors", number(gateway, "errors", 100.0, "%")),
        ("p99", number(gateway, "p99_ms", 1.0, "ms")),
        ("redis", fact(gateway, "redis")),
        ("key log", fact(gateway, "key_seq")),
        ("behind by", fact(gateway, "key_lag")),
        ("since", instant(gateway, "since")),
        ("seen", instant(gateway, "seen")),
    ]);
}

/// Number and root of what it serves.
fn applied(gateway: &Value) -> (String, String) {
    match gateway.get("applied").filter(|applied| applied.is_object()) {
        Some(applied) => (cell(applied, "seq"), fact(applied, "root")),
        None => ("-".to_owned(), String::new()),
    }
}

/// `in_sync`, `behind`, `drift`, or `refused 7: unsupported`.
fn drift(gateway: &Value) -> String {
    match gateway.get("refused").filter(|refused| refused.is_object()) {
        Some(refused) if gateway.get("drift").and_then(Value::as_str) == Some("refused") => {
            format!("refused {}: {}", cell(refused, "seq"), cell(refused, "code"))
        }
        _ => cell(gateway, "drift"),
    }
}

/// `12.5%`, or `-` for what it has not said.
fn number(gateway: &Value, name: &str, times: f64, unit: &str) -> String {
    match gateway.get(name).and_then(Value::as_f64) {
        Some(value) => format!("{:.1}{unit}", value * times),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_what_a_gateway_serves_and_why_it_is_not_the_newest() {
        let gateway = json!({
            "id": "00ff", "name": "gw-1", "pool": "default", "environment": "Production", "state": "alive",
            "applied": { "seq": 6, "root": "ab" }, "latest_seq": 7, "drift": "refused",
            "refused": { "seq": 7, "code": "unsupported", "message": "it requires \"x\"" },
            "requests_per_second": 12.25, "errors": 0.005, "p99_ms": 3.0, "seen": "2027-01-01T00:00:00Z",
        });
        assert_eq!(
            row(&gateway),
            [
                "gw-1",
                "Production",
                "default",
                "alive",
                "6",
                "7",
                "refused 7: unsupported",
                "12.2",
                "0.5%",
                "3.0ms",
                "2027-01-01T00:00:00Z",
                "00ff"
            ]
        );
        let silent = json!({ "id": "00ff", "name": "gw-1", "applied": null, "refused": null, "drift": "behind" });
        assert_eq!(row(&silent)[4..=7], ["-", "-", "behind", "-"]);
    }
}
