//! Certificates between nodes: every node has one of the cluster's own authority, and talks to nobody without.
//!
//! A certificate is good when the cluster's authority signed it and it names `NODE_NAME`: addresses of nodes change, and whoever
//! holds such a certificate is a node.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// The DNS name that the certificate of every node carries.
pub const NODE_NAME: &str = "node.cortexdb.internal";

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

    pub(crate) fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity())
            .client_ca_root(Certificate::from_pem(&self.ca))
            .client_auth_optional(false)
    }
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
