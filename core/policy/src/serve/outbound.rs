//! # Outbound policies over gRPC
//!
//! Job: `Get` and `Watch`. Callers: the server that `Policies::outbound_server` makes.

use super::{Answers, Policies, answer};
use crate::{
    error::{BadRequest, Refusal},
    index::outbound::{Target, TargetKey, TargetView},
};
use linkerd2_proxy_api::outbound::{
    self as api, outbound_policies_server::OutboundPolicies, traffic_spec,
};
use mesh_model::authority::{Authority, NameAddr, ServiceTarget};
use mesh_wire::workload::Workload;
use std::{net::SocketAddr, num::NonZeroU16, sync::Arc};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

const HTTP_PORT: NonZeroU16 = NonZeroU16::new(80).expect("80 is not 0");

#[tonic::async_trait]
impl OutboundPolicies for Policies {
    type WatchStream = Answers<api::OutboundPolicy>;

    async fn get(
        &self,
        request: Request<api::TrafficSpec>,
    ) -> Result<Response<api::OutboundPolicy>, Status> {
        let receiver = self.target(request.into_inner())?;
        let policy = receiver.borrow().clone()?;
        Ok(Response::new(mesh_wire::outbound::to_proto(&policy)))
    }

    async fn watch(
        &self,
        request: Request<api::TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let receiver = self.target(request.into_inner())?;
        let message = |policy: &_| Ok(mesh_wire::outbound::to_proto(policy));
        answer(receiver, self.drain.clone(), message).map(Response::new)
    }
}

impl Policies {
    fn target(&self, spec: api::TrafficSpec) -> Result<watch::Receiver<TargetView>, Status> {
        self.check_ready()?;
        let workload = Workload::parse(&spec.source_workload).map_err(BadRequest::Workload)?;
        let export = workload.export.map(Arc::new);
        let target = match spec.target.ok_or(BadRequest::Target)? {
            traffic_spec::Target::Addr(addr) => {
                let port = u16::try_from(addr.port).ok().filter(|p| *p > 0);
                port.ok_or(BadRequest::Port(addr.port))?;
                Target::Address(SocketAddr::try_from(addr).map_err(|_| BadRequest::Target)?)
            }
            traffic_spec::Target::Authority(authority) => {
                let target = self.service(&authority);
                // A gateway learns nothing of names that it may not see.
                let hidden =
                    if export.is_some() { Refusal::NotExported } else { Refusal::NoTarget };
                target.ok_or(hidden)?
            }
        };
        Ok(self.outbound.lock().target(TargetKey { target, export }))
    }

    /// `<name>.<ns>.svc[.<clusterDomain>][:port]`.
    fn service(&self, authority: &str) -> Option<Target> {
        let Ok(Authority::Name(NameAddr { name, port })) = Authority::parse(authority, HTTP_PORT)
        else {
            return None;
        };
        let zone = &self.config.cluster_domain;
        let found = ServiceTarget::from_name(&name, zone).or_else(|| {
            let full = format!("{name}.{zone}").parse().ok()?;
            name.as_str().ends_with(".svc").then(|| ServiceTarget::from_name(&full, zone))?
        })?;
        found.instance.is_none().then_some(Target::Service(found.service, port))
    }
}
