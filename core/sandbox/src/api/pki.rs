//! # Keys and certificates of a cluster
//!
//! Job: the cluster CA, the serving certificate, the administrator's client certificate and the key that signs
//! ServiceAccount tokens: made once, kept in the data folder, so that kubeconfigs and tokens outlive a restart.
//! May touch: the folder of keys. Must not touch: the mesh's own PKI.
//! Callers: `shared`, `api`.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::{ApiConfig, StartError};

/// Group whose members may do anything.
pub(crate) const MASTERS: &str = "system:masters";
const ADMIN: &str = "kubernetes-admin";

/// Key material in memory.
#[derive(Debug)]
pub(crate) struct Pki {
    pub(crate) ca_pem: String,
    admin_cert: String,
    admin_key: String,
    /// PKCS#8 of the P-256 key that signs tokens.
    pub(crate) token_key: Vec<u8>,
    pub(crate) tls: Arc<ServerConfig>,
}

/// Standard base64, as kubeconfigs and Secrets use it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

impl Pki {
    /// Loads the folder `pki` below the data folder, or makes it.
    pub(crate) fn open(config: &ApiConfig, addr: SocketAddr) -> Result<Self, StartError> {
        let folder = config.data_dir.join("pki");
        let wrong = |reason: String| StartError::Keys { path: folder.clone(), reason };
        let read = |name: &str, make: &dyn Fn() -> Result<String, String>| {
            read_or_make(&folder, name, make)
        };
        fs::create_dir_all(&folder)
            .map_err(|source| StartError::Folder { path: folder.clone(), source })?;
        let ca_key = read("ca.key", &new_key).map_err(wrong)?;
        let ca_key = KeyPair::from_pem(&ca_key).map_err(|e| wrong(format!("ca.key: {e}")))?;
        let ca_pem = read("ca.crt", &|| {
            ca_params(&config.name).self_signed(&ca_key).map(|c| c.pem()).map_err(|e| e.to_string())
        })
        .map_err(wrong)?;
        let issuer =
            Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(|e| wrong(format!("ca.crt: {e}")))?;
        let admin_key = read("admin.key", &new_key).map_err(wrong)?;
        let admin_cert =
            read("admin.crt", &|| signed(&admin_params(), &admin_key, &issuer)).map_err(wrong)?;
        let token_key = read("sa.key", &new_key).map_err(wrong)?;
        let token_key = KeyPair::from_pem(&token_key)
            .map_err(|e| wrong(format!("sa.key: {e}")))?
            .serialize_der();
        // The serving certificate names the bound address, so it is made at each start.
        let serving_key = new_key().map_err(wrong)?;
        let serving = server_params(config, addr).map_err(wrong)?;
        let serving = signed(&serving, &serving_key, &issuer).map_err(wrong)?;
        let tls = server_config(&ca_pem, &serving, &serving_key).map_err(wrong)?;
        Ok(Self { ca_pem, admin_cert, admin_key, token_key, tls: Arc::new(tls) })
    }

    /// The `user` of the administrator's kubeconfig.
    pub(crate) fn admin_user(&self) -> Value {
        json!({
            "client-certificate-data": base64(self.admin_cert.as_bytes()),
            "client-key-data": base64(self.admin_key.as_bytes()),
        })
    }
}

fn read_or_make(
    folder: &Path,
    name: &str,
    make: &dyn Fn() -> Result<String, String>,
) -> Result<String, String> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let text = make()?;
            write_private(&path, &text).map_err(|e| format!("{name}: {e}"))?;
            Ok(text)
        }
        Err(e) => Err(format!("{name}: {e}")),
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn new_key() -> Result<String, String> {
    KeyPair::generate().map(|key| key.serialize_pem()).map_err(|e| e.to_string())
}

fn signed(
    params: &CertificateParams,
    key: &str,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<String, String> {
    let key = KeyPair::from_pem(key).map_err(|e| e.to_string())?;
    params.signed_by(&key, issuer).map(|c| c.pem()).map_err(|e| e.to_string())
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("kubernetes-{name}"), &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn admin_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(ADMIN, &[MASTERS]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn server_params(config: &ApiConfig, addr: SocketAddr) -> Result<CertificateParams, String> {
    let service = "kubernetes.default.svc";
    let mut names = vec![
        "localhost".to_owned(),
        "kubernetes".into(),
        "kubernetes.default".into(),
        service.into(),
        format!("{service}.{}", config.cluster_domain),
    ];
    names.extend(config.extra_names.iter().cloned());
    let mut params = CertificateParams::new(names).map_err(|e| e.to_string())?;
    let service_ip = u32::from(config.service_cidr.network()) + 1;
    for ip in [addr.ip(), Ipv4Addr::LOCALHOST.into(), IpAddr::V4(service_ip.into())] {
        params.subject_alt_names.push(SanType::IpAddress(ip));
    }
    params.distinguished_name = subject("kube-apiserver", &[]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn subject(common_name: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for group in groups {
        name.push(DnType::OrganizationName, *group);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn server_config(ca: &str, cert: &str, key: &str) -> Result<ServerConfig, String> {
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|e| format!("ca.crt: {e}"))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|e| format!("ca.crt: {e}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier: Arc<dyn ClientCertVerifier> =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| e.to_string())?;
    let cert = CertificateDer::from_pem_slice(cert.as_bytes()).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![cert, ca], key)
        .map_err(|e| e.to_string())?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
