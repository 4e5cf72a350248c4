//! # Destination.Get on the wire
//!
//! Job: endpoint updates and weighted addresses, both ways.
//! Callers: the destination service, `discover`, and `profile` and `outbound` here.

use crate::{
    Invalid,
    error::{duration, proto_duration},
};
use linkerd2_proxy_api::{destination as api, net};
use mesh_model::{
    authority::NameAddr,
    endpoint::{
        Endpoint, EndpointMetadata, EndpointUpdate, Http2Params, KeepAlive, Labels, ProtocolHint,
        TlsTarget,
    },
    identity::Identity,
};
use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU16, sync::Arc};

/// An update as a message. `set_labels` are those of the whole set; the endpoints' own go with each.
pub fn update_to_proto(update: &EndpointUpdate, set_labels: &Labels) -> api::Update {
    use api::update::Update;
    let update = match update {
        EndpointUpdate::Add(endpoints) => Update::Add(api::WeightedAddrSet {
            addrs: endpoints.iter().map(endpoint_to_proto).collect(),
            metric_labels: set_labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        }),
        EndpointUpdate::Remove(addrs) => {
            Update::Remove(api::AddrSet { addrs: addrs.iter().map(|a| (*a).into()).collect() })
        }
        EndpointUpdate::NoEndpoints { exists } => {
            Update::NoEndpoints(api::NoEndpoints { exists: *exists })
        }
    };
    api::Update { update: Some(update) }
}

/// A message as an update. Addresses that cannot be used are left out, each with its reason in the
/// second part: plaintext to a peer that should be verified is no substitute.
///
/// # Errors
/// When the message is none at all.
pub fn update_from_proto(update: api::Update) -> Result<(EndpointUpdate, Vec<Invalid>), Invalid> {
    use api::update::Update;
    let mut refused = Vec::new();
    let update = match update.update.ok_or(Invalid::Missing("update"))? {
        Update::Add(set) => {
            let labels: BTreeMap<_, _> = set.metric_labels.into_iter().collect();
            let mut endpoints = Vec::with_capacity(set.addrs.len());
            for addr in set.addrs {
                match endpoint_from_proto(addr, &labels) {
                    Ok(endpoint) => endpoints.push(endpoint),
                    Err(invalid) => refused.push(invalid),
                }
            }
            EndpointUpdate::Add(endpoints)
        }
        Update::Remove(set) => {
            let mut addrs = Vec::with_capacity(set.addrs.len());
            for addr in set.addrs {
                match socket_from_proto(Some(addr)) {
                    Ok(addr) => addrs.push(addr),
                    Err(invalid) => refused.push(invalid),
                }
            }
            EndpointUpdate::Remove(addrs)
        }
        Update::NoEndpoints(none) => EndpointUpdate::NoEndpoints { exists: none.exists },
    };
    Ok((update, refused))
}

/// One endpoint as a message.
pub fn endpoint_to_proto(endpoint: &Endpoint) -> api::WeightedAddr {
    let meta = &*endpoint.metadata;
    api::WeightedAddr {
        addr: Some(endpoint.addr.into()),
        weight: meta.weight,
        metric_labels: meta.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        tls_identity: meta.tls.as_ref().map(|tls| tls_to_proto(tls, meta)),
        protocol_hint: hint_to_proto(meta),
        authority_override: meta
            .authority_override
            .as_ref()
            .map(|name| api::AuthorityOverride { authority_override: name.to_string() }),
        http2: http2_to_proto(&meta.http2),
        resource_ref: None,
    }
}

/// A message as an endpoint; `set_labels` are overridden by the address's own.
///
/// # Errors
/// When the address is missing or any part that says how to reach it is malformed.
pub fn endpoint_from_proto(
    addr: api::WeightedAddr,
    set_labels: &BTreeMap<String, String>,
) -> Result<Endpoint, Invalid> {
    let mut labels = set_labels.clone();
    labels.extend(addr.metric_labels);
    let (hint, opaque_transport) = hint_from_proto(addr.protocol_hint)?;
    let authority_override = match addr.authority_override.map(|o| o.authority_override) {
        Some(text) if !text.is_empty() => Some(authority(&text)?),
        _ => None,
    };
    let metadata = EndpointMetadata {
        tls: addr.tls_identity.map(tls_from_proto).transpose()?,
        hint,
        opaque_transport,
        authority_override,
        http2: addr.http2.map(http2_from_proto).transpose()?.unwrap_or_default(),
        labels: Arc::new(labels),
        weight: addr.weight,
    };
    Ok(Endpoint { addr: socket_from_proto(addr.addr)?, metadata: Arc::new(metadata) })
}

/// HTTP/2 parameters in the JSON form of `Http2ClientParams` that the destination service takes as a
/// flag (`{"keep_alive":{"interval":{"seconds":10},"timeout":{"seconds":3},"while_idle":true}}`).
///
/// # Errors
/// When the text is not such an object.
pub fn http2_from_json(text: &str) -> Result<Http2Params, Invalid> {
    json::parse(text)
}

