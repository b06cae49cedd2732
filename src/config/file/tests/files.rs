//! What a good file means.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::{env, parse, with, wrong_with};
use crate::config::taming::{Context, KeepAlive};
use crate::config::units::show_duration;
use crate::config::{ByteSize, Config, Database, RouteClass, Taming, UpstreamKind, locate};

#[test]
fn one_instance_is_enough() {
    let config = with("");
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.state_dir, Path::new("/var/lib/usher"));
    assert!(
        matches!(&config.database, Database::Sqlite(path) if path == Path::new("/var/lib/usher/usher.db"))
    );
    assert_eq!(config.auth.api_key_header, "x-api-key");
    assert_eq!(config.timeouts.first_byte, Duration::from_secs(600));
    assert_eq!(config.limits.body, 64 << 20);
    assert_eq!((config.upstreams[0].slots, config.manage_default), (1, None));
    assert!(config.warnings.is_empty());
}

#[test]
fn three_tiers_are_always_there() {
    let config = with("");
    assert_eq!(config.tiers.keys().collect::<Vec<_>>(), ["admin", "free", "premium"]);
    assert_eq!((config.tiers["free"].concurrency, config.tiers["admin"].concurrency), (2, 32));
    assert!(config.tiers["admin"].allow.contains(&RouteClass::Manage));
    assert!(!config.tiers["premium"].allow.contains(&RouteClass::Manage));
}

#[test]
fn a_tier_of_the_file_changes_only_what_it_names() {
    let config =
        with("tiers: { premium: { models: ['llama3*'] }, lab: { concurrency: 3 }, admin: }");
    let premium = &config.tiers["premium"];
    assert_eq!(
        (premium.models.as_deref(), premium.concurrency),
        (Some(&["llama3*".to_owned()][..]), 8)
    );
    let lab = &config.tiers["lab"];
    assert_eq!((lab.concurrency, &lab.allow), (3, &config.tiers["free"].allow));
    assert_eq!(config.tiers["admin"].concurrency, 32);
}

#[test]
fn a_new_tier_is_like_the_built_in_free_however_free_is_changed() {
    let config = with("tiers: { free: { concurrency: 1, cloud: true }, lab: {} }");
    assert_eq!((config.tiers["lab"].concurrency, config.tiers["lab"].cloud), (2, false));
}

#[test]
fn what_a_tier_may_do_to_a_model_follows_from_what_it_may_use_unless_it_is_said() {
    let config = with(
        "tiers: { lab: { num_ctx: pin 8192, max_output: 4096 }, ops: { allow: [manage], keep_alive: max 1h }, wild: { keep_alive: allow, runner_options: allow, num_ctx: max 5, max_output: null } }",
    );
    let taming = |tier: &str| config.tiers[tier].taming;
    assert_eq!(taming("free"), Taming::by_default(false));
    assert_eq!(taming("admin"), Taming::NONE);
    let lab = taming("lab");
    assert_eq!((lab.num_ctx, lab.max_output), (Context::Pin(8192), Some(4096)));
    assert_eq!(lab.keep_alive, KeepAlive::Max(Duration::from_secs(1800)));
    assert_eq!(
        taming("ops"),
        Taming { keep_alive: KeepAlive::Max(Duration::from_secs(3600)), ..Taming::NONE }
    );
    let wild = taming("wild");
    assert_eq!((wild.num_ctx, wild.keep_alive), (Context::Max(5), KeepAlive::Allow));
    assert!(wild.runner_options && !wild.unloading, "to unload a model is to manage it");
}

#[test]
fn instances_are_read_in_full() {
    let config = parse(
        "upstreams:\n  - { name: a, url: 'https://GPU.example', slots: 0x4, kind: openai, api_key: '${NONE:-}' }\n  \
         - { name: b, url: 'http://[::1]:11434/', model_slots: { 'qwen3:8b': 2 }, api_key: usk }\n",
    )
    .unwrap();
    let [a, b] = &config.upstreams[..] else { panic!("two instances") };
    assert_eq!((a.tls, &*a.host, a.port, a.slots), (true, "gpu.example", 443, 4));
    assert_eq!(a.kind, UpstreamKind::OpenAi);
    assert_eq!((b.tls, &*b.host, b.port, b.model_slots["qwen3:8b"]), (false, "::1", 11434, 2));
    assert_eq!(b.api_key.as_ref().unwrap().expose(), "usk");
    assert!(!format!("{config:?}").contains("usk"));
}

