//! # Inbound policies over gRPC
//!
//! Job: `GetPort` and `WatchPort`. Callers: the server that `Policies::inbound_server` makes.

use super::{Answers, Policies, answer};
use crate::{
    error::{BadRequest, Refusal},
    index::inbound::PortView,
};
use linkerd2_proxy_api::inbound::{
    self as api, inbound_server_policies_server::InboundServerPolicies,
};
use mesh_model::inbound::ServerPolicy;
use mesh_wire::workload::{Workload, WorkloadKind};
use std::num::NonZeroU16;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl InboundServerPolicies for Policies {
    type WatchPortStream = Answers<api::Server>;

    async fn get_port(
        &self,
        request: Request<api::PortSpec>,
    ) -> Result<Response<api::Server>, Status> {
        let receiver = self.port(request.into_inner())?;
        let policy = receiver.borrow().clone()?;
        message(&policy).map(Response::new)
    }

    async fn watch_port(
        &self,
        request: Request<api::PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        let receiver = self.port(request.into_inner())?;
        answer(receiver, self.drain.clone(), message).map(Response::new)
    }
}

impl Policies {
    fn port(&self, spec: api::PortSpec) -> Result<watch::Receiver<PortView>, Status> {
        self.check_ready()?;
        let workload = Workload::parse(&spec.workload).map_err(BadRequest::Workload)?;
        let port = u16::try_from(spec.port).ok().and_then(NonZeroU16::new);
        let port = port.ok_or(BadRequest::Port(spec.port))?;
        match workload.kind {
            WorkloadKind::Pod(pod) => Ok(self.inbound.lock().port(&workload.namespace, &pod, port)),
            // ExternalWorkloads are not watched yet.
            WorkloadKind::External(name) => {
                Err(Refusal::NoWorkload(workload.namespace, name).into())
            }
        }
    }
}

fn message(policy: &ServerPolicy) -> Result<api::Server, Status> {
    mesh_wire::inbound::to_proto(policy).map_err(|e| Status::internal(e.to_string()))
}
