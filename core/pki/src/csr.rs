//! # Certificate signing requests
//!
//! Job: make a proxy's request, and judge one by the rules of the identity service.
//! May touch: bytes. Callers: the identity service, the proxy's bootstrap.

use crate::{
    ca::subject,
    certificate::KeyKind,
    error::{CsrProblem, MaterialError},
    key::Key,
};
use mesh_model::identity::{DnsName, Identity};
use rcgen::{CertificateParams, SanType};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

/// The DER of a request whose common name and single DNS name are `name` (a proxy's `csr.der`).
///
/// # Errors
/// When the crypto library fails.
pub fn create_csr(name: &DnsName, key: &Key) -> Result<Vec<u8>, MaterialError> {
    let sign = |e: rcgen::Error| MaterialError::Sign(e.to_string());
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name.as_str());
    params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into().map_err(sign)?)];
    Ok(params.serialize_request(&key.0).map_err(sign)?.der().to_vec())
}

/// A request that parsed and whose signature proves possession of the key.
#[derive(Clone, Debug)]
pub struct Csr {
    common_name: String,
    dns_names: Vec<String>,
    other_names: bool,
    key: KeyKind,
    public_der: Vec<u8>,
}

/// A request that passed [`Csr::check`]; only such a one can be signed.
#[derive(Clone, Debug)]
pub struct CheckedCsr {
    pub(crate) name: DnsName,
    pub(crate) common_name: bool,
    pub(crate) public_der: Vec<u8>,
}

impl Csr {
    /// Parses DER and verifies the request's own signature.
    ///
    /// # Errors
    /// [`CsrProblem::Malformed`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrProblem> {
        let malformed = |_| CsrProblem::Malformed;
        let (rest, csr) = X509CertificationRequest::from_der(der).map_err(malformed)?;
        if !rest.is_empty() || csr.verify_signature().is_err() {
            return Err(CsrProblem::Malformed);
        }
        let info = &csr.certification_request_info;
        let common_name = info.subject.iter_common_name().next();
        let mut parsed = Self {
            common_name: common_name.and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned(),
            dns_names: Vec::new(),
            other_names: false,
            key: KeyKind::of(&info.subject_pki),
            public_der: info.subject_pki.raw.to_vec(),
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
            for name in &san.general_names {
                match name {
                    GeneralName::DNSName(name) => parsed.dns_names.push((*name).to_owned()),
                    _ => parsed.other_names = true,
                }
            }
        }
        Ok(parsed)
    }

    /// The rules for a leaf of `identity`: exactly one DNS name and it is the identity; common name
    /// empty or the same; no other names.
    ///
    /// # Errors
    /// The first rule broken. The key's kind is judged by [`Csr::is_ecdsa`].
    pub fn check(self, identity: &Identity) -> Result<CheckedCsr, CsrProblem> {
        let [found] = self.dns_names.as_slice() else {
            return Err(CsrProblem::DnsNames(self.dns_names.len()));
        };
        let expected = || identity.to_string();
        let Identity::Dns(name) = identity else { return Err(CsrProblem::OtherKinds) };
        if found != name.as_str() {
            return Err(CsrProblem::OtherName { found: shorten(found), expected: expected() });
        }
        let cn = &self.common_name;
        if !cn.is_empty() && cn != name.as_str() {
            return Err(CsrProblem::CommonName { found: shorten(cn), expected: expected() });
        }
        if self.other_names {
            return Err(CsrProblem::OtherKinds);
        }
        Ok(CheckedCsr {
            name: name.clone(),
            common_name: !cn.is_empty(),
            public_der: self.public_der,
        })
    }

    /// Whether the key is ECDSA, the only kind that is signed.
    pub fn is_ecdsa(&self) -> bool {
        matches!(self.key, KeyKind::Ecdsa(_))
    }
}

/// What an error repeats of a stranger's text.
fn shorten(text: &str) -> String {
    text.chars().take(253).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sans: &[SanType], cn: &str) -> Csr {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(cn);
        params.subject_alt_names = sans.to_vec();
        let key = Key::generate().unwrap();
        Csr::from_der(params.serialize_request(&key.0).unwrap().der()).unwrap()
    }

    // proves: ID-4
    #[test]
    fn the_rules_one_by_one() {
        let id: Identity = "a.b.serviceaccount.identity.l.c".parse().unwrap();
        let dns = |n: &str| SanType::DnsName(n.try_into().unwrap());
        let own = || dns(id.as_str());
        assert!(request(&[own()], "").check(&id).is_ok());
        assert!(request(&[own()], id.as_str()).check(&id).is_ok());
        for (sans, cn, problem) in [
            (vec![], "", "exactly one"),
            (vec![own(), dns("x")], "", "exactly one"),
            (vec![dns("x")], "", "names `x`"),
            (vec![own()], "y", "common name is `y`"),
            (vec![own(), SanType::IpAddress([1, 2, 3, 4].into())], "", "another kind"),
            (vec![own(), SanType::URI("spiffe://a/b".try_into().unwrap())], "", "another kind"),
            (vec![own(), SanType::Rfc822Name("a@b".try_into().unwrap())], "", "another kind"),
        ] {
            let error = request(&sans, cn).check(&id).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_proxys_request_passes_and_noise_does_not() {
        let id: Identity = "a.b.serviceaccount.identity.l.c".parse().unwrap();
        let Identity::Dns(name) = &id else { unreachable!() };
        let mut der = create_csr(name, &Key::generate().unwrap()).unwrap();
        let csr = Csr::from_der(&der).unwrap();
        assert!(csr.is_ecdsa());
        csr.check(&id).unwrap();
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(Csr::from_der(&der).unwrap_err(), CsrProblem::Malformed);
        assert_eq!(Csr::from_der(b"x").unwrap_err(), CsrProblem::Malformed);
    }
}
