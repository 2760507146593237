//! The verbs, one file each; no logic of their own.

mod api;
mod application;
mod cache;
mod catalog;
mod check;
mod control_plane;
mod demo;
mod environment;
mod explain;
mod gateway;
mod input;
mod key;
mod operator_log;
mod plan;
mod pool;
mod problem;
mod published;
mod remote;
mod revision;
mod run;
mod schema;
mod table;
mod token;
mod upgrade;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Done.
const DONE: u8 = 0;
/// Failed.
const FAILED: u8 = 1;
/// Called wrongly; what clap exits with.
const USAGE: u8 = 2;
/// The pool has no seat for this gateway (`EX_TEMPFAIL`: later there may be one).
const POOL_FULL: u8 = 75;
/// A configuration was refused (`EX_CONFIG` of sysexits.h).
const REFUSED: u8 = 78;

/// tollgate: an API gateway for bare-metal hosts.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// How data is printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway.
    Run(run::Args),
    /// Run the control plane.
    ControlPlane(control_plane::Args),
    /// Try it: a control plane, a gateway and two sample upstreams in one process, with a key and lines to use.
    Demo(demo::Args),
    /// Have the running gateway hand over to a new process, without a lost request.
    Upgrade(upgrade::UpgradeArgs),
    /// Have the running gateway leave as soon as nothing is in flight.
    Drain(upgrade::DrainArgs),
    /// Report every mistake in the configuration at once.
    Check(check::Args),
    /// Say what would happen to a request, and why. Counts nothing and calls nothing.
    Explain(explain::Args),
    /// Print the JSON Schema of a file.
    Schema(schema::Args),
    /// Where revisions are published to.
    Environment(environment::Args),
    /// What is published: APIs and their revisions.
    Api(api::Args),
    /// Who calls: applications and what they are subscribed to.
    Application(application::Args),
    /// How often: plans of limits.
    Plan(plan::Args),
    /// Work with keys.
    Key(key::Args),
    /// What gateways serve: publish it, compare it, go back.
    Revision(revision::Args),
    /// Which gateways there are, and what they serve.
    Gateway(gateway::Args),
    /// How many gateways there may be.
    Pool(pool::Args),
    /// What gateways keep of answers, and have it forgotten.
    Cache(cache::Args),
    /// Who may administrate.
    Token(token::Args),
    /// Which APIs there are, and where they can be called.
    Catalog(catalog::Args),
}

impl Cli {
    /// What is logged when `TOLLGATE_LOG` does not say: a verb that answers a question does not tell stories.
    fn log_filter(&self) -> &'static str {
        match self.verb {
            // The engine's connectors call it an error when a pooled connection is busy closing, and open another.
            Verb::Run(_) | Verb::ControlPlane(_) | Verb::Demo(_) => {
                "info,pingora=warn,pingora_core=warn,pingora_core::connectors=off,pingora_proxy=warn"
            }
            _ => "warn",
        }
    }

    /// Does what was asked.
    #[must_use]
    pub fn run(self) -> ExitCode {
        operator_log::start(self.log_filter());
        let code = match self.verb {
            Verb::Run(args) => run::run(&args),
            Verb::ControlPlane(args) => control_plane::run(&args),
            Verb::Demo(args) => demo::run(&args),
            Verb::Upgrade(args) => upgrade::upgrade(&args, self.output),
            Verb::Drain(args) => upgrade::drain(&args),
            Verb::Check(args) => check::run(&args, self.output),
            Verb::Explain(args) => explain::run(&args, self.output),
            Verb::Schema(args) => schema::run(&args),
            Verb::Environment(args) => environment::run(&args, self.output),
            Verb::Api(args) => api::run(&args, self.output),
            Verb::Application(args) => application::run(&args, self.output),
            Verb::Plan(args) => plan::run(&args, self.output),
            Verb::Key(args) => key::run(&args, self.output),
            Verb::Revision(args) => revision::run(&args, self.output),
            Verb::Gateway(args) => gateway::run(&args, self.output),
            Verb::Pool(args) => pool::run(&args, self.output),
            Verb::Cache(args) => cache::run(&args, self.output),
            Verb::Token(args) => token::run(&args, self.output),
            Verb::Catalog(args) => catalog::run(&args, self.output),
        };
        ExitCode::from(code)
    }
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more, as in `tollgate schema … | head`.
fn print_line(line: &impl std::fmt::Display) {
    use std::io::Write;

    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> u8 {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            print_line(&text);
            DONE
        }
        Err(error) => {
            eprintln!("tollgate: the result could not be written as JSON: {error}");
            FAILED
        }
    }
}
