//! An issuer that publishes its keys over HTTPS, and misbehaves.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::*;
use crate::tls::Identity;

/// How it answers.
#[derive(Clone)]
enum Mood {
    Publishes(String),
    Answers(&'static str),
    /// Longer than anybody should read.
    Floods,
    /// Says nothing for as long as somebody waits.
    Hangs,
}

struct Issuer {
    identity: Identity,
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn start(mood: Mood) -> Self {
        let identity = Identity::new();
        let cert = CertificateDer::from_pem_file(identity.path("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(identity.path("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, asked) = (Arc::new(Mutex::new(mood)), Arc::new(AtomicUsize::new(0)));
        let (moods, count, config) = (Arc::clone(&mood), Arc::clone(&asked), Arc::new(config));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mood = moods.lock().clone();
                count.fetch_add(1, Ordering::SeqCst);
                let config = Arc::clone(&config);
                std::thread::spawn(move || answer(stream, config, &mood));
            }
        });
        Self { identity, address, mood, asked }
    }

    fn turn(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A gateway that believes it.
    fn gateway(&self) -> (Sim, Gateway) {
        let instance = sim().args(&["--speed", "50"]).start();
        let config = format!(
            "auth: {{ issuers: [ {{ name: idp, issuer: '{ISSUER}', audience: authenticated, \
             jwks_url: 'https://localhost:{}/keys', secrets: ['{SECRET}'], default_tier: free }} ] }}",
            self.address.port()
        );
        let trusted = self.identity.path("cert.pem").display().to_string();
        let gateway = gateway()
            .upstream("gpu0", &instance.url())
            .config(&config)
            .env("SSL_CERT_FILE", &trusted)
            .start();
        (instance, gateway)
    }
}

fn answer(mut stream: TcpStream, config: Arc<ServerConfig>, mood: &Mood) {
    let mut tls = ServerConnection::new(config).unwrap();
    let mut stream = Stream::new(&mut tls, &mut stream);
    let mut request = [0; 4096];
    if stream.read(&mut request).is_err() {
        return;
    }
    let head = |length: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    let whole = match mood {
        Mood::Publishes(set) => format!("{}{set}", head(set.len())),
        Mood::Answers(text) => (*text).to_owned(),
        Mood::Floods => format!("{}{}", head(64 << 20), " ".repeat(300 << 10)),
        Mood::Hangs => {
            // until the other side gives up
            let _ = stream.read(&mut request);
            return;
        }
    };
    // whoever has read enough may leave
    let _ = stream.write_all(whole.as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

struct Pair(EcdsaKeyPair);

impl Pair {
    fn new() -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap())
    }

    fn published(&self, name: &str) -> Mood {
        let point = self.0.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": name, "x": x, "y": y, "use": "sig" });
        Mood::Publishes(json!({ "keys": [key] }).to_string())
    }

    /// The same without a name.
    fn nameless(&self) -> Mood {
        let Mood::Publishes(set) = self.published("-") else { unreachable!("it publishes") };
        Mood::Publishes(set.replace("\"kid\":\"-\",", ""))
    }

    fn token(&self, name: &str) -> String {
        let header = json!({ "alg": "ES256", "kid": name });
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims().to_string()));
        let made = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(made))
    }
}

#[test]
fn published_keys_and_a_shared_secret_are_believed_side_by_side() {
    let pair = Pair::new();
    let issuer = Issuer::start(pair.published("one"));
    let (_instance, gateway) = issuer.gateway();
    eventually("its keys are known", || me(&gateway, &pair.token("one")).status == 200);
    assert_eq!(me(&gateway, &hs256(&claims())).status, 200, "and the secret");
    let before = issuer.asked();
    for _ in 0..20 {
        let unknown = me(&gateway, &Pair::new().token("unknown"));
        assert_eq!((unknown.status, unknown.detail().as_str()), (401, "Invalid token"));
    }
    assert!(issuer.asked() <= before + 1, "a flood of unknown keys is no flood of questions");
    let forged = Pair::new().token("one");
    assert_eq!(me(&gateway, &forged).status, 401);
}

#[test]
fn a_rotated_key_without_a_name_is_found_by_its_first_token() {
    let (old, new) = (Pair::new(), Pair::new());
    let Mood::Publishes(set) = old.nameless() else { unreachable!("it publishes") };
    assert!(!set.contains("kid"), "{set}");
    let issuer = Issuer::start(old.nameless());
    let (_instance, gateway) = issuer.gateway();
    eventually("its key is known", || me(&gateway, &old.token("any")).status == 200);
    issuer.turn(new.nameless());
    assert_eq!(me(&gateway, &new.token("any")).status, 200, "asked for at once");
    assert_eq!(me(&gateway, &old.token("any")).status, 401, "the old one was withdrawn");
    let asked = issuer.asked();
    for _ in 0..20 {
        assert_eq!(me(&gateway, &Pair::new().token("any")).status, 401);
    }
    assert_eq!(issuer.asked(), asked, "a flood of forgeries is no flood of questions");
}

#[test]
fn an_issuer_that_is_away_is_no_reason_to_refuse_its_users() {
    let pair = Pair::new();
    let issuer = Issuer::start(pair.published("one"));
    let (_instance, gateway) = issuer.gateway();
    eventually("its keys are known", || me(&gateway, &pair.token("one")).status == 200);
    issuer.turn(Mood::Answers("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"));
    let other = Pair::new();
    let unknown = me(&gateway, &other.token("two"));
    assert_eq!(unknown.status, 503, "it could be a new key: {}", unknown.text());
    assert!(unknown.header("retry-after").is_some());
    assert_eq!(me(&gateway, &pair.token("one")).status, 200, "held keys go on");
    issuer.turn(other.published("two"));
    eventually("the new key is found", || me(&gateway, &other.token("two")).status == 200);
    assert_eq!(me(&gateway, &pair.token("one")).status, 401, "the old one was withdrawn");
}

#[test]
fn an_issuer_that_misbehaves_is_not_followed_nor_waited_for() {
    let pair = Pair::new();
    let elsewhere =
        "HTTP/1.1 302 Found\r\nLocation: https://localhost:1/\r\nContent-Length: 0\r\n\r\n";
    for mood in [
        Mood::Answers(elsewhere),
        Mood::Answers("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<keys/>  "),
        Mood::Floods,
        Mood::Hangs,
    ] {
        let issuer = Issuer::start(mood);
        let (_instance, gateway) = issuer.gateway();
        let answer = me(&gateway, &pair.token("one"));
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.detail(), "Identity cannot be checked now");
        assert_eq!(me(&gateway, &hs256(&claims())).status, 200, "the secret is at hand");
        eventually("it is logged", || {
            gateway.log().iter().any(|line| line.contains("WARN") && line.contains("issuer idp:"))
        });
    }
}
