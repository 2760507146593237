//! Where counters are shared: addresses, login and certificates.

use std::path::PathBuf;
use std::time::Duration;

use redis::IntoConnectionInfo;
use reqwest::Url;

use super::super::Redis;
use super::super::raw::{RawRedis, RawUrls, RedisUrls};
use super::Resolver;
use crate::document::{At, Place, Secret, Text, did_you_mean, quote};

/// What Redis listens on by default.
const REDIS_PORT: u16 = 6379;
/// Nobody waits longer for a counter.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const EXAMPLE: &str = "redis://127.0.0.1:6379";

impl Resolver<'_> {
    /// `None` only after an error was reported.
    pub(super) fn redis(&mut self, raw: At<RawRedis>) -> Option<Redis> {
        let At {
            value:
                RawRedis {
                    urls,
                    username,
                    password,
                    ca,
                    connect_timeout,
                    response_timeout,
                },
            place,
        } = raw;
        let nodes = self.nodes(urls.as_ref(), place);
        self.one_cluster(&nodes);
        let login = self.login(&nodes, username, password);
        let all_read =
            urls.is_some_and(|urls| urls.value.0.len() == nodes.len()) && !self.dropped.contains(place, "urls");
        let ca = self.ca(ca, &nodes, all_read);
        let connect_timeout = self.redis_timeout(connect_timeout.as_ref(), "connect_timeout", Duration::from_secs(1));
        let response_timeout = self.redis_timeout(
            response_timeout.as_ref(),
            "response_timeout",
            Duration::from_millis(250),
        );
        if nodes.is_empty() {
            return None;
        }
        Some(Redis {
            urls: nodes.into_iter().map(|node| node.url).collect(),
            username: login.username,
            password: login.password,
            ca,
            connect_timeout,
            response_timeout,
        })
    }

    fn nodes(&mut self, urls: Option<&At<RawUrls<RedisUrls>>>, place: Place) -> Vec<Node> {
        let written = urls.map_or(&[][..], |urls| urls.value.0.as_slice());
        if written.is_empty() && !self.dropped.contains(place, "urls") {
            let place = urls.map_or(place, |urls| urls.place);
            let message = format!("\"redis\" has no \"urls\"; write urls: [{EXAMPLE}]");
            self.report.error(place, message);
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(written.len());
        for url in written {
            match Node::read(url) {
                Ok(node) => {
                    if let Some(same) = nodes.iter().find(|other| other.url == node.url) {
                        let message = format!("this node is listed already, in line {}", same.place.line);
                        self.report.discreet_error(url.place, &message);
                    }
                    nodes.push(node);
                }
                Err(Wrong::Scheme(message)) => self.report.error(url.place, message),
                Err(Wrong::Rest(message)) => self.report.discreet_error(url.place, message),
            }
        }
        nodes
    }

    /// Several nodes are those of one cluster.
    fn one_cluster(&mut self, nodes: &[Node]) {
        let [first, _, ..] = nodes else {
            return;
        };
        for node in nodes {
            let message = if node.reach == Reach::Socket {
                "several \"urls\" are the nodes of a cluster, and a Unix socket is not one of them; give it alone, or \
                 write redis:// and host"
            } else if node.database != 0 {
                "several \"urls\" are the nodes of a cluster, which has no database numbers; remove the number"
            } else if first.reach != Reach::Socket && node.reach != first.reach {
                "the nodes of a cluster are reached all with redis:// or all with rediss://; this differs from the first"
            } else {
                continue;
            };
            self.report.discreet_error(node.place, message);
        }
    }

    /// User and password, wherever they were written.
    fn login(&mut self, nodes: &[Node], username: Option<At<String>>, password: Option<At<Secret>>) -> Login {
        if let Some(empty) = username.as_ref().filter(|name| name.trim().is_empty()) {
            self.report.error(
                empty.place,
                "an empty text is not a user; remove \"username\" for the default user",
            );
        }
        if let Some(empty) = password.as_ref().filter(|password| password.value.expose().is_empty()) {
            let message = "an empty text is not a password; remove \"password\" if Redis asks for none";
            self.report.discreet_error(empty.place, message);
        }
        let mut nodes = nodes.iter().filter(|node| node.login != Login::default());
        let Some(first) = nodes.next() else {
            if let Some(name) = username.as_ref().filter(|_| password.is_none()) {
                self.report.error(name.place, "\"username\" needs a \"password\"");
            }
            return Login {
                username: username.map(|name| name.value),
                password: password.map(|password| password.value),
            };
        };
        let message = "a user or password in a URL ends up where URLs are shown; write password: \"${cred:redis}\" or \
                       \"${file:/path}\" beside \"urls\" (and username: NAME) instead";
        self.report.discreet_warning(first.place, message);
        if username.is_some() || password.is_some() {
            let message = "a user or password stands in this URL and beside \"urls\"; remove it from the URL";
            self.report.discreet_error(first.place, message);
        } else if first.login.password.is_none() {
            let message = "this URL has a user and no password; write username: NAME and password: \"${cred:redis}\" \
                           beside \"urls\"";
            self.report.discreet_error(first.place, message);
        }
        for other in nodes.filter(|other| other.login != first.login) {
            let message = format!(
                "the nodes of a cluster have one user and password, and this URL has others than the one in line {}",
                first.place.line
            );
            self.report.discreet_error(other.place, &message);
        }
        first.login.clone()
    }

    /// With a URL that could not be read, nobody knows whether it was one with TLS.
    fn ca(&mut self, ca: Option<At<String>>, nodes: &[Node], all_read: bool) -> Option<PathBuf> {
        let ca = ca?;
        if ca.trim().is_empty() {
            self.report.error(ca.place, "an empty text is not a file");
        } else if all_read && !nodes.is_empty() && nodes.iter().all(|node| node.reach != Reach::Tls) {
            let message = "\"ca\" is for TLS, and none of the \"urls\" begins with rediss://";
            self.report.error(ca.place, message);
        }
        Some(PathBuf::from(ca.value))
    }

    fn redis_timeout(&mut self, raw: Option<&At<Text<Duration>>>, key: &str, default: Duration) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        if raw.get().is_zero() || *raw.get() > LONGEST_TIMEOUT {
            let message = format!("\"{key}\" has to be longer than nothing and at most 1m");
            self.report.error(raw.place, message);
        }
        *raw.get()
    }
}

