//! # Keys and certificates
//!
//! Job: the mesh's X.509: root CA and issuers, leafs and CSRs, trust bundles, verification of chains,
//! and the token that stands for a verified identity.
//! May touch: bytes and the clock values handed in. Must not touch: files, sockets, the system clock.
//! Callers: identity (issuing), meshtls (verifying), the injector and the sandbox (webhook and API
//! certificates), the CLI (`ca create`, `check`).

mod bundle;
mod ca;
mod certificate;
mod csr;
mod error;
mod issuer;
mod key;
mod verify;

pub use bundle::TrustBundle;
pub use ca::{CaParams, CertifiedKey, create_issuer, create_root, create_server};
pub use certificate::{Certificate, KeyKind, fingerprint};
pub use csr::{CheckedCsr, Csr, create_csr};
pub use error::{CsrProblem, MaterialError, VerifyError};
pub use issuer::{IssuedLeaf, Issuer, IssuerScheme, LeafPolicy};
pub use key::Key;
pub use verify::{Role, VerifiedChain, VerifiedIdentity, signature_algorithms};
