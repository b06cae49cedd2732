//! An authority of a test's own, and certificates that it vouches for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority that nobody trusts unless told to.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        // by its name a certificate finds its issuer: no two are alike
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("it signs itself");
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("it is ours");
        Self { issuer: Issuer::new(params, key), directory }
    }

    /// The file with its certificate.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Puts a certificate for these names and its key into `directory`, as `server.pem` and
    /// `server.key`, the key for its owner alone.
    pub fn issue(&self, names: &[&str], directory: &Path) {
        let key = KeyPair::generate().expect("keys can be made");
        let names: Vec<String> = names.iter().copied().map(Into::into).collect();
        let params = CertificateParams::new(names).expect("good names");
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        std::fs::write(directory.join("server.pem"), certificate.pem()).expect("it is ours");
        let file = directory.join("server.key");
        std::fs::write(&file, key.serialize_pem()).expect("it is ours");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(file, mode).expect("it is ours");
    }
}
