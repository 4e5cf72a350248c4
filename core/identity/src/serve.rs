//! # The gRPC edge
//!
//! Job: `Identity.Certify`: messages to values, refusals to codes, counters.
//! May touch: the mesh API's generated types. Must not touch: the checks (`certify`). Callers: `run`.

use crate::{
    certify::{Authority, Certification, certify},
    error::Refusal,
    events::Events,
    issuer::IssuerStore,
    metrics::Metrics,
    review::Reviewer,
};
use linkerd2_proxy_api::identity::{
    CertifyRequest, CertifyResponse,
    identity_server::{Identity as Api, IdentityServer},
};
use std::{sync::Arc, time::Instant};
use tonic::{Code, Request, Response, Status};

/// The service. Clones share all.
#[derive(Clone)]
pub struct IdentityService {
    pub(crate) authority: Arc<Authority>,
    pub(crate) store: IssuerStore,
    pub(crate) reviewer: Reviewer,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
}

impl IdentityService {
    /// As a service for tonic.
    pub fn server(&self) -> IdentityServer<Self> {
        IdentityServer::new(self.clone())
    }

    async fn answer(&self, request: CertifyRequest) -> Result<CertifyResponse, Refusal> {
        let request = Certification {
            identity: request.identity,
            token: request.token,
            csr: request.certificate_signing_request,
        };
        let result = certify(&self.authority, &self.store, &self.reviewer, &request).await;
        let (identity, leaf) = result.inspect_err(|refusal| {
            if let Refusal::Issuer(reason) = refusal {
                self.events.issuer_invalid(reason);
            }
        })?;
        self.events.issued(&identity, &leaf);
        tracing::debug!(%identity, until = ?leaf.not_after, "Issued a leaf");
        Ok(CertifyResponse {
            valid_until: Some(leaf.not_after.into()),
            leaf_certificate: leaf.leaf.to_vec(),
            intermediate_certificates: leaf.intermediates.iter().map(|d| d.to_vec()).collect(),
        })
    }
}

#[tonic::async_trait]
impl Api for IdentityService {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        self.metrics.started.inc();
        let started = Instant::now();
        let answer = self.answer(request.into_inner()).await;
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        let code = answer.as_ref().err().map_or(Code::Ok, Refusal::code);
        self.metrics.handled(code);
        match answer {
            Ok(response) => Ok(Response::new(response)),
            Err(refusal) => {
                tracing::info!(%refusal, ?code, "Certify refused");
                Err(refusal.into())
            }
        }
    }
}
