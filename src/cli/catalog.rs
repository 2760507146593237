//! `tollgate catalog`

use serde_json::Value;

use super::remote::{Failure, Part, Server, finish, show};
use super::table::{cell, fact, hint_at_more, items, plain};
use super::{Output, print_line};

/// Arguments of `catalog`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    part: Part,
}

/// Prints the APIs, and where they can be called.
pub fn run(args: &Args, output: Output) -> u8 {
    finish(done(args, output), output)
}

fn done(args: &Args, output: Output) -> Result<u8, Failure> {
    let list = args.server.remote()?.list(&["catalog"], &[], &args.part)?;
    Ok(show(output, &list, |list| {
        for api in items(list) {
            lines(api).iter().for_each(|line| print_line(&plain(line)));
        }
        hint_at_more(list);
    }))
}

/// The API, then each environment with its URLs.
fn lines(api: &Value) -> Vec<String> {
    let list = |value: &'_ Value, name: &str| -> Vec<Value> {
        value.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut lines = vec![match cell(api, "description").as_str() {
        "-" => cell(api, "name"),
        description => format!("{}  {description}", cell(api, "name")),
    }];
    if !fact(api, "plans").is_empty() {
        lines.push(format!("  plans: {}", fact(api, "plans")));
    }
    for environment in list(api, "environments") {
        let urls = list(&environment, "urls");
        lines.push(format!(
            "  {} ({})",
            cell(&environment, "name"),
            cell(&environment, "type")
        ));
        lines.extend(urls.iter().filter_map(Value::as_str).map(|url| format!("    {url}")));
        if let Some(endpoint) = environment.get("token_endpoint").and_then(Value::as_str) {
            lines.push(format!("    tokens: {endpoint}"));
        }
    }
    lines
}
