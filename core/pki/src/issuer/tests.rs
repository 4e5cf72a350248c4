//! # Tests of issuing and verifying
//!
//! Job: tables over issuers, leafs and chains. May touch: this crate. Callers: the test runner.

use super::*;
use crate::{CaParams, CertifiedKey, Csr, create_csr, create_issuer, create_root};

const HOUR: Duration = Duration::from_secs(3600);
const NAME: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn ca() -> (CertifiedKey, CertifiedKey, TrustBundle) {
    let root = create_root(&CaParams::root("root", now() - HOUR, 10 * HOUR)).unwrap();
    let params = CaParams::issuer("issuer", now() - HOUR, 5 * HOUR);
    let issuer = create_issuer(&root, &params).unwrap();
    let anchors = TrustBundle::from_certificates([root.certificate.clone()]).unwrap();
    (root, issuer, anchors)
}

fn load(pair: &CertifiedKey) -> Issuer {
    Issuer::from_pem(pair.certificate.to_pem().as_bytes(), pair.key.to_pem().as_bytes()).unwrap()
}

fn checked() -> CheckedCsr {
    let key = Key::generate().unwrap();
    let der = create_csr(&NAME.parse().unwrap(), &key).unwrap();
    Csr::from_der(&der).unwrap().check(&NAME.parse().unwrap()).unwrap()
}

fn policy(lifetime: Duration) -> LeafPolicy {
    LeafPolicy { lifetime, clock_skew: Duration::from_secs(20) }
}

// proves: PKI-2, ID-6
#[test]
fn leafs_verify_in_both_roles_and_prove_one_name() {
    let (_, issuer, anchors) = ca();
    let issuer = load(&issuer);
    issuer.verify(&anchors, now()).unwrap();
    let leaf = issuer.issue(&checked(), policy(HOUR), now()).unwrap();
    for role in [Role::Client, Role::Server] {
        let chain = anchors.verify(&leaf.leaf, &leaf.intermediates, role, now()).unwrap();
        assert_eq!(chain.identity().unwrap().identity().as_str(), NAME);
        chain.prove(&NAME.parse().unwrap()).unwrap();
        assert!(matches!(chain.prove(&"x.y".parse().unwrap()), Err(VerifyError::Name { .. })));
    }
    let parsed = Certificate::from_der(&leaf.leaf).unwrap();
    let skew = Duration::from_secs(20);
    assert_eq!(parsed.not_before, now() - skew);
    assert_eq!(parsed.not_after, now() + HOUR + skew);
    assert_eq!(leaf.intermediates.len(), 1);
    assert!(!parsed.is_ca);
}

// proves: ID-6
#[test]
fn leafs_never_outlive_the_chain() {
    let (_, issuer, _) = ca();
    let leaf = load(&issuer).issue(&checked(), policy(100 * HOUR), now()).unwrap();
    assert_eq!(leaf.not_after, now() + 4 * HOUR);
}

#[test]
fn serials_count_from_one() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, issuer, _) = ca();
    let issuer = load(&issuer);
    for expected in 1..=3_u32 {
        let leaf = issuer.issue(&checked(), policy(HOUR), now()).unwrap().leaf;
        let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
        assert_eq!(parsed.tbs_certificate.serial, expected.into());
    }
}

// proves: PKI-2
#[test]
fn foreign_expired_and_early_chains_fail() {
    let (_, issuer, anchors) = ca();
    let (_, _, foreign) = ca();
    let issuer = load(&issuer);
    let leaf = issuer.issue(&checked(), policy(HOUR), now()).unwrap();
    let at = |anchors: &TrustBundle, time| {
        anchors.verify(&leaf.leaf, &leaf.intermediates, Role::Server, time).is_ok()
    };
    assert!(at(&anchors, now()));
    assert!(!at(&foreign, now()));
    assert!(at(&foreign.union(&anchors), now()));
    assert!(!at(&anchors, now() + 2 * HOUR));
    assert!(!at(&anchors, now() - HOUR));
    assert!(issuer.verify(&foreign, now()).is_err());
    let late = issuer.verify(&anchors, now() + 20 * HOUR);
    assert!(matches!(late, Err(VerifyError::Validity { .. })), "{late:?}");
}

#[test]
fn a_root_may_be_its_own_issuer() {
    let (root, _, anchors) = ca();
    let issuer = load(&root);
    issuer.verify(&anchors, now()).unwrap();
    let leaf = issuer.issue(&checked(), policy(HOUR), now()).unwrap();
    anchors.verify(&leaf.leaf, &leaf.intermediates, Role::Client, now()).unwrap();
    assert!(issuer.verify(&anchors, now() + 20 * HOUR).is_err());
}

// proves: ID-2
#[test]
fn material_that_does_not_fit_is_refused() {
    let (root, issuer, _) = ca();
    let pem = |c: &CertifiedKey| c.certificate.to_pem();
    let key = |c: &CertifiedKey| c.key.to_pem();
    let load = |crt: &str, key: &str| Issuer::from_pem(crt.as_bytes(), key.as_bytes());
    let mismatch = load(&pem(&issuer), &key(&root));
    assert!(matches!(mismatch, Err(MaterialError::KeyMismatch { .. })), "{mismatch:?}");
    let server = crate::create_server(&issuer, &["a.b"], &[], now() - HOUR, now() + HOUR).unwrap();
    let leaf = load(&pem(&server), &key(&server));
    assert!(matches!(leaf, Err(MaterialError::NotCa { .. })), "{leaf:?}");
    assert!(load("", &key(&root)).is_err());
    assert!(load(&pem(&root), "").is_err());
    // A block of another kind ends the chain.
    let mixed = format!("{}{}{}", pem(&issuer), key(&issuer), pem(&root));
    assert_eq!(load(&mixed, &key(&issuer)).unwrap().chain.len(), 1);
}

#[test]
fn issuers_of_step_and_rsa_keys_load() {
    let (_, issuer, anchors) = ca();
    let sec1 = issuer.key.to_sec1_pem().unwrap();
    let loaded = Issuer::from_pem(issuer.certificate.to_pem().as_bytes(), sec1.as_bytes()).unwrap();
    loaded.verify(&anchors, now()).unwrap();
}

#[test]
fn schemes() {
    assert_eq!(IssuerScheme::parse("kubernetes.io/tls"), Some(IssuerScheme::Kubernetes));
    assert_eq!(IssuerScheme::Linkerd.files(), ("crt.pem", "key.pem"));
    assert_eq!(IssuerScheme::parse("x"), None);
}