/// One of the URLs, read.
struct Node {
    /// Without user and password, with scheme `redis`, `rediss` or `unix`, and with a port or path.
    url: String,
    reach: Reach,
    database: u32,
    login: Login,
    place: Place,
}

/// How a node is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Plain,
    Tls,
    Socket,
}

#[derive(Clone, PartialEq, Eq, Default)]
struct Login {
    username: Option<String>,
    password: Option<Secret>,
}

/// What is wrong with a URL.
enum Wrong {
    /// Its scheme, which is shown.
    Scheme(String),
    /// Something else, of which nothing is shown: when a URL cannot be read, any part of it may be the password.
    Rest(&'static str),
}

impl Node {
    fn read(at: &At<String>) -> Result<Self, Wrong> {
        let reach = reach(&at.value)?;
        let url = redis::parse_redis_url(&at.value).ok_or(Wrong::Rest(
            "this URL cannot be read; it is redis://HOST:PORT, such as redis://127.0.0.1:6379 (a user and password go \
             beside \"urls\", or need % for their special characters)",
        ))?;
        if url.fragment().is_some() {
            return Err(Wrong::Rest(
                "a URL of Redis has nothing after #; certificates are always checked, and \"ca\" names your own",
            ));
        }
        let (start, number) = match reach {
            Reach::Socket => socket(&url)?,
            Reach::Plain => host("redis", &url)?,
            Reach::Tls => host("rediss", &url)?,
        };
        let database: u32 = match number.as_deref() {
            None | Some("") => 0,
            Some(number) => number.parse().map_err(|_| {
                Wrong::Rest("a database is a number, as in redis://127.0.0.1:6379/3 or unix:///run/redis.sock?db=3")
            })?,
        };
        // TLS is not the client's affair here (see `redis::connect`), so its reader does not know that scheme.
        let mut url = url;
        if reach == Reach::Tls && url.set_scheme("redis").is_err() {
            return Err(Wrong::Rest("the scheme of this URL does not go with the rest of it"));
        }
        // The client's reader takes what it does not know in silence, and so comes last.
        let info = url
            .into_connection_info()
            .map_err(|_| Wrong::Rest("the user or password in this URL cannot be read; write them beside \"urls\""))?;
        let login = info.redis_settings();
        let written = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Self {
            url: match (database, reach) {
                (0, _) => start,
                (number, Reach::Socket) => format!("{start}?db={number}"),
                (number, _) => format!("{start}/{number}"),
            },
            reach,
            database,
            login: Login {
                username: written(login.username()),
                password: written(login.password()).map(Secret::from),
            },
            place: at.place,
        })
    }
}

