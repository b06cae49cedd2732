//! Lists in parts, and what is asked of them.

use serde_json::{Value, json};

use super::{Office, ids};

#[test]
fn a_list_comes_in_parts_that_fit_together() {
    let (office, _sim) = Office::open();
    let mut made = Vec::new();
    for n in 0..5 {
        let key = office.post("/admin/keys", &json!({ "user": "ann", "name": format!("k{n}") }));
        made.push(key["id"].as_i64().expect("an id"));
    }
    office.ask("DELETE", &format!("/admin/keys/{}", made[2]), None, 204);
    let walk = |path: &str| {
        let (mut all, mut after) = (Vec::new(), String::new());
        for _ in 0..20 {
            let page = office.get(&format!("{path}{after}"));
            assert!(ids(&page).len() <= 2, "{page}");
            all.extend(ids(&page));
            match &page["next"] {
                Value::Null => return all,
                next => after = format!("&after={next}"),
            }
        }
        panic!("{path} does not end: {all:?}");
    };
    assert_eq!(walk("/admin/keys?limit=2"), ids(&office.get("/admin/keys")));
    let active = walk("/admin/keys?user=ann&state=active&limit=2");
    assert!(made.iter().all(|id| active.contains(id) == (*id != made[2])), "{active:?}");
    assert_eq!(walk("/admin/keys?state=revoked&limit=2"), [made[2]]);
    assert_eq!(walk("/admin/users?limit=1"), ids(&office.get("/admin/users")));
    let trail = walk("/admin/audit?limit=2");
    assert!(trail.is_sorted_by(|a, b| a > b), "newest first: {trail:?}");
    assert_eq!(trail, ids(&office.get("/admin/audit")));
    let page = office.get(&format!("/admin/keys?limit=1&after={}", i64::MAX));
    assert_eq!(page, json!({ "data": [], "next": null }));
}

#[test]
fn forged_and_wrong_questions_are_refused() {
    let (office, _sim) = Office::open();
    for query in [
        "after=0",
        "after=-1",
        "after=+1",
        "after=1.5",
        "after=1e3",
        "after=01",
        "after=abc",
        "after=",
        "after=9223372036854775808",
        "after=1%20OR%201=1",
        "after=eyJpZCI6MX0=",
        "after=1'--",
        "after=1&after=2",
        "after[]=1",
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=all",
        "limit=",
        "limit=1&limit=1",
        "state=lost",
        "state=Active",
        "state=",
        "offset=1",
        "order=name",
        "user=%00",
        "user=ann&user=admin",
        "sort=id;DROP%20TABLE%20users",
        "AFTER=1",
        "key=x",
    ] {
        let answer = office.ask("GET", &format!("/admin/keys?{query}"), None, 400);
        let detail = answer["detail"].as_str().expect("a detail");
        assert!(detail.starts_with("query "), "{query}: {detail}");
    }
    for path in ["/admin/users?disabled=yes", "/admin/users?user=x", "/admin/audit?after=x"] {
        office.ask("GET", path, None, 400);
    }
    let unknown = office.ask("GET", "/admin/keys?user=nobody", None, 404);
    assert_eq!(unknown["detail"], "There is no user 'nobody'");
}

#[test]
fn what_sql_would_mind_is_text_like_any_other() {
    let (office, _sim) = Office::open();
    let before = office.get("/admin/users");
    let nasty = [
        "'; DROP TABLE users; --",
        "' OR '1'='1",
        "\" OR \"\"=\"",
        "%' AND 1=0 UNION SELECT key_hash FROM api_keys --",
        "$1",
        "\\'; \\x00",
        "{identity}",
        "名前 ☃ \u{202e}",
    ];
    for name in nasty {
        let made = office.post("/admin/keys", &json!({ "user": "ann", "name": name }));
        assert_eq!(made["name"], name);
        assert_eq!(office.get(&format!("/admin/keys/{}", made["id"]))["name"], name);
        let query: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        office.ask("GET", &format!("/admin/keys?user={query}"), None, 404);
        for field in ["actor", "action", "target"] {
            let none = office.get(&format!("/admin/audit?{field}={query}"));
            assert_eq!(none["data"], json!([]), "{field}={name}");
        }
        assert_eq!(office.get(&format!("/admin/users?tier={query}"))["data"], json!([]));
        let refused = office.gateway.get("/admin/keys").key(&name.replace('\u{202e}', ""));
        assert_eq!(refused.send().status, 401, "{name}");
        office.ask("POST", "/admin/users", Some(&json!({ "username": name })), 400);
    }
    assert_eq!(office.get("/admin/users"), before);
}
