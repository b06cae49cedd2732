use super::*;
use proptest::prelude::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The contract with the users: class, methods, path.
const CONTRACT: &[(&str, &str, &str)] = &[
    ("open", "GET HEAD", "/"),
    ("open", "GET", "/health"),
    ("open", "GET", "/ready"),
    ("open", "POST", "/auth/login"),
    ("read", "POST", "/auth/logout"),
    ("read", "GET", "/auth/me"),
    ("read", "GET HEAD", "/api/version"),
    ("read", "GET HEAD", "/api/tags"),
    ("read", "GET", "/api/ps"),
    ("read", "POST", "/api/show"),
    ("read", "GET", "/v1/models"),
    ("read", "GET", "/v1/models/{id}"),
    ("read", "POST", "/v1/messages/count_tokens"),
    ("read", "GET", "/auth/usage"),
    ("inference", "POST", "/api/generate"),
    ("inference", "POST", "/api/chat"),
    ("inference", "POST", "/api/embed"),
    ("inference", "POST", "/api/embeddings"),
    ("inference", "POST", "/v1/chat/completions"),
    ("inference", "POST", "/v1/completions"),
    ("inference", "POST", "/v1/embeddings"),
    ("inference", "POST", "/v1/responses"),
    ("inference", "POST", "/v1/messages"),
    ("inference", "POST", "/v1/audio/transcriptions"),
    ("manage", "POST", "/api/pull"),
    ("manage", "POST", "/api/push"),
    ("manage", "POST", "/api/create"),
    ("manage", "POST", "/api/copy"),
    ("manage", "DELETE", "/api/delete"),
    ("manage", "HEAD POST", "/api/blobs/{digest}"),
    ("admin", "GET POST", "/admin/keys"),
    ("admin", "GET PATCH DELETE", "/admin/keys/{id}"),
    ("admin", "POST", "/admin/keys/{id}/rotate"),
    ("admin", "GET POST", "/admin/users"),
    ("admin", "GET PATCH DELETE", "/admin/users/{id}"),
    ("admin", "GET POST DELETE", "/admin/users/{id}/ssh-keys"),
    ("admin", "GET", "/admin/audit"),
    ("admin", "GET", "/admin/config"),
    ("admin", "POST", "/admin/reload"),
    ("admin", "GET", "/admin/openapi.json"),
    ("admin", "GET", "/admin/usage"),
    ("admin", "GET", "/admin/upstreams"),
    ("admin", "POST", "/admin/upstreams/{name}/drain"),
    ("admin", "POST", "/admin/upstreams/{name}/resume"),
];

const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::OPTIONS,
    Method::PATCH,
    Method::TRACE,
];

fn spelled(path: &str) -> String {
    let path = if path.starts_with("/admin") { &path.replace("{id}", "42") } else { path };
    path.replace("{id}", "llama3.2:1b").replace("{digest}", DIGEST).replace("{name}", "gpu-0")
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Open => "open",
        Class::Guarded(RouteClass::Admin) => "admin",
        Class::Guarded(RouteClass::Inference) => "inference",
        Class::Guarded(RouteClass::Manage) => "manage",
        Class::Guarded(RouteClass::Read) => "read",
    }
}

fn not_found(path: &str) -> bool {
    METHODS.iter().all(|m| matches!(find(m, path.as_bytes()), Err(NoRoute::NotFound(_))))
}

#[test]
fn every_route_of_the_contract_is_found_with_its_class_and_methods_alone() {
    for (class, methods, path) in CONTRACT {
        let spelled = spelled(path);
        for method in METHODS {
            let listed = methods.split(' ').any(|m| m == method.as_str());
            match find(&method, spelled.as_bytes()) {
                Ok(found) => {
                    assert!(listed, "{method} {path}");
                    assert_eq!((found.route.path, class_name(found.route.class)), (*path, *class));
                    assert_eq!(found.upstream_path(), spelled);
                }
                Err(NoRoute::MethodNotAllowed { allow, .. }) => {
                    assert!(!listed, "{method} {path}");
                    assert_eq!(allow, methods.replace(' ', ", "));
                }
                Err(NoRoute::NotFound(_)) => panic!("{method} {path} is not found"),
            }
        }
    }
}

#[test]
fn nothing_is_in_the_table_but_the_contract() {
    let table: Vec<_> = TABLE.iter().map(|route| route.path).collect();
    assert_eq!(table.len(), CONTRACT.len());
    assert!(CONTRACT.iter().all(|(_, _, path)| table.contains(path)));
    for route in TABLE {
        assert_eq!(route.dialect, dialect_of(route.path), "{}", route.path);
    }
}

