//! `/admin/openapi.json`: this API, described by its own code.

use axum::Json;
use serde::Serialize;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, SecurityRequirement};
use utoipa::{OpenApi, ToSchema};

use super::input::{MaybeBody, Nothing};
use super::{Fault, audit, config, keys, session, ssh_keys, upstreams, usage, users};

/// A no.
#[derive(Serialize, ToSchema)]
struct Refusal {
    /// Why, for people.
    detail: String,
    /// The mistakes of a configuration file, each as `FILE:LINE: path.to.key: text`.
    #[schema(required = false)]
    problems: Vec<String>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Usher",
        description = "Accounts and administration. Times are RFC 3339 in UTC, ids are integers; \
                       a field that is not known is refused."
    ),
    paths(
        keys::create, keys::list, keys::show, keys::change, keys::revoke, keys::rotate,
        users::create, users::list, users::show, users::change, users::remove,
        ssh_keys::add, ssh_keys::list, ssh_keys::remove,
        upstreams::list, upstreams::drain, upstreams::resume,
        session::login, session::logout, session::me,
        usage::all, usage::own,
        audit::list, config::show, config::reload, document,
    ),
    components(schemas(Refusal)),
    modifiers(&Common),
)]
struct Document;

/// What holds for every route.
struct Common;

impl utoipa::Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        components.add_security_scheme("api_key", header);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        let either = ["api_key", "bearer"];
        let either = either.map(|name| SecurityRequirement::new::<_, [&str; 0], &str>(name, []));
        document.security = Some(either.to_vec());
        let refusal = ContentBuilder::new().schema(Some(Ref::from_schema_name("Refusal"))).build();
        let refusal = ResponseBuilder::new()
            .description("A no, and why")
            .content("application/json", refusal)
            .build();
        for item in document.paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                let responses = &mut operation.responses.responses;
                responses.insert("default".to_owned(), RefOr::T(refusal.clone()));
            }
        }
    }
}

/// Describes this API.
#[utoipa::path(get, path = "/admin/openapi.json", tag = "config",
    responses((status = 200, description = "This document", body = Object)))]
pub(super) async fn document(
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<utoipa::openapi::OpenApi>, Fault> {
    Ok(Json(Document::openapi()))
}
