//! Where the revision comes from: a file, a control plane, or both.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::super::raw::{ControlPlaneUrls, RawControlPlane, RawRevisionSource, RawSkipList, RawUrls};
use super::super::{ControlPlane, RevisionSource, SkipList};
use super::{LONGEST_TOKEN, Resolver};
use crate::distribution::{Kind, PublicKey};
use crate::document::{At, Place, Secret, did_you_mean, quote};

const EXAMPLE: &str = "https://127.0.0.1:9443";
const SCHEMES: [&str; 3] = ["https", "http", "file"];
const DAY: Duration = Duration::from_secs(24 * 3600);
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);
const MOST_ROUTES: u32 = 10_000_000;

impl Resolver<'_> {
    /// `None` only after an error was reported.
    pub(super) fn revision(&mut self, raw: Option<At<RawRevisionSource>>, place: Place) -> Option<RevisionSource> {
        let Some(At { value, place: at }) = raw else {
            if !self.dropped.contains(place, "revision") {
                let message = "there is no \"revision\"; write revision: { file: conf/revision.yaml }";
                self.report.error(place, message);
            }
            return None;
        };
        let RawRevisionSource {
            file,
            control_plane,
            skip_list,
        } = value;
        let dropped = self.dropped.contains(at, "file") || self.dropped.contains(at, "control_plane");
        if file.is_none() && control_plane.is_none() && !dropped {
            let message = "\"revision\" has no \"file\" and no \"control_plane\"; a gateway needs one of them";
            self.report.error(at, message);
        }
        if let Some(list) = &skip_list
            && control_plane.is_none()
            && !dropped
        {
            let message = "\"skip_list\" says what is not taken from a control plane, and there is none; remove it";
            self.report.error(list.place, message);
        }
        if let Some(file) = file.as_ref().filter(|file| file.trim().is_empty()) {
            self.report.error(file.place, "an empty text is not a file");
        }
        let skip_list = skip_list.map_or_else(SkipList::default, |list| self.skip_list(list.value));
        let has_control_plane = control_plane.is_some();
        let control_plane = control_plane.and_then(|raw| self.control_plane(raw));
        if file.is_none() && (!has_control_plane || control_plane.is_none()) {
            return None;
        }
        Some(RevisionSource {
            file: file.map(|file| PathBuf::from(file.value)),
            control_plane,
            skip_list,
        })
    }

    /// `None` only after an error was reported.
    fn control_plane(&mut self, raw: At<RawControlPlane>) -> Option<ControlPlane> {
        let At {
            value:
                RawControlPlane {
                    urls,
                    token,
                    state_dir,
                    ca,
                    public_keys,
                    on_pool_full,
                    offline_grace,
                    allow_offline_join,
                    max_bytes,
                    max_routes,
                    keys,
                },
            place,
        } = raw;
        let public_keys = self.public_keys(&public_keys);
        let urls = self.control_plane_urls(urls.as_ref(), place, public_keys.is_empty());
        if let Some(token) = &token {
            self.control_plane_token(token);
        }
        match &state_dir {
            Some(directory) if directory.trim().is_empty() => {
                self.report.error(directory.place, "an empty text is not a directory");
            }
            Some(_) => {}
            None if self.dropped.contains(place, "state_dir") => {}
            None => {
                let message = "\"control_plane\" has no \"state_dir\", without which a gateway does not start while the \
                               control plane is away; write state_dir: /var/lib/tollgate";
                self.report.error(place, message);
            }
        }
        if let Some(ca) = &ca {
            if ca.trim().is_empty() {
                self.report.error(ca.place, "an empty text is not a file");
            } else if !urls.is_empty() && urls.iter().all(|url| !url.starts_with("https:")) {
                let message = "\"ca\" is for TLS, and none of the \"urls\" begins with https://";
                self.report.error(ca.place, message);
            }
        }
        if let Some(grace) = &offline_grace
            && *grace.get() > LONGEST_GRACE
        {
            self.report.error(grace.place, "\"offline_grace\" is at most 365d");
        }
        if let Some(most) = &max_bytes
            && !(1 << 20..=4 << 30).contains(&most.get().0)
        {
            self.report
                .error(most.place, "\"max_bytes\" has to be from 1MiB to 4096MiB");
        }
        let max_routes = self.number(max_routes.as_ref(), "max_routes", 1..=MOST_ROUTES, 200_000);
        if urls.is_empty() {
            return None;
        }
        Some(ControlPlane {
            urls,
            token: token.map(|token| token.value),
            state_dir: PathBuf::from(state_dir?.value),
            ca: ca.map(|ca| PathBuf::from(ca.value)),
            public_keys,
            on_pool_full: on_pool_full.unwrap_or_default(),
            offline_grace: offline_grace.map_or(7 * DAY, |grace| *grace.get()),
            allow_offline_join,
            max_bytes: max_bytes.map_or(256 << 20, |most| most.get().0),
            max_routes: max_routes.into(),
            keys: keys.unwrap_or_default(),
        })
    }

    /// URLs may hold passwords, so none of the messages shows one.
    fn control_plane_urls(
        &mut self,
        urls: Option<&At<RawUrls<ControlPlaneUrls>>>,
        place: Place,
        first_contact: bool,
    ) -> Vec<String> {
        let written = urls.map_or(&[][..], |urls| urls.value.0.as_slice());
        if written.is_empty() && !self.dropped.contains(place, "urls") {
            let place = urls.map_or(place, |urls| urls.place);
            let message = format!("\"control_plane\" has no \"urls\"; write urls: [\"{EXAMPLE}\"]");
            self.report.error(place, message);
        }
        let mut resolved: Vec<String> = Vec::with_capacity(written.len());
        for at in written {
            let url = match read(&at.value) {
                Ok(url) => url,
                Err(message) => {
                    self.report.discreet_error(at.place, &message);
                    continue;
                }
            };
            if resolved.contains(&url.text) {
                self.report.discreet_error(at.place, "this URL is listed twice");
            } else if url.is_open {
                let keys = if first_contact {
                    ", and who stands in between can give this gateway his own keys to trust; write \"public_keys\", and"
                } else {
                    ";"
                };
                let message = format!(
                    "without TLS everybody on the way can read the token and what is published{keys} use https://"
                );
                self.report.discreet_warning(at.place, &message);
            }
            resolved.push(url.text);
        }
        resolved
    }

    /// The token itself is in none of the messages.
    fn control_plane_token(&mut self, token: &At<Secret>) {
        let text = token.value.expose();
        let message = if text.is_empty() {
            "an empty text is no token; write token: \"${cred:control-plane}\" or \"${file:/path}\", or remove it"
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            "a token is sent in a header, so it consists of printable ASCII characters without spaces and line ends"
        } else if text.len() > LONGEST_TOKEN {
            "this is longer than any token"
        } else {
            return;
        };
        self.report.discreet_error(token.place, message);
    }

    fn public_keys(&mut self, written: &[At<String>]) -> Vec<PublicKey> {
        let mut keys = Vec::with_capacity(written.len());
        for at in written {
            match at.value.parse() {
                Ok(key) => keys.push(key),
                Err(error) => {
                    let message = format!("{} is not a public key; {error}", quote(&at.value));
                    self.report.error(at.place, message);
                }
            }
        }
        keys
    }

    fn skip_list(&mut self, raw: RawSkipList) -> SkipList {
        let RawSkipList {
            upstreams,
            issuers,
            plans,
            apis,
            applications,
        } = raw;
        let mut list = SkipList::default();
        let names = [upstreams, issuers, plans, apis, applications];
        let kinds = [Kind::Upstream, Kind::Issuer, Kind::Plan, Kind::Api, Kind::Application];
        for (kind, names) in kinds.into_iter().zip(names) {
            for At { value, place } in names {
                if value.trim().is_empty() {
                    self.report.error(place, "an empty text is not a name");
                } else if !list.insert(kind, value) {
                    self.report.error(place, "this name is listed twice");
                }
            }
        }
        list
    }
}

