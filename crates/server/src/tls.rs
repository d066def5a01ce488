//! Encryption: a certificate and its key, from PEM files.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, rustls};

/// How connections are encrypted; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(Arc<rustls::ServerConfig>);

/// Why there is no encryption.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that cannot be read, or is no PEM.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// A file without a certificate.
    #[error("{} has no certificate: one between the lines BEGIN CERTIFICATE and END CERTIFICATE is needed", .0.display())]
    Empty(PathBuf),
    /// A key that cannot be used, or is not that of the certificate.
    #[error("the certificate and the key cannot be used together: {0}")]
    Pair(rustls::Error),
}

impl Tls {
    /// A server's certificate, with those that vouch for it behind it, and its key.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let reading = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Read { path, source }
        };
        let chain = CertificateDer::pem_file_iter(certificate).map_err(reading(certificate))?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(reading(certificate))?;
        if chain.is_empty() {
            return Err(TlsError::Empty(certificate.to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(reading(key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(Arc::new(config)))
    }

    /// What greets connections.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.clone())
    }
}
