//! The server's certificate.

use std::sync::Arc;

use lavida_data::{Error, Result};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::settings::TlsFiles;

/// What answers handshakes.
///
/// # Errors
///
/// [`Error::Invalid`] for files that are not there, are no PEM, or do not belong together.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let invalid = |path: &std::path::Path, expected: &str, found: &dyn std::fmt::Display| {
        Error::invalid(path.display(), expected, found)
    };
    let expected = "a certificate chain in PEM";
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| invalid(&files.certificate, expected, &error))?;
    if chain.is_empty() {
        return Err(invalid(&files.certificate, expected, &"none"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| invalid(&files.key, "a private key in PEM", &error))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Internal(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| invalid(&files.key, "the key of the certificate", &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
