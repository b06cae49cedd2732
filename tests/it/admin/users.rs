//! Accounts over HTTP.

use serde_json::{Value, json};

use super::{Office, text};

/// The path of a user.
fn path(office: &Office, username: &str) -> String {
    let users = office.get("/admin/users");
    let mut users = users["data"].as_array().expect("a list").iter();
    let user = users.find(|user| user["username"] == username);
    format!("/admin/users/{}", user.unwrap_or_else(|| panic!("no {username}"))["id"])
}

#[test]
fn an_account_is_made_changed_and_removed_and_each_act_holds_at_once() {
    let (office, _sim) = Office::open();
    let body = json!({ "username": "bob", "email": "bob@example.org" });
    let bob = office.post("/admin/users", &body);
    assert_eq!((&bob["tier"], &bob["email"]), (&json!("free"), &json!("bob@example.org")));
    let path = format!("/admin/users/{}", bob["id"]);
    let key = text(&office.post("/admin/keys", &json!({ "user": "bob", "name": "k" })), "key");
    let change = |body: Value| office.ask("PATCH", &path, Some(&body), 200);
    let admin = || office.gateway.get("/admin/keys").key(&key).send().status;
    assert_eq!((office.status_of(&key), admin()), (200, 403));
    assert_eq!(change(json!({ "tier": "admin" }))["tier"], "admin");
    assert_eq!(admin(), 200);
    assert_eq!(change(json!({ "tier": "premium", "email": null }))["email"], Value::Null);
    assert_eq!(admin(), 403);
    assert_eq!(change(json!({ "disabled": true }))["disabled"], true);
    assert_eq!(office.status_of(&key), 401);
    change(json!({ "disabled": false }));
    assert_eq!(office.status_of(&key), 200);
    assert_eq!(office.get(&path)["tier"], "premium");
    office.ask("DELETE", &path, None, 204);
    assert_eq!(office.status_of(&key), 401);
    for (method, body) in [("GET", None), ("DELETE", None), ("PATCH", Some(&json!({})))] {
        office.ask(method, &path, body, 404);
    }
    let taken = office.refusal("POST", "/admin/users", &json!({ "username": "ann" }), 409);
    assert_eq!(taken, "There is a user 'ann' already");
    let off = office.post("/admin/users", &json!({ "username": "off", "disabled": true }));
    assert_eq!(off["disabled"], true);
}

#[test]
fn the_last_enabled_admin_stays() {
    let (office, _sim) = Office::open();
    let own = path(&office, "admin");
    let other = office
        .post("/admin/users", &json!({ "username": "spare", "tier": "admin", "disabled": true }));
    for body in [
        json!({ "tier": "free" }),
        json!({ "disabled": true }),
        json!({ "tier": "premium", "disabled": true, "email": "a@b" }),
    ] {
        let detail = office.refusal("PATCH", &own, &body, 409);
        assert!(detail.contains("last enabled admin"), "{detail}");
    }
    office.ask("DELETE", &own, None, 409);
    assert_eq!(office.get(&own)["email"], Value::Null, "nothing of it was done");
    let spare = format!("/admin/users/{}", other["id"]);
    office.ask("PATCH", &spare, Some(&json!({ "disabled": false })), 200);
    let key = office.post("/admin/keys", &json!({ "user": "spare", "name": "k" }));
    let key = text(&key, "key");
    let remove = |path: &str| office.gateway.request("DELETE", path).key(&key).send().status;
    assert_eq!(remove(&own), 204, "now there is another");
    assert_eq!(office.status_of(office.gateway.key("admin")), 401);
    assert_eq!(remove(&spare), 409);
}

#[test]
fn two_admins_who_remove_each_other_at_once_leave_one() {
    let (office, _sim) = Office::open();
    for round in 0..5 {
        let name = format!("second{round}");
        let second = office.post("/admin/users", &json!({ "username": name, "tier": "admin" }));
        let third = office
            .post("/admin/users", &json!({ "username": format!("third{round}"), "tier": "admin" }));
        let key = office.post("/admin/keys", &json!({ "user": name, "name": "k" }));
        let key = text(&key, "key");
        // the first steps down while the second removes the third, and both may be the last
        office.ask("DELETE", &format!("/admin/users/{}", third["id"]), None, 204);
        let own = path(&office, "admin");
        let down = json!({ "disabled": true });
        let first = office.gateway.request("PATCH", &own).json(&down);
        let other = office.gateway.request("PATCH", &format!("/admin/users/{}", second["id"]));
        let wires =
            [first.key(&key).start(), other.json(&down).key(office.gateway.key("admin")).start()];
        let statuses: Vec<u16> =
            wires.into_iter().map(|wire| wire.exchange("PATCH").rest().status).collect();
        let done = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(done, 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 401, 409].contains(status)), "{statuses:?}");
        // whoever is left puts things in order for the next round
        let admin_stays = office.status_of(office.gateway.key("admin")) == 200;
        let by = if admin_stays { office.gateway.key("admin") } else { &key };
        let up = json!({ "disabled": false });
        let back = office.gateway.request("PATCH", &own).json(&up).key(by).send();
        assert_eq!(back.status, 200, "{}", back.text());
        office.ask("DELETE", &format!("/admin/users/{}", second["id"]), None, 204);
    }
}

