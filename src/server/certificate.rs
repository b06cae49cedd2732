//! What listeners prove their names with, reread when the files change.
//!
//! Whoever renews a certificate replaces two files, one after the other, and never at the same
//! instant: so files are read once they have rested, and a pair that does not fit changes nothing.
//! A reload of the configuration may name other files.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::{TLS12, TLS13};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::{Config, Listen, Place, TlsFiles};
use crate::live::reload::{Renewal, Switch};

/// How often the files are looked at, and how long they have to rest before they are read.
const LOOK: Duration = Duration::from_millis(500);
/// The largest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;
/// With this much time left, a certificate should have been renewed.
const RENEW: Duration = Duration::from_secs(7 * 24 * 3600);

/// A certificate in use.
#[derive(Debug)]
pub(super) struct Certificate {
    files: ArcSwap<TlsFiles>,
    /// What the files looked like just before they were read at first.
    seen: Stamp,
    current: ArcSwap<CertifiedKey>,
}

/// Everything that is wrong with the certificates of a configuration.
pub fn check(config: &Config) -> Vec<BadCertificate> {
    let files = config.listen.iter().filter_map(|listen| listen.tls.as_ref());
    files.flat_map(troubles).collect()
}

/// The key is judged even beside a bad certificate: who mends one wants to hear of both.
fn troubles(files: &TlsFiles) -> Vec<BadCertificate> {
    let Err(bad) = read(files) else { return Vec::new() };
    let key = if bad.key == "cert" { signing_key(files).err() } else { None };
    std::iter::once(bad).chain(key).collect()
}

/// Files that cannot serve as a certificate, and why.
#[derive(Debug, thiserror::Error)]
#[error("{place}.{key}: {file} {what}")]
pub struct BadCertificate {
    place: Place,
    key: &'static str,
    file: String,
    what: String,
}

impl BadCertificate {
    fn of(files: &TlsFiles, key: &'static str, what: String) -> Self {
        let file = if key == "key" { &files.key } else { &files.cert };
        Self { place: files.place.clone(), key, file: file.display().to_string(), what }
    }
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// They cannot be read, are no PEM, do not belong together, or are not valid at this time.
    pub(super) fn load(files: &TlsFiles) -> Result<Arc<Self>, BadCertificate> {
        let seen = Stamp::of(files);
        let current = ArcSwap::from_pointee(read(files)?);
        Ok(Arc::new(Self { files: ArcSwap::from_pointee(files.clone()), seen, current }))
    }

