//! `tollgate cache`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::remote::{Failure, Remote, Server, finish, show};
use super::table::{fact, print_facts};
use super::{Output, print_line};
use crate::cache::order::{Order, RouteName};
use crate::config;
use crate::document::{Environment, Secret};

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    gateway: Gateway,
    #[command(subcommand)]
    verb: Verb,
}

/// The admin listener of one gateway.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "One gateway")]
struct Gateway {
    /// Its admin listener, such as <http://127.0.0.1:7096>.
    #[arg(
        long,
        global = true,
        env = "TOLLGATE_GATEWAY",
        value_name = "URL",
        conflicts_with = "config"
    )]
    gateway: Option<String>,
    /// Its admin token. Others on this machine can see a command line: better in the environment.
    #[arg(
        long,
        global = true,
        env = "TOLLGATE_ADMIN_TOKEN",
        hide_env_values = true,
        value_name = "TEXT"
    )]
    admin_token: Option<Secret>,
    /// Its bootstrap file, which has both.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Have kept answers forgotten: by the gateways of an environment, or by one gateway, which tells the others if it can.
    Invalidate {
        /// The environment whose gateways forget; without it, one gateway is asked.
        #[arg(short, long)]
        environment: Option<String>,
        /// All answers.
        #[arg(long)]
        all: bool,
        /// All variants of this URL.
        #[arg(long, value_name = "URL")]
        url: Vec<String>,
        /// Everything whose path begins so, as a path or as a URL.
        #[arg(long, value_name = "PATH")]
        prefix: Vec<String>,
        /// Everything with this tag (Cache-Tag, Surrogate-Key).
        #[arg(long)]
        tag: Vec<String>,
        /// What was answered to this application, key or subject.
        #[arg(long)]
        user: Vec<String>,
        /// All answers of this API.
        #[arg(long)]
        api: Vec<String>,
        /// All answers of this route of the API that is named once by --api: its whole pattern.
        #[arg(long, value_name = "PATTERN")]
        route: Vec<String>,
    },
    /// What one gateway keeps, and how often it was of use.
    Show,
}

/// Does what was asked.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    match &args.verb {
        Verb::Show => {
            let facts = args.gateway.remote()?.get(&["cache"], &[])?.body;
            Ok(show(output, &facts, |facts| {
                let number = |pointer: &str| facts.pointer(pointer).map_or_else(|| "-".to_owned(), Value::to_string);
                let ratio = facts.pointer("/requests/hit_ratio").and_then(Value::as_f64);
                print_facts(&[
                    ("entries", number("/memory/entries")),
                    (
                        "bytes",
                        format!("{} of {}", number("/memory/bytes"), number("/memory/budget_bytes")),
                    ),
                    (
                        "requests",
                        format!(
                            "{} of {} answered from it",
                            number("/requests/hits"),
                            number("/requests/asked")
                        ),
                    ),
                    (
                        "hit ratio",
                        ratio.map_or("-".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0)),
                    ),
                    ("evictions", number("/memory/evictions")),
                    ("spread", ways(facts)),
                ]);
            }))
        }
        Verb::Invalidate {
            environment,
            all,
            url,
            prefix,
            tag,
            user,
            api,
            route,
        } => {
            let order = Order {
                all: *all,
                urls: url.clone(),
                prefixes: prefix.clone(),
                tags: tag.clone(),
                users: user.clone(),
                ..routes(api, route)?
            };
            // What can not be read is said before anybody is asked.
            order.items().map_err(|why| {
                let why = if order.is_empty() {
                    "nothing is named; write --all, --url, --prefix, --tag, --user or --api".to_owned()
                } else {
                    why
                };
                Failure::Usage(why)
            })?;
            let body = json!(order);
            let answer = match environment {
                Some(environment) => {
                    let path = ["environments", environment.as_str(), "cache", "invalidations"];
                    args.server.remote()?.post(&path, &body)?
                }
                None => args.gateway.remote()?.post(&["cache", "invalidate"], &body)?,
            };
            Ok(show(output, &answer, |answer| {
                match environment {
                    Some(environment) => print_line(&format_args!(
                        "invalidation {} is on its way to the gateways of {environment}",
                        fact(answer, "seq")
                    )),
                    None => print_line(&format_args!(
                        "forgotten; other gateways are told by: {}",
                        fact(answer, "spread")
                    )),
                }
                for unknown in answer
                    .get("unknown_here")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                {
                    print_line(&format_args!(
                        "the gateway's revision has no {}",
                        unknown.as_str().unwrap_or_default()
                    ));
                }
                if let Some(hint) = answer.get("hint").and_then(Value::as_str) {
                    print_line(&hint);
                }
            }))
        }
    }
}

/// The APIs and routes of an order.
fn routes(apis: &[String], routes: &[String]) -> Result<Order, Failure> {
    if routes.is_empty() {
        return Ok(Order {
            apis: apis.to_vec(),
            ..Order::default()
        });
    }
    let [api] = apis else {
        return Err(Failure::Usage(
            "--route needs exactly one --api, which says whose route it is".to_owned(),
        ));
    };
    let named = routes.iter().map(|route| RouteName {
        api: api.clone(),
        route: route.clone(),
    });
    Ok(Order {
        routes: named.collect(),
        ..Order::default()
    })
}

fn ways(facts: &Value) -> String {
    let ways = facts.get("spread").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<&str> = ways.filter_map(|way| way.get("by")?.as_str()).collect();
    match names.is_empty() {
        true => "none: what this gateway forgets, it forgets alone".to_owned(),
        false => names.join(", "),
    }
}

impl Gateway {
    fn remote(&self) -> Result<Remote, Failure> {
        let text = self.gateway.as_deref().filter(|url| !url.is_empty());
        if let Some(url) = text {
            let token = self.admin_token.as_ref().ok_or_else(|| {
                Failure::Usage(
                    "the admin listener needs its token: set TOLLGATE_ADMIN_TOKEN, or write --admin-token".to_owned(),
                )
            })?;
            return Server::at(url, token).gateway();
        }
        let Some(path) = &self.config else {
            return Err(Failure::Usage(
                "which gateway? Write --gateway URL or --config FILE; for all gateways of an environment -e NAME"
                    .to_owned(),
            ));
        };
        let loaded = config::load(path, &Environment::of_process(), None)
            .map_err(|mistakes| Failure::Failed(mistakes.to_string()))?;
        let admin = loaded.config.admin.ok_or_else(|| {
            Failure::Failed(format!(
                "{}: there is no admin listener, so nobody can be asked",
                path.display()
            ))
        })?;
        let mut address = admin.address;
        // Bound to every address, it is here too.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Server::at(&format!("http://{address}"), &admin.token).gateway()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_named_with_its_api() {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let order = routes(&strings(&["a", "b"]), &[]).unwrap();
        assert_eq!(order.apis, ["a", "b"]);
        let order = routes(&strings(&["a"]), &strings(&["/a/{id}"])).unwrap();
        assert_eq!((order.apis.len(), order.routes[0].route.as_str()), (0, "/a/{id}"));
        for apis in [&[][..], &["a", "b"]] {
            assert!(matches!(
                routes(&strings(apis), &strings(&["/x"])),
                Err(Failure::Usage(_))
            ));
        }
    }
}