/// Made by `ssh-keygen -t ed25519`; the private half was thrown away.
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFV185P78fAo3kujNd6z843/HnIk8sNyrdo8SqxNHSYe";

#[test]
fn public_keys_are_registered_listed_and_taken_back() {
    let (office, _sim) = Office::open();
    let ann = path(&office, "ann");
    let keys = format!("{ann}/ssh-keys");
    let line = json!({ "public_key": format!("{SSH_KEY} ann@laptop\n") });
    let made = office.post(&keys, &line);
    assert_eq!((&made["public_key"], &made["user"]), (&json!(SSH_KEY), &json!("ann")));
    let fingerprint = "SHA256:AXRLgCxYtQIJMvUAdLxalz3AVnLHAvFcNMJzE356Ac0";
    assert_eq!(made["fingerprint"], fingerprint);
    assert_eq!(office.get(&keys), json!({ "data": [made], "next": null }));
    let own = format!("{}/ssh-keys", path(&office, "admin"));
    assert_eq!(office.refusal("POST", &own, &line, 409), "This key is registered already");
    for bad in [json!("ssh-rsa AAAA"), json!(""), json!(7), json!(format!("{SSH_KEY}\n{SSH_KEY}"))]
    {
        office.refusal("POST", &keys, &json!({ "public_key": bad }), 400);
    }
    office.ask("DELETE", &format!("{own}?id={}", made["id"]), None, 404);
    for odd in ["", "?id=0", "?id=x", "?id=1&id=2", "?key=1"] {
        office.ask("DELETE", &format!("{keys}{odd}"), None, 400);
    }
    office.ask("DELETE", &format!("{keys}?id={}", made["id"]), None, 204);
    assert_eq!(office.get(&keys), json!({ "data": [], "next": null }));
    office.ask("DELETE", &format!("{keys}?id={}", made["id"]), None, 404);
    office.ask("GET", "/admin/users/4711/ssh-keys", None, 404);
    let trail = office.get("/admin/audit?target=ann");
    let acts = trail["data"].as_array().expect("a list").iter().take(2);
    let acts: Vec<_> = acts.map(|act| (text(act, "action"), text(act, "detail"))).collect();
    let detail = format!("{} {fingerprint}", made["id"]);
    let row = |action: &str| (action.to_owned(), detail.clone());
    assert_eq!(acts, [row("user.remove-ssh-key"), row("user.add-ssh-key")]);
}

#[test]
fn a_password_is_given_and_changed_and_ends_what_was_begun_with_the_old() {
    let (office, _sim) = Office::open();
    let (first, second) = ("correct horse battery", "staple after staple");
    let body = json!({ "username": "bob", "password": first });
    let bob = office.post("/admin/users", &body);
    assert!(!bob.to_string().contains("password"), "{bob}");
    let login = |password: &str| {
        let body = json!({ "username": "bob", "password": password });
        let answer = office.gateway.post("/auth/login", &body).send();
        if answer.status == 200 {
            office.document.holds("POST", "/auth/login", &answer);
        }
        (answer.status, answer.json()["access_token"].as_str().unwrap_or_default().to_owned())
    };
    let with = |token: &str| office.gateway.get("/api/tags").bearer(token).send().status;
    let (status, token) = login(first);
    assert_eq!((status, with(&token)), (200, 200));
    let path = format!("/admin/users/{}", bob["id"]);
    for bad in [json!("short"), json!("x".repeat(1025)), json!(8675309), json!(["a", "b"])] {
        let detail = office.refusal("PATCH", &path, &json!({ "password": bad }), 400);
        assert!(detail.contains("password") && !detail.contains("8675309"), "{detail}");
    }
    let none = office.refusal("PATCH", &path, &json!({ "password": null }), 400);
    assert!(none.contains("field 'password': must be text"), "{none}");
    assert_eq!(with(&token), 200, "nothing of it was done");
    office.ask("PATCH", &path, Some(&json!({ "password": second })), 200);
    assert_eq!(with(&token), 401, "at once");
    assert_eq!(login(first).0, 401);
    assert_eq!(login(second).0, 200);
    let trail = office.get("/admin/audit?action=user.set-password");
    assert_eq!(trail["data"][0]["target"], "bob");
    let all = office.get("/admin/audit").to_string() + &office.gateway.log().join("\n");
    assert!(!all.contains(first) && !all.contains(second) && !all.contains("argon2"));
}
