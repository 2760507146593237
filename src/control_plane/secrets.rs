//! Secrets that stand in documents in clear: they are sent to gateways, which need them, and shown to nobody.

use serde_json::Value;

use crate::document::is_credential;

/// What is shown in the place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// The JSON paths at which a document has the stand-in of a secret: somebody has taken it from an answer.
#[must_use]
pub fn stand_ins(value: &Value) -> Vec<String> {
    let (mut shown, mut found) = (value.clone(), Vec::new());
    walk(&mut shown, "", &mut found, &|text| text == HIDDEN);
    found
}

/// Members that hold a secret wherever they are.
const SECRET: [&str; 4] = ["client_secret", "password", "secret", "token"];

/// Header fields that carry a credential, when a document sets them with a value.
const CREDENTIAL_FIELDS: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];

/// Hides every secret of a document or of a part of it; gives the JSON paths of those that there were. References to
/// credentials are no secrets.
pub fn hide(value: &mut Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(value, "", &mut found, &|text| !is_credential(text));
    found
}

fn walk(value: &mut Value, path: &str, found: &mut Vec<String>, wanted: &dyn Fn(&str) -> bool) {
    match value {
        Value::Array(items) => {
            for (position, item) in items.iter_mut().enumerate() {
                walk(item, &format!("{path}[{position}]"), found, wanted);
            }
        }
        Value::Object(members) => {
            // `k` of a symmetric JWK. Whatever has a `kty` is a key.
            let key = members.contains_key("kty");
            for (name, member) in members.iter_mut() {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                let is_field = |field: &&str| field.eq_ignore_ascii_case(name);
                let field = CREDENTIAL_FIELDS.iter().any(is_field);
                let secret = field || SECRET.contains(&name.as_str()) || key && name == "k";
                match member {
                    Value::String(text) if secret => {
                        if wanted(text) {
                            HIDDEN.clone_into(text);
                            found.push(path);
                        }
                    }
                    member => walk(member, &path, found, wanted),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shared_secrets_are_hidden_and_named_and_nothing_else_is() {
        let mut document = json!({
            "issuers": [{
                "name": "a",
                "jwks": { "keys": [{ "kty": "oct", "k": "c2VjcmV0" }, { "kty": "oct", "k": "${cred:shared}" }] },
                "introspection": { "client_id": "me", "client_secret": "hush" },
            }],
            "apis": [{ "name": "k", "k": "no key", "credentials": { "token_header": "X-Token" },
                "headers": { "request": { "set": { "Authorization": "Basic dTpw", "X-Tenant": "acme" } } } }],
        });
        let expected = [
            "apis[0].headers.request.set.Authorization",
            "issuers[0].introspection.client_secret",
            "issuers[0].jwks.keys[0].k",
        ];
        let mut found = hide(&mut document);
        found.sort();
        assert_eq!(found, expected);
        let mut again = stand_ins(&document);
        again.sort();
        assert_eq!(again, expected, "and are known when they come back");
        assert_eq!(document["issuers"][0]["jwks"]["keys"][0]["k"], HIDDEN);
        assert_eq!(document["issuers"][0]["jwks"]["keys"][1]["k"], "${cred:shared}");
        assert_eq!(document["issuers"][0]["introspection"]["client_secret"], HIDDEN);
        assert_eq!(document["apis"][0]["k"], "no key");
        assert_eq!(document["apis"][0]["credentials"]["token_header"], "X-Token");
    }
}
