//! # Making certificates
//!
//! Job: self-signed roots, issuers under a root, and server certificates for webhooks and the sandbox.
//! May touch: keys. Must not touch: files, the clock (times are handed in).
//! Callers: `ca create`, charts, the sandbox, tests.

use crate::{certificate::Certificate, error::MaterialError, key::Key};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType,
};
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

/// What a CA certificate says.
#[derive(Clone, Debug)]
pub struct CaParams {
    /// Subject common name.
    pub common_name: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// How many CAs may follow below it; `None` is no bound.
    pub path_length: Option<u8>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct CertifiedKey {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key.
    pub key: Key,
}

impl CaParams {
    /// A root: one level of CAs below it.
    pub fn root(name: &str, now: SystemTime, lifetime: Duration) -> Self {
        Self::new(name, now, lifetime, 1)
    }

    /// An issuer: only leafs below it.
    pub fn issuer(name: &str, now: SystemTime, lifetime: Duration) -> Self {
        Self::new(name, now, lifetime, 0)
    }

    fn new(name: &str, now: SystemTime, lifetime: Duration, path_length: u8) -> Self {
        Self {
            common_name: name.to_owned(),
            not_before: now,
            not_after: now + lifetime,
            path_length: Some(path_length),
        }
    }

    fn certificate(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&self.common_name);
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.is_ca = IsCa::Ca(match self.path_length {
            Some(length) => BasicConstraints::Constrained(length),
            None => BasicConstraints::Unconstrained,
        });
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }
}

/// A self-signed root with a new P-256 key.
///
/// # Errors
/// When the crypto library fails.
pub fn create_root(params: &CaParams) -> Result<CertifiedKey, MaterialError> {
    let key = Key::generate()?;
    let signed = params.certificate().self_signed(&key.0).map_err(sign)?;
    Ok(CertifiedKey { certificate: Certificate::from_der(signed.der())?, key })
}

/// An issuer with a new P-256 key under `parent`. Its end is never later than the parent's.
///
/// # Errors
/// When the crypto library fails.
pub fn create_issuer(
    parent: &CertifiedKey,
    params: &CaParams,
) -> Result<CertifiedKey, MaterialError> {
    let mut params = params.clone();
    params.not_after = params.not_after.min(parent.certificate.not_after);
    let mut certificate = params.certificate();
    certificate.use_authority_key_identifier_extension = true;
    sign_under(parent, certificate)
}

/// A server certificate with a new P-256 key, for `names` and `addresses`, under `parent`.
///
/// # Errors
/// When a name is not ASCII, or the crypto library fails.
pub fn create_server(
    parent: &CertifiedKey,
    names: &[&str],
    addresses: &[IpAddr],
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertifiedKey, MaterialError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(names.first().copied().unwrap_or("server"));
    params.not_before = not_before.into();
    params.not_after = not_after.min(parent.certificate.not_after).into();
    for name in names {
        params.subject_alt_names.push(SanType::DnsName((*name).try_into().map_err(sign)?));
    }
    params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    sign_under(parent, params)
}

pub(crate) fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !common_name.is_empty() {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn sign_under(
    parent: &CertifiedKey,
    params: CertificateParams,
) -> Result<CertifiedKey, MaterialError> {
    let key = Key::generate()?;
    let issuer = Issuer::from_ca_cert_der(&parent.certificate.der, &parent.key.0).map_err(sign)?;
    let signed = params.signed_by(&key.0, &issuer).map_err(sign)?;
    Ok(CertifiedKey { certificate: Certificate::from_der(signed.der())?, key })
}

fn sign(error: rcgen::Error) -> MaterialError {
    MaterialError::Sign(error.to_string())
}
