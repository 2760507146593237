//! What others may read who may read the Redis that gateways share.

use super::shared::{HOST, Pair};
use super::*;

#[test]
fn nothing_secret_lies_in_redis() {
    const COOKIE: &str = "session=a-cookie-that-nobody-else-has";
    const TENANT: &str = "a-tenant-that-nobody-else-has";
    let signer = Signer::ec("ec");
    let token = signer.token();
    let origin = service(|request, _| {
        let long = "a long answer that is worth compressing ".repeat(100);
        let body = if request.target.contains("long") {
            long
        } else {
            "short".into()
        };
        fresh(
            600,
            "Vary: Authorization, Cookie, X-Tenant, X-Api-Key\r\nCache-Control: public\r\n",
        )
        .with_body(&body)
    });
    let revision = Revision::of(&origin)
        .issuer(&format!(
            "{{ name: corp, issuer: \"{ISSUER}\", audience: [{AUDIENCE}], algorithms: [ES256], jwks: {{ keys: [{}] }} }}",
            signer.jwk()
        ))
        .api("{ name: keys, base_path: /keys, auth: [api_key], upstream: origin, cache: {}, credentials: { key_query: api_key } }")
        .api("{ name: tokens, base_path: /tokens, auth: [{ jwt: corp }], upstream: origin, cache: {} }")
        .api("{ name: open, base_path: /open, auth: none, upstream: origin, cache: {} }")
        .mobile(&["keys"]);
    let pair = Pair::with(origin, &revision, "lease: 1s");
    let personal = |target: &str| pair.get(0, target).header("Cookie", COOKIE).header("X-Tenant", TENANT);
    for path in ["/short", "/long"] {
        pair.put(|| personal(&format!("/keys{path}")).key(KEY));
        pair.put(|| personal(&format!("/keys{path}?api_key={KEY}&page=1")));
        pair.put(|| personal(&format!("/tokens{path}")).token(&token));
        pair.put(|| personal(&format!("/open{path}")).token(&token));
        pair.put(|| personal(&format!("/open{path}/basic")).header("Authorization", "Basic c2VjcmV0OnNlY3JldA=="));
    }
    let dump = dump(&pair.redis);
    // There is something, compressed and not, and it can be read.
    assert!(holds(&dump, "a long answer that is worth compressing"));
    assert!(holds(&dump, HOST) && holds(&dump, "page=1"));
    let parts = token.split('.').map(ToOwned::to_owned);
    let secrets = [KEY, COOKIE, TENANT, "a-cookie-that", "c2VjcmV0OnNlY3JldA", "Basic "].map(ToOwned::to_owned);
    for secret in secrets.into_iter().chain(parts) {
        assert!(!holds(&dump, &secret), "{secret:?} lies in Redis");
    }
}

/// Everything that lies in a Redis: names, values as they are, and what compressed ones contain.
fn dump(redis: &RedisServer) -> Vec<Vec<u8>> {
    const MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    let mut dump = Vec::new();
    for key in redis.keys() {
        let kind: String = redis.ask(redis::cmd("TYPE").arg(&key));
        let value: Vec<u8> = match kind.as_str() {
            "string" => redis.ask(redis::cmd("GET").arg(&key)),
            "stream" => redis
                .ask::<redis::Value>(redis::cmd("XRANGE").arg(&key).arg("-").arg("+"))
                .dump(),
            // A lease that is over since it was named.
            "none" => continue,
            other => panic!("{key} is a {other}"),
        };
        if let Some(at) = value.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) {
            dump.push(zstd::decode_all(&value[at..]).expect("what is compressed"));
        }
        dump.extend([key.into_bytes(), value]);
    }
    dump
}

trait Dump {
    fn dump(self) -> Vec<u8>;
}

impl Dump for redis::Value {
    fn dump(self) -> Vec<u8> {
        match self {
            Self::BulkString(bytes) => bytes,
            Self::Array(values) => values.into_iter().flat_map(Dump::dump).collect(),
            other => format!("{other:?}").into_bytes(),
        }
    }
}

fn holds(dump: &[Vec<u8>], text: &str) -> bool {
    let is_in = |value: &Vec<u8>| value.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    dump.iter().any(is_in)
}
