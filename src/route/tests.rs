//! Routing as the configuration promises it.

use std::collections::BTreeSet;

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::revision::HostPattern;

/// A route of a test: host (`""` any, `*.x` wildcard), pattern, methods.
type Route = (&'static str, &'static str, &'static str);

#[derive(Debug, Clone)]
struct Routes {
    hosts: Vec<Option<HostPattern>>,
    patterns: Vec<String>,
    methods: Vec<BTreeSet<String>>,
    slash_too: bool,
}

impl Routes {
    fn of(routes: &[Route]) -> Self {
        Self {
            hosts: routes.iter().map(|route| host_pattern(route.0)).collect(),
            patterns: routes.iter().map(|route| route.1.to_owned()).collect(),
            methods: routes.iter().map(|route| methods(route.2)).collect(),
            slash_too: false,
        }
    }

    /// The target of a route is its number.
    fn compile(&self) -> (RouteTable, Vec<Conflict>) {
        RouteTable::compile(self.patterns.iter().enumerate().map(|(at, pattern)| Entry {
            host: self.hosts[at].as_ref(),
            pattern,
            methods: &self.methods[at],
            slash_too: self.slash_too,
            target: u32::try_from(at).unwrap(),
        }))
    }
}

fn host_pattern(text: &str) -> Option<HostPattern> {
    match text.strip_prefix("*.") {
        Some(suffix) => Some(HostPattern::Wildcard(suffix.to_owned())),
        None => (!text.is_empty()).then(|| HostPattern::Exact(text.to_owned())),
    }
}

fn methods(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn table(routes: &[Route]) -> RouteTable {
    let (table, conflicts) = Routes::of(routes).compile();
    assert_eq!(conflicts, []);
    table
}

fn get(table: &RouteTable, host: &str, path: &str) -> Option<u32> {
    table.find(host, path, &Method::GET).ok()
}

#[test]
fn the_most_specific_path_wins_whatever_the_order() {
    let mut routes = vec![
        ("", "/*", ""),
        ("", "/a/*", ""),
        ("", "/a/{x}", ""),
        ("", "/a/b", ""),
        ("", "/{x}/b", ""),
    ];
    for _ in 0..2 {
        let table = table(&routes);
        let pattern = |path| get(&table, "h", path).map(|target| routes[target as usize].1);
        assert_eq!(pattern("/a/b"), Some("/a/b"));
        assert_eq!(pattern("/a/c"), Some("/a/{x}"));
        assert_eq!(pattern("/a/"), Some("/a/*"));
        assert_eq!(pattern("/a/c/d"), Some("/a/*"));
        assert_eq!(pattern("/c/b"), Some("/{x}/b"));
        assert_eq!(pattern("/c/d"), Some("/*"));
        assert_eq!(pattern("/"), Some("/*"));
        assert_eq!(pattern("/a"), Some("/*"));
        routes.reverse();
    }
}

#[test]
fn a_literal_that_leads_nowhere_is_gone_back_from() {
    let table = table(&[
        ("", "/a/b/c", ""),
        ("", "/{x}/b/d", ""),
        ("", "/a/{x}/e/*", ""),
        ("", "/a/*", ""),
    ]);
    assert_eq!(get(&table, "", "/a/b/c"), Some(0));
    assert_eq!(
        get(&table, "", "/a/b/d"),
        Some(3),
        "the leftmost segment decides: /a/* before /{{x}}/b/d"
    );
    assert_eq!(get(&table, "", "/z/b/d"), Some(1));
    assert_eq!(get(&table, "", "/a/b/e/f"), Some(2));
    assert_eq!(get(&table, "", "/a/b/e"), Some(3));
    assert_eq!(get(&table, "", "/z/b/c"), None);
}

#[test]
fn a_star_takes_the_slash_and_everything_below_but_not_the_path_itself() {
    let table = table(&[("", "/files/*", "")]);
    for (path, found) in [
        ("/files/", true),
        ("/files/a", true),
        ("/files/a/b/", true),
        ("/files", false),
        ("/filesa", false),
    ] {
        assert_eq!(get(&table, "", path).is_some(), found, "{path}");
    }
}

#[test]
fn a_parameter_is_exactly_one_segment_that_is_not_empty() {
    let table = table(&[("", "/a/{x}", ""), ("", "/a/{x}/b", "")]);
    for (path, found) in [
        ("/a/1", Some(0)),
        ("/a/", None),
        ("/a/1/", None),
        ("/a/1/b", Some(1)),
        ("/a//b", None),
        ("/a", None),
    ] {
        assert_eq!(get(&table, "", path), found, "{path}");
    }
}

#[test]
fn the_exact_host_goes_before_the_longest_wildcard_before_any_host() {
    let table = table(&[
        ("", "/x", ""),
        ("*.example.org", "/x", ""),
        ("*.eu.example.org", "/x", ""),
        ("api.eu.example.org", "/x", ""),
        ("[::1]", "/x", ""),
    ]);
    for (host, found) in [
        ("api.eu.example.org", 3),
        ("API.EU.example.org.:8080", 3),
        ("b.eu.example.org", 2),
        ("c.b.eu.example.org", 2),
        ("eu.example.org", 1),
        ("a.b.c.example.org:443", 1),
        ("example.org", 0),
        ("notexample.org", 0),
        ("", 0),
        ("[::1]:8443", 4),
        ("[::2]", 0),
    ] {
        assert_eq!(get(&table, host, "/x"), Some(found), "{host}");
    }
    let long = format!("{}.example.org", "A.".repeat(200));
    assert_eq!(get(&table, &long, "/x"), Some(0), "too long to be a host: any host");
}

#[test]
fn a_host_without_the_path_leaves_it_to_the_next_table_but_not_without_the_method() {
    let table = table(&[("api", "/a", "GET"), ("", "/a", "POST"), ("", "/b", "GET")]);
    assert_eq!(get(&table, "api", "/b"), Some(2));
    assert_eq!(get(&table, "api", "/a"), Some(0));
    let Err(Miss::MethodNotAllowed { allow }) = table.find("api", "/a", &Method::POST) else {
        panic!()
    };
    assert_eq!(allow, "GET, HEAD");
    assert_eq!(table.find("other", "/a", &Method::POST), Ok(1));
}

#[test]
fn once_a_path_matched_only_the_method_can_fail() {
    let table = table(&[("", "/a/b", "POST DELETE"), ("", "/a/{x}", "GET"), ("", "/*", "")]);
    let miss = table.find("", "/a/b", &Method::GET).unwrap_err();
    let Miss::MethodNotAllowed { allow } = miss else {
        panic!("{miss:?}")
    };
    assert_eq!(allow, "DELETE, POST");
    assert_eq!(table.find("", "nothing", &Method::GET), Err(Miss::NotFound));
}

#[test]
fn methods_are_found_across_the_routes_of_one_pattern() {
    let table = table(&[
        ("", "/a/{x}", "GET"),
        ("", "/a/{y}", "POST"),
        ("", "/a/{z}", "PURGE"),
        ("", "/b", ""),
    ]);
    let find = |method: &str, path| table.find("", path, &Method::from_bytes(method.as_bytes()).unwrap());
    assert_eq!(find("GET", "/a/1"), Ok(0));
    assert_eq!(find("HEAD", "/a/1"), Ok(0), "GET answers HEAD");
    assert_eq!(find("POST", "/a/1"), Ok(1));
    assert_eq!(find("PURGE", "/a/1"), Ok(2));
    assert!(find("OPTIONS", "/a/1").is_err() && find("get", "/a/1").is_err());
    assert_eq!(find("OPTIONS", "/b"), Ok(3));
    assert_eq!(find("ANYTHING", "/b"), Ok(3));
    let Err(Miss::MethodNotAllowed { allow }) = find("OPTIONS", "/a/1") else {
        panic!()
    };
    assert_eq!(allow, "GET, HEAD, POST, PURGE");
}

#[test]
fn a_head_of_its_own_goes_before_get() {
    let table = table(&[("", "/a", "GET"), ("", "/a", "HEAD")]);
    assert_eq!(table.find("", "/a", &Method::HEAD), Ok(1));
    assert_eq!(table.find("", "/a", &Method::GET), Ok(0));
}

#[test]
fn the_slash_at_the_end_is_implied_unless_something_else_was_written_for_it() {
    let mut routes = Routes::of(&[
        ("", "/a", ""),
        ("", "/b", ""),
        ("", "/b/", "GET"),
        ("", "/", ""),
        ("", "/c/*", ""),
    ]);
    routes.slash_too = true;
    let (table, conflicts) = routes.compile();
    assert_eq!(conflicts, []);
    assert_eq!((get(&table, "", "/a"), get(&table, "", "/a/")), (Some(0), Some(0)));
    assert_eq!((get(&table, "", "/b"), get(&table, "", "/b/")), (Some(1), Some(2)));
    assert_eq!(table.find("", "/b/", &Method::POST), Ok(1));
    assert_eq!(get(&table, "", "/a//"), None);
}

#[test]
fn equal_patterns_with_common_methods_are_reported_and_the_first_wins() {
    for (first, second, common) in [
        ("", "", ""),
        ("GET POST", "POST PUT", "POST"),
        ("GET", "", "GET"),
        ("", "PUT", "PUT"),
    ] {
        let (table, conflicts) = Routes::of(&[("h", "/a/{x}", first), ("h", "/a/{other}", second)]).compile();
        let [conflict] = conflicts.as_slice() else {
            panic!("{conflicts:?}")
        };
        assert_eq!(
            (conflict.winner, conflict.loser, conflict.pattern.as_str()),
            (0, 1, "/a/{other}")
        );
        assert_eq!(conflict.host, host_pattern("h"));
        assert_eq!(
            conflict.kind,
            ConflictKind::SameMethods(methods(common).into_iter().collect())
        );
        assert_eq!(table.find("h", "/a/1", &Method::POST).is_ok(), first != "GET");
    }
    let apart: [&[Route]; 3] = [
        &[("", "/a", "GET"), ("", "/a", "POST")],
        &[("h", "/a", ""), ("", "/a", ""), ("*.h", "/a", "")],
        &[("", "/a", ""), ("", "/a/", "")],
    ];
    for routes in apart {
        assert_eq!(Routes::of(routes).compile().1, []);
    }
}

#[test]
fn one_route_twice_on_one_host_harms_nobody() {
    let nothing = BTreeSet::new();
    let entry = Entry {
        host: None,
        pattern: "/a",
        methods: &nothing,
        slash_too: false,
        target: 7,
    };
    assert_eq!(RouteTable::compile([entry, entry].into_iter()).1, []);
}

#[test]
fn a_star_that_nothing_can_reach_is_reported() {
    let shadowed = Routes::of(&[
        ("", "/f/", ""),
        ("", "/f/{x}", ""),
        ("", "/f/{x}/*", ""),
        ("", "/f/*", ""),
    ])
    .compile()
    .1;
    let [conflict] = shadowed.as_slice() else {
        panic!("{shadowed:?}")
    };
    assert_eq!(
        (conflict.winner, conflict.loser, &conflict.kind),
        (1, 3, &ConflictKind::Shadowed)
    );
    assert_eq!(
        conflict.to_string(),
        "/f/* on any host is never reached, more specific paths take everything below it"
    );
    for missing in 0..3 {
        let mut routes = vec![
            ("", "/f/", ""),
            ("", "/f/{x}", ""),
            ("", "/f/{x}/*", ""),
            ("", "/f/*", ""),
        ];
        routes.remove(missing);
        assert_eq!(Routes::of(&routes).compile().1, [], "without the one at {missing}");
    }
}

#[test]
fn the_trace_names_every_table_and_candidate_and_why_it_lost() {
    let table = table(&[
        ("api.example.org", "/z", ""),
        ("*.example.org", "/a/{x}", "GET"),
        ("*.example.org", "/a/b", "GET"),
        ("*.example.org", "/a/b", "POST"),
        ("", "/*", ""),
    ]);
    let told: Vec<String> = table
        .trace("api.example.org", "/a/b", &Method::GET)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "api.example.org: no path matches",
            "*.example.org: a path matches",
            "GET /a/b: chosen",
            "POST /a/b: answers other methods",
            "GET /a/{x}: less specific",
            "any host: not tried",
        ]
    );
    assert!(
        table
            .trace("other", "no path", &Method::GET)
            .iter()
            .all(|step| matches!(step, Step::Table { .. }))
    );
}