#[test]
fn an_instance_is_named_by_what_the_configuration_allows_alone() {
    for name in ["gpu0", "a.b_c-d", &"x".repeat(64)] {
        let path = format!("/admin/upstreams/{name}/drain");
        let found = find(&Method::POST, path.as_bytes()).unwrap();
        assert_eq!(found.parameter.as_deref(), Some(name));
        assert_eq!(found.upstream_path(), path);
    }
    for name in ["", "a/b", "a%2Fb", "a b", "..%2f", &"x".repeat(65)] {
        assert!(not_found(&format!("/admin/upstreams/{name}/drain")), "{name}");
    }
}

#[test]
fn each_door_leads_to_its_routes_alone() {
    for (class, methods, path) in CONTRACT {
        let spelled = spelled(path);
        let method = methods.split(' ').next().unwrap().parse().unwrap();
        let at = |door| find_at(door, &method, spelled.as_bytes()).is_ok();
        let data = ["/api/", "/v1/"].iter().any(|root| path.starts_with(root));
        assert!(at(Door::Both), "{path}");
        assert_eq!(at(Door::Data), *class != "admin", "{path}");
        assert_eq!(at(Door::Admin), !data, "{path}");
        let hidden = find_at(Door::Data, &Method::TRACE, spelled.as_bytes());
        if *class == "admin" {
            assert_eq!(hidden, Err(NoRoute::NotFound(Dialect::Plain)), "not even 405: {path}");
        }
    }
}

#[test]
fn an_entry_has_one_id_in_one_spelling() {
    for id in ["1", "42", "9223372036854775807"] {
        let path = format!("/admin/keys/{id}");
        let found = find(&Method::GET, path.as_bytes()).unwrap();
        assert_eq!((found.parameter.as_deref(), &*found.upstream_path()), (Some(id), &*path));
    }
    for id in [
        "",
        "0",
        "-1",
        "+1",
        "01",
        "1.0",
        "1e0",
        "0x1",
        "[0]",
        "%31",
        "1%20",
        "*",
        "first",
        "1/x",
        "1;x",
        "１",
        "9223372036854775808",
    ] {
        for path in [format!("/admin/keys/{id}"), format!("/admin/users/{id}")] {
            assert!(not_found(&path), "{path}");
        }
        assert!(not_found(&format!("/admin/keys/{id}/rotate")), "{id}");
    }
}

#[test]
fn what_acts_for_the_owners_account_is_not_found() {
    for path in [
        "/api/me",
        "/api/signout",
        "/api/user/keys/x",
        "/api/experimental/web_search",
        "/api/experimental/web_fetch",
        "/api/status",
        "/debug/pprof",
        "/metrics",
    ] {
        assert!(not_found(path), "{path}");
    }
}

#[test]
fn other_spellings_that_ollama_would_follow_are_not_found() {
    for path in [
        "",
        "*",
        "/api/%70ull",
        "/api%2Fpull",
        "/api/pull/",
        "//api/pull",
        "/api//pull",
        "/./api/pull",
        "/api/./pull",
        "/x/../api/pull",
        "/API/PULL",
        "/api/pull;x",
        "/api\\pull",
        "/api/pull?x",
        "/api/pull#x",
        "/api/pull%00",
        "/api/pull\0",
        "/api/pull ",
        "api/pull",
        "http://localhost/api/pull",
        "/v1/models/",
        "/v1/models/{id}",
        "/api/blobs/{digest}",
        "/v1/models/..",
        "/v1/models/../models",
        "/v1/models/a/b",
        "/v1/models/a%2fb/",
        "/v1/models/a%00b",
        "/v1/models/a%252Fb",
        "/v1/models/a%2",
        "/v1/models/a%2é",
        "/v1/models/a;b",
    ] {
        assert!(not_found(path), "{path:?}");
    }
    assert!(find(&Method::POST, b"/api/pull\xff").is_err());
    assert!(find(&Method::POST, b"/api/p\xc1\xb5ll").is_err());
}

#[test]
fn methods_are_case_sensitive() {
    let lower = Method::from_bytes(b"post").unwrap();
    assert!(matches!(find(&lower, b"/api/chat"), Err(NoRoute::MethodNotAllowed { .. })));
}

