//! The OpenAPI description: generated from the routes and their types, completed with what is the same for all of them.

use utoipa::PartialSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};

use super::problem::ProblemDocument;

const BEARER: &str = "token";
const PROBLEM: &str = "Problem";

/// The description of these routes: with a title, the bearer token that they need, and the problem document that every
/// refusal is. Operations that say themselves what they need are left as they are.
#[must_use]
pub fn document(mut routes: OpenApi) -> OpenApi {
    routes.info = InfoBuilder::new()
        .title("tollgate control plane")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Where APIs, plans, applications and keys are authored, published to environments, and fetched by gateways.",
        ))
        .build();
    let components = routes.components.get_or_insert_with(Components::new);
    components.schemas.insert(PROBLEM.to_owned(), ProblemDocument::schema());
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of this control plane; what it may do, its scopes say."))
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    for (path, item) in &mut routes.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
            ("patch", &mut item.patch),
            ("head", &mut item.head),
            ("options", &mut item.options),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                operation.operation_id = Some(operation_id(method, path));
                complete(operation);
            }
        }
    }
    routes
}

/// A name for generated clients: `get /v1/plans/{name}` is `get_plans_name`. Those of the functions behind it are not
/// unique.
fn operation_id(method: &str, path: &str) -> String {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let words = path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |id, word| format!("{id}_{word}"))
}

fn complete(operation: &mut Operation) {
    if operation.security.is_none() {
        operation.security = Some(vec![SecurityRequirement::new::<&str, [&str; 0], &str>(BEARER, [])]);
    }
    let responses = &mut operation.responses.responses;
    responses
        .entry("default".to_owned())
        .or_insert_with(|| RefOr::T(refusal()));
}

fn refusal() -> Response {
    let schema = Ref::from_schema_name(PROBLEM);
    ResponseBuilder::new()
        .description("A refusal, and why (RFC 9457).")
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(schema)).build(),
        )
        .build()
}
