//! A new revision counts for what was kept under the one before it.

use super::failures::{ask, telling};
use super::*;

#[test]
fn a_revision_switches_the_cache_off_and_on_at_once() {
    let origin = telling("");
    let with = |lines: &str| {
        Revision::of(&origin).api(&format!(
            "{{ name: all, base_path: /, auth: none, upstream: origin, {lines} }}"
        ))
    };
    let routes = |cache: &str| format!("cache: {{}}, routes: [{{ path: /a, cache: {cache} }}, {{ path: /* }}]");
    let gateway = Gateway::with(with("cache: {}")).start();
    let kept = ask(&gateway, "/a");
    assert_eq!(ask(&gateway, "/a"), kept);
    for (off, on) in [("", "cache: {}".to_owned()), (&*routes("off"), routes("{}"))] {
        gateway.apply(with(off));
        let answers = [(); 3].map(|()| ask(&gateway, "/a"));
        assert!(
            answers[0] > kept && answers[1] > answers[0] && answers[2] > answers[1],
            "{answers:?}"
        );
        gateway.apply(with(&on));
        ask(&gateway, "/a");
        let again = ask(&gateway, "/a");
        assert_eq!(ask(&gateway, "/a"), again, "it is kept again");
    }
}

#[test]
fn whoever_may_share_changes_with_the_revision_and_nobody_gets_what_was_kept_for_others() {
    let made = tollgate(["key", "new", "--application", "partner"]);
    let mut lines = made.stdout.lines().map(str::trim);
    let third_key = lines.find(|line| line.starts_with("tg_live_")).expect("a key");
    let origin = telling("");
    let with = |share: &str| {
        Revision::of(&origin)
            .api(&format!(
                "{{ name: all, base_path: /, auth: [api_key], upstream: origin, cache: {{ share: {share} }} }}"
            ))
            .application(&format!(
                "{{ name: mobile, subscriptions: [{{ api: all, plan: free }}], keys: [{}, {}] }}",
                key_record("mobile-1", KEY, "type: production"),
                key_record("mobile-2", OTHER_KEY, "type: production"),
            ))
            .application(&format!(
                "{{ name: partner, subscriptions: [{{ api: all, plan: free }}], keys: [{}] }}",
                key_record("partner-1", third_key, "type: production")
            ))
    };
    let gateway = Gateway::with(with("caller")).start();
    let callers = [(KEY, "mobile"), (OTHER_KEY, "mobile"), (third_key, "partner")];
    // Who was the first to be given each answer: it was fetched for him.
    let mut fetched_for: HashMap<String, (&str, &str)> = HashMap::new();
    for share in [
        "caller",
        "everyone",
        "caller",
        "application",
        "everyone",
        "application",
        "caller",
    ] {
        gateway.apply(with(share));
        for round in 0..2 {
            for caller in callers.iter().cycle().skip(round).take(callers.len()) {
                let answer = gateway.client().get("/a").key(caller.0).send().expect(200).text();
                let first = *fetched_for.entry(answer).or_insert(*caller);
                match share {
                    "caller" => assert_eq!(first.0, caller.0, "an answer for another caller"),
                    "application" => assert_eq!(first.1, caller.1, "an answer for another application"),
                    _ => {}
                }
            }
        }
    }
    // Three callers, two applications, and everybody: each of them was fetched for once.
    assert_eq!(origin.requests(), 6);
}