#[test]
fn a_hundred_thousand_routes_compile_and_are_found() {
    let patterns: Vec<String> = (0..100_000)
        .map(|n| format!("/api-{}/v{}/{{id}}/r{n}", n % 500, n % 7))
        .collect();
    let any = BTreeSet::new();
    let entry = |(at, pattern): (usize, &'static str)| Entry {
        host: None,
        pattern,
        methods: &any,
        slash_too: false,
        target: u32::try_from(at).unwrap(),
    };
    let patterns: Vec<&'static str> = patterns.into_iter().map(|pattern| &*pattern.leak()).collect();
    let (table, conflicts) = RouteTable::compile(patterns.iter().copied().enumerate().map(entry));
    assert!(conflicts.is_empty());
    for (at, pattern) in patterns.iter().enumerate().step_by(997) {
        assert_eq!(get(&table, "h", &pattern.replace("{id}", "7")), u32::try_from(at).ok());
    }
}

// === against a naive matcher ===

/// How specific a segment of a pattern is; a lower one wins.
fn rank(segment: &str) -> u8 {
    match segment {
        "*" => 2,
        _ if segment.starts_with('{') => 1,
        _ => 0,
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    let fits = |(pattern, segment): (&&str, &&str)| match rank(pattern) {
        0 => pattern == segment,
        1 => !segment.is_empty(),
        _ => true,
    };
    let open = pattern.last() == Some(&"*");
    let long_enough = if open {
        path.len() >= pattern.len()
    } else {
        path.len() == pattern.len()
    };
    long_enough && pattern.iter().zip(&path).all(fits)
}

/// Ranks of the hosts that match; a lower one wins.
fn host_rank(pattern: Option<&HostPattern>, host: &str) -> Option<usize> {
    match pattern {
        None => Some(usize::MAX),
        Some(HostPattern::Exact(exact)) => (exact == host).then_some(0),
        Some(HostPattern::Wildcard(suffix)) => {
            let below = host.strip_suffix(suffix.as_str())?.strip_suffix('.')?;
            (!below.is_empty()).then_some(1000 - suffix.len())
        }
    }
}

/// The target, or the allowed methods, or nothing; by looking at every route.
fn naive(routes: &Routes, host: &str, path: &str, method: &str) -> Result<usize, Option<String>> {
    let key = |at: &usize| {
        let shape: Vec<u8> = routes.patterns[*at].split('/').map(rank).collect();
        (host_rank(routes.hosts[*at].as_ref(), host), shape)
    };
    let mut fitting: Vec<usize> = (0..routes.patterns.len())
        .filter(|&at| host_rank(routes.hosts[at].as_ref(), host).is_some() && matches(&routes.patterns[at], path))
        .collect();
    fitting.sort_by_key(key);
    let best = fitting.first().ok_or(None)?;
    let same: Vec<usize> = fitting.iter().copied().filter(|at| key(at) == key(best)).collect();
    let lists = |method: &str| same.iter().copied().find(|&at| routes.methods[at].contains(method));
    lists(method)
        .or_else(|| if method == "HEAD" { lists("GET") } else { None })
        .or_else(|| same.iter().copied().find(|&at| routes.methods[at].is_empty()))
        .ok_or_else(|| {
            let mut all: BTreeSet<&str> = same
                .iter()
                .flat_map(|&at| &routes.methods[at])
                .map(String::as_str)
                .collect();
            if all.contains("GET") {
                all.insert("HEAD");
            }
            Some(Vec::from_iter(all).join(", "))
        })
}

fn patterns() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "a", "{x}", "{y}", ""]);
    (
        prop::collection::vec(segment, 0..4),
        prop::sample::select(vec!["", "a", "{x}", "*", "*"]),
    )
        .prop_map(|(mut all, last)| {
            // An empty segment can only be the last one, as in a normal path.
            all.retain(|segment| !segment.is_empty());
            all.push(last);
            format!("/{}", all.join("/"))
        })
}

