//! # The TLS profile
//!
//! Job: what both ends of mesh TLS agree on: TLS 1.3, suites, groups, algorithms, and verification by
//! trust anchors without host names.
//! May touch: rustls configuration. Must not touch: streams. Callers: `credentials`.

use mesh_model::{identity::DnsName, transport::TRANSPORT_ALPN};
use mesh_pki::{Role, TrustBundle, VerifyError};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
    client::{ResolvesClientCert, Resumption, danger},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger as server_danger},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};
use webpki::aws_lc_rs as algorithms;

/// Configurations for one certificate.
#[derive(Debug)]
pub(crate) struct Configs {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) server_transport: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) client_transport: Arc<ClientConfig>,
}

impl Configs {
    pub(crate) fn new(
        anchors: &TrustBundle,
        server_name: &DnsName,
        certified: Arc<CertifiedKey>,
    ) -> Result<Self, rustls::Error> {
        let verifier = Arc::new(Verifier(anchors.clone()));
        let resolver = Arc::new(Resolver { server_name: server_name.clone(), certified });
        let server = server_config(verifier.clone(), resolver.clone())?;
        let client = client_config(verifier, resolver)?;
        let mut server_transport = server.clone();
        server_transport.alpn_protocols = vec![TRANSPORT_ALPN.to_vec()];
        let mut client_transport = client.clone();
        client_transport.alpn_protocols = vec![TRANSPORT_ALPN.to_vec()];
        Ok(Self {
            server: server.into(),
            server_transport: server_transport.into(),
            client: client.into(),
            client_transport: client_transport.into(),
        })
    }
}

fn server_config(
    verifier: Arc<Verifier>,
    resolver: Arc<Resolver>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(TLS13)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(
    verifier: Arc<Verifier>,
    resolver: Arc<Resolver>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(TLS13)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver);
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A client that trusts `anchors` and shows no certificate: the bootstrap toward identity.
pub(crate) fn anonymous_client(anchors: &TrustBundle) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(TLS13)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier(anchors.clone())))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts what leads to the anchors. Whom a certificate names is checked by the caller.
#[derive(Debug)]
struct Verifier(TrustBundle);

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.0.verify(leaf, intermediates, role, now).map(drop).map_err(alert)
    }
}

impl danger::ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<danger::ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, Role::Server, now)?;
        Ok(danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &SCHEMES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.supported_schemes()
    }
}

impl server_danger::ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<server_danger::ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, Role::Client, now)?;
        Ok(server_danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &SCHEMES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.supported_schemes()
    }
}

/// Shows the one certificate, to those who asked for us by name and know its algorithm.
#[derive(Debug)]
struct Resolver {
    server_name: DnsName,
    certified: Arc<CertifiedKey>,
}

impl Resolver {
    fn certificate(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        schemes.contains(&OWN_SCHEME).then(|| self.certified.clone())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let ours = hello.server_name().is_some_and(|n| {
            n.trim_end_matches('.').eq_ignore_ascii_case(self.server_name.as_str())
        });
        if ours { self.certificate(hello.signature_schemes()) } else { None }
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certificate(schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn alert(error: VerifyError) -> rustls::Error {
    use webpki::Error as E;
    let cause = match error {
        VerifyError::Chain(E::CertExpired { .. }) | VerifyError::Validity { .. } => {
            CertificateError::Expired
        }
        VerifyError::Chain(E::CertNotValidYet { .. }) => CertificateError::NotValidYet,
        VerifyError::Chain(E::UnknownIssuer) => CertificateError::UnknownIssuer,
        VerifyError::Chain(E::BadDer | E::BadDerTime) | VerifyError::Material(_) => {
            CertificateError::BadEncoding
        }
        VerifyError::Chain(E::InvalidSignatureForPublicKey) => CertificateError::BadSignature,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    };
    cause.into()
}

fn only_tls13() -> rustls::Error {
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled)
}

/// The scheme that the own key signs with.
const OWN_SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let suites = provider::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let others = [
        provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
        provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider {
        cipher_suites: std::iter::once(suites).chain(others).collect(),
        kx_groups: vec![
            provider::kx_group::X25519MLKEM768,
            provider::kx_group::X25519,
            provider::kx_group::SECP256R1,
            provider::kx_group::SECP384R1,
        ],
        signature_verification_algorithms: SCHEMES,
        ..provider::default_provider()
    })
});

/// What mesh TLS is made of, as an operator may ask: suites and groups in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Names of cipher suites.
    pub suites: Vec<String>,
    /// Names of key exchange groups.
    pub kx_groups: Vec<String>,
    /// Source of randomness.
    pub rand: String,
    /// Loader of keys.
    pub key_provider: String,
    /// Whether it is a FIPS build.
    pub fips: bool,
}

/// What mesh TLS of this build is made of.
pub fn facts() -> TlsFacts {
    let provider = &*PROVIDER;
    TlsFacts {
        suites: provider.cipher_suites.iter().map(|s| format!("{:?}", s.suite())).collect(),
        kx_groups: provider.kx_groups.iter().map(|g| format!("{:?}", g.name())).collect(),
        rand: format!("{:?}", provider.secure_random),
        key_provider: format!("{:?}", provider.key_provider),
        fips: provider.fips(),
    }
}

/// No PSS, as Linkerd's proxy: an RSA root may sign, an RSA leaf may not speak.
static SCHEMES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        algorithms::ECDSA_P256_SHA256,
        algorithms::ECDSA_P384_SHA384,
        algorithms::ECDSA_P521_SHA512,
        algorithms::ED25519,
        algorithms::RSA_PKCS1_2048_8192_SHA256,
        algorithms::RSA_PKCS1_2048_8192_SHA384,
        algorithms::RSA_PKCS1_2048_8192_SHA512,
    ],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[algorithms::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[algorithms::ECDSA_P384_SHA384]),
        (SignatureScheme::ECDSA_NISTP521_SHA512, &[algorithms::ECDSA_P521_SHA512]),
        (SignatureScheme::ED25519, &[algorithms::ED25519]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[algorithms::RSA_PKCS1_2048_8192_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[algorithms::RSA_PKCS1_2048_8192_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[algorithms::RSA_PKCS1_2048_8192_SHA512]),
    ],
};

/// A client configuration for tests that need a ClientHello and nothing more.
#[cfg(test)]
pub(crate) fn test_client() -> ClientConfig {
    use mesh_pki::{CaParams, create_root};
    let params = CaParams::root("root", SystemTime::now(), Duration::from_secs(3600));
    let root = create_root(&params).unwrap().certificate;
    anonymous_client(&TrustBundle::from_certificates([root]).unwrap()).unwrap()
}