/// The URL of a socket without parameters, and the database that they name.
fn socket(url: &Url) -> Result<(String, Option<String>), Wrong> {
    if url.host_str().is_some_and(|host| !host.is_empty()) || url.path().trim_matches('/').is_empty() {
        return Err(Wrong::Rest(
            "the path of a Unix socket is absolute, with three slashes: unix:///run/redis.sock",
        ));
    }
    let mut database = None;
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            "db" => database = Some(value.into_owned()),
            // The login is read later.
            "user" | "pass" => {}
            _ => return Err(Wrong::Rest("the only parameter of a unix:// URL is db, as in ?db=3")),
        }
    }
    Ok((format!("unix://{}", url.path()), database))
}

/// The URL of a host and its port alone, and the database that its path names.
fn host(scheme: &str, url: &Url) -> Result<(String, Option<String>), Wrong> {
    if url.query().is_some() {
        return Err(Wrong::Rest(
            "a URL of Redis has no parameters; what is after ? has to go, and keys beside \"urls\" say the rest",
        ));
    }
    let host = match url.host_str() {
        None | Some("") => return Err(Wrong::Rest("this URL has no host; write redis://HOST:PORT")),
        Some("0.0.0.0" | "[::]") => {
            return Err(Wrong::Rest(
                "0.0.0.0 and [::] are for listening; write the address at which Redis can be reached",
            ));
        }
        Some(host) => host,
    };
    match url.port().unwrap_or(REDIS_PORT) {
        0 => Err(Wrong::Rest(
            "nothing can be reached at port 0; Redis is usually at 6379",
        )),
        port => {
            let database = url.path().trim_matches('/').to_owned();
            Ok((format!("{scheme}://{host}:{port}"), Some(database)))
        }
    }
}