pub(crate) fn socket_from_proto(addr: Option<net::TcpAddress>) -> Result<SocketAddr, Invalid> {
    let addr = addr.ok_or(Invalid::Missing("address"))?;
    if u16::try_from(addr.port).is_err() {
        return Err(Invalid::value("address", format!("port {}", addr.port)));
    }
    SocketAddr::try_from(addr).map_err(|e| Invalid::value("address", e))
}

fn authority(text: &str) -> Result<NameAddr, Invalid> {
    text.parse().map_err(|e| Invalid::value("authority override", e))
}

fn tls_to_proto(tls: &TlsTarget, meta: &EndpointMetadata) -> api::TlsIdentity {
    use api::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};
    let strategy = match &tls.id {
        Identity::Dns(name) => {
            Strategy::DnsLikeIdentity(DnsLikeIdentity { name: name.as_str().to_owned() })
        }
        Identity::Uri(uri) => Strategy::UriLikeIdentity(UriLikeIdentity { uri: uri.to_string() }),
    };
    // A gateway's name is its identity; Linkerd leaves it out there and sends it for Pods.
    let implied =
        meta.authority_override.is_some() && tls.id == Identity::Dns(tls.server_name.clone());
    let server_name =
        (!implied).then(|| DnsLikeIdentity { name: tls.server_name.as_str().to_owned() });
    api::TlsIdentity { server_name, strategy: Some(strategy) }
}

fn tls_from_proto(tls: api::TlsIdentity) -> Result<TlsTarget, Invalid> {
    use api::tls_identity::Strategy;
    const FIELD: &str = "TLS identity";
    let id = match tls.strategy.ok_or(Invalid::Missing(FIELD))? {
        Strategy::DnsLikeIdentity(dns) => {
            Identity::Dns(dns.name.parse().map_err(|e| Invalid::value(FIELD, e))?)
        }
        Strategy::UriLikeIdentity(uri) => match uri.uri.parse() {
            Ok(id @ Identity::Uri(_)) => id,
            Ok(Identity::Dns(_)) => return Err(Invalid::value(FIELD, "not a URI")),
            Err(e) => return Err(Invalid::value(FIELD, e)),
        },
    };
    let server_name = match (tls.server_name, &id) {
        (Some(given), _) => given.name.parse().map_err(|e| Invalid::value("server name", e))?,
        (None, Identity::Dns(name)) => name.clone(),
        (None, Identity::Uri(_)) => return Err(Invalid::Missing("server name")),
    };
    Ok(TlsTarget { id, server_name })
}

fn hint_to_proto(meta: &EndpointMetadata) -> Option<api::ProtocolHint> {
    use api::protocol_hint::{H2, Opaque, OpaqueTransport, Protocol};
    let protocol = match meta.hint {
        ProtocolHint::Unknown => None,
        ProtocolHint::Http2 => Some(Protocol::H2(H2 {})),
        ProtocolHint::Opaque => Some(Protocol::Opaque(Opaque {})),
    };
    let opaque_transport =
        meta.opaque_transport.map(|port| OpaqueTransport { inbound_port: port.get().into() });
    (protocol.is_some() || opaque_transport.is_some())
        .then_some(api::ProtocolHint { opaque_transport, protocol })
}

fn hint_from_proto(
    hint: Option<api::ProtocolHint>,
) -> Result<(ProtocolHint, Option<NonZeroU16>), Invalid> {
    use api::protocol_hint::Protocol;
    let Some(hint) = hint else { return Ok((ProtocolHint::Unknown, None)) };
    let protocol = match hint.protocol {
        None => ProtocolHint::Unknown,
        Some(Protocol::H2(_)) => ProtocolHint::Http2,
        Some(Protocol::Opaque(_)) => ProtocolHint::Opaque,
    };
    let port = |transport: api::protocol_hint::OpaqueTransport| {
        let port = u16::try_from(transport.inbound_port).ok().and_then(NonZeroU16::new);
        port.ok_or_else(|| Invalid::value("inbound port", transport.inbound_port))
    };
    Ok((protocol, hint.opaque_transport.map(port).transpose()?))
}

fn http2_to_proto(params: &Http2Params) -> Option<api::Http2ClientParams> {
    use api::http2_client_params as p;
    if *params == Http2Params::default() {
        return None;
    }
    let windows = (params.initial_stream_window, params.initial_connection_window);
    let flow_control = (windows != (None, None)).then(|| p::FlowControl {
        initial_stream_window_size: windows.0.unwrap_or_default(),
        initial_connection_window_size: windows.1.unwrap_or_default(),
        adaptive_flow_control: false,
    });
    let keep_alive = params.keep_alive.map(|keep| p::KeepAlive {
        interval: Some(proto_duration(keep.interval)),
        timeout: Some(proto_duration(keep.timeout)),
        while_idle: keep.while_idle,
    });
    Some(api::Http2ClientParams { flow_control, keep_alive, internals: None })
}

