//! # Certify
//!
//! Job: the checks of a request in their fixed order, and the leaf at their end.
//! May touch: TokenReview through [`Reviewer`]. Must not touch: gRPC messages (`serve` parses them).
//! Callers: `serve`.

use crate::{
    error::Refusal,
    issuer::IssuerStore,
    review::{Reviewed, Reviewer},
};
use mesh_model::identity::{DnsName, Identity};
use mesh_pki::{Csr, CsrProblem, IssuedLeaf, LeafPolicy};
use std::time::SystemTime;

/// The names that this control plane may certify, and for how long.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Namespace of the control plane.
    pub controller_namespace: String,
    /// Last part of identities.
    pub trust_domain: DnsName,
    /// Lifetime and skew.
    pub leaf: LeafPolicy,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Certification {
    /// The identity asked for.
    pub identity: String,
    /// The service account token.
    pub token: Vec<u8>,
    /// PKCS#10 DER.
    pub csr: Vec<u8>,
}

/// Runs all checks and signs. The order is part of the contract: it decides which code a client sees.
///
/// # Errors
/// The first check that fails.
pub(crate) async fn certify(
    authority: &Authority,
    store: &IssuerStore,
    reviewer: &Reviewer,
    request: &Certification,
) -> Result<(Identity, IssuedLeaf), Refusal> {
    let issuer = store.current().ok_or(Refusal::NoIssuer)?;
    let (identity, token, csr) = parse(request)?;
    issuer.verify(store.anchors(), SystemTime::now()).map_err(Refusal::Issuer)?;
    let ecdsa = csr.is_ecdsa();
    let checked = csr.check(&identity)?;
    let proven = authority.name(&reviewer.review(token).await?)?;
    if proven != identity {
        return Err(Refusal::OtherIdentity {
            proven: proven.to_string(),
            requested: identity.to_string(),
        });
    }
    if !ecdsa {
        return Err(CsrProblem::NotEcdsa.into());
    }
    // The issuer may have been replaced while the token was reviewed: sign with the newest.
    let issuer = store.current().unwrap_or(issuer);
    let leaf = issuer.issue(&checked, authority.leaf, SystemTime::now())?;
    Ok((identity, leaf))
}

fn parse(request: &Certification) -> Result<(Identity, &str, Csr), Refusal> {
    for (part, empty) in [
        ("identity", request.identity.is_empty()),
        ("token", request.token.is_empty()),
        ("certificate signing request", request.csr.is_empty()),
    ] {
        if empty {
            return Err(Refusal::Malformed(format!("the {part} is missing")));
        }
    }
    let identity: Identity = request
        .identity
        .parse()
        .map_err(|e| Refusal::Malformed(format!("the identity is not valid: {e}")))?;
    let token = std::str::from_utf8(&request.token)
        .map_err(|_| Refusal::Malformed("the token is not text".into()))?;
    Ok((identity, token.trim(), Csr::from_der(&request.csr)?))
}

impl Authority {
    /// `<name>.<namespace>.<kind>.identity.<control namespace>.<trust domain>`.
    fn name(&self, who: &Reviewed) -> Result<Identity, Refusal> {
        let Reviewed { kind, namespace, name } = who;
        let Self { controller_namespace, trust_domain, .. } = self;
        format!("{name}.{namespace}.{kind}.identity.{controller_namespace}.{trust_domain}")
            .parse()
            .map(Identity::Dns)
            .map_err(|e| Refusal::Malformed(format!("the account's name is not valid: {e}")))
    }
}