#[test]
fn a_listener_knows_its_certificate_and_its_balancers() {
    let config = with(
        "listen:\n  - { address: '0.0.0.0:443', tls: { cert: tls/a.pem, key: /b.pem } }\n  \
         - { address: '127.0.0.1:80', proxy_protocol: [10.0.0.0/24, '::1'] }\n\
         auth: { trusted_proxies: [192.0.2.1] }\ncors: { origins: [https://app.example] }",
    );
    let [https, http] = &config.listen[..] else { panic!("two listeners") };
    let tls = https.tls.as_ref().unwrap();
    assert_eq!((&*tls.cert, &*tls.key), (Path::new("/etc/usher/tls/a.pem"), Path::new("/b.pem")));
    assert_eq!(tls.place.to_string(), "/etc/usher/usher.yaml:3: listen[0].tls");
    let networks = |networks: &[&str]| networks.iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!((&https.balancers, &http.tls), (&None, &None));
    assert_eq!(http.balancers, Some(networks(&["10.0.0.0/24", "::1/128"])));
    let trusted: Vec<ipnet::IpNet> = networks(&["192.0.2.1/32"]);
    assert_eq!(config.auth.trusted_proxies, trusted);
    assert_eq!(config.cors_origins, ["https://app.example".to_owned()].into());
}

#[test]
fn the_environment_fills_values_in_and_never_becomes_structure() {
    let config = with("listen: [ { address: '127.0.0.1:${PORT}' } ]\nthreads: ${THREADS:-3}");
    assert_eq!((config.listen[0].address.port(), config.threads), (8080, 3));
    let config = with("balance: { queue: '${PORT}' }");
    assert_eq!(config.balance.queue, 8080);
    let config = with("state_dir: ${KEY}\ndatabase: ${EMPTY}");
    assert_eq!(config.state_dir, Path::new("/etc/usher/s3cret: [value]"));
    let config = with("state_dir: /a$${PORT}$$b${EMPTY:-c}");
    assert_eq!(config.state_dir, Path::new("/a${PORT}$$bc"));
}

#[test]
fn an_alias_stands_for_what_it_names() {
    let config = with("tiers: { free: &t { concurrency: 7 }, lab: *t }");
    assert_eq!(config.tiers["lab"].concurrency, 7);
    // a mistake in it is reported where it is used
    let lines = wrong_with("tiers:\n  free: &t { concurrency: 0 }\n  lab: *t");
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn a_listener_in_the_clear_is_a_decision() {
    let config =
        with("listen: [ { address: 0.0.0.0:8080, plaintext: allow }, { address: '[::1]:1' } ]");
    assert_eq!(config.listen.len(), 2);
}

#[test]
fn what_is_so_today_may_be_said() {
    with(
        "admin: { address: same }\nmetrics: off\nredis: null\nauth: { api_keys: { path: false }, issuers: [], \
          trusted_proxies: [] }\ncors: { origins: [] }\nmanage: { default: null }\nrestrict: { /api/pull: [admin] }",
    );
}

#[test]
fn metrics_have_a_place_unless_they_are_off() {
    let place = |yaml: &str| with(yaml).metrics.map(|address| address.to_string());
    assert_eq!(place("").as_deref(), Some("127.0.0.1:9090"));
    assert_eq!(place("metrics: { address: '[::1]:0' }").as_deref(), Some("[::1]:0"));
    assert_eq!(place("metrics: off"), None);
    assert_eq!(place("metrics: { address: off }"), None);
}

#[test]
fn an_empty_section_is_an_absent_one() {
    with("auth:\nbalance: ~\nlog: null\ntiers:\nrestrict:\nmanage:");
}

/// Reads a configuration in a directory that holds a secret of this text and mode.
fn with_secret(secret: &str, mode: u32) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key"), secret).unwrap();
    fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(mode)).unwrap();
    let file = dir.path().join("usher.yaml");
    fs::write(&file, "upstreams: [ { name: a, url: http://a:1, api_key_file: key } ]\n").unwrap();
    let dir = format!("{}/", dir.path().display());
    let config = Config::load(&file, &env).map_err(|e| e.to_string().replace(&dir, ""));
    config.map(|mut config| {
        config.warnings.iter_mut().for_each(|line| *line = line.replace(&dir, ""));
        config
    })
}

