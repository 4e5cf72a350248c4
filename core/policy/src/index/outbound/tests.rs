//! # Tests of the outbound index
//!
//! Job: Services in, policies out: by name, by address, for gateways, and who is woken.
//! Callers: `cargo test`.

use super::*;
use mesh_cluster::watch::Index;
use mesh_model::inbound::DefaultPolicy;
use serde_json::{Value, json};

fn config() -> Config {
    Config {
        grpc_addr: "127.0.0.1:0".parse().unwrap(),
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        control_plane_namespace: "linkerd".into(),
        identity_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
        probe_networks: vec![],
        default_policy: DefaultPolicy::AllUnauthenticated,
        default_opaque_ports: "3306".parse().unwrap(),
    }
}

fn service(labels: Value, annotations: Value) -> core::Service {
    serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": "web", "labels": labels, "annotations": annotations},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [
            {"name": "http", "port": 80},
            {"name": "mysql", "port": 3306},
            {"name": "h1", "port": 81, "appProtocol": "http"},
            {"name": "h2", "port": 82, "appProtocol": "kubernetes.io/h2c"},
            {"name": "tcp", "port": 83, "appProtocol": "linkerd.io/tcp"},
            {"name": "other", "port": 84, "appProtocol": "kubernetes.io/wss"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]},
    }))
    .unwrap()
}

fn by_name(port: u16) -> TargetKey {
    let name = ServiceName { namespace: "shop".into(), name: "web".into() };
    TargetKey { target: Target::Service(name, NonZeroU16::new(port).unwrap()), export: None }
}

fn by_addr(addr: &str) -> TargetKey {
    TargetKey { target: Target::Address(addr.parse().unwrap()), export: None }
}

fn exported(key: TargetKey) -> TargetKey {
    let selector = "mirror.linkerd.io/exported=true".parse().unwrap();
    TargetKey { export: Some(Arc::new(selector)), ..key }
}

fn filled() -> OutboundIndex {
    let mut index = OutboundIndex::new(Arc::new(config()));
    index.apply(service(json!({}), json!({})));
    index
}

fn protocol(index: &mut OutboundIndex, key: TargetKey) -> &'static str {
    match &index.target(key).borrow().as_ref().unwrap().protocol {
        OutboundProtocol::Detect { .. } => "detect",
        OutboundProtocol::Http1(_) => "http1",
        OutboundProtocol::Http2(_) => "http2",
        OutboundProtocol::Grpc(_) => "grpc",
        OutboundProtocol::Opaque(_) => "opaque",
        OutboundProtocol::Tls(_) => "tls",
    }
}

