//! What a control plane says when it does not do what was asked (RFC 9457), in words.

use std::fmt;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::table::plain;

/// The most that is repeated of an answer that is no problem document.
const EXCERPT: usize = 200;

/// A "no".
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    document: Value,
    said: Said,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    code: String,
    detail: String,
    mistakes: Vec<String>,
}

impl Problem {
    /// What an answer with this status says.
    pub fn new(status: StatusCode, body: &[u8]) -> Self {
        let document: Option<Value> = serde_json::from_slice(body).ok();
        let said = document.as_ref().and_then(|document| Said::deserialize(document).ok());
        match (document, said) {
            (Some(document), Some(said)) if !said.code.is_empty() => Self { status, document, said },
            _ => {
                let text: String = String::from_utf8_lossy(body).trim().chars().take(EXCERPT).collect();
                Self {
                    status,
                    document: json!({ "status": status.as_u16(), "detail": text }),
                    said: Said {
                        detail: text,
                        ..Said::default()
                    },
                }
            }
        }
    }

    /// Whether a document was refused for its mistakes.
    pub fn is_refused(&self) -> bool {
        self.said.code == "refused"
    }

    /// Whether the thing itself is not there; not so when nobody knows the path.
    pub fn is_not_found(&self) -> bool {
        self.said.code == "not_found"
    }

    /// Whether there is nothing newer than what was asked for: not a "no" in truth.
    pub fn is_nothing_new(&self) -> bool {
        self.status == StatusCode::NOT_MODIFIED
    }

    /// Every mistake of a document, with its place.
    pub fn mistakes(&self) -> impl Iterator<Item = String> + '_ {
        self.said.mistakes.iter().map(|mistake| plain(mistake))
    }

    /// The document as it came.
    pub fn document(&self) -> Value {
        self.document.clone()
    }

    /// What the person who asked can do about it.
    fn way_out(&self) -> Option<&'static str> {
        Some(match self.said.code.as_str() {
            "credential_invalid" => "say who you are with TOLLGATE_TOKEN or --token",
            "scope_insufficient" => "a token with this right is made by `tollgate token new --scope …`",
            "precondition_failed" => "somebody else changed it in between: look at it and try again",
            "overloaded" | "store_unavailable" => "try again in a moment",
            "" => "does --server or TOLLGATE_SERVER name a control plane of this version?",
            _ => return None,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = if self.said.code.is_empty() {
            format!("status {}", self.status.as_u16())
        } else {
            plain(&self.said.code)
        };
        if self.said.detail.is_empty() {
            write!(f, "the control plane said no ({code})")?;
        } else {
            write!(f, "{} ({code})", plain(&self.said.detail))?;
        }
        match self.way_out() {
            Some(way_out) => write!(f, "; {way_out}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_and_the_way_out_and_lets_nobody_speak_to_the_terminal() {
        let said = json!({ "code": "credential_invalid", "detail": "who\u{1b}[31m are you" });
        let problem = Problem::new(StatusCode::UNAUTHORIZED, said.to_string().as_bytes());
        assert_eq!(
            problem.to_string(),
            "who\\u{1b}[31m are you (credential_invalid); say who you are with TOLLGATE_TOKEN or --token"
        );
        assert_eq!(problem.document(), said);
        assert!(!problem.is_refused() && !problem.is_not_found());
    }

    #[test]
    fn what_is_no_problem_document_is_shown_for_what_it_is() {
        let problem = Problem::new(StatusCode::BAD_GATEWAY, b"<html>bad gateway</html>\n");
        assert_eq!(
            problem.to_string(),
            "<html>bad gateway</html> (status 502); does --server or TOLLGATE_SERVER name a control plane of this version?"
        );
        let long = Problem::new(StatusCode::OK, "ä".repeat(5000).as_bytes());
        assert!(long.to_string().chars().count() < 400);
    }
}