#[test]
fn a_secret_comes_from_a_file_beside_the_configuration() {
    let config = with_secret("usk_1\r\n", 0o600).unwrap();
    assert_eq!(config.upstreams[0].api_key.as_ref().unwrap().expose(), "usk_1");
    assert!(config.warnings.is_empty());
}

#[test]
fn a_secret_that_everybody_can_read_is_a_warning() {
    let config = with_secret("usk_1", 0o644).unwrap();
    let expected = "usher.yaml:1: upstreams[0].api_key_file: key is open to every user of this machine: chmod 600 key";
    assert_eq!(config.warnings, [expected]);
}

#[test]
fn a_secret_in_a_configuration_that_everybody_can_read_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("usher.yaml");
    let random = "Zm9yIHRlc3RzIGFsb25lLCBuZXZlciB1c2VkIGFueXdoZXJl";
    let text = format!(
        "upstreams:\n- {{ name: a, url: http://a, api_key: usk }}\n- {{ name: b, url: http://b, \
         api_key: '${{KEY}}' }}\nredis: redis://127.0.0.1\nredis_secret: {random}\n\
         database: postgres://u:p@localhost/d\nauth: {{ issuers: [ {{ name: i, issuer: i, \
         audience: a, default_tier: free, secrets: [{random}] }} ] }}\n"
    );
    fs::write(&file, text).unwrap();
    let warned = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let env = |_: &str| Some("from-the-environment".to_owned());
        let warnings = Config::load(&file, &env).unwrap().warnings;
        let shown = file.display();
        let remedy =
            format!("is a secret, and {shown} can be read by everybody: chmod 600 {shown}");
        assert!(warnings.iter().all(|line| line.ends_with(&remedy)), "{warnings:?}");
        let key = |line: &String| line.split(": ").nth(1).unwrap().to_owned();
        warnings.iter().map(key).collect::<Vec<_>>()
    };
    let all = ["upstreams[0].api_key", "database", "auth.issuers[0].secrets[0]", "redis_secret"];
    assert_eq!(warned(0o644), all);
    assert!(warned(0o640).is_empty());
}

#[test]
fn a_secret_file_that_holds_none_is_a_mistake() {
    let place = "usher.yaml:1: upstreams[0].api_key_file";
    let empty = with_secret("\n", 0o600).unwrap_err();
    assert_eq!(empty, format!("{place}: key: is empty: write the secret into it"));
    let two_lines = with_secret("a\nb\n", 0o600).unwrap_err();
    assert_eq!(
        two_lines,
        format!("{place}: expected one line of visible ASCII characters without spaces")
    );
    let large = with_secret(&"a".repeat(70_000), 0o600).unwrap_err();
    assert_eq!(large, format!("{place}: key: is larger than any secret: is it the right file?"));
    assert_eq!(
        wrong_with("database_file: /nowhere/at/all"),
        [
            ":2: database_file: /nowhere/at/all: cannot be read: No such file or directory (os error 2)"
        ]
    );
    assert_eq!(wrong_with("database_file: /tmp"), [":2: database_file: /tmp: is not a file"]);
}

#[test]
fn databases_are_told_apart() {
    let sqlite = |text: &str| match with(text).database {
        Database::Sqlite(path) => path,
        Database::Postgres(_) => panic!("{text}"),
    };
    assert_eq!(sqlite("database: sqlite\nstate_dir: s"), PathBuf::from("/etc/usher/s/usher.db"));
    assert_eq!(sqlite("database: sqlite:/data/u.db"), PathBuf::from("/data/u.db"));
    assert_eq!(sqlite("database: sqlite:u.db"), PathBuf::from("/etc/usher/u.db"));
    let Database::Postgres(url) = with("database: postgres://u:p@h/usher").database else {
        panic!("PostgreSQL")
    };
    assert_eq!(url.expose(), "postgres://u:p@h/usher");
}

