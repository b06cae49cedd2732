use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// A directory with `cert.pem` and `key.pem`.
struct Pair(TempDir);

impl Pair {
    /// One that is valid for these years.
    fn valid(from: i32, until: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let cert = params.self_signed(&key).unwrap();
        let pair = Self(tempfile::tempdir().unwrap());
        pair.write("cert.pem", &cert.pem()).write("key.pem", &key.serialize_pem())
    }

    fn good() -> Self {
        Self::valid(2000, 4000)
    }

    fn write(self, name: &str, text: &str) -> Self {
        std::fs::write(self.path(name), text).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn files(&self) -> TlsFiles {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        TlsFiles { cert, key, place: Place::new("usher.yaml:3: listen[0].tls".to_owned()) }
    }

    /// What is wrong with it, without the directory.
    fn complaint(&self) -> String {
        let bad = read(&self.files()).expect_err("there is a mistake");
        bad.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn a_pair_that_fits_is_taken() {
    let certificate = Certificate::load(&Pair::good().files()).unwrap();
    let config = certificate.server_config().unwrap();
    assert_eq!(config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
    assert_eq!(config.max_early_data_size, 0);
}

#[test]
fn a_pair_that_cannot_serve_is_named_with_its_file_and_the_reason() {
    let other = std::fs::read_to_string(Pair::good().path("key.pem")).unwrap();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let huge = "x".repeat((1 << 20) + 1);
    for (pair, complaint) in [
        (
            Pair::good().write("key.pem", &other),
            "key: key.pem does not belong to the certificate in cert.pem",
        ),
        (
            Pair::good().write("key.pem", ""),
            "key: key.pem holds no private key: expected PEM, `BEGIN PRIVATE KEY`, not encrypted",
        ),
        (
            Pair::good().write("key.pem", encrypted),
            "key: key.pem holds no private key: expected PEM, `BEGIN PRIVATE KEY`, not encrypted",
        ),
        (
            Pair::good().write("cert.pem", "hello"),
            "cert: cert.pem holds no certificate: expected PEM, `BEGIN CERTIFICATE`",
        ),
        (
            Pair::good().write("cert.pem", &huge),
            "cert: cert.pem is larger than 1MiB: is it the right file?",
        ),
        (Pair::valid(2000, 2001), "cert: cert.pem expired at 2001-01-01T00:00:00Z: renew it"),
        (
            Pair::valid(3000, 3001),
            "cert: cert.pem is not valid before 3000-01-01T00:00:00Z: is the clock right?",
        ),
    ] {
        assert_eq!(pair.complaint(), format!("usher.yaml:3: listen[0].tls.{complaint}"));
    }
    let malformed = Pair::good().write("cert.pem", junk).complaint();
    assert!(malformed.contains("cert.pem holds a malformed certificate"), "{malformed}");
    let gone = Pair::good();
    std::fs::remove_file(gone.path("key.pem")).unwrap();
    assert!(gone.complaint().contains("tls.key: key.pem cannot be read: "), "{}", gone.complaint());
}

#[test]
fn a_key_is_judged_beside_a_certificate_that_cannot_serve() {
    let told = |pair: Pair| {
        let bad = troubles(&pair.files());
        bad.iter().map(|bad| bad.key).collect::<Vec<_>>()
    };
    assert!(told(Pair::good()).is_empty());
    assert_eq!(told(Pair::good().write("cert.pem", "")), ["cert"]);
    assert_eq!(told(Pair::good().write("key.pem", "")), ["key"]);
    assert_eq!(told(Pair::good().write("cert.pem", "").write("key.pem", "")), ["cert", "key"]);
}
