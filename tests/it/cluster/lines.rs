//! The ways to Redis: TLS and sockets, as `serve`, `check` and `doctor` know them.

use std::path::Path;

use super::*;
use crate::support::authority::Authority;
use crate::support::gateway::Home;
use crate::support::redis::{redis, secured, with_socket};

/// What `usher doctor` says about Redis, and what it warns of.
fn examined(home: &Home, gateway: &Gateway) -> (Value, String) {
    let mut doctor = home.command(&["doctor", "--json", "--url", &gateway.url()]);
    let output = doctor.env("USHER_KEY", gateway.key("admin")).output().expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert!(!report.to_string().contains("hunter2"), "{report}");
    (report["redis"].clone(), report["warnings"].to_string())
}

fn with_ca(builder: Builder, file: &Path) -> Builder {
    builder.config(&format!("redis_ca: '{}'", file.display()))
}

/// What two gateways on the same way to Redis have of it.
fn they_share(sims: &[Sim; 2], url: &str, with: impl Fn(Builder) -> Builder, line: &str) {
    let database = database();
    let first = with(member(&sims[0], &database, url)).user("ann", "free").start();
    let second = with(member(&sims[1], &database, url)).joins(&first).start();
    until_shared(&first);
    until_shared(&second);
    let hits = r#"usher_cache_requests_total{layer="redis",result="hit"}"#;
    eventually("one was told by the other through Redis", || {
        assert_eq!(tags(&first, first.key("ann")).status, 200);
        let (key, _) = new_key(&first, "ann", "another revision");
        eventually("it is known", || tags(&first, &key).status == 200);
        eventually("it is known there too", || tags(&second, &key).status == 200);
        value(&second, hits) >= 1.0
    });
    let (seen, warnings) = examined(first.home(), &first);
    assert_eq!(seen["line"], line, "{seen}");
    assert_eq!((&seen["mode"], &seen["role"]), (&"standalone".into(), &"master".into()), "{seen}");
    assert_eq!((&seen["sealed"], &seen["heard"]), (&true.into(), &true.into()), "{seen}");
    assert!(seen["answer_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{seen}");
    assert!(!warnings.contains("Redis"), "{warnings}");
}

#[test]
fn gateways_share_by_tls_with_a_server_that_an_authority_of_our_own_vouches_for() {
    let authority = Authority::new();
    let server = secured(&authority);
    let with = |builder| with_ca(builder, &authority.file());
    they_share(&[quick(), quick()], &server.url("localhost"), with, "TLS");
}

#[test]
fn gateways_share_by_a_socket() {
    let (_redis, socket) = with_socket();
    let url = format!("redis+unix://{}", socket.display());
    they_share(&[quick(), quick()], &url, |builder| builder, "socket");
}

#[test]
fn a_server_that_cannot_show_who_it_is_is_told_nothing_and_done_without() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, sim) = (secured(&authority), quick());
    let plain = redis(&[]);
    let speaks_no_tls = plain.url().replace("redis://127.0.0.1", "rediss://localhost");
    for (url, ca, reason) in [
        (server.url("localhost"), Some(&stranger), "no authority that we trust vouches for"),
        (server.url("localhost"), None, "no authority that we trust vouches for"),
        (server.url("127.0.0.1"), Some(&authority), "for another name than its URL's"),
        (speaks_no_tls, Some(&authority), ""),
    ] {
        let url = url.replace("//", "//:hunter2@");
        let member = member(&sim, &database(), &url);
        let member = match ca {
            Some(ca) => with_ca(member, &ca.file()),
            None => member,
        };
        let gateway = member.user("ann", "free").start();
        until_alone(&gateway);
        assert_eq!(tags(&gateway, gateway.key("ann")).status, 200);
        let (seen, warnings) = examined(gateway.home(), &gateway);
        assert_eq!(seen, Value::Null, "{seen}");
        assert!(warnings.contains("Redis does not answer"), "{warnings}");
        assert!(warnings.contains(reason), "{warnings}");
        let log = gateway.stop();
        let told = |line: &&String| line.contains("Redis is away") && line.contains(reason);
        assert_eq!(log.iter().filter(told).count(), 1, "{log:#?}");
        assert!(!log.iter().any(|line| line.contains("hunter2")), "{log:#?}");
        assert_eq!(server.redis.names("*").len() + plain.names("*").len(), 0, "nothing was told");
    }
}

#[test]
fn the_doctor_tells_a_replica_another_secret_and_a_server_that_is_not_there() {
    let (mut redis, sim) = (redis(&["--requirepass", "hunter2"]), quick());
    let url = redis.url().replace("//", "//:hunter2@");
    let gateway = member(&sim, &database(), &url).start();
    until_shared(&gateway);
    let (seen, warnings) = examined(gateway.home(), &gateway);
    assert!(seen["version"].is_string() && !warnings.contains("Redis"), "{seen} {warnings}");

    let other = member(&sim, &database(), &url).config("redis_secret: ${OTHER}");
    let other = other.env("OTHER", "another forty characters, as if by mistake").home();
    let (seen, warnings) = examined(&other, &gateway);
    assert_eq!((&seen["sealed"], &seen["heard"]), (&true.into(), &false.into()), "{seen}");
    assert!(warnings.contains("no word of a running gateway that seals with"), "{warnings}");

    redis.kill();
    let (seen, warnings) = examined(gateway.home(), &gateway);
    assert_eq!(seen, Value::Null);
    assert!(warnings.contains("Redis does not answer"), "{warnings}");
}

#[test]
fn check_says_what_is_wrong_with_the_way_to_a_server_before_anybody_goes() {
    let check = |lines: &str| {
        let home = gateway().upstream("gpu0", "http://127.0.0.1:1").config(lines).home();
        let text = lines.replace("DIR", &home.path().display().to_string());
        let file = home.path().join("usher.yaml");
        let yaml = std::fs::read_to_string(&file).expect("written").replace(lines, &text);
        std::fs::write(&file, yaml).expect("ours");
        std::fs::write(home.path().join("empty.pem"), "nothing\n").expect("ours");
        let output = home.usher(&["check"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("hunter2"), "{said}");
        (output.status.code(), said)
    };
    let postgres = "database: 'postgres://u:hunter2@localhost/d";
    for (lines, reason) in [
        ("redis: rediss://h\nredis_ca: missing.pem", "redis_ca: "),
        ("redis: rediss://h\nredis_ca: empty.pem", "holds no certificate in PEM"),
        ("redis: redis://localhost\nredis_ca: empty.pem", "write rediss:// in the URL"),
        ("redis: redis://0.0.0.0:6379", "its URL cannot be used"),
        ("redis: redis://u:hunter2@h:port", "its port is no number"),
        (&format!("{postgres}?sslmode=maybe'"), "its sslmode is none"),
        (&format!("{postgres}?sslrootcert=/nowhere/ca.pem'"), "no file /nowhere/ca.pem"),
        ("database: 'postgres://u:hunter2@a:1,b:2/d'", "more than one host"),
    ] {
        let (code, said) = check(lines);
        assert_eq!(code, Some(1), "{lines}: {said}");
        assert!(said.contains(reason), "{lines}: {said}");
    }
    let (code, said) = check("redis: redis://:hunter2@redis.lan");
    assert_eq!(code, Some(0), "a danger is no mistake: {said}");
    assert!(said.contains("redis: who is on the way can read what passes"), "{said}");
}