#[test]
fn files_that_a_database_s_url_names_are_found_from_the_configuration_on() {
    let url = |query: &str| match with(&format!("database: 'postgres://u:p@h/d?{query}'")).database
    {
        Database::Postgres(url) => url.expose().split_once('?').unwrap().1.to_owned(),
        Database::Sqlite(_) => panic!("{query}"),
    };
    assert_eq!(
        url("sslmode=verify-full&sslrootcert=my%20ca.pem&ssl-key=k.pem"),
        "sslmode=verify-full&sslrootcert=%2Fetc%2Fusher%2Fmy+ca.pem&ssl-key=%2Fetc%2Fusher%2Fk.pem"
    );
    for same in ["sslrootcert=/a/b.pem", "application_name=a.pem&sslmode=require", "x"] {
        assert_eq!(url(same), same);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let none = Config::load(Path::new("/nowhere.yaml"), &env).unwrap_err().to_string();
    assert_eq!(none, "/nowhere.yaml: cannot be read: No such file or directory (os error 2)");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("latin1.yaml");
    fs::write(&file, b"# one\n# two \xe9\n").unwrap();
    let text = Config::load(&file, &env).unwrap_err().to_string();
    assert!(text.ends_with("latin1.yaml:2: is not UTF-8 text: save it as UTF-8"), "{text}");
    fs::write(&file, vec![b' '; 10 << 20]).unwrap();
    let text = Config::load(&file, &env).unwrap_err().to_string();
    assert!(
        text.ends_with(
            "latin1.yaml: is larger than 1MiB: no configuration is; is it the right file?"
        )
    );
}

#[test]
fn the_command_line_goes_before_the_environment() {
    let env = |name: &str| (name == "USHER_CONFIG").then(|| "/b.yaml".to_owned());
    assert_eq!(locate(Some("/a.yaml".into()), &env), Path::new("/a.yaml"));
    assert_eq!(locate(None, &env), Path::new("/b.yaml"));
    // tests run in the repository, which has one
    assert_eq!(locate(None, &|_| None), Path::new("conf/usher.yaml"));
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_meant(
        name in "[a-z0-9][a-zA-Z0-9._-]{0,20}", port in 1u16.., slots in 1u32..=10_000,
        concurrency in 1u32..=100_000, cloud: bool, wait in 1u64..1_000_000_000,
        body in 1_024u64..=1 << 28,
    ) {
        let max_queue_wait = Some(Duration::from_millis(wait));
        let text = format!(
            "upstreams: [ {{ name: 'u{name}', url: 'http://10.0.0.1:{port}', slots: {slots} }} ]\n\
             tiers: {{ 't{name}': {{ concurrency: {concurrency}, cloud: {cloud}, max_queue_wait: {} }} }}\n\
             restrict: {{ /api/chat: ['t{name}'] }}\n\
             limits: {{ body: {} }}\nmanage: {{ default: 'u{name}' }}\n",
            show_duration(Duration::from_millis(wait)), ByteSize(body),
        );
        let config = parse(&text).map_err(|e| TestCaseError::fail(format!("{text}{e}")))?;
        let tier = &config.tiers[&format!("t{name}")];
        prop_assert_eq!(
            (tier.concurrency, tier.cloud, tier.max_queue_wait),
            (concurrency, cloud, max_queue_wait)
        );
        let restricted = config.restrict["/api/chat"].contains(&format!("t{name}"));
        prop_assert!(restricted);
        let upstream = &config.upstreams[0];
        prop_assert_eq!((&*upstream.host, upstream.port, upstream.slots), ("10.0.0.1", port, slots));
        prop_assert_eq!(config.manage_default.as_ref(), Some(&upstream.name));
        prop_assert_eq!(config.limits.body, body);
    }
}
