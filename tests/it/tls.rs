//! TLS as clients meet it: real curl, OpenSSL and nghttp2, and certificates made on the spot.

mod clients;
mod h2;
mod proxies;
mod renewal;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::support::chat;
use crate::support::gateway::{Builder, Gateway, gateway};
use crate::support::http::Wire;
use crate::support::sim::{Sim, sim};
use clients::{curl, handshake};

const MODEL: &str = "llama3.2";

/// A certificate for `localhost` and 127.0.0.1, and its key, in files.
pub struct Identity(TempDir);

impl Identity {
    pub fn new() -> Self {
        let identity = Self(tempfile::tempdir().unwrap());
        identity.renew();
        identity
    }

    fn expired() -> Self {
        let identity = Self(tempfile::tempdir().unwrap());
        identity.issue(2001);
        identity
    }

    /// Replaces both files by new ones, one after the other.
    pub fn renew(&self) {
        self.issue(4000);
    }

    fn issue(&self, until: i32) {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let cert = params.self_signed(&key).unwrap();
        self.write("cert.pem", &cert.pem());
        self.write("key.pem", &key.serialize_pem());
    }

    /// As careful tools do it: a new file takes the old one's place.
    pub fn write(&self, name: &str, text: &str) {
        let fresh = self.path("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.path(name)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The SHA-256 of the certificate in the file, as OpenSSL writes it.
    pub fn fingerprint(&self) -> String {
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(self.path("cert.pem"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a listener with it says.
    pub fn setting(&self) -> String {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        format!("tls: {{ cert: '{}', key: '{}' }}", cert.display(), key.display())
    }
}

/// A gateway with an instance and a listener with TLS.
pub struct House {
    pub identity: Identity,
    pub instance: Sim,
    pub gateway: Gateway,
}

impl House {
    fn open() -> Self {
        Self::with(|gateway| gateway)
    }

    fn with(further: impl FnOnce(Builder) -> Builder) -> Self {
        Self::before(sim().args(&["--speed", "20"]).start(), further)
    }

    fn before(instance: Sim, further: impl FnOnce(Builder) -> Builder) -> Self {
        let identity = Identity::new();
        let gateway = gateway()
            .upstream_with("one", &instance.url(), "slots: 4")
            .user("ada", "premium")
            .listener(&identity.setting());
        let gateway = further(gateway).start();
        Self { identity, instance, gateway }
    }

    /// The port with TLS.
    fn port(&self) -> u16 {
        self.gateway.listener(0).port()
    }
}

#[test]
fn both_versions_of_http_are_spoken_over_both_versions_of_tls() {
    let house = House::open();
    for (http, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for tls in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
            let body = chat(MODEL).to_string();
            let key = format!("X-API-Key: {}", house.gateway.key("ada"));
            let asked = [&[http, "-H", &key, "-d", &body][..], tls].concat();
            let answer = curl(&house, "/api/chat", &asked);
            assert_eq!((answer.status, &*answer.version), (200, version), "{tls:?} {answer:?}");
            assert_eq!(answer.json()["done"], true);
            assert_eq!(answer.header("x-usher-upstream"), Some("one"));
        }
    }
}

#[test]
fn openssl_sees_the_certificate_and_gets_nothing_older_than_tls_1_2() {
    let house = House::open();
    for (protocol, spoken) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let seen = handshake(house.port(), &[protocol, "-alpn", "h2,http/1.1"]);
        assert!(seen.contains("ALPN protocol: h2"), "{seen}");
        assert!(seen.contains(&format!("New, {spoken}")), "{seen}");
    }
    let fallback = handshake(house.port(), &["-alpn", "http/1.1"]);
    assert!(fallback.contains("ALPN protocol: http/1.1"), "{fallback}");
    // OpenSSL itself offers the old one only without its security levels
    let old = handshake(house.port(), &["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"]);
    assert!(!old.contains("BEGIN CERTIFICATE"), "{old}");
}

#[test]
fn plain_http_beside_it_goes_on_and_http_on_the_port_of_https_is_closed() {
    let house = House::open();
    assert_eq!(house.gateway.get("/health").send().status, 200);
    let mut wire = Wire::connect(house.gateway.listener(0));
    wire.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let heard = wire.drain(Duration::from_secs(8));
    assert!(!heard.starts_with(b"HTTP"), "{heard:?}");
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let house = House::with(|gateway| gateway.config("timeouts: { header: 1s }"));
    // no handshake: 5 s
    let mut silent = Wire::connect(house.gateway.listener(0));
    // a handshake, and then no request: as long as a head may take
    let mute = clients::idle(house.port(), "h2");
    assert!(silent.closes_within(Duration::from_secs(15)));
    mute.ends_within(Duration::from_secs(15));
}

#[test]
fn connections_are_counted_whatever_they_speak() {
    let house = House::with(|gateway| {
        let own = "metrics: { address: 127.0.0.1:0 }";
        gateway.config("limits: { connections_per_ip: 3 }").config(own).without_waiting()
    });
    let held = ["h2", "h2", "http/1.1"].map(|protocol| clients::idle(house.port(), protocol));
    let refused = curl(&house, "/health", &["--http2"]);
    assert_ne!(refused.status, 200, "{refused:?}");
    crate::support::eventually("the refusal has its line", || {
        let lines = house.gateway.access_lines();
        lines.iter().any(|line| line["status"] == 0 && line["outcome"] == "connections_per_ip")
    });
    let series = r#"usher_limited_total{limit="connections_per_ip"}"#;
    let counted = || crate::support::metrics::value(&house.gateway, series) >= 1.0;
    crate::support::eventually("and is counted", counted);
    let refused = house.gateway.get("/health").send();
    assert_eq!(
        (refused.status, &*refused.detail()),
        (429, "Too many connections from this address")
    );
    drop(held);
    crate::support::eventually("their places are free", || {
        curl(&house, "/health", &["--http2"]).status == 200
    });
}

#[test]
fn files_that_cannot_serve_are_refused_by_check_and_at_the_start_with_their_names() {
    let (good, other, old) = (Identity::new(), Identity::new(), Identity::expired());
    let mixed = format!(
        "tls: {{ cert: '{}', key: '{}' }}",
        good.path("cert.pem").display(),
        other.path("key.pem").display()
    );
    for (setting, complaint) in [
        (mixed, "usher.yaml:3: listen[1].tls.key: "),
        (old.setting(), "usher.yaml:3: listen[1].tls.cert: "),
        ("tls: { cert: nowhere.pem, key: nowhere.pem }".to_owned(), "nowhere.pem cannot be read"),
    ] {
        let home = gateway().upstream("one", "http://127.0.0.1:9").listener(&setting).home();
        for command in ["check", "serve"] {
            let output = home.usher(&[command]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command}: {said}");
            assert!(said.contains(complaint), "{command}: {said}");
        }
    }
    let home = gateway().upstream("one", "http://127.0.0.1:9").listener(&good.setting()).home();
    assert!(home.usher(&["check"]).status.success());
    // who administers keys need not be able to read the certificate's
    let home = gateway().upstream("one", "http://127.0.0.1:9").listener(&old.setting()).home();
    home.usher_json(&["init"]);
    assert!(home.usher(&["keys", "list"]).status.success());
}
