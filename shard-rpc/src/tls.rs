//! Certificates between nodes: every node has one of the cluster's own authority, and talks to nobody without.
//!
//! A certificate is good when the cluster's authority signed it and it names `NODE_NAME`: addresses of nodes change, and whoever
//! holds such a certificate is a node.

use std::{io, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, AlertDescription, CertificateError as Doubt, ClientConfig, RootCertStore,
        ServerConfig,
        crypto::CryptoProvider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// The DNS name that the certificate of every node carries.
pub const NODE_NAME: &str = "node.cortexdb.internal";

/// The protocol inside of TLS.
const HTTP_2: &[u8] = b"h2";

/// What a node needs, in PEM.
#[derive(Clone)]
pub struct TlsConfig {
    /// The cluster's authority.
    pub ca: String,
    /// This node's certificate.
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConfig { .. }")
    }
}

impl TlsConfig {
    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    pub(crate) fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(self.identity())
            .domain_name(NODE_NAME)
    }

    /// The authority, and this node's certificates with their key.
    fn read(
        &self,
    ) -> Result<(RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let certificates = |pem: &str, what| -> Result<Vec<CertificateDer<'static>>, String> {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            let read = read.map_err(|error| format!("{what}: {error}"))?;
            if read.is_empty() { Err(format!("{what}: there is none")) } else { Ok(read) }
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.ca, "the cluster's authority")? {
            roots.add(authority).map_err(|error| format!("the cluster's authority: {error}"))?;
        }
        let own = certificates(&self.certificate, "this process's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| format!("this process's key: {error}"))?;
        Ok((roots, own, key))
    }

    /// Lets nodes of the cluster in.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let (roots, own, key) = self.read()?;
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|config| config.with_client_cert_verifier(verifier));
        let config = config.and_then(|config| config.with_single_cert(own, key));
        let mut config = config.map_err(|error| error.to_string())?;
        config.alpn_protocols.push(HTTP_2.to_vec());
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// The same as `client`, for a look at a node without HTTP/2.
    pub(crate) fn connector(&self) -> Result<TlsConnector, String> {
        let (roots, own, key) = self.read()?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_root_certificates(roots).with_client_auth_cert(own, key)
            });
        let mut config = config.map_err(|error| error.to_string())?;
        config.alpn_protocols.push(HTTP_2.to_vec());
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a failed handshake says of the certificates of both sides; `None` if the connection broke for another reason.
pub(crate) fn refusal(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::NoCertificatesPresented => "it shows no certificate of the cluster".into(),
        rustls::Error::InvalidCertificate(doubt) => match doubt {
            Doubt::Expired | Doubt::ExpiredContext { .. } => "its certificate has expired".into(),
            Doubt::NotValidYet | Doubt::NotValidYetContext { .. } => {
                "its certificate is not valid yet: look at the clocks of both hosts".into()
            }
            Doubt::UnknownIssuer | Doubt::BadSignature => {
                "its certificate is not of this process's cluster authority".into()
            }
            doubt => format!("its certificate is not good: {doubt}"),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => {
                "it refuses this process's certificate, which has expired".into()
            }
            AlertDescription::CertificateRequired => {
                "it wants a certificate of the cluster, and this process has none".into()
            }
            // What is said of a signature that is not the authority's.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it refuses this process's certificate, which is not of its cluster authority"
                    .into()
            }
            alert => format!("it ended the TLS handshake ({alert:?})"),
        },
        error => format!("the TLS handshake failed: {error}"),
    })
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct CertificatePair {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificatePair { .. }")
    }
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making a certificate failed: {0}")]
pub struct CertificateError(#[from] rcgen::Error);

fn authority_parameters(cluster: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, format!("CortexDB cluster {cluster}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

/// A new authority for a cluster, named after it. Its key signs the certificates of nodes and is needed for nothing else.
pub fn new_authority(cluster: &str) -> Result<CertificatePair, CertificateError> {
    let key = KeyPair::generate()?;
    let certificate = authority_parameters(cluster).self_signed(&key)?;
    Ok(CertificatePair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A certificate for a node, signed with the key of the authority that `new_authority` made for the same `cluster`. `name` is
/// for people.
pub fn new_node(
    cluster: &str,
    authority_key: &str,
    name: &str,
) -> Result<CertificatePair, CertificateError> {
    let issuer = Issuer::new(authority_parameters(cluster), KeyPair::from_pem(authority_key)?);
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec![NODE_NAME.to_owned()])?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = parameters.signed_by(&key, &issuer)?;
    Ok(CertificatePair { certificate: certificate.pem(), key: key.serialize_pem() })
}
