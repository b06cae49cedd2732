//! Certificates that are replaced while the gateway works.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::clients::{curl, handshake, start_curl};
use super::{House, Identity, MODEL};
use crate::support::eventually;
use crate::support::sim::sim;

/// The SHA-256 of the certificate that a new connection sees.
fn shown(house: &House) -> String {
    let seen = handshake(house.port(), &["-showcerts"]);
    let (from, to) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let pem = seen.split_once(from).and_then(|(_, rest)| rest.split_once(to));
    let Some((pem, _)) = pem else { return String::new() };
    let seen = Identity::new();
    seen.write("cert.pem", &format!("{from}{pem}{to}\n"));
    seen.fingerprint()
}

/// What h2load counted.
fn load(port: u16) -> String {
    let url = format!("https://localhost:{port}/health");
    let output = Command::new("h2load").args(["-n100", "-c5", "-m4", &url]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_renewed_certificate_is_seen_by_new_connections_and_costs_no_old_one_anything() {
    // 8 tokens a second: the streams outlast the renewal
    let instance = sim().args(&["--slots", "4", "--decode-rate", "8"]).start();
    let house = House::before(instance, |gateway| gateway);
    let question = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hi" }],
        "options": { "num_predict": 60 } });
    let key = format!("X-API-Key: {}", house.gateway.key("ada"));
    let streams = ["--http2", "--http1.1"].map(|version| {
        start_curl(&house, "/api/chat", &[version, "-H", &key, "-d", &question.to_string()])
    });
    eventually("both streams flow", || house.instance.counter("decoding") == 2);
    let before = house.identity.fingerprint();
    assert_eq!(shown(&house), before);

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let mut reports = Vec::new();
            while !over.load(Ordering::Relaxed) {
                reports.push(load(house.port()));
            }
            reports
        });
        house.identity.renew();
        let after = house.identity.fingerprint();
        assert_ne!(after, before);
        eventually("new connections see the new certificate", || shown(&house) == after);
        over.store(true, Ordering::Relaxed);
        for report in loading.join().unwrap() {
            assert!(report.contains("100 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
        }
    });
    for stream in streams {
        let answer = stream.answer();
        assert_eq!((answer.status, answer.exit), (200, 0), "{answer:?}");
        let last: Value = serde_json::from_str(answer.body.lines().last().unwrap()).unwrap();
        assert_eq!(last["done"], true, "{answer:?}");
    }
    assert_eq!(curl(&house, "/health", &[]).status, 200);
}

#[test]
fn a_pair_that_does_not_fit_is_reported_once_and_the_old_one_stays() {
    let house = House::open();
    let before = house.identity.fingerprint();
    let (cert, other) = (house.identity.path("cert.pem"), Identity::new());
    let good = std::fs::read_to_string(&cert).unwrap();
    let warned = |what: &str| {
        let log = house.gateway.log();
        log.iter().filter(|line| line.contains("in use stays") && line.contains(what)).count()
    };
    house.identity.write("cert.pem", &std::fs::read_to_string(other.path("cert.pem")).unwrap());
    eventually("the mismatch is told", || warned("tls.key: ") == 1);
    assert_eq!(shown(&house), before);
    house.identity.write("cert.pem", "half a fi");
    eventually("the half file is told", || warned("tls.cert: ") == 1);
    assert_eq!(shown(&house), before);
    std::fs::remove_file(&cert).unwrap();
    eventually("the missing file is told", || warned("cannot be read") == 1);
    assert_eq!(shown(&house), before);
    house.identity.write("cert.pem", &good);
    let reread = |line: &String| line.contains("certificate reread");
    eventually("the good one is back", || house.gateway.log().iter().any(reread));
    assert_eq!((warned("tls.key: "), warned("tls.cert: ")), (1, 2));
}

/// Changes the configuration and waits until the log has this line once more.
fn change(house: &House, old: &str, new: &str, line: &str) {
    let file = house.gateway.home().path().join("usher.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(old), "{old} in {text}");
    let count = || house.gateway.log().iter().filter(|it| it.contains(line)).count();
    let before = count();
    let beside = file.with_extension("new");
    std::fs::write(&beside, text.replace(old, new)).unwrap();
    std::fs::rename(beside, file).unwrap();
    eventually(&format!("`{line}` in the log"), || count() > before);
}

#[test]
fn a_reload_takes_a_certificate_in_other_files_and_nothing_needs_a_restart() {
    let house = House::open();
    let other = Identity::new();
    let before = house.identity.fingerprint();
    assert_eq!(shown(&house), before);
    change(&house, &house.identity.setting(), &other.setting(), "usher.yaml is in force");
    assert_eq!(shown(&house), other.fingerprint());
    assert!(!house.gateway.log().iter().any(|line| line.contains("needs a restart")));
    // from now on these are the files that are followed
    other.renew();
    let after = other.fingerprint();
    eventually("the renewed one is seen", || shown(&house) == after);
}

#[test]
fn a_reload_with_a_certificate_that_cannot_serve_changes_nothing() {
    let house = House::open();
    let (good, bad) = (Identity::new(), Identity::expired());
    let before = house.identity.fingerprint();
    change(&house, &house.identity.setting(), &bad.setting(), "was not taken");
    let log = house.gateway.log();
    assert!(
        log.iter().any(|line| line.contains("tls.cert: ") && line.contains("expired")),
        "{log:#?}"
    );
    assert_eq!(shown(&house), before);
    change(&house, &bad.setting(), &good.setting(), "usher.yaml is in force");
    assert_eq!(shown(&house), good.fingerprint());
}