fn any_routes() -> impl Strategy<Value = Routes> {
    let host = prop::sample::select(vec!["", "", "a.x", "b.a.x", "*.x", "*.a.x"]);
    let methods_of = prop::sample::select(vec!["", "GET", "POST", "GET POST", "HEAD"]);
    prop::collection::vec((host, patterns(), methods_of), 0..14).prop_map(|routes| Routes {
        hosts: routes.iter().map(|route| host_pattern(route.0)).collect(),
        patterns: routes.iter().map(|route| route.1.clone()).collect(),
        methods: routes.iter().map(|route| methods(route.2)).collect(),
        slash_too: false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn finding_agrees_with_looking_at_every_route(
        mut routes in any_routes(),
        requests in prop::collection::vec(
            (
                prop::sample::select(vec!["a.x", "b.a.x", "c.b.a.x", "x", "y", "c.x"]),
                prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..5),
                any::<bool>(),
                prop::sample::select(vec!["GET", "POST", "HEAD", "PUT"]),
            ),
            1..8,
        ),
    ) {
        // Whoever loses to an equal pattern is reported, and is not there for the model.
        let losers: BTreeSet<u32> = routes
            .compile()
            .1
            .into_iter()
            .filter(|conflict| matches!(conflict.kind, ConflictKind::SameMethods(_)))
            .map(|conflict| conflict.loser)
            .collect();
        let (table, _) = routes.compile();
        for &loser in &losers {
            routes.patterns[loser as usize] = "/nowhere/to/be/found/by/any/request".to_owned();
        }
        for (host, segments, slash, method) in requests {
            let slash = if slash && !segments.is_empty() { "/" } else { "" };
            let path = format!("/{}{slash}", segments.join("/"));
            let found = table.find(host, &path, &Method::from_bytes(method.as_bytes()).unwrap());
            let found = match found {
                Ok(target) => Ok(target as usize),
                Err(Miss::NotFound) => Err(None),
                Err(Miss::MethodNotAllowed { allow }) => Err(Some(allow.to_str().unwrap().to_owned())),
            };
            prop_assert_eq!(&found, &naive(&routes, host, &path, method), "{} {}{}", method, host, path);
            let traced = table.trace(host, &path, &Method::from_bytes(method.as_bytes()).unwrap());
            let chosen = traced.iter().find_map(|step| match step {
                Step::Candidate { target, outcome: Outcome::Chosen, .. } => Some(*target as usize),
                _ => None,
            });
            prop_assert_eq!(chosen, found.ok(), "the trace tells the same");
        }
    }

    #[test]
    fn a_pattern_is_shadowed_only_if_no_path_reaches_it(routes in any_routes()) {
        let (table, conflicts) = routes.compile();
        for conflict in conflicts.into_iter().filter(|conflict| conflict.kind == ConflictKind::Shadowed) {
            for path in ["/", "/a", "/a/", "/c", "/c/", "/a/b", "/c/c", "/c/c/", "/a/c/c", "/a/a/a/a", "/c/c/c/c/", "/b/c/c/c/c"] {
                for host in ["a.x", "b.a.x", "c.b.a.x", "y"] {
                    prop_assert_ne!(get(&table, host, path), Some(conflict.loser), "{}", path);
                }
            }
        }
    }
}
