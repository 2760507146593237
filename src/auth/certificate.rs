//! Client certificates: the name in one → the application that has this name.

use super::keyring::CertificateRecord;
use super::{Authenticator, Caller, Denial, Invalid};
use crate::transport::ClientIdentity;

impl Authenticator {
    /// shown → expiry → lookup → expiry of the record → environment type → subscription → scopes
    pub(super) fn certificate(
        &self,
        api: u32,
        scopes: &[String],
        identity: &ClientIdentity,
        now_ms: u64,
    ) -> Result<Caller, Denial> {
        // The handshake has looked at that too; but a connection may outlive its certificate, and a ticket may open one
        // more.
        if now_ms >= identity.not_after_ms {
            return Err(Denial::CredentialExpired);
        }
        let record = self.record_of(identity)?;
        let is_expired = now_ms >= record.expires_ms;
        let plan = self.plan_for(is_expired, record.key_type, Some(record.application), (api, scopes))?;
        Ok(Caller::with_certificate(record, plan))
    }

    /// The record that a name of the certificate leads to: the first one, if all lead to the same application.
    fn record_of(&self, identity: &ClientIdentity) -> Result<&CertificateRecord, Denial> {
        let mut records = identity.names.iter().filter_map(|name| self.keyring.certificate(name));
        let first = records
            .next()
            .ok_or(Denial::CredentialInvalid(Invalid::UnknownCertificate))?;
        if records.any(|other| other.application != first.application) {
            return Err(Denial::CredentialAmbiguous);
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use smallvec::SmallVec;

    use super::super::testing::{api, application, compile, key_header};
    use super::*;
    use crate::auth::{Identity, KeySets};
    use crate::revision::{AuthMethod, Certificate, Key, KeyType, Revision};
    use crate::san::San;

    const NOW: u64 = 1_800_000_000_000;
    const KEY: &str = "a-key-of-the-mobile-app";

    /// APIs: for certificates; for both; for keys.
    const CERTIFICATES: usize = 0;
    const BOTH: usize = 1;
    const KEYS: usize = 2;
    /// To which nobody is subscribed.
    const FOREIGN: usize = 3;

    fn named(id: &str, san: &str, key_type: KeyType, expires: Option<&str>) -> Certificate {
        Certificate {
            id: id.into(),
            san: San::parse(san).unwrap(),
            key_type,
            expires: expires.map(|text| text.parse().unwrap()),
        }
    }

    fn house() -> Authenticator {
        let key = Key {
            id: "key-1".into(),
            sha256: crate::auth::key::digest(KEY).0,
            key_type: KeyType::Production,
            expires: None,
        };
        let mut mobile = application("mobile", &[CERTIFICATES, BOTH, KEYS], vec![key]);
        mobile.certificates = vec![
            named("cert-1", "uri:spiffe://example.org/mobile", KeyType::Production, None),
            named("cert-2", "dns:mobile.example.org", KeyType::Sandbox, None),
            named(
                "old",
                "dns:old.example.org",
                KeyType::Production,
                Some("2020-01-01T00:00:00Z"),
            ),
        ];
        let mut batch = application("batch", &[CERTIFICATES], Vec::new());
        batch.certificates = vec![named("cert-3", "dns:batch.example.org", KeyType::Production, None)];
        let revision = Revision {
            apis: vec![
                api("certificates", vec![AuthMethod::ClientCertificate]),
                api("both", vec![AuthMethod::ApiKey, AuthMethod::ClientCertificate]),
                api("keys", vec![AuthMethod::ApiKey]),
                api("foreign", vec![AuthMethod::ClientCertificate]),
            ],
            applications: vec![mobile, batch],
            ..Revision::default()
        };
        compile(&revision, &KeySets::offline())
    }

    fn shown(names: &[&str]) -> ClientIdentity {
        ClientIdentity {
            names: names
                .iter()
                .map(|name| San::parse(name).unwrap())
                .collect::<SmallVec<_>>(),
            not_after_ms: NOW + 1,
        }
    }

    fn asked(api: usize, headers: &HeaderMap, identity: Option<&ClientIdentity>) -> Result<Caller, Denial> {
        house().examine(api, &[], headers, None, identity, NOW)
    }

    fn with(api: usize, names: &[&str]) -> Result<Caller, Denial> {
        asked(api, &HeaderMap::new(), Some(&shown(names)))
    }

    #[test]
    fn a_name_that_an_application_has_lets_in() {
        for api in [CERTIFICATES, BOTH] {
            let caller = with(api, &["dns:someone.else", "uri:spiffe://example.org/mobile"]).unwrap();
            assert!(matches!(caller.identity(), Identity::Certificate(_)));
            assert_eq!(caller.key_id(), Some("cert-1"));
            assert_eq!(caller.key_type(), Some(KeyType::Production));
            assert_eq!((caller.application(), caller.plan()), (Some(0), Some(api + 10)));
        }
    }

    #[test]
    fn two_names_of_one_application_are_one_identity_and_of_two_none() {
        let caller = with(
            CERTIFICATES,
            &["dns:mobile.example.org", "uri:spiffe://example.org/mobile"],
        )
        .unwrap();
        assert_eq!(caller.key_id(), Some("cert-2"), "the first in the certificate");
        let both = with(CERTIFICATES, &["dns:mobile.example.org", "dns:batch.example.org"]);
        assert_eq!(both.err(), Some(Denial::CredentialAmbiguous));
    }

    #[test]
    fn every_refusal_is_the_one_of_a_key() {
        for (api, names, denial) in [
            (
                CERTIFICATES,
                &["dns:nobody.example.org"][..],
                Denial::CredentialInvalid(Invalid::UnknownCertificate),
            ),
            (
                CERTIFICATES,
                &[],
                Denial::CredentialInvalid(Invalid::UnknownCertificate),
            ),
            (CERTIFICATES, &["dns:old.example.org"], Denial::CredentialExpired),
            (FOREIGN, &["dns:batch.example.org"], Denial::SubscriptionMissing),
            (KEYS, &["dns:mobile.example.org"], Denial::CredentialMissing),
        ] {
            assert_eq!(with(api, names).err(), Some(denial), "{names:?}");
        }
        assert_eq!(
            asked(CERTIFICATES, &HeaderMap::new(), None).err(),
            Some(Denial::CredentialMissing)
        );
        let scoped = house().examine(
            CERTIFICATES,
            &["read".to_owned()],
            &HeaderMap::new(),
            None,
            Some(&shown(&["dns:batch.example.org"])),
            NOW,
        );
        assert!(matches!(scoped, Err(Denial::ScopeInsufficient { .. })));
    }

    #[test]
    fn a_certificate_that_ended_while_its_connection_went_on_lets_nobody_in() {
        let identity = ClientIdentity {
            not_after_ms: NOW,
            ..shown(&["dns:batch.example.org"])
        };
        let late = asked(CERTIFICATES, &HeaderMap::new(), Some(&identity));
        assert_eq!(late.err(), Some(Denial::CredentialExpired));
    }

    #[test]
    fn a_key_that_the_api_takes_goes_before_the_certificate() {
        let identity = shown(&["dns:mobile.example.org"]);
        let caller = asked(BOTH, &key_header(KEY), Some(&identity)).unwrap();
        assert_eq!(caller.key_id(), Some("key-1"));
        let wrong = asked(BOTH, &key_header("not-a-key-of-anyone"), Some(&identity));
        assert_eq!(wrong.err(), Some(Denial::CredentialInvalid(Invalid::UnknownKey)));
        // An API that takes no keys does not look at them: they may be the upstream's.
        let caller = asked(CERTIFICATES, &key_header("for-the-upstream"), Some(&identity)).unwrap();
        assert_eq!(caller.key_id(), Some("cert-2"));
    }

    #[test]
    fn limits_count_the_name_and_not_the_certificate() {
        let hash = |name: &str| with(CERTIFICATES, &[name]).unwrap().key_hash().unwrap();
        assert_eq!(hash("dns:mobile.example.org"), hash("dns:Mobile.example.org"));
        assert_ne!(hash("dns:mobile.example.org"), hash("uri:spiffe://example.org/mobile"));
    }
}
