//! The routes. What is not here does not exist.

use super::Action::{self, *};
use super::BodyKind::{Json, Multipart};
use super::Class::{self, Guarded, Open};
use super::Dialect::{self, Anthropic, Native, OpenAi, Plain};
use super::ManageOp::*;
use super::StreamFormat::{Chunks, Messages, Ndjson, Never, Responses};
use super::{BodyKind, Inference, Route, StreamFormat};
use crate::config::RouteClass;

const ADMIN: Class = Guarded(RouteClass::Admin);
const READ: Class = Guarded(RouteClass::Read);
const INFER: Class = Guarded(RouteClass::Inference);
const MANAGE: Class = Guarded(RouteClass::Manage);

/// Every path has one line. Ollama's own routes that act for its owner's account (`/api/me`,
/// `/api/signout`, `/api/user/keys`, `/api/experimental`) are left out on purpose.
#[rustfmt::skip]
pub(super) static TABLE: &[Route] = &[
    route("POST", "/api/chat",                INFER, Native,    infer(Json, Ndjson)),
    route("POST", "/api/generate",            INFER, Native,    infer(Json, Ndjson)),
    route("POST", "/api/embed",               INFER, Native,    infer(Json, Never)),
    route("POST", "/api/embeddings",          INFER, Native,    infer(Json, Never)),
    route("POST", "/v1/chat/completions",     INFER, OpenAi,    infer(Json, Chunks)),
    route("POST", "/v1/completions",          INFER, OpenAi,    infer(Json, Chunks)),
    route("POST", "/v1/embeddings",           INFER, OpenAi,    infer(Json, Never)),
    route("POST", "/v1/responses",            INFER, OpenAi,    infer(Json, Responses)),
    route("POST", "/v1/messages",             INFER, Anthropic, infer(Json, Messages)),
    route("POST", "/v1/audio/transcriptions", INFER, OpenAi,    infer(Multipart, Never)),

    route("GET, HEAD", "/api/version",             READ, Native,    Version),
    route("GET, HEAD", "/api/tags",                READ, Native,    Tags),
    route("GET",       "/api/ps",                  READ, Native,    Ps),
    route("POST",      "/api/show",                READ, Native,    Show),
    route("GET",       "/v1/models",               READ, OpenAi,    Models),
    route("GET",       "/v1/models/{id}",          READ, OpenAi,    Model),
    route("POST",      "/v1/messages/count_tokens", READ, Anthropic, CountTokens),

    route("GET",       "/auth/usage",              READ, Plain,     Account),

    route("GET, HEAD", "/",       Open, Plain, Banner),
    route("GET",       "/health", Open, Plain, Health),
    route("GET",       "/ready",  Open, Plain, Ready),

    route("POST", "/auth/login",  Open, Plain, Login),
    route("POST", "/auth/logout", READ, Plain, Account),
    route("GET",  "/auth/me",     READ, Plain, Account),

    route("GET, POST",          "/admin/keys",                    ADMIN, Plain, Admin),
    route("GET, PATCH, DELETE", "/admin/keys/{id}",               ADMIN, Plain, Admin),
    route("POST",               "/admin/keys/{id}/rotate",        ADMIN, Plain, Admin),
    route("GET, POST",          "/admin/users",                   ADMIN, Plain, Admin),
    route("GET, PATCH, DELETE", "/admin/users/{id}",              ADMIN, Plain, Admin),
    route("GET, POST, DELETE",  "/admin/users/{id}/ssh-keys",     ADMIN, Plain, Admin),
    route("GET",                "/admin/usage",                   ADMIN, Plain, Admin),
    route("GET",                "/admin/upstreams",               ADMIN, Plain, Admin),
    route("POST",               "/admin/upstreams/{name}/drain",  ADMIN, Plain, Admin),
    route("POST",               "/admin/upstreams/{name}/resume", ADMIN, Plain, Admin),
    route("GET",                "/admin/audit",                   ADMIN, Plain, Admin),
    route("GET",                "/admin/config",                  ADMIN, Plain, Admin),
    route("POST",               "/admin/reload",                  ADMIN, Plain, Admin),
    route("GET",                "/admin/openapi.json",            ADMIN, Plain, Admin),

    route("POST",       "/api/pull",           MANAGE, Native, Manage(Pull)),
    route("POST",       "/api/push",           MANAGE, Native, Manage(Push)),
    route("POST",       "/api/create",         MANAGE, Native, Manage(Create)),
    route("POST",       "/api/copy",           MANAGE, Native, Manage(Copy)),
    route("DELETE",     "/api/delete",         MANAGE, Native, Manage(Delete)),
    route("HEAD, POST", "/api/blobs/{digest}", MANAGE, Native, Manage(Blob)),
];

const fn route(
    methods: &'static str,
    path: &'static str,
    class: Class,
    dialect: Dialect,
    action: Action,
) -> Route {
    Route { path, methods, class, dialect, action }
}

const fn infer(body: BodyKind, stream: StreamFormat) -> Action {
    Infer(Inference { body, stream })
}
