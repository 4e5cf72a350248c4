//! # The policy service's clients
//!
//! Job: the inbound policy of a port and the outbound policy of a target, each kept up to date.
//! May touch: the mesh API. Must not touch: decisions by these policies. Callers: inbound, outbound, the
//! gateway, admin.

use crate::{
    channel::Channel,
    destination::publish,
    stream::{self, Messages, Refusal, RefusalCode, Source, State, StreamLimits},
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use linkerd2_proxy_api::{
    inbound::{
        self as inbound_api,
        inbound_server_policies_client::InboundServerPoliciesClient as InboundApi,
    },
    outbound::{
        self as outbound_api, outbound_policies_client::OutboundPoliciesClient as OutboundApi,
        traffic_spec::Target,
    },
};
use mesh_model::{authority::Authority, inbound::ServerPolicy, outbound::OutboundPolicy};
use std::sync::Arc;
use tokio::sync::watch;
use tonic::Status;

/// A client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PolicyClient {
    inbound: InboundApi<Channel>,
    outbound: OutboundApi<Channel>,
    channel: Channel,
    workload: Arc<str>,
    limits: StreamLimits,
}

impl PolicyClient {
    /// A client for the workload that `workload` names, verbatim.
    pub fn new(channel: Channel, workload: &str, limits: StreamLimits) -> Self {
        Self {
            inbound: InboundApi::with_origin(channel.clone(), channel.origin()),
            outbound: OutboundApi::with_origin(channel.clone(), channel.origin()),
            channel,
            workload: workload.into(),
            limits,
        }
    }

    /// The policy of an inbound port; `start` until the first message. Refusals and failures keep what is
    /// there.
    pub fn inbound(
        &self,
        port: u16,
        start: Arc<ServerPolicy>,
    ) -> watch::Receiver<Arc<ServerPolicy>> {
        let source = WatchPort { client: self.clone(), port };
        stream::spawn(&self.channel, self.limits, source, start)
    }

    /// The policy of an outbound target. Every refusal ends the stream.
    pub fn outbound(&self, target: &Authority) -> watch::Receiver<State<OutboundPolicy>> {
        let source = WatchTarget { client: self.clone(), target: target.clone() };
        stream::spawn(&self.channel, self.limits, source, State::Pending)
    }
}

struct WatchPort {
    client: PolicyClient,
    port: u16,
}

impl Source for WatchPort {
    type Message = inbound_api::Server;
    type Value = Arc<ServerPolicy>;

    fn open(&self) -> BoxFuture<'static, Result<Messages<inbound_api::Server>, Status>> {
        let mut api = self.client.inbound.clone();
        let workload = self.client.workload.to_string();
        let request = inbound_api::PortSpec { workload, port: self.port.into() };
        async move { Ok(api.watch_port(request).await?.into_inner().boxed()) }.boxed()
    }

    fn apply(&mut self, message: inbound_api::Server, out: &watch::Sender<Self::Value>) {
        let (policy, invalid) = mesh_wire::inbound::received(message);
        if let Some(error) = invalid {
            tracing::warn!(port = self.port, %error, "Inbound policy cannot be used; all is refused");
        }
        publish(Arc::new(policy), out);
    }

    fn refused(&mut self, refusal: Refusal, _: &watch::Sender<Self::Value>) -> bool {
        tracing::warn!(port = self.port, %refusal, "No inbound policy; the present one stays");
        true
    }

    fn is_answer(&self, code: RefusalCode) -> bool {
        matches!(code, RefusalCode::InvalidArgument | RefusalCode::FailedPrecondition)
    }

    fn describe(&self) -> String {
        format!("WatchPort {}", self.port)
    }
}

struct WatchTarget {
    client: PolicyClient,
    target: Authority,
}

impl Source for WatchTarget {
    type Message = outbound_api::OutboundPolicy;
    type Value = State<OutboundPolicy>;

    fn open(&self) -> BoxFuture<'static, Result<Messages<outbound_api::OutboundPolicy>, Status>> {
        let mut api = self.client.outbound.clone();
        let target = match &self.target {
            Authority::Name(name) => Target::Authority(name.to_string()),
            Authority::Socket(addr) => Target::Addr((*addr).into()),
        };
        let source_workload = self.client.workload.to_string();
        let request = outbound_api::TrafficSpec { source_workload, target: Some(target) };
        async move { Ok(api.watch(request).await?.into_inner().boxed()) }.boxed()
    }

    fn apply(&mut self, message: outbound_api::OutboundPolicy, out: &watch::Sender<Self::Value>) {
        let (policy, invalid) = mesh_wire::outbound::received(message);
        if let Some(error) = invalid {
            tracing::warn!(target = %self.target, %error, "Outbound policy cannot be used; all fails");
        }
        publish(State::Known(policy), out);
    }

    fn refused(&mut self, refusal: Refusal, out: &watch::Sender<Self::Value>) -> bool {
        publish(State::Refused(refusal), out);
        true
    }

    fn is_answer(&self, _: RefusalCode) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("Watch {}", self.target)
    }
}
