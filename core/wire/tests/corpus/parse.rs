//! # What the fuzzers of this crate do with their bytes

use bytes::BytesMut;
use linkerd2_proxy_api::{destination, inbound, outbound};
use mesh_model::{
    filter::Filter,
    inbound::{ClientTls, ServerPolicy},
    route::RequestView,
};
use mesh_wire::{context_token::ContextToken, workload::Workload};
use prost::Message;

/// The first bytes after the handshake on a proxy's own port.
pub(crate) fn transport_header(bytes: &[u8]) {
    let mut buf = BytesMut::from(bytes);
    if let Ok(Some(header)) = mesh_wire::transport_header::decode(&mut buf) {
        let mut again = BytesMut::from(&mesh_wire::transport_header::encode(&header)[..]);
        assert_eq!(mesh_wire::transport_header::decode(&mut again), Ok(Some(header)));
    }
}

/// What the policy controller says of a port, obeyed for one client and request.
pub(crate) fn inbound_policy(bytes: &[u8]) {
    let Ok(message) = inbound::Server::decode(bytes) else { return };
    if let Ok(policy) = mesh_wire::inbound::from_proto(message.clone())
        && !has_unusable_filter(&policy)
    {
        let again = |policy: &ServerPolicy| {
            let written =
                mesh_wire::inbound::to_proto(policy).expect("what was read can be written");
            mesh_wire::inbound::from_proto(written).expect("what was written can be read")
        };
        // Writing settles how a kind is spelt, once.
        let settled = again(&policy);
        assert_eq!(again(&settled), settled);
    }
    let (policy, _) = mesh_wire::inbound::received(message);
    let client = ([10, 0, 0, 1], 4000).into();
    let tls = ClientTls::Mesh { client: "web.demo".parse().ok() };
    let _ = policy.authorize(client, &tls);
    let mut request = http::Request::get("http://web/a/b?c=d%20").body(()).expect("a request");
    if let Some(chosen) = policy.route(&RequestView::of(&request)) {
        let _ = policy.authorize_route(chosen.route, client, &tls);
        let rule = &chosen.route.rules[chosen.rule];
        mesh_model::filter::apply(&rule.filters, &rule.matches, &mut request, || 7);
    }
}

fn has_unusable_filter(policy: &ServerPolicy) -> bool {
    let rules = policy.protocol.routes().iter().flat_map(|route| &route.rules);
    rules.flat_map(|rule| &rule.filters).any(|filter| matches!(filter, Filter::Unusable(_)))
}

/// What the policy controller says of a destination.
pub(crate) fn outbound_policy(bytes: &[u8]) {
    let Ok(message) = outbound::OutboundPolicy::decode(bytes) else { return };
    let _ = mesh_wire::outbound::received(message);
}

/// What the destination service says of endpoints.
pub(crate) fn endpoints(bytes: &[u8]) {
    let Ok(message) = destination::Update::decode(bytes) else { return };
    let _ = mesh_wire::destination::update_from_proto(message);
}

/// What the destination service says of a name.
pub(crate) fn profile(bytes: &[u8]) {
    let Ok(message) = destination::DestinationProfile::decode(bytes) else { return };
    let _ = mesh_wire::profile::from_proto(message);
}

/// What a proxy says of itself to the control plane.
pub(crate) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = ContextToken::parse(text);
    let _ = Workload::parse(text);
}
