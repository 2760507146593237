//! Client certificates of applications.

use super::super::Certificate;
use super::super::raw::RawCertificate;
use super::{Checker, KeysSeen, resolved_type};
use crate::document::{At, quote};

impl Checker<'_> {
    pub(super) fn certificate(
        &mut self,
        raw: &At<RawCertificate>,
        who: &str,
        seen: &mut KeysSeen,
    ) -> Option<Certificate> {
        let RawCertificate {
            id,
            san,
            key_type,
            expires,
        } = &raw.value;
        let whose = format!("a certificate of {who}");
        let id = self.need(raw.place, &whose, "id", id.as_ref());
        let san = self.need(raw.place, &whose, "san", san.as_ref());
        if let Some(id) = id
            && let Some(line) = seen.ids.insert(id.as_str().to_owned(), id.place.line)
        {
            let message = format!(
                "{} is the id of a key or certificate already, in line {line}",
                quote(id.as_str())
            );
            self.report.error(id.place, message);
        }
        if let Some(san) = san
            && let Some(line) = seen.names.insert(san.get().clone(), san.place.line)
        {
            let message = format!(
                "{whose} has the same name as the certificate in line {line}; a name belongs to one application"
            );
            self.report.error(san.place, message);
        }
        Some(Certificate {
            id: id?.as_str().into(),
            san: san?.get().clone(),
            key_type: resolved_type(*key_type),
            expires: self.expiry(expires.as_ref(), &whose),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::document::Environment;
    use crate::revision::{KeyType, Revision, parse};

    fn parsed(certificates: &str, auth: &str) -> Result<(Revision, String), String> {
        let text = format!(
            "version: 1\nupstreams: [{{ name: u, endpoints: [{{ address: \"127.0.0.1:1\" }}] }}]\n\
             plans: [{{ name: gold, limits: [] }}]\n\
             apis: [{{ name: a, base_path: /, upstream: u, auth: {auth} }}]\n\
             applications:\n- name: mobile\n  subscriptions: [{{ api: a, plan: gold }}]\n  certificates: {certificates}\n"
        );
        let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
        parse(&text, "r.yaml", Path::new(""), &environment)
            .map(|loaded| (loaded.revision, loaded.warnings.to_string()))
            .map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn an_application_has_certificates_by_their_names() {
        let (revision, warnings) = parsed(
            "[{ id: c-1, san: \"uri:spiffe://example.org/mobile\" }, { id: c-2, san: \"dns:M.example\", type: sandbox, expires: 2030-01-01T00:00:00Z }]",
            "[client_certificate]",
        )
        .unwrap();
        assert_eq!(warnings, "");
        let [one, other] = revision.applications[0].certificates.as_slice() else {
            panic!("{revision:?}")
        };
        assert_eq!((one.id.as_str(), one.key_type), ("c-1", KeyType::Production));
        assert_eq!(other.san.as_str(), "dns:m.example");
        assert_eq!((other.key_type, other.expires.is_some()), (KeyType::Sandbox, true));
    }

    #[test]
    fn mistakes_in_certificates_have_their_places() {
        for (certificates, expected) in [
            (
                "[{}]",
                "r.yaml:8:18: a certificate of application \"mobile\" has no \"id\"\n\
                      r.yaml:8:18: a certificate of application \"mobile\" has no \"san\"",
            ),
            (
                "[{ id: c, san: \"dns:a.b\" }, { id: c, san: \"dns:A.b\" }]",
                "r.yaml:8:51: \"c\" is the id of a key or certificate already, in line 8\n\
                 r.yaml:8:59: a certificate of application \"mobile\" has the same name as the certificate in line 8; \
                 a name belongs to one application",
            ),
            (
                "[{ id: c, san: \"ip:10.0.0.0/8\" }]",
                "r.yaml:8:32: \"ip:10.0.0.0/8\": this is not an IP address, such as ip:192.0.2.1",
            ),
        ] {
            assert_eq!(parsed(certificates, "[client_certificate]").unwrap_err(), expected);
        }
    }

    #[test]
    fn an_api_for_certificates_takes_limits_per_key_and_no_scopes() {
        let (_, warnings) = parsed(
            "[{ id: c, san: \"dns:a.b\" }]",
            "[client_certificate], limits: [{ name: l, rate: 1/s, per: key }]",
        )
        .unwrap();
        assert_eq!(warnings, "", "a certificate counts as a key");
        let (_, warnings) = parsed(
            "[]",
            "[client_certificate], limits: [{ name: l, rate: 1/s, per: subject }]",
        )
        .unwrap();
        assert!(warnings.contains("is called without tokens"), "{warnings}");
        let error = parsed("[]", "[client_certificate], routes: [{ path: /, scopes: [a] }]").unwrap_err();
        assert!(error.contains("which only tokens have"), "{error}");
    }
}
