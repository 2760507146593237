//! What it costs to know who calls. Budget: 400 ns for a known key, and no allocation for it or for a cached token
//! (whose time grows with its length: it is hashed as a whole).

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tollgate::auth::{Authenticator, Caller, Denial, KeySets, TokenCache, key, new_key};
use tollgate::names::ApplicationName;
use tollgate::revision::{
    Api, Application, AuthMethod, CredentialPlaces, EnvironmentType, HeaderEdits, Issuer, JwksSource, Key, KeyType,
    Revision, Subscription,
};

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// The only way to see an allocation from outside is to be the allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn identify(criterion: &mut Criterion) {
    let gate = Gate::new(KEYS);
    let known = key_header(&gate.known);
    let unknown = key_header("tg_live_0123456789ABCDEFGHIJKLMNOPQRSTUV2ALRRa");
    let mistyped = key_header("tg_live_0123456789ABCDEFGHIJKLMNOPQRSTUV2ALRRb");
    let token = bearer(&gate.token);

    assert!(gate.ask(&known).is_ok() && gate.ask(&unknown).is_err() && gate.ask(&mistyped).is_err());
    assert!(gate.ask(&token).is_ok(), "from here on it is cached");
    for (name, headers) in [
        ("known key", &known),
        ("unknown key", &unknown),
        ("cached token", &token),
    ] {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..1000 {
            let _ = black_box(gate.ask(headers));
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        println!("{name}: {allocations} allocations in 1000 requests");
        assert_eq!(allocations, 0, "{name} allocates");
    }

    criterion.bench_function("auth/key/known of 100,000", |bencher| {
        bencher.iter(|| gate.ask(black_box(&known)))
    });
    criterion.bench_function("auth/key/unknown", |bencher| {
        bencher.iter(|| gate.ask(black_box(&unknown)))
    });
    criterion.bench_function("auth/key/mistyped", |bencher| {
        bencher.iter(|| gate.ask(black_box(&mistyped)))
    });
    criterion.bench_function("auth/key/digest", |bencher| {
        bencher.iter(|| key::digest(black_box(&gate.known)))
    });
    criterion.bench_function("auth/token/cached", |bencher| {
        bencher.iter(|| gate.ask(black_box(&token)))
    });
    criterion.bench_function("auth/token/verified anew", |bencher| {
        bencher.iter_batched_ref(
            || gate.compile_again(),
            |fresh| ask(fresh, 1, black_box(&token)),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, identify);
criterion_main!(benches);

const KEYS: usize = 100_000;
const NOW_MS: u64 = 1_800_000_000_000;

struct Gate {
    authenticator: Authenticator,
    small: Revision,
    known: String,
    token: String,
}

impl Gate {
    fn new(keys: usize) -> Self {
        let signer = Ed25519KeyPair::generate().expect("randomness");
        let claims = json!({"iss": "https://idp.example", "aud": "orders", "sub": "alice", "exp": NOW_MS / 1000 + 600});
        let header = base64url(
            json!({"alg": "EdDSA", "kid": "one", "typ": "JWT"})
                .to_string()
                .as_bytes(),
        );
        let signed = format!("{header}.{}", base64url(claims.to_string().as_bytes()));
        let signature = base64url(signer.sign(signed.as_bytes()).as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": base64url(signer.public_key().as_ref())});

        let name = ApplicationName::from("mobile");
        let fresh = new_key(&name, KeyType::Production, None, None).expect("randomness");
        let known = fresh.text.reveal().to_owned();
        let mut records: Vec<Key> = (0..keys)
            .map(|number| Key {
                id: format!("mobile-{number}").into(),
                sha256: key::digest(&format!("another key {number}")).0,
                key_type: KeyType::Production,
                expires: None,
            })
            .collect();
        records.push(fresh.record);

        let small = Revision {
            issuers: vec![Issuer {
                name: "corp".into(),
                issuer: "https://idp.example".to_owned(),
                audience: vec!["orders".to_owned()],
                algorithms: vec![jsonwebtoken::Algorithm::EdDSA],
                jwks: JwksSource::Inline(vec![jwk]),
                application_claim: None,
                leeway: Duration::ZERO,
            }],
            apis: vec![api("orders", AuthMethod::ApiKey), api("invoices", AuthMethod::Jwt(0))],
            ..Revision::default()
        };
        let subscriptions = vec![Subscription { api: 0, plan: 0 }];
        let applications = vec![Application {
            name,
            subscriptions,
            keys: records,
            certificates: Vec::new(),
        }];
        let authenticator = compile(&Revision {
            applications,
            ..small.clone()
        });
        Self {
            authenticator,
            small,
            known,
            token: format!("{signed}.{signature}"),
        }
    }

    fn ask(&self, headers: &HeaderMap) -> Result<Caller, Denial> {
        let api = usize::from(headers.contains_key("authorization"));
        ask(&self.authenticator, api, headers)
    }

    /// The same rules with an empty cache.
    fn compile_again(&self) -> Authenticator {
        compile(&self.small)
    }
}

fn compile(revision: &Revision) -> Authenticator {
    Authenticator::compile(
        revision,
        EnvironmentType::Hybrid,
        &KeySets::offline(),
        Arc::new(TokenCache::default()),
    )
}

/// What is known is answered at the first poll, so no runtime is needed.
fn ask(authenticator: &Authenticator, api: usize, headers: &HeaderMap) -> Result<Caller, Denial> {
    let answer = pin!(authenticator.identify(api, &[], headers, None, None, NOW_MS));
    match answer.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits for something"),
    }
}

fn api(name: &str, method: AuthMethod) -> Api {
    Api {
        labels: Vec::new(),
        name: name.into(),
        hosts: Vec::new(),
        base_path: format!("/{name}"),
        auth: vec![method],
        credentials: CredentialPlaces {
            key_header: HeaderName::from_static("x-api-key"),
            key_query: None,
            token_header: HeaderName::from_static("authorization"),
            forward: false,
        },
        destinations: None,
        strip_base_path: false,
        addresses: None,
        cors: None,
        headers: HeaderEdits::default(),
        body_bytes: None,
        cache: None,
        limits: Vec::new(),
        routes: Vec::new(),
    }
}

fn key_header(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_str(key).expect("a header value"));
    headers
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        "authorization",
        HeaderValue::from_str(&format!("Bearer {token}")).expect("a header value"),
    );
    headers
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
