//! A path has one spelling, and what goes upstream is the table's own.

use super::{assert_refused, beside_probes, pair, posted, question, say};

#[test]
fn no_other_spelling_of_a_path_reaches_an_instance() {
    let (sim, gateway) = pair();
    let key = gateway.key("admin");
    let body = question(false).to_string();
    for target in SPELLINGS {
        let answer = say(
            &gateway,
            format!(
                "POST {target} HTTP/1.1\r\nHost: usher\r\nX-API-Key: {key}\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        assert_refused(&gateway, &answer, &[400, 404, 405], target);
    }
    assert_eq!(beside_probes(&sim), [] as [serde_json::Value; 0]);
}

#[test]
fn queries_are_accepted_and_go_no_further() {
    let (sim, gateway) = pair();
    let query = "/api/generate?api_key=usk_x&path=/api/pull&x=%2e%2e//;\\|^`{}";
    let request = gateway.post(query, &question(false)).key(gateway.key("admin"));
    assert_eq!(request.send().status, 200);
    assert_eq!(posted(&sim)[0]["target"], "/api/generate");
    let open = gateway.get(&format!("/api/version?api_key={}", gateway.key("admin"))).send();
    assert_eq!(open.status, 401, "a key in a query is no credential");
}

#[test]
fn methods_are_what_they_say_and_nothing_else_says_it() {
    let (sim, gateway) = pair();
    let key = gateway.key("admin");
    let body = question(false).to_string();
    let methods = [
        "GET",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "TRACK",
        "CONNECT",
        "post",
        "Post",
        "PRI",
        "PROPFIND",
        "M-SEARCH",
        "POST\u{0}",
        "",
    ];
    for method in methods {
        let answer = say(
            &gateway,
            format!(
                "{method} /api/generate HTTP/1.1\r\nHost: usher\r\nX-API-Key: {key}\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        assert_refused(&gateway, &answer, &[400, 405], method);
        if answer.status == 405 {
            assert_eq!(answer.header("allow"), Some("POST"), "{method}");
        }
    }
    let answer = say(&gateway, "CONNECT 127.0.0.1:11434 HTTP/1.1\r\nHost: 127.0.0.1:11434\r\n\r\n");
    assert_refused(&gateway, &answer, &[400, 405], "CONNECT");
    for override_header in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
        let request = gateway.get("/api/generate").key(key).header(override_header, "POST");
        assert_eq!(request.send().status, 405, "{override_header}");
        let request = gateway.get("/api/tags?_method=DELETE").key(key);
        let answer = request.header(override_header, "DELETE").send();
        assert_eq!(answer.status, 200, "{override_header}");
    }
    assert_eq!(beside_probes(&sim), [] as [serde_json::Value; 0]);
}

#[test]
fn answers_to_head_have_no_body() {
    let (_sim, gateway) = pair();
    let key = gateway.key("admin");
    let cases = [
        ("/", true, 200),
        ("/api/version", true, 200),
        ("/api/tags", true, 200),
        ("/api/version", false, 401),
        ("/nonsense", true, 404),
        ("/api/generate", true, 405),
        ("/health", true, 405),
        ("*", true, 400),
    ];
    for (target, with_key, status) in cases {
        let key = if with_key { format!("X-API-Key: {key}\r\n") } else { String::new() };
        let mut wire = gateway.connect();
        wire.send(format!(
            "HEAD {target} HTTP/1.1\r\nHost: usher\r\n{key}Connection: close\r\n\r\n"
        ));
        let answer = wire.answer("HEAD");
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.header("content-length").is_some_and(|it| it != "0"), "{target}");
        let behind = wire.drain(std::time::Duration::from_secs(5));
        assert_eq!(String::from_utf8_lossy(&behind), "", "{target}");
    }
}

#[test]
fn a_known_path_names_its_methods() {
    let (_sim, gateway) = pair();
    let cases = [
        ("POST", "/api/tags", "GET, HEAD"),
        ("GET", "/api/chat", "POST"),
        ("DELETE", "/", "GET, HEAD"),
        ("POST", "/v1/models", "GET"),
        ("GET", "/api/delete", "DELETE"),
        ("OPTIONS", "/v1/messages", "POST"),
    ];
    for (method, path, allow) in cases {
        let answer = gateway.request(method, path).key(gateway.key("admin")).send();
        assert_refused(&gateway, &answer, &[405], path);
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

/// Paths that no route has, or that a lenient reader would take for one that it has.
const SPELLINGS: &[&str] = &[
    "/api/%70ull",
    "/api/%67enerate",
    "/api%2fgenerate",
    "/api%2Fgenerate",
    "/%61pi/generate",
    "/api/%2e%2e/api/generate",
    "/api/%252e%252e/api/generate",
    "//api/generate",
    "/api//generate",
    "/./api/generate",
    "/api/./generate",
    "/api/../api/generate",
    "/v1/../api/generate",
    "/api/generate/",
    "/api/generate/.",
    "/api/generate;x=1",
    "/api;x/generate",
    "/api\\generate",
    "/api/generate\\",
    "\\api\\generate",
    "/API/GENERATE",
    "/Api/generate",
    "/api/Generate",
    "/api/generate%00",
    "/api/generate%20",
    "/api/generate%0d%0aX:%20y",
    "/api/generate#fragment",
    "/api/generate%3f",
    "/api/generate&x",
    "/api/generate`",
    "/api/<generate>",
    "/api/\"generate\"",
    "/api/{generate}",
    "/api/generate?<x>#",
    "/api/generate\u{2024}",
    "/api/ge\u{0}nerate",
    "/api/ge\tnerate",
    "http://usher/api/generate",
    "http://127.0.0.1:11434/api/pull",
    "https://usher/api/generate",
    "//usher/api/generate",
    "*",
    "usher:443",
    "api/generate",
    "?/api/generate",
    "/api/me",
    "/api/signout",
    "/api/user/keys/x",
    "/api/experimental/web_search",
    "/api/status",
    "/debug/pprof/",
    "/v1",
    "/v1/",
    "/metrics",
    "/v2/embed",
    "/api/blobs/sha256:../../etc/passwd",
    "/api/blobs/sha256:%2e%2e",
    "/k/x/api/generate",
];
