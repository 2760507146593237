use std::collections::HashMap;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::response::{IntoResponse, Json};
use clap::Parser;

use super::testing::Double;
use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    part: Part,
}

fn server(line: &[&str]) -> Server {
    Line::parse_from([&["x"], line].concat()).server
}

fn part(line: &[&str]) -> Part {
    Line::parse_from([&["x"], line].concat()).part
}

fn words(failure: Failure) -> String {
    match failure {
        Failure::Usage(text) | Failure::Failed(text) => text,
        Failure::Problem(problem) => problem.to_string(),
    }
}

/// Says what it was asked.
async fn echo(request: Request) -> impl IntoResponse {
    let header = |name: &str| {
        let value = request.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let said = json!({
        "method": request.method().as_str(), "uri": request.uri().to_string(),
        "authorization": header("authorization"), "if_match": header("if-match"),
    });
    ([("etag", "\"7\"")], Json(said))
}

#[test]
fn a_name_is_one_segment_whatever_is_in_it_and_a_version_goes_back_as_it_came() {
    let double = Double::start(Router::new().fallback(echo));
    let remote = double.remote("/tollgate/");
    let answer = remote.get(&["apis", "a/b?c#d %"], &[("x", "1&2")]).unwrap();
    assert_eq!(answer.body["uri"], "/tollgate/v1/apis/a%2Fb%3Fc%23d%20%25?x=1%262");
    assert_eq!(answer.body["authorization"], "Bearer hush");
    let put = remote.put(&["apis", "a"], &json!({}), answer.etag.as_ref()).unwrap();
    assert_eq!((&put["method"], &put["if_match"]), (&json!("PUT"), &json!("\"7\"")));
    for name in ["", ".", ".."] {
        let failure = remote.delete(&["apis", name], &[]).unwrap_err();
        assert!(matches!(failure, Failure::Usage(_)), "{name:?}: {failure:?}");
    }
}

#[test]
fn the_token_goes_nowhere_else_and_shows_itself_nowhere() {
    let other = Double::start(Router::new().fallback(echo));
    let location = format!("http://{}/", other.address);
    let double = Double::start(Router::new().fallback(async move || axum::response::Redirect::temporary(&location)));
    let failure = double.remote("").get(&["apis"], &[]).err().unwrap();
    assert!(words(failure).contains("status 307"));
    assert!(!format!("{:?}", server(&["--token", "hush"])).contains("hush"));
    let failure = server(&["--server", "http://127.0.0.1:1", "--token", "hu\nsh"])
        .remote()
        .unwrap()
        .get(&["apis"], &[])
        .err()
        .unwrap();
    assert!(!format!("{failure:?}").contains("hu"), "{failure:?}");
}

#[test]
fn a_list_is_read_to_its_end_or_as_far_as_was_wanted() {
    async fn numbers(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
        let after: u64 = query.get("after").map_or(0, |after| after.parse().unwrap());
        let limit: u64 = query["limit"].parse().unwrap();
        assert!(limit <= 1000);
        let end = (after + limit).min(2500);
        let items: Vec<u64> = (after + 1..=end).collect();
        Json(match end {
            2500 => json!({ "items": items }),
            _ => json!({ "items": items, "next": end.to_string() }),
        })
    }
    let double = Double::start(Router::new().fallback(numbers));
    let remote = double.remote("");
    let list = |line: &[&str]| remote.list(&["numbers"], &[], &part(line)).unwrap();
    let all = list(&[]);
    assert_eq!(all["items"].as_array().unwrap().len(), 2500);
    assert_eq!(all.get("next"), None);
    let some = list(&["--after", "10", "--limit", "1200"]);
    assert_eq!(some["items"][0], 11);
    assert_eq!(some["items"].as_array().unwrap().len(), 1200);
    assert_eq!(some["next"], "1210");
}

#[test]
fn a_list_that_leads_in_circles_comes_to_an_end() {
    let circle = async || Json(json!({ "items": [1], "next": "a" }));
    let double = Double::start(Router::new().fallback(circle));
    let list = double.remote("").list(&["x"], &[], &part(&[])).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_no_is_told_in_words_and_decides_the_exit_code() {
    async fn no(request: Request) -> impl IntoResponse {
        let (status, document) = match request.uri().path() {
            "/v1/refused" => (
                422,
                json!({ "code": "refused", "detail": "1 mistake", "mistakes": ["a.yaml:1:2: no"] }),
            ),
            "/v1/conflict" => (409, json!({ "code": "conflict", "detail": "it is there already" })),
            _ => (401, json!({ "code": "credential_invalid", "detail": "who?" })),
        };
        (StatusCode::from_u16(status).unwrap(), Json(document))
    }
    let double = Double::start(Router::new().fallback(no));
    let remote = double.remote("");
    let code = |path: &str| finish(remote.post(&[path], &json!({})).map(|_| DONE), Output::Text);
    assert_eq!(code("refused"), REFUSED);
    assert_eq!(code("conflict"), FAILED);
    assert_eq!(code("other"), FAILED);
    let Err(Failure::Problem(problem)) = remote.post(&["refused"], &json!({})) else {
        panic!("not a problem");
    };
    assert_eq!(problem.mistakes().collect::<Vec<_>>(), ["a.yaml:1:2: no"]);
    assert!(words(remote.post(&["other"], &json!({})).unwrap_err()).contains("TOLLGATE_TOKEN"));
}

#[test]
fn no_more_is_read_than_was_announced_as_the_most() {
    let endless = async || {
        Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(vec![0; 1000])
        }))
    };
    let double = Double::start(Router::new().fallback(endless));
    let failure = double.remote("").bytes(&["blobs", "a"], &[], 4096).unwrap_err();
    assert!(words(failure).contains("more than 4096 bytes"));
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let busy = async || {
        if ASKED.fetch_add(1, Ordering::Relaxed) < 2 {
            (
                StatusCode::SERVICE_UNAVAILABLE,
                [(RETRY_AFTER_MS, "5"), ("retry-after", "3600")],
                "busy",
            )
                .into_response()
        } else {
            "blob".into_response()
        }
    };
    let double = Double::start(Router::new().fallback(busy));
    assert_eq!(double.remote("").bytes(&["blobs", "a"], &[], 10).unwrap(), b"blob");
    assert_eq!(ASKED.load(Ordering::Relaxed), 3);
}

