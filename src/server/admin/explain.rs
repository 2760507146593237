//! `POST /admin/explain`: what would happen to a request, by the revision and the counters of this process and with the
//! endpoints as it sees them now. Nothing is counted and nobody is called.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Deserialize;

use crate::cache::Cache;
use crate::gateway::explain::{Explanation, Question, explain};
use crate::san::San;
use crate::snapshot::Snapshot;
use crate::throttle::{Throttle, Time};
use crate::transport::ClientIdentity;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Method; GET when absent.
    method: Option<String>,
    /// The URL that the client would use; of a path alone, the host is that of the header fields.
    url: String,
    /// Header fields: a value, or several.
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    /// The client's address; that of this machine when absent.
    client: Option<IpAddr>,
    /// A name in the client's certificate, such as `uri:spiffe://example.org/mobile`.
    client_certificate: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Several(Vec<String>),
}

/// Answers a question that was asked in JSON.
///
/// # Errors
/// What is wrong with the question, for whoever has asked it.
pub(super) fn answer(
    body: &[u8],
    snapshot: &Snapshot,
    throttle: &Throttle,
    kept: Option<&Cache>,
    now: Time,
) -> Result<Explanation, String> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| {
        format!("{error}; write {{\"method\": \"GET\", \"url\": \"http://host/path\", \"headers\": {{\"name\": \"value\"}}}}")
    })?;
    let method = asked.method.as_deref().unwrap_or("GET");
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| format!("\"method\": {method:?} is not a method"))?;
    let url: Uri = (asked.url.parse()).map_err(|error| format!("\"url\": {:?}: {error}", asked.url))?;
    let headers = headers(&asked.headers)?;
    let certificate = asked.client_certificate.as_deref().map(San::parse).transpose();
    let certificate = certificate.map_err(|error| format!("\"client_certificate\": {error}"))?;
    let certificate = certificate.map(ClientIdentity::with_name);
    let given = headers.get(HOST).and_then(|host| host.to_str().ok());
    let question = Question {
        method: &method,
        scheme: url.scheme_str().unwrap_or("http"),
        host: given
            .or_else(|| url.authority().map(http::uri::Authority::as_str))
            .unwrap_or_default(),
        path: url.path(),
        query: url.query(),
        headers: &headers,
        client: asked.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        certificate: certificate.as_ref(),
        kept,
    };
    Ok(explain(snapshot, throttle, &question, now))
}

/// Values are never part of a message: they may be credentials.
fn headers(asked: &BTreeMap<String, Values>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in asked {
        let field = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("\"headers\": {name:?} is not the name of a header field"))?;
        let values = match values {
            Values::One(value) => std::slice::from_ref(value),
            Values::Several(values) => values.as_slice(),
        };
        for value in values {
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("\"headers\": the value of {name:?} can not be sent in a header"))?;
            headers
                .try_append(field.clone(), value)
                .map_err(|_| "\"headers\": there are too many".to_owned())?;
        }
    }
    Ok(headers)
}