/// What the scheme says. Valkey's names are those of Redis by other names.
fn reach(url: &str) -> Result<Reach, Wrong> {
    const SCHEMES: [&str; 7] = [
        "redis",
        "rediss",
        "unix",
        "redis+unix",
        "valkey",
        "valkeys",
        "valkey+unix",
    ];
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    let character = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    match scheme.filter(|scheme| scheme.bytes().all(character)) {
        Some("redis" | "valkey") => Ok(Reach::Plain),
        Some("rediss" | "valkeys") => Ok(Reach::Tls),
        Some("unix" | "redis+unix" | "valkey+unix") => Ok(Reach::Socket),
        Some(other) => Err(Wrong::Scheme(format!(
            "{} is not a scheme of Redis; there are redis, rediss (with TLS) and unix{}",
            quote(other),
            did_you_mean(other, SCHEMES)
        ))),
        None => Err(Wrong::Rest(
            "this is not a URL; write redis:// before host and port (rediss:// for TLS), or unix:// before a path",
        )),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::super::{Loaded, parse};
    use super::*;
    use crate::document::{Environment, Mistakes, Severity};

    fn read(lines: &str) -> Result<Loaded, Mistakes> {
        let environment = Environment::fixed([], Timestamp::UNIX_EPOCH);
        parse(
            &format!("revision: {{ file: r }}\n{lines}\n"),
            "t.yaml",
            &environment,
            None,
        )
    }

    /// With these keys, and nothing to be said about `throttle`.
    fn found(redis: &str) -> Result<Loaded, Mistakes> {
        read(&format!("throttle: {{ instances: 2 }}\nredis: {redis}"))
    }

    fn loaded(redis: &str) -> Loaded {
        found(redis).unwrap_or_else(|mistakes| panic!("{redis}: {mistakes}"))
    }

    fn redis(redis: &str) -> Redis {
        let loaded = loaded(redis);
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        loaded.config.redis.unwrap()
    }

    fn errors(redis: &str) -> String {
        let mistakes = found(redis).err().unwrap_or_else(|| panic!("{redis} was accepted"));
        let errors = mistakes.iter().filter(|mistake| mistake.severity == Severity::Error);
        errors.map(|mistake| format!("{mistake}\n")).collect()
    }

    #[test]
    fn every_key_is_read_and_has_the_default_that_is_promised() {
        assert_eq!(
            redis("{ urls: [redis://127.0.0.1:6379] }"),
            Redis {
                urls: vec!["redis://127.0.0.1:6379".into()],
                username: None,
                password: None,
                ca: None,
                connect_timeout: Duration::from_secs(1),
                response_timeout: Duration::from_millis(250),
            }
        );
        let all = redis(
            "{ urls: [\"rediss://a:7000\", \"rediss://[2001:db8::1]\"], username: tollgate, password: hunter2, \
             ca: /etc/ca.pem, connect_timeout: 2s, response_timeout: 50ms }",
        );
        assert!(!format!("{all:?}").contains("hunter2"));
        assert_eq!(
            all,
            Redis {
                urls: vec!["rediss://a:7000".into(), "rediss://[2001:db8::1]:6379".into()],
                username: Some("tollgate".into()),
                password: Some("hunter2".into()),
                ca: Some("/etc/ca.pem".into()),
                connect_timeout: Duration::from_secs(2),
                response_timeout: Duration::from_millis(50),
            }
        );
    }

    /// Whoever connects gets a URL in one of three forms, and one that the client reads as it was meant.
    #[test]
    fn urls_are_brought_into_one_form_that_the_client_takes() {
        for (written, resolved) in [
            ("redis://h", "redis://h:6379"),
            ("redis://h/", "redis://h:6379"),
            ("redis://h/0", "redis://h:6379"),
            ("redis://h:1/3", "redis://h:1/3"),
            ("valkey://h", "redis://h:6379"),
            ("valkeys://h", "rediss://h:6379"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("redis+unix:///run/redis.sock?db=3", "unix:///run/redis.sock?db=3"),
        ] {
            let urls = redis(&format!("{{ urls: [\"{written}\"] }}")).urls;
            assert_eq!(urls, [resolved]);
            assert!(resolved.parse::<crate::redis::ServerUrl>().is_ok(), "{resolved}");
        }
    }

    #[test]
    fn what_is_no_url_of_redis_is_told_what_is() {
        for (url, expected) in [
            (
                "127.0.0.1:6379",
                "this is not a URL; write redis:// before host and port",
            ),
            ("", "this is not a URL; write redis:// before host and port"),
            (
                "http://h",
                "\"http\" is not a scheme of Redis; there are redis, rediss (with TLS) and unix",
            ),
            ("redi://h", "did you mean \"redis\"?"),
            ("REDISS://h", "did you mean \"rediss\"?"),
            ("redis://", "this URL has no host"),
            ("redis://h:0", "nothing can be reached at port 0"),
            ("redis://h:99999", "this URL cannot be read; it is redis://HOST:PORT"),
            ("redis://0.0.0.0", "0.0.0.0 and [::] are for listening"),
            ("redis://[::]", "0.0.0.0 and [::] are for listening"),
            ("redis://h/three", "a database is a number"),
            ("redis://h/-1", "a database is a number"),
            ("unix:///s?db=x", "a database is a number"),
            ("redis://h?db=3", "a URL of Redis has no parameters"),
            ("rediss://h#insecure", "certificates are always checked"),
            ("unix://run/redis.sock", "with three slashes: unix:///run/redis.sock"),
            ("unix:///", "with three slashes: unix:///run/redis.sock"),
            ("unix:///s?timeout=3", "the only parameter of a unix:// URL is db"),
        ] {
            let found = errors(&format!("{{ urls: [\"{url}\"] }}"));
            assert!(
                found.contains(expected) && found.starts_with("t.yaml:3:17: ") && found.lines().count() == 1,
                "{url} gave {found}"
            );
        }
    }

    #[test]
    fn several_urls_are_the_nodes_of_one_cluster() {
        for (urls, expected) in [
            (
                "[redis://a, redis://b/3]",
                "3:28: several \"urls\" are the nodes of a cluster, which has no database",
            ),
            (
                "[redis://a, \"unix:///s\"]",
                "3:28: several \"urls\" are the nodes of a cluster, and a Unix socket",
            ),
            (
                "[redis://a, rediss://b]",
                "3:28: the nodes of a cluster are reached all with redis:// or all with rediss://",
            ),
            (
                "[redis://a, \"redis://a:6379\"]",
                "3:28: this node is listed already, in line 3",
            ),
        ] {
            let found = errors(&format!("{{ urls: {urls} }}"));
            assert!(
                found.contains(expected) && found.lines().count() == 1,
                "{urls} gave {found}"
            );
        }
    }

    #[test]
    fn what_is_missing_or_does_not_fit_together_is_told_what_to_write() {
        for (keys, expected) in [
            (
                "{}",
                "3:8: \"redis\" has no \"urls\"; write urls: [redis://127.0.0.1:6379]",
            ),
            ("{ urls: [] }", "3:16: \"redis\" has no \"urls\""),
            (
                "{ urls: {} }",
                "3:16: expected a list of URLs such as [redis://127.0.0.1:6379], found a mapping",
            ),
            (
                "{ url: [redis://h] }",
                "unknown key \"url\" in redis; did you mean \"urls\"?",
            ),
            (
                "{ urls: [redis://h], ca: /ca.pem }",
                "3:33: \"ca\" is for TLS, and none of the \"urls\" begins with rediss://",
            ),
            (
                "{ urls: [redes://h], ca: /ca.pem }",
                "3:17: \"redes\" is not a scheme of Redis",
            ),
            ("{ urls: [rediss://h], ca: \"\" }", "3:34: an empty text is not a file"),
            (
                "{ urls: [redis://h], username: u }",
                "3:39: \"username\" needs a \"password\"",
            ),
            (
                "{ urls: [redis://h], password: \"\" }",
                "3:39: an empty text is not a password; remove \"password\"",
            ),
            (
                "{ urls: [redis://h], username: \" \", password: p }",
                "3:39: an empty text is not a user",
            ),
            (
                "{ urls: [redis://h], connect_timeout: 0s }",
                "3:46: \"connect_timeout\" has to be longer than nothing and at most 1m",
            ),
            (
                "{ urls: [redis://h], response_timeout: 2m }",
                "3:47: \"response_timeout\" has to be longer than nothing and at most 1m",
            ),
        ] {
            let found = errors(keys);
            let of_urls = found.lines().filter(|line| !line.contains("has no \"urls\"")).count();
            assert!(found.contains(expected) && of_urls <= 1, "{keys} gave {found}");
        }
    }

    #[test]
    fn a_login_in_a_url_is_taken_out_of_it_and_warned_of() {
        for url in [
            "redis://tollgate:hunter2%2F@h:6379",
            "unix:///run/redis.sock?user=tollgate&pass=hunter2%2F",
        ] {
            let Loaded { config, warnings } = loaded(&format!("{{ urls: [\"{url}\"] }}"));
            assert!(
                warnings
                    .to_string()
                    .starts_with("t.yaml:3:17: warning: a user or password in a URL ends up where URLs are shown"),
                "{warnings}"
            );
            assert!(!warnings.to_string().contains("hunter2"), "{warnings}");
            let redis = config.redis.unwrap();
            assert!(!format!("{redis:?}").contains("hunter2"), "{redis:?}");
            assert_eq!(
                (redis.username.as_deref(), redis.password.as_ref().map(Secret::expose)),
                (Some("tollgate"), Some("hunter2/"))
            );
        }
    }

    #[test]
    fn two_logins_are_one_too_many() {
        for (keys, expected) in [
            (
                "{ urls: [\"redis://:hunter2@h\"], password: p }",
                "stands in this URL and beside \"urls\"; remove it from the URL",
            ),
            (
                "{ urls: [\"redis://:hunter2@a\", \"redis://:hunter3@b\"] }",
                "this URL has others than the one in line 3",
            ),
            (
                "{ urls: [\"redis://hunter2@h\"] }",
                "this URL has a user and no password",
            ),
        ] {
            let found = errors(keys);
            assert!(
                found.contains(expected) && found.lines().count() == 1,
                "{keys} gave {found}"
            );
            assert!(!found.contains("hunter"), "{found}");
        }
        let shared = loaded("{ urls: [\"redis://:hunter2@a\", redis://b] }");
        assert_eq!(shared.config.redis.unwrap().password, Some("hunter2".into()));
    }

    #[test]
    fn no_message_shows_a_part_of_a_url_in_which_a_password_may_be() {
        for urls in [
            "\"redis://:hunter2@h\"",
            "[\"redis://:hunter2\"]",
            "[\"redis://:hunter2@h:x\"]",
            "[\"redis://u:hunter2/@h\"]",
            "[\"redis://h/hunter2\"]",
            "[\"redis://h?hunter2=1\"]",
            "[\"redis://h#hunter2\"]",
            "[\"u:hunter2@redis://h\"]",
            "[\"unix:///s?pass=hunter2&x=1\"]",
            "[\"redis://u:hunter2%ff@h\"]",
        ] {
            let found = found(&format!("{{ urls: {urls} }}"))
                .err()
                .unwrap_or_else(|| panic!("{urls}"));
            assert!(!found.to_string().contains("hunter2"), "{found}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_from_a_file_is_said_without_showing_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("url");
        let of_file = |text: &str| {
            std::fs::write(&path, text).unwrap();
            errors(&format!("{{ urls: [\"${{file:{}}}\"] }}", path.display()))
        };
        assert!(of_file("redis://hunter2:x@h:y").contains("3:17: this URL cannot be read"));
        assert!(of_file("hunter2://h").contains("holds does not fit here"));
    }
}
