//! Did you mean?

use super::mistake::quote;

/// `; did you mean "orders"?` when one of the names is near, else an empty text.
pub(crate) fn did_you_mean<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(wrong, names) {
        Some(name) => format!("; did you mean {}?", quote(name)),
        None => String::new(),
    }
}

/// The nearest name, if it is near enough that a person may have meant it.
fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The distance is quadratic in the length; nobody mistypes a text as long as this.
    const LONGEST: usize = 100;
    // So that a file with 100,000 names and as many wrong references is still answered at once.
    const MOST_NAMES: usize = 2000;
    if wrong.is_empty() || wrong.len() > LONGEST {
        return None;
    }
    let folded = wrong.to_ascii_lowercase();
    let allowed = (wrong.chars().count() / 3).max(1);
    names
        .into_iter()
        .take(MOST_NAMES)
        .filter(|name| *name != wrong && name.len().abs_diff(wrong.len()) <= allowed)
        .map(|name| (strsim::osa_distance(&folded, &name.to_ascii_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let names = ["upstream", "upstreams", "base_path", "hosts"];
        assert_eq!(did_you_mean("upstrem", names), "; did you mean \"upstream\"?");
        assert_eq!(did_you_mean("Hosts", names), "; did you mean \"hosts\"?");
        assert_eq!(did_you_mean("bsae_path", names), "; did you mean \"base_path\"?");
        assert_eq!(did_you_mean("colour", names), "");
        assert_eq!(did_you_mean("", names), "");
        assert_eq!(did_you_mean(&"x".repeat(10_000), names), "");
    }
}