fn http2_from_proto(params: api::Http2ClientParams) -> Result<Http2Params, Invalid> {
    let window = |size: u32| Some(size).filter(|s| *s > 0);
    let flow = params.flow_control.unwrap_or_default();
    let keep_alive = match params.keep_alive {
        None => None,
        Some(keep) => Some(KeepAlive {
            interval: duration("keep-alive interval", keep.interval)?,
            timeout: duration("keep-alive timeout", keep.timeout)?,
            while_idle: keep.while_idle,
        }),
    };
    Ok(Http2Params {
        keep_alive,
        initial_stream_window: window(flow.initial_stream_window_size),
        initial_connection_window: window(flow.initial_connection_window_size),
    })
}

mod json {
    //! The JSON spelling of the parameters, with durations as objects of seconds and nanos.

    use super::{Http2Params, Invalid, KeepAlive};
    use serde::Deserialize;
    use std::time::Duration;

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Params {
        flow_control: Option<Flow>,
        keep_alive: Option<Keep>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Flow {
        initial_connection_window_size: u32,
        initial_stream_window_size: u32,
    }

    #[derive(Deserialize)]
    struct Keep {
        interval: Span,
        timeout: Span,
        #[serde(default)]
        while_idle: bool,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Span {
        seconds: u64,
        nanos: u32,
    }

    pub(super) fn parse(text: &str) -> Result<Http2Params, Invalid> {
        let bad = |e| Invalid::value("HTTP/2 parameters", e);
        // An object it must be: a sequence would do for a struct too.
        let object: serde_json::Map<_, _> = serde_json::from_str(text).map_err(bad)?;
        let params: Params = serde_json::from_value(object.into()).map_err(bad)?;
        let span = |s: Span| Duration::new(s.seconds, s.nanos.min(999_999_999));
        let window = |size: u32| Some(size).filter(|s| *s > 0);
        let flow = params.flow_control.unwrap_or_default();
        Ok(Http2Params {
            keep_alive: params.keep_alive.map(|keep| KeepAlive {
                interval: span(keep.interval),
                timeout: span(keep.timeout),
                while_idle: keep.while_idle,
            }),
            initial_stream_window: window(flow.initial_stream_window_size),
            initial_connection_window: window(flow.initial_connection_window_size),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn updates_round_trip(update in strategies::endpoint_update()) {
            let proto = update_to_proto(&update, &Labels::default());
            prop_assert_eq!(update_from_proto(proto), Ok((update, vec![])));
        }
    }

    fn endpoint() -> api::WeightedAddr {
        let addr: SocketAddr = "10.0.0.1:80".parse().unwrap();
        api::WeightedAddr { addr: Some(addr.into()), ..Default::default() }
    }

    #[test]
    fn labels_of_the_address_win() {
        let set = api::WeightedAddrSet {
            addrs: vec![api::WeightedAddr {
                metric_labels: [("a".into(), "addr".into())].into(),
                ..endpoint()
            }],
            metric_labels: [("a".into(), "set".into()), ("b".into(), "set".into())].into(),
        };
        let update = api::Update { update: Some(api::update::Update::Add(set)) };
        let (EndpointUpdate::Add(endpoints), _) = update_from_proto(update).unwrap() else {
            panic!("expected an add")
        };
        let labels: Vec<_> = endpoints[0].metadata.labels.values().cloned().collect();
        assert_eq!(labels, ["addr", "set"]);
    }

    // proves: WIRE-3
    #[test]
    fn an_address_with_a_bad_identity_is_left_out() {
        use api::tls_identity::{DnsLikeIdentity, Strategy, UriLikeIdentity};
        let with = |strategy| api::WeightedAddr {
            tls_identity: Some(api::TlsIdentity { server_name: None, strategy }),
            ..endpoint()
        };
        let bad = [
            with(None),
            with(Some(Strategy::DnsLikeIdentity(DnsLikeIdentity { name: "a..b".into() }))),
            with(Some(Strategy::UriLikeIdentity(UriLikeIdentity { uri: "spiffe://a/b".into() }))),
            with(Some(Strategy::UriLikeIdentity(UriLikeIdentity { uri: "a.b".into() }))),
            api::WeightedAddr { addr: None, ..endpoint() },
        ];
        let count = bad.len();
        let set = api::WeightedAddrSet {
            addrs: bad.into_iter().chain([endpoint()]).collect(),
            ..Default::default()
        };
        let update = api::Update { update: Some(api::update::Update::Add(set)) };
        let (update, refused) = update_from_proto(update).unwrap();
        assert_eq!(refused.len(), count);
        assert!(matches!(update, EndpointUpdate::Add(good) if good.len() == 1));
    }

    #[test]
    fn the_flag_form_of_http2_parameters() {
        let text = "{\"keep_alive\":{\"interval\":{\"seconds\":10},\"timeout\":{\"seconds\":3},\"while_idle\":true}}";
        let keep = http2_from_json(text).unwrap().keep_alive.unwrap();
        assert_eq!((keep.interval.as_secs(), keep.timeout.as_secs()), (10, 3));
        assert!(keep.while_idle);
        assert_eq!(http2_from_json("{}").unwrap(), Http2Params::default());
        assert!(http2_from_json("[]").is_err());
    }
}