#[test]
fn the_id_of_a_model_is_decoded() {
    for (segment, id) in [
        ("llama3.2", "llama3.2"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("llama3.2%3A1b", "llama3.2:1b"),
        ("me%2Fx%3a1b", "me/x:1b"),
        ("hf.co%2fme%2Fx", "hf.co/me/x"),
    ] {
        let path = format!("/v1/models/{segment}");
        let found = find(&Method::GET, path.as_bytes()).unwrap();
        assert_eq!(found.parameter.as_deref(), Some(id));
        assert_eq!(found.route.path, "/v1/models/{id}");
    }
}

#[test]
fn only_a_digest_names_a_blob() {
    let dashed = DIGEST.replace(':', "-");
    assert!(find(&Method::HEAD, format!("/api/blobs/{dashed}").as_bytes()).is_ok());
    let (short, upper) = (DIGEST.trim_end_matches('f'), DIGEST.to_uppercase());
    for digest in ["", "x", "sha256:", short, &upper, &format!("{DIGEST}0"), &format!("{DIGEST}/x")]
    {
        assert!(not_found(&format!("/api/blobs/{digest}")), "{digest}");
    }
}

#[test]
fn an_unknown_path_is_refused_in_the_dialect_of_its_neighbours() {
    for (path, dialect) in [
        ("/api", Dialect::Native),
        ("/api/unknown", Dialect::Native),
        ("/apix", Dialect::Plain),
        ("/v1/unknown", Dialect::OpenAi),
        ("/v1/messages/batches", Dialect::Anthropic),
        ("/v1/messagesx", Dialect::OpenAi),
        ("/unknown", Dialect::Plain),
    ] {
        let refused = find(&Method::GET, path.as_bytes());
        assert_eq!(refused, Err(NoRoute::NotFound(dialect)), "{path}");
    }
}

#[test]
fn only_guarded_paths_can_be_restricted() {
    assert!(known("/api/chat") && known("/v1/models/{id}"));
    assert!(!known("/health") && !known("/api/chat/") && !known("/v1/models/x") && !known(""));
}

#[test]
fn other_servers_are_asked_for_openai_routes_alone() {
    let served = |path: &str, kind| {
        TABLE.iter().find(|route| route.path == path).unwrap().is_served_by(kind)
    };
    assert!(served("/v1/chat/completions", UpstreamKind::OpenAi));
    assert!(!served("/api/chat", UpstreamKind::OpenAi));
    assert!(served("/api/chat", UpstreamKind::Ollama));
}

/// One edit of a path, of the kinds that a lenient reader would undo.
fn mutant(path: &str, at: usize, edit: usize) -> String {
    let at = at % (path.len() + 1);
    let (before, after) = path.split_at(at);
    let mut rest = after.chars();
    let Some(next) = rest.next() else { return format!("{path}/") };
    let rest = rest.as_str();
    match edit {
        0 => format!("{before}%{:02X}{rest}", next as u32),
        1 => format!("{before}%{:02x}{rest}", next as u32),
        2 => format!("{before}/{after}"),
        3 => format!("{before}/.{after}"),
        4 => format!("{before};x{after}"),
        5 => format!("{before}\\{rest}"),
        6 => format!("{before}{}{rest}", next.to_ascii_uppercase()),
        7 => format!("{before}/x/..{after}"),
        8 => format!("{before}\u{17f}{rest}"),
        9 => format!("{before}%25{:02X}{rest}", next as u32),
        10 => format!("{before}{rest}"),
        _ => format!("{before}\t{after}"),
    }
}

proptest! {
    #[test]
    fn no_other_spelling_of_a_known_path_is_found(
        (_, _, path) in proptest::sample::select(CONTRACT), at in any::<usize>(), edit in 0..12_usize,
    ) {
        // an id in /v1/models/{id} has spellings of its own, and another name is another instance:
        // both are tested above
        prop_assume!(!path.contains("{id}") && !path.contains("{name}"));
        let spelled = spelled(path);
        let mutant = mutant(&spelled, at, edit);
        prop_assume!(mutant != spelled);
        let known = CONTRACT.iter().any(|(_, _, path)| *path == mutant);
        prop_assert!(known || not_found(&mutant), "{}", mutant);
    }

    #[test]
    fn no_path_makes_it_panic(path in any::<Vec<u8>>(), id in "[a-z%2F3A:./]{0,12}") {
        let _ = find(&Method::GET, &path);
        let path = format!("/v1/models/{id}");
        if let Ok(found) = find(&Method::GET, path.as_bytes()) {
            prop_assert!(!found.parameter.unwrap().contains('%'));
        }
    }
}