/// A URL that was read.
struct Read {
    /// Without a slash at the end.
    text: String,
    /// Whether what is sent there can be read on the way.
    is_open: bool,
}

fn read(text: &str) -> Result<Read, String> {
    let Some((scheme, _)) = text.split_once("://") else {
        return Err(format!(
            "this is not a URL; write https:// before host and port, as in {EXAMPLE}"
        ));
    };
    if !SCHEMES.contains(&scheme) {
        let plain = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (shown, hint) = match plain {
            true => (quote(scheme), did_you_mean(scheme, SCHEMES)),
            false => ("this".into(), String::new()),
        };
        return Err(format!(
            "{shown} is not a scheme of a control plane; there are https, http and file (a directory){hint}"
        ));
    }
    let url = Url::parse(text).map_err(|_| format!("this URL cannot be read; it is {EXAMPLE} or file:///directory"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password in a URL ends up where URLs are shown; write \"token\" beside \"urls\"".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a control plane's URL ends with its path; what is after ? or # has to go".into());
    }
    if scheme == "file" {
        if url.host_str().is_some_and(|host| !host.is_empty()) || url.path().trim_matches('/').is_empty() {
            return Err("the path of a directory is absolute, with three slashes: file:///srv/revisions".into());
        }
    } else if url.port() == Some(0) {
        return Err("nothing can be reached at port 0; a control plane is usually at 9443".into());
    }
    Ok(Read {
        text: url.as_str().trim_end_matches('/').to_owned(),
        is_open: scheme == "http" && !is_loopback(&url),
    })
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.to_canonical().is_loopback()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::super::{KeysMode, Loaded, OnPoolFull, parse};
    use super::*;
    use crate::document::{Environment, Mistakes, Severity};

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn read(revision: &str) -> Result<Loaded, Mistakes> {
        let environment = Environment::fixed([], Timestamp::UNIX_EPOCH);
        parse(&format!("revision: {revision}\n"), "t.yaml", &environment, None)
    }

    fn source(revision: &str) -> RevisionSource {
        let loaded = read(revision).unwrap_or_else(|mistakes| panic!("{revision}: {mistakes}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        loaded.config.revision
    }

    fn errors(revision: &str) -> String {
        let mistakes = read(revision)
            .err()
            .unwrap_or_else(|| panic!("{revision} was accepted"));
        let errors = mistakes.iter().filter(|mistake| mistake.severity == Severity::Error);
        errors.map(|mistake| format!("{mistake}\n")).collect()
    }

    #[test]
    fn every_key_is_read_and_has_the_default_that_is_promised() {
        let found = source("{ control_plane: { urls: [\"https://cp:9443/\"], state_dir: /s } }");
        let defaults = ControlPlane {
            urls: vec!["https://cp:9443".into()],
            token: None,
            state_dir: "/s".into(),
            ca: None,
            public_keys: Vec::new(),
            on_pool_full: OnPoolFull::Exit,
            offline_grace: 7 * DAY,
            allow_offline_join: false,
            max_bytes: 256 << 20,
            max_routes: 200_000,
            keys: KeysMode::Auto,
        };
        assert_eq!((found.file, found.control_plane), (None, Some(defaults)));
        let found = source(&format!(
            "{{ file: own.yaml, skip_list: {{ plans: [gold], apis: [a, b] }}, control_plane: {{ urls: \
             [\"https://cp/a\", \"http://127.0.0.1:1\", \"http://[::1]:1\", \"file:///srv/a%20b/\"], token: hunter2, \
             state_dir: /s, ca: ca.pem, public_keys: [\"{KEY}\"], on_pool_full: wait, offline_grace: 0s, \
             allow_offline_join: true, max_bytes: 1MiB, max_routes: 7, keys: filter }} }}"
        ));
        assert_eq!(found.file, Some("own.yaml".into()));
        let skipped: Vec<_> = found.skip_list.iter().collect();
        assert_eq!(skipped, [(Kind::Plan, "gold"), (Kind::Api, "a"), (Kind::Api, "b")]);
        let plane = found.control_plane.unwrap();
        assert!(!format!("{plane:?}").contains("hunter2"));
        assert_eq!(
            plane,
            ControlPlane {
                urls: [
                    "https://cp/a",
                    "http://127.0.0.1:1",
                    "http://[::1]:1",
                    "file:///srv/a%20b"
                ]
                .map(String::from)
                .into(),
                token: Some("hunter2".into()),
                state_dir: "/s".into(),
                ca: Some("ca.pem".into()),
                public_keys: vec![KEY.parse().unwrap()],
                on_pool_full: OnPoolFull::Wait,
                offline_grace: Duration::ZERO,
                allow_offline_join: true,
                max_bytes: 1 << 20,
                max_routes: 7,
                keys: KeysMode::Filter,
            }
        );
    }

    #[test]
    fn what_can_not_be_used_is_told_with_the_way_out() {
        let with = |keys: &str| format!("{{ control_plane: {{ urls: [\"https://h\"], state_dir: /s, {keys} }} }}");
        for (revision, expected) in [
            (
                "{}".to_owned(),
                "1:11: \"revision\" has no \"file\" and no \"control_plane\"",
            ),
            (
                "{ control_plane: {} }".to_owned(),
                "write urls: [\"https://127.0.0.1:9443\"]",
            ),
            (
                "{ control_plane: { urls: [\"https://h\"] } }".to_owned(),
                "write state_dir: /var/lib/tollgate",
            ),
            (
                "{ control_plane: { urls: \"https://u:hunter2@h\", state_dir: /s } }".to_owned(),
                "write it in brackets: urls: [https://127.0.0.1:9443]",
            ),
            (
                "{ file: r, skip_list: { apis: [a] } }".to_owned(),
                "\"skip_list\" says what is not taken from a control plane, and there is none",
            ),
            (with("state_dirr: /s"), "did you mean \"state_dir\"?"),
            (with("token: \"\""), "an empty text is no token"),
            (with("token: \"hunter2 \""), "printable ASCII"),
            (with("public_keys: [short]"), "44 characters"),
            (with("ca: \"\""), "not a file"),
            (with("offline_grace: 400d"), "at most 365d"),
            (with("max_bytes: 1KiB"), "from 1MiB to 4096MiB"),
            (
                with("max_routes: 0"),
                "\"max_routes\" has to be from 1 to 10000000, not 0",
            ),
            (with("on_pool_full: stay"), "expected one of exit, wait"),
            (with("keys: all"), "expected one of auto, push, filter"),
        ] {
            let found = errors(&revision);
            assert!(found.contains(expected), "{revision}: {found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
        let skipped = "{ control_plane: { urls: [\"https://h\"], state_dir: /s }, skip_list: { apis: [a, a, \"\"] } }";
        let found = errors(skipped);
        assert!(
            found.contains("listed twice") && found.contains("not a name"),
            "{found}"
        );
    }

    #[test]
    fn what_is_no_url_of_a_control_plane_is_told_what_is_and_no_password_is_shown() {
        for (url, expected) in [
            ("cp:9443", "this is not a URL; write https:// before host and port"),
            (
                "htps://cp",
                "\"htps\" is not a scheme of a control plane; there are https, http and file",
            ),
            ("https://u:hunter2@cp", "write \"token\" beside \"urls\""),
            ("https://cp/?a=hunter2", "has to go"),
            ("https://cp:0", "nothing can be reached at port 0"),
            ("https://", "this URL cannot be read"),
            ("file://srv/revisions", "three slashes"),
            ("file:///", "three slashes"),
            ("https://twice", "this URL is listed twice"),
        ] {
            let found = errors(&format!(
                "{{ control_plane: {{ urls: [\"https://twice/\", \"{url}\"], state_dir: /s }} }}"
            ));
            assert!(found.contains(expected), "{url}: {found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
        let found = errors("{ control_plane: { urls: [\"http://127.0.0.1:1\"], state_dir: /s, ca: c } }");
        assert!(found.contains("none of the \"urls\" begins with https://"), "{found}");
    }

    #[test]
    fn without_tls_to_another_host_there_is_a_warning() {
        let warned = |url: &str, keys: &str| {
            let text = format!("{{ control_plane: {{ urls: [\"{url}\"], state_dir: /s{keys} }} }}");
            read(&text).unwrap().warnings.to_string()
        };
        let found = warned("http://cp:9443", "");
        assert!(
            found.contains("without TLS") && found.contains("write \"public_keys\""),
            "{found}"
        );
        let found = warned("http://10.0.0.1", &format!(", public_keys: [\"{KEY}\"]"));
        assert!(
            found.contains("without TLS") && !found.contains("public_keys"),
            "{found}"
        );
        assert_eq!(warned("http://localhost:9443", ""), "");
    }
}
