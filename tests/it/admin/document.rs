//! The document that describes the API, and answers held against it.

use serde_json::{Value, json};

use super::Office;
use crate::support::http::Answer;

/// What `/admin/openapi.json` says.
pub struct Document(Value);

impl Document {
    pub fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self(answer.json())
    }

    /// Fails unless the document has this route and status, and the answer is what it says:
    /// every field that must be there, of its type, and none that it does not name.
    pub fn holds(&self, method: &str, path: &str, answer: &Answer) {
        let path = path.split('?').next().expect("a path");
        let (template, item) = self.item(path);
        let operation = &item[method.to_lowercase()];
        assert!(operation.is_object(), "{method} {template} is not described");
        let responses = &operation["responses"];
        let response = &responses[answer.status.to_string()];
        let response = match (response, answer.status) {
            (Value::Null, 400..) => &responses["default"],
            (known, _) => known,
        };
        assert!(response.is_object(), "{method} {template} {} is not described", answer.status);
        let Some(content) = response.get("content") else { return };
        self.fits(
            &content["application/json"]["schema"],
            &answer.json(),
            &format!("{method} {path}"),
        );
    }

    fn item(&self, path: &str) -> (&str, &Value) {
        let paths = self.0["paths"].as_object().expect("paths");
        let fits = |template: &str| {
            let mut parts = template.split('/').zip(path.split('/'));
            template.split('/').count() == path.split('/').count()
                && parts.all(|(want, have)| want == have || want.starts_with('{'))
        };
        let exact = paths.get_key_value(path);
        let found = exact.or_else(|| paths.iter().find(|(template, _)| fits(template)));
        let (template, item) = found.unwrap_or_else(|| panic!("{path} is not described"));
        (template, item)
    }

    fn fits(&self, schema: &Value, value: &Value, what: &str) {
        let strict = json!({
            "allOf": [schema],
            "components": self.0["components"],
            "unevaluatedProperties": schema["type"] == "object" && schema.get("properties").is_none(),
        });
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&strict)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let errors: Vec<String> =
            validator.iter_errors(value).map(|error| format!("{error}")).collect();
        assert!(errors.is_empty(), "{what}: {errors:#?} in {value}");
        let entry = &self.resolved(schema)["properties"]["data"]["items"];
        for value in value["data"].as_array().into_iter().flatten() {
            self.fits(entry, value, what);
        }
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let Some(reference) = schema["$ref"].as_str() else { return schema };
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }
}

#[test]
fn the_document_describes_every_route_of_administration() {
    let (office, _sim) = Office::open();
    let document = &office.document.0;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    for (path, methods) in [
        ("/admin/keys", &["get", "post"][..]),
        ("/admin/keys/{id}", &["delete", "get", "patch"]),
        ("/admin/keys/{id}/rotate", &["post"]),
        ("/admin/users", &["get", "post"]),
        ("/admin/users/{id}", &["delete", "get", "patch"]),
        ("/admin/users/{id}/ssh-keys", &["delete", "get", "post"]),
        ("/admin/usage", &["get"]),
        ("/auth/usage", &["get"]),
        ("/auth/login", &["post"]),
        ("/auth/logout", &["post"]),
        ("/auth/me", &["get"]),
        ("/admin/upstreams", &["get"]),
        ("/admin/upstreams/{name}/drain", &["post"]),
        ("/admin/upstreams/{name}/resume", &["post"]),
        ("/admin/audit", &["get"]),
        ("/admin/config", &["get"]),
        ("/admin/reload", &["post"]),
        ("/admin/openapi.json", &["get"]),
    ] {
        let item = document["paths"][path].as_object().unwrap_or_else(|| panic!("{path}"));
        let mut described: Vec<_> =
            item.keys().map(String::as_str).filter(|key| *key != "parameters").collect();
        described.sort_unstable();
        assert_eq!(described, methods, "{path}");
        for method in methods {
            assert!(item[*method]["summary"].is_string(), "{method} {path} says what it does");
            assert!(item[*method]["responses"]["default"].is_object(), "{method} {path}");
        }
    }
    // what may be sent is described as strictly as it is read
    for name in ["NewKey", "KeyChange", "Rotation", "NewAccount", "AccountChange", "LimitsInput"] {
        let schema = &document["components"]["schemas"][name];
        assert_eq!(schema["additionalProperties"], false, "{name}: {schema}");
    }
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let login = &document["paths"]["/auth/login"]["post"];
    assert_eq!(login["security"], json!([{}]), "who logs in has no credential yet");
    assert_eq!(document["paths"]["/auth/logout"]["post"]["security"], Value::Null);
    let sums = &document["paths"]["/admin/usage"]["get"]["responses"]["200"]["content"];
    assert_eq!(sums["text/csv"]["schema"]["type"], "string", "{sums}");
}

#[test]
fn every_route_answers_as_the_document_says() {
    let (office, _sim) = Office::open();
    office.get("/admin/upstreams");
    office.ask("POST", "/admin/upstreams/gpu0/drain", None, 200);
    office.ask("POST", "/admin/upstreams/gpu0/resume", None, 200);
    office.get("/admin/openapi.json");
    office.get("/admin/config");
    office.get("/admin/usage");
    office.get("/admin/usage?by=user");
    office.get("/auth/usage");
    office.get("/auth/me");
    office.get("/admin/audit");
    office.ask("POST", "/admin/upstreams/gpu9/drain", None, 404);
}
