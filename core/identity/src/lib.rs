//! # The identity service
//!
//! Job: sign leaf certificates for workloads that prove their service account with a token (`Certify`),
//! with an issuer that may change while it runs.
//! May touch: TokenReviews, the issuer Secret and its mounted files, Events, its own port.
//! Must not touch: other objects. Callers: `controller`.

pub mod args;
mod certify;
pub mod error;
mod events;
mod issuer;
mod metrics;
mod own;
mod review;
mod run;
mod serve;
mod watch;

pub use args::Config;
pub use certify::{Authority, Certification};
pub use error::Error;
pub use issuer::{IssuerStore, Material, Offered, Source};
pub use metrics::Metrics;
pub use own::SelfCertify;
pub use review::{Reviewed, Reviewer};
pub use run::{Parts, run, serve_on};
pub use serve::IdentityService;
