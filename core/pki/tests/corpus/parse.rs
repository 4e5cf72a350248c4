//! # What the fuzzer of this crate does with its bytes

use mesh_pki::Csr;

/// A certificate signing request, as the identity service takes it from whoever has a token.
pub(crate) fn csr(bytes: &[u8]) {
    let Ok(csr) = Csr::from_der(bytes) else { return };
    let _ = csr.is_ecdsa();
    let identity = "web.demo.serviceaccount.identity.linkerd.cluster.local";
    let _ = csr.check(&identity.parse().expect("an identity"));
}