    /// TLS 1.2 and 1.3 with this certificate, HTTP/2 before HTTP/1.1.
    pub(super) fn server_config(self: Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // resumption costs the server no memory; early data, which can be replayed, stays off
        config.ticketer = ring::Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// Follows the files until the end. Connections that are open keep what they began with.
    pub(super) async fn follow(self: Arc<Self>, mut ending: watch::Receiver<bool>) {
        let (mut seen, mut before) = (self.seen.clone(), self.seen.clone());
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = ending.wait_for(|over| *over) => return,
            }
            let own = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || Stamp::of(&own.files.load())).await;
            let Ok(now) = looked else { continue };
            let rested = std::mem::replace(&mut before, now.clone()) == now;
            if rested && now != seen {
                seen = now;
                let own = Arc::clone(&self);
                // reading a file cannot panic, and a lost turn is made up for by the next change
                let _ = tokio::task::spawn_blocking(move || own.reload()).await;
            }
        }
    }

    fn reload(&self) {
        let files = self.files.load();
        match read(&files) {
            Ok(new) => {
                self.current.store(Arc::new(new));
                log::info!("certificate reread: {}", files.cert.display());
            }
            Err(bad) => log::warn!("the certificate in use stays: {bad}"),
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// The certificate of each listener that has one, in their order.
#[derive(Clone)]
pub(super) struct Certificates(Vec<Option<Arc<Certificate>>>);

impl Certificates {
    /// Reads those of all listeners.
    ///
    /// # Errors
    /// One of them cannot serve.
    pub(super) fn load(config: &Config) -> Result<Self, BadCertificate> {
        let load = |listen: &Listen| listen.tls.as_ref().map(Certificate::load).transpose();
        Ok(Self(config.listen.iter().map(load).collect::<Result<_, _>>()?))
    }

    /// Each of them.
    pub(super) fn into_each(self) -> impl Iterator<Item = Option<Arc<Certificate>>> {
        self.0.into_iter()
    }
}

impl Renewal for Certificates {
    fn prepare(&self, config: &Config) -> Result<Switch, String> {
        let mut ready = Vec::new();
        for (certificate, listen) in self.0.iter().zip(&config.listen) {
            let (Some(certificate), Some(files)) = (certificate, &listen.tls) else { continue };
            let now = certificate.files.load();
            if (&now.cert, &now.key) != (&files.cert, &files.key) {
                let pair = read(files).map_err(|bad| bad.to_string())?;
                ready.push((Arc::clone(certificate), files.clone(), pair));
            }
        }
        Ok(Box::new(move || {
            for (certificate, files, pair) in ready {
                log::info!("certificate read: {}", files.cert.display());
                // in this order: whoever looks after the files rereads them if they are others
                certificate.files.store(Arc::new(files));
                certificate.current.store(Arc::new(pair));
            }
        }))
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, BadCertificate> {
    let cert = &files.cert;
    let bad = |what| BadCertificate::of(files, "cert", what);
    let chain = contents(cert).and_then(|pem| chain_in(&pem)).map_err(bad)?;
    let left = time_left(&chain, Timestamp::now()).map_err(bad)?;
    let pair = CertifiedKey::new(chain, signing_key(files)?);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let what = format!("does not belong to the certificate in {}", cert.display());
            return Err(BadCertificate::of(files, "key", what));
        }
        Err(error) => return Err(bad(format!("cannot be used: {error}"))),
    }
    if left < RENEW {
        log::warn!("{} expires in {} hours: renew it", cert.display(), left.as_secs() / 3600);
    }
    Ok(pair)
}

fn signing_key(files: &TlsFiles) -> Result<Arc<dyn SigningKey>, BadCertificate> {
    let der = contents(&files.key).and_then(|pem| key_in(&pem));
    let usable = der.and_then(|der| {
        ring::sign::any_supported_type(&der).map_err(|error| format!("cannot be used: {error}"))
    });
    usable.map_err(|what| BadCertificate::of(files, "key", what))
}

fn contents(file: &Path) -> Result<Vec<u8>, String> {
    let calm = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    File::open(file).map_err(calm)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(calm)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err("is larger than 1MiB: is it the right file?".to_owned()),
        false => Ok(bytes),
    }
}

fn chain_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not PEM: {error}"))?;
    match chain.is_empty() {
        true => Err("holds no certificate: expected PEM, `BEGIN CERTIFICATE`".to_owned()),
        false => Ok(chain),
    }
}

fn key_in(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    use rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => {
            "holds no private key: expected PEM, `BEGIN PRIVATE KEY`, not encrypted".to_owned()
        }
        // never its text, which may quote what it stumbled over
        _ => "is not PEM".to_owned(),
    })
}

/// How long the first certificate of a chain is still valid.
fn time_left(chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Duration, String> {
    let der = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| format!("holds a malformed certificate: {error}"))?;
    let validity = certificate.validity();
    let at = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX)
    };
    let (from, until) = (at(validity.not_before), at(validity.not_after));
    if now < from {
        return Err(format!("is not valid before {from}: is the clock right?"));
    }
    let left = until.duration_since(now);
    left.try_into().map_err(|_| format!("expired at {until}: renew it"))
}

/// What the two files look like from outside, links followed: who replaces a file changes this.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp([Option<Look>; 2]);

/// Device, inode, seconds and nanoseconds of the last change, size.
type Look = (u64, u64, i64, i64, u64);

impl Stamp {
    fn of(files: &TlsFiles) -> Self {
        let look = |m: Metadata| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.size());
        Self([&files.cert, &files.key].map(|file| std::fs::metadata(file).ok().map(look)))
    }
}

#[cfg(test)]
mod tests;
