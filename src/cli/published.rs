//! What came of a publish, in words.

use serde_json::Value;

use super::print_line;
use super::table::{cell, fact, plain, short};

/// Prints a line for each environment of `{"published": […]}`, with the changes below it, and the warnings.
pub fn print_published(answer: &Value) {
    lines(answer).iter().for_each(|line| print_line(&plain(line)));
    for warning in list(answer, "warnings") {
        match warning.as_str() {
            Some(text) => eprintln!("tollgate: {}", plain(text)),
            None => eprintln!("tollgate: {warning}"),
        }
    }
}

/// Lines for a list of changes.
pub fn change_lines<'a>(changes: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let mut lines = Vec::new();
    for change in changes {
        let sign = match change.get("change").and_then(Value::as_str) {
            Some("added") => '+',
            Some("removed") => '-',
            _ => '~',
        };
        lines.push(format!("{sign} {} {}", cell(change, "kind"), cell(change, "name")));
        for detail in list(change, "details") {
            lines.push(format!("    {}", detail.as_str().unwrap_or_default()));
        }
    }
    lines
}

fn lines(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for published in list(answer, "published") {
        let environment = cell(published, "environment");
        let root = short(&fact(published, "root"));
        let seq = published.get("seq").and_then(Value::as_u64);
        let changed = published.get("changed").and_then(Value::as_bool).unwrap_or(true);
        lines.push(match seq {
            Some(seq) if changed => format!("{environment}: revision {seq} ({root})"),
            Some(seq) => format!("{environment}: nothing changes, revision {seq} ({root}) stays"),
            None if changed => format!("{environment}: would change ({root})"),
            None => format!("{environment}: nothing would change"),
        });
        lines.extend(
            change_lines(list(published, "diff"))
                .into_iter()
                .map(|line| format!("  {line}")),
        );
    }
    lines
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_publish_says_for_each_environment_what_became_of_it() {
        let root = "ab".repeat(32);
        let answer = json!({ "published": [
            { "environment": "Production", "seq": 7, "root": root, "changed": true, "diff": [
                { "kind": "api", "name": "orders", "change": "changed", "details": ["route POST /orders added"] },
                { "kind": "plan", "name": "gold", "change": "removed", "details": [] },
            ] },
            { "environment": "Sandbox", "seq": 3, "root": root, "changed": false },
        ] });
        assert_eq!(
            lines(&answer),
            [
                "Production: revision 7 (abababababab)",
                "  ~ api orders",
                "      route POST /orders added",
                "  - plan gold",
                "Sandbox: nothing changes, revision 3 (abababababab) stays",
            ]
        );
    }
}
