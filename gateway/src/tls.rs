//! TLS: certificate and key from PEM files to an acceptor.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;

/// Reads both files; clients are not asked for certificates of their own.
pub fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let describe = |path: &Path| format!("cannot read {}", path.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .with_context(|| describe(&files.cert))?
        .collect::<Result<_, _>>()
        .with_context(|| describe(&files.cert))?;
    if chain.is_empty() {
        bail!("{} holds no certificate", files.cert.display());
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| describe(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the TLS certificate and its key do not fit")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
