//! Certificates of the proxies that speak TLS, and clients that believe them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// A certificate for this machine, and who believes it.
pub struct Tls {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    der: CertificateDer<'static>,
}

impl Tls {
    /// A fresh one, in files in this directory.
    pub fn new(directory: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()])?;
        let tls = Self {
            cert: directory.join("cert.pem"),
            key: directory.join("key.pem"),
            der: made.cert.der().clone(),
        };
        fs::write(&tls.cert, made.cert.pem())?;
        fs::write(&tls.key, made.signing_key.serialize_pem())?;
        Ok(tls)
    }

    /// A client that believes this certificate and no other.
    pub fn connector(&self) -> Result<TlsConnector> {
        believing([&self.der])
    }

    /// A client that believes this one and another.
    pub fn connector_for_both(&self, other: &Self) -> Result<TlsConnector> {
        believing([&self.der, &other.der])
    }

    /// Another one, in files of its own.
    pub fn successor(&self) -> Result<Self> {
        let directory = self.cert.with_file_name("next");
        fs::create_dir_all(&directory)?;
        Self::new(&directory)
    }

    /// Puts another's files in the place of these, one after the other.
    pub fn replace(&self, other: &Self) -> Result<()> {
        fs::rename(&other.cert, &self.cert)?;
        Ok(fs::rename(&other.key, &self.key)?)
    }
}

/// A client that believes these certificates and no others.
fn believing<'c>(
    certificates: impl IntoIterator<Item = &'c CertificateDer<'static>>,
) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}
