//! What verbs print for people: tables and lists of facts, without colours or borders.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use super::print_line;

/// Prints rows under a header.
pub fn print_table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    print_line(&table(header, rows));
}

/// Prints what is known of one thing, a label and a value in each line; those without a value are left out.
pub fn print_facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(label, _)| label.len()).max().unwrap_or_default();
    for (label, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        print_line(&format_args!("{label:<width$}  {}", plain(value)));
    }
}

/// Says on standard error that a list goes on.
pub fn hint_at_more(list: &Value) {
    if let Some(next) = list.get("next").and_then(Value::as_str) {
        eprintln!("tollgate: there are more: --after {}", plain(next));
    }
}

/// The items of a list.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items").and_then(Value::as_array).into_iter().flatten()
}

/// A member in words: a text as it is, lists with commas in between, `-` for nothing.
pub fn cell(value: &Value, name: &str) -> String {
    let text = value.get(name).map(words).unwrap_or_default();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// A member in words; nothing for nothing.
pub fn fact(value: &Value, name: &str) -> String {
    value.get(name).map(words).unwrap_or_default()
}

/// An instant that is written in RFC 3339 or as Unix milliseconds; to the second.
pub fn instant(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::Number(milliseconds)) => milliseconds
            .as_i64()
            .and_then(|milliseconds| jiff::Timestamp::from_millisecond(milliseconds).ok())
            .map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            .unwrap_or_default(),
        Some(Value::String(text)) => text
            .parse::<jiff::Timestamp>()
            .map_or_else(|_| text.clone(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        _ => String::new(),
    }
}

/// A hash, or another long text of hex digits: as much of it as people compare.
pub fn short(text: &str) -> String {
    text.chars().take(12).collect()
}

/// A text from elsewhere that can not break a line or speak to the terminal.
pub fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_is_columns_and_nothing_else() {
        let rows = [["a", "-"], ["longer name", "1\n2\u{1b}"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&["NAME", "COUNT"], rows),
            "NAME         COUNT\na            -\nlonger name  1\\n2\\u{1b}"
        );
        assert_eq!(table(&["NAME"], []), "NAME");
    }

    #[test]
    fn members_are_shown_in_words() {
        let value = json!({ "list": ["a", "b"], "none": null, "yes": true, "at": 1_000_000_000_123_u64,
                            "on": "2027-01-01T01:00:00.5+01:00", "odd": "soon" });
        assert_eq!(cell(&value, "list"), "a,b");
        assert_eq!(cell(&value, "none"), "-");
        assert_eq!(cell(&value, "missing"), "-");
        assert_eq!(fact(&value, "yes"), "true");
        assert_eq!(instant(&value, "at"), "2001-09-09T01:46:40Z");
        assert_eq!(instant(&value, "on"), "2027-01-01T00:00:00Z");
        assert_eq!(instant(&value, "odd"), "soon");
        assert_eq!(instant(&value, "missing"), "");
    }
}