#[test]
fn a_server_that_is_not_there_or_speaks_another_language_is_told_apart() {
    let away = server(&["--server", "http://127.0.0.1:1"]).remote().unwrap();
    let text = words(away.get(&["apis"], &[]).err().unwrap());
    assert!(
        text.contains("can not be reached") && text.contains("tollgate control-plane"),
        "{text}"
    );
    let double = Double::start(Router::new().fallback(echo));
    let tls = server(&["--server", &format!("https://{}", double.address)])
        .remote()
        .unwrap();
    let text = words(tls.get(&["apis"], &[]).err().unwrap());
    assert!(text.contains(&format!("--server http://{}", double.address)), "{text}");
    let page = Double::start(Router::new().fallback(async || "<html>"));
    let text = words(page.remote("").get(&["apis"], &[]).err().unwrap());
    assert!(text.contains("not what a control plane says"), "{text}");
}

#[test]
fn a_server_is_an_http_url_without_a_password() {
    for url in ["", "https://cp:9443", "http://127.0.0.1:9443/sub"] {
        assert!(server(&["--server", url]).remote().is_ok(), "{url}");
    }
    for url in [
        "cp:9443",
        "ftp://cp",
        "https://user:hush@cp",
        "https://cp/?a=b",
        "https://",
    ] {
        let text = words(server(&["--server", url]).remote().err().unwrap());
        assert!(
            text.contains("TOLLGATE_SERVER") && !text.contains("hush"),
            "{url}: {text}"
        );
    }
    assert!(!server(&["--server", ""]).is_named());
}
