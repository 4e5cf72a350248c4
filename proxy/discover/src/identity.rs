//! # The identity service's client
//!
//! Job: one `Certify` call, over a connection of its own: the first is made without a client certificate,
//! later ones with the certificate of their time.
//! May touch: the mesh API. Must not touch: keys, certificates' content. Callers: the certifier.

use crate::channel::{Channel, Dial, Watchers};
use linkerd2_proxy_api::identity::{self as api, identity_client::IdentityClient as ApiClient};
use mesh_meshtls::{Certify, CertifyError, CertifyRequest, Issued};
use std::{sync::Arc, time::SystemTime};
use tokio::runtime::Handle;
use tonic::{Code, Status};

/// Asks the identity service.
#[derive(Clone)]
pub struct CertifyClient {
    authority: Arc<str>,
    dial: Arc<dyn Dial>,
    watchers: Watchers,
}

impl CertifyClient {
    /// A client of the service at `authority` (`host:port` as configured).
    pub fn new(authority: &str, dial: Arc<dyn Dial>) -> Self {
        Self { authority: authority.into(), dial, watchers: Watchers::default() }
    }

    /// Tells watchers of its calls and connections.
    #[must_use]
    pub fn watched(self, watchers: Watchers) -> Self {
        Self { watchers, ..self }
    }
}

impl Certify for CertifyClient {
    async fn certify(&self, request: CertifyRequest) -> Result<Issued, CertifyError> {
        let channel = Channel::watched(
            &self.authority,
            self.dial.clone(),
            Handle::current(),
            self.watchers.clone(),
        );
        let origin = channel.origin();
        let message = api::CertifyRequest {
            identity: request.identity.as_str().to_owned(),
            token: request.token,
            certificate_signing_request: request.csr,
        };
        let answer = ApiClient::with_origin(channel, origin).certify(message).await;
        let answer = answer.map_err(failure)?.into_inner();
        let bad = |what: &str| CertifyError::Refused(format!("the answer has no usable {what}"));
        let valid_until = answer.valid_until.and_then(|at| SystemTime::try_from(at).ok());
        Ok(Issued {
            leaf: answer.leaf_certificate,
            intermediates: answer.intermediate_certificates,
            valid_until: valid_until.ok_or_else(|| bad("end of validity"))?,
        })
    }
}

fn failure(status: Status) -> CertifyError {
    match status.code() {
        // What the channel says when there is no connection.
        Code::Unavailable | Code::Unknown | Code::Cancelled => {
            CertifyError::Unreachable(status.message().to_owned())
        }
        Code::DeadlineExceeded => CertifyError::Timeout,
        code => CertifyError::Refused(format!("{code}: {}", status.message())),
    }
}
