//! The forms of OAuth: parameters that are given once, and what is empty is not given (RFC 6749 §3.2).

use axum::Form;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;

use super::super::problem::Problem;
use super::problem::OAuthProblem;
use crate::document::Secret;

/// The parameters of a request. What they hold is secret until somebody says otherwise: there is no `Debug`.
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Parameters {
    type Rejection = OAuthProblem;

    async fn from_request(request: Request, state: &S) -> Result<Self, OAuthProblem> {
        match Form::<Vec<(String, String)>>::from_request(request, state).await {
            Ok(Form(parameters)) => Ok(Self(parameters)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Problem::TooLarge(format!("this form may have {} bytes at most", super::BODY)).into())
            }
            // Not the rejection's own words, in case they repeat what was sent.
            Err(_) => Err(OAuthProblem::InvalidRequest(
                "a body of the type application/x-www-form-urlencoded is expected".to_owned(),
            )),
        }
    }
}

impl Parameters {
    /// A parameter that may be given once.
    ///
    /// # Errors
    /// When it is given twice.
    pub(super) fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, OAuthProblem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(OAuthProblem::InvalidRequest(format!("{name} may be given once"))),
        }
    }

    /// A parameter that nobody is shown.
    ///
    /// # Errors
    /// When it is given twice.
    pub(super) fn secret(&self, name: &str) -> Result<Option<Secret>, OAuthProblem> {
        Ok(self.one(name)?.map(Secret::from))
    }

    /// A parameter that has to be given, and that nobody is shown.
    ///
    /// # Errors
    /// When it is missing or given twice.
    pub(super) fn needed_secret(&self, name: &str) -> Result<Secret, OAuthProblem> {
        self.secret(name)?
            .ok_or_else(|| OAuthProblem::InvalidRequest(format!("{name} is missing")))
    }

    /// A parameter that may be given several times.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self
            .0
            .iter()
            .filter(move |(other, value)| other == name && !value.is_empty());
        named.map(|(_, value)| value.as_str())
    }
}
