//! # Mesh TLS
//!
//! Job: mutual TLS between mesh workloads over any byte stream: look at a ClientHello, accept, connect,
//! and keep the own certificate fresh. Who signs it is a trait ([`Certify`]).
//! May touch: byte streams handed in, the listener of a control-plane port, the token file.
//! Must not touch: the mesh API (`discover` implements [`Certify`]), policies, routing.
//! Callers: proxy, gateway, control plane, mirror.

pub mod certifier;
mod certify;
pub mod control;
mod credentials;
mod error;
mod prefixed;
mod profile;
pub mod sni;
pub mod store;
mod stream;

pub use certify::{Certify, CertifyError, CertifyRequest, Issued};
pub use credentials::{Credentials, Params};
pub use error::{InstallError, TlsError};
pub use mesh_model::endpoint::TlsTarget;
pub use prefixed::Prefixed;
pub use profile::{TlsFacts, facts};
pub use stream::{Accepted, AlpnMode, Connected, accept, connect};