// proves: POL-9
#[test]
fn the_default_policy_balances_over_the_service() {
    let mut index = filled();
    let policy = index.target(by_name(80)).borrow().clone().unwrap();
    let parent = Meta::Resource(
        Resource {
            group: "core".into(),
            kind: "Service".into(),
            namespace: "shop".into(),
            name: "web".into(),
            section: String::new(),
            port: 80,
        }
        .into(),
    );
    assert_eq!(policy.parent, parent);
    let names = |routes: &[OutboundRoute]| {
        routes.iter().map(|r| r.meta.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(policy.protocol.http_routes()), ["http"]);
    assert_eq!(names(policy.protocol.opaque_routes()), ["opaq"]);
    let addr = "web.shop.svc.cluster.local:80".parse().unwrap();
    let kind = BackendKind::Balance { addr, balancing: Balancing::default() };
    let backend = Backend::new(parent, kind);
    for route in [policy.protocol.http_routes(), policy.protocol.opaque_routes()] {
        let expected = OutboundRoute::to(route[0].meta.clone(), backend.clone());
        assert_eq!(route[0], expected);
    }
    let same = index.target(by_addr("10.96.0.1:80")).borrow().clone().unwrap();
    assert_eq!(same, policy, "by name and by address alike");
}

// proves: POL-10
#[test]
fn the_protocol_comes_from_app_protocol_then_opaque_ports() {
    let mut index = filled();
    for (port, expected) in [
        (80, "detect"),
        (81, "http1"),
        (82, "http2"),
        (83, "opaque"),
        (84, "opaque"),
        (3306, "opaque"),
    ] {
        assert_eq!(protocol(&mut index, by_name(port)), expected, "{port}");
    }
    let annotation =
        |ports: &str| service(json!({}), json!({"config.linkerd.io/opaque-ports": ports}));
    index.apply(annotation("http,81"));
    assert_eq!(protocol(&mut index, by_name(80)), "opaque");
    assert_eq!(protocol(&mut index, by_name(81)), "http1", "appProtocol wins");
    assert_eq!(protocol(&mut index, by_name(3306)), "detect", "the annotation replaces the list");
    index.apply(annotation(""));
    assert_eq!(protocol(&mut index, by_name(80)), "detect");
}

// proves: POL-11
#[test]
fn addresses_resolve_to_services_then_to_egress() {
    let mut index = filled();
    let undefined = index.target(by_addr("10.96.0.1:9999")).borrow().clone().unwrap();
    assert_eq!(undefined.parent.name(), "web");
    let route = &undefined.protocol.opaque_routes()[0];
    let refusal = route.rules[0].refusal.as_ref();
    assert_eq!((route.meta.name(), refusal), ("undefined-port", Some(&Refuse::Forbidden)));
    assert_eq!(protocol(&mut index, by_addr("10.96.0.1:53")), "opaque", "UDP ports do not count");

    let egress = index.target(by_addr("8.8.8.8:443")).borrow().clone().unwrap();
    assert_eq!((egress.parent.kind(), egress.parent.name()), ("default", "egress-fallback"));
    let backends = egress.protocol.http_routes()[0].rules[0].backends.backends();
    let kinds: Vec<_> = backends.map(|b| &b.backend.kind).collect();
    assert!(matches!(kinds[..], [BackendKind::OriginalDst(_)]));
    assert_eq!(*index.target(by_addr("10.1.2.3:80")).borrow(), Err(Refusal::NoTarget));
}

#[test]
fn a_missing_service_has_a_policy_by_name() {
    let mut index = OutboundIndex::new(Arc::new(config()));
    let mut receiver = index.target(by_name(80));
    assert!(receiver.borrow().is_ok());
    receiver.mark_unchanged();
    index.apply(service(json!({}), json!({})));
    assert!(!receiver.has_changed().unwrap(), "it says what was assumed");
    index.apply(service(json!({"a": "b"}), json!({})));
    assert!(!receiver.has_changed().unwrap(), "labels say nothing");
    index.apply(service(json!({}), json!({"config.linkerd.io/opaque-ports": "80"})));
    assert!(receiver.has_changed().unwrap());
}

#[test]
fn an_address_follows_who_claims_it() {
    let mut index = filled();
    let receiver = index.target(by_addr("10.96.0.1:80"));
    Index::<core::Service>::delete(&mut index, Some("shop"), "web");
    assert_eq!(*receiver.borrow(), Err(Refusal::NoTarget));
    index.apply(service(json!({}), json!({})));
    assert!(receiver.borrow().is_ok());
    Index::<core::Service>::reset(&mut index, vec![]);
    assert!(receiver.borrow().is_err());
}

// proves: EXP-2
#[test]
fn a_gateway_gets_policies_of_exported_services_alone() {
    let mut index = filled();
    let receiver = index.target(exported(by_name(80)));
    let label = |value: &str| service(json!({"mirror.linkerd.io/exported": value}), json!({}));
    let not_exported = Err(Refusal::NotExported);
    assert_eq!(*receiver.borrow(), not_exported);
    index.apply(label("true"));
    assert!(receiver.borrow().is_ok());
    index.apply(label("false"));
    assert_eq!(*receiver.borrow(), not_exported);
    Index::<core::Service>::delete(&mut index, Some("shop"), "web");
    assert_eq!(*receiver.borrow(), not_exported, "a missing Service looks the same");
    let both =
        json!({"mirror.linkerd.io/exported": "true", "mirror.linkerd.io/mirrored-service": "true"});
    index.apply(service(both, json!({})));
    assert_eq!(*receiver.borrow(), not_exported, "a mirror must not lead to a third cluster");
    for addr in ["10.96.0.1:80", "8.8.8.8:443", "10.1.2.3:80"] {
        assert_eq!(*index.target(exported(by_addr(addr))).borrow(), not_exported, "{addr}");
    }
}
