//! Who used how much: `/admin/usage` and `/auth/usage`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::input::{MaybeBody, Nothing};
use super::{Admin, Caller, Fault};
use crate::usage::report::{self, By, Line, Period};

/// Sums, as lists are answered.
#[derive(Serialize, ToSchema)]
pub(super) struct Usage {
    data: Vec<Line>,
}

/// What is asked for.
#[derive(Default)]
struct Asked {
    by: By,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    csv: bool,
}

/// Sums everybody's usage.
#[utoipa::path(get, path = "/admin/usage", tag = "usage",
    params(
        ("by" = Option<String>, Query, description = "`hour`, `key`, `model` or `user`"),
        ("from" = Option<String>, Query, description = "A day or a moment"),
        ("to" = Option<String>, Query, description = "A day or a moment"),
        ("format" = Option<String>, Query, description = "`json` or `csv`"),
    ),
    responses((status = 200, description = "The sums",
        content((Usage = "application/json"), (String = "text/csv")))))]
pub(super) async fn all(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Response, Fault> {
    let Asked { by, from, to, csv } = read(query.as_deref().unwrap_or_default())?;
    let data = admin.store.usage(by, Period::of(from, to)).await?;
    Ok(match csv {
        true => {
            ([(CONTENT_TYPE, "text/csv; charset=utf-8")], report::csv(by, &data)).into_response()
        }
        false => Json(Usage { data }).into_response(),
    })
}

/// Shows the caller's own usage, the newest 50 hours of it, by model.
#[utoipa::path(get, path = "/auth/usage", tag = "usage",
    responses((status = 200, description = "The sums", body = Usage)))]
pub(super) async fn own(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    MaybeBody(Nothing {}): MaybeBody<Nothing>,
) -> Result<Json<Usage>, Fault> {
    Ok(Json(Usage { data: admin.store.own_usage(caller.user_id).await? }))
}

fn read(query: &str) -> Result<Asked, Fault> {
    let mut asked = Asked::default();
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if seen.contains(&name) {
            return Err(Fault::bad(format!("query field '{name}' is given twice")));
        }
        let wrong = |what: &str| Fault::bad(format!("query field '{name}': {what}"));
        let moment = || report::parse_moment(&value).map_err(|error| wrong(&error.to_string()));
        match &*name {
            "from" => asked.from = Some(moment()?),
            "to" => asked.to = Some(moment()?),
            "by" => {
                let by = By::parse(&value);
                asked.by = by.ok_or_else(|| wrong("expected hour, key, model or user"))?;
            }
            "format" => {
                asked.csv = match &*value {
                    "csv" => true,
                    "json" => false,
                    _ => return Err(wrong("expected json or csv")),
                };
            }
            _ => return Err(wrong("is not known: expected from, to, by or format")),
        }
        seen.push(name);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_to_the_letter() {
        let asked = read("from=2026-01-31&to=2026-01-31T05%3A00%3A00Z&by=key&format=csv").unwrap();
        assert_eq!((asked.by, asked.csv), (By::Key, true));
        assert_eq!(asked.from.map(|at| at.to_string()).as_deref(), Some("2026-01-31T00:00:00Z"));
        assert_eq!(asked.to.map(|at| at.to_string()).as_deref(), Some("2026-01-31T05:00:00Z"));
        for (query, detail) in [
            ("by=tier", "query field 'by': expected hour, key, model or user"),
            ("format=xml", "query field 'format': expected json or csv"),
            ("form=csv", "query field 'form': is not known: expected from, to, by or format"),
            ("by=key&by=user", "query field 'by' is given twice"),
        ] {
            assert_eq!(read(query).err().map(|fault| fault.detail).as_deref(), Some(detail));
        }
        assert!(read("from=yesterday").is_err());
    }
}
