//! # Tests of the index
//!
//! Job: objects in, views out: addresses, metadata, profiles, exports, and who is woken.
//! Callers: `cargo test`.

use super::*;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use mesh_cluster::watch::Index;
use mesh_k8s::policy::Server;
use mesh_model::endpoint::ProtocolHint;
use serde_json::{Value, json};

fn config() -> Config {
    Config {
        addr: "127.0.0.1:0".parse().unwrap(),
        metrics_addr: "127.0.0.1:0".parse().unwrap(),
        controller_namespace: "linkerd".into(),
        trust_domain: Some("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        transport_header: true,
        enable_h2_upgrade: true,
        enable_ipv6: false,
        default_opaque_ports: "3306".parse().unwrap(),
        meshed_http2: Default::default(),
        zone_weights: false,
    }
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn service(labels: Value) -> Service {
    of(json!({
        "metadata": {"namespace": "shop", "name": "web", "labels": labels},
        "spec": {
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }))
}

fn slice(endpoints: Value) -> EndpointSlice {
    of(json!({
        "metadata": {
            "namespace": "shop", "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    }))
}

fn endpoint(name: &str, ip: &str) -> Value {
    json!({
        "addresses": [ip], "conditions": {"ready": true}, "hostname": name,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": name},
    })
}

/// A Pod with a proxy.
fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": name,
            "labels": {"app": "web", "linkerd.io/control-plane-ns": "linkerd"},
            "annotations": {},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-rs", "uid": "u"}],
        },
        "spec": {
            "serviceAccountName": "web-sa", "nodeName": "node-a",
            "containers": [
                {"name": "app", "ports": [{"name": "http", "containerPort": 8080}]},
                {"name": "linkerd-proxy", "env": [
                    {"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "0.0.0.0:4143"},
                    {"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "value": "0.0.0.0:4191"},
                    {"name": "LINKERD2_PROXY_CONTROL_LISTEN_ADDR", "value": "0.0.0.0:4190"},
                ]},
            ],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn key(port: u16) -> EndpointsKey {
    EndpointsKey {
        service: ServiceName { namespace: "shop".into(), name: "web".into() },
        port: NonZeroU16::new(port).unwrap(),
        instance: None,
        export: None,
    }
}

fn gateway(port: u16) -> EndpointsKey {
    let selector = "mirror.linkerd.io/exported=true".parse().unwrap();
    EndpointsKey { export: Some(Arc::new(selector)), ..key(port) }
}

/// `web` with one meshed Pod at 10.0.0.1.
fn filled() -> DestinationIndex {
    let mut index = DestinationIndex::new(Arc::new(config()));
    index.apply(service(json!({})));
    index.apply(of::<Pod>(pod("web-0", "10.0.0.1")));
    index.apply(slice(json!([endpoint("web-0", "10.0.0.1")])));
    index
}

fn addrs(view: &View<Snapshot>) -> Vec<String> {
    view.as_ref().unwrap().endpoints.keys().map(ToString::to_string).collect()
}

fn only(view: &View<Snapshot>) -> Arc<mesh_model::endpoint::EndpointMetadata> {
    let snapshot = view.as_ref().unwrap();
    assert_eq!(snapshot.endpoints.len(), 1);
    snapshot.endpoints.values().next().unwrap().metadata.clone()
}

// proves: DST-1
#[test]
fn a_meshed_pod_is_reached_by_identity_and_transport_header() {
    let mut index = filled();
    index.set_owner(
        "shop".into(),
        Owner { kind: "ReplicaSet".into(), name: "web-rs".into() },
        Some(Owner { kind: "Deployment".into(), name: "web".into() }),
    );
    let view = index.endpoints(key(80)).borrow().clone();
    assert_eq!(addrs(&view), ["10.0.0.1:8080"]);
    let metadata = only(&view);
    assert_eq!(
        metadata.tls.as_ref().unwrap().id.as_str(),
        "web-sa.shop.serviceaccount.identity.linkerd.cluster.local"
    );
    assert_eq!(metadata.hint, ProtocolHint::Http2);
    assert_eq!(metadata.opaque_transport, NonZeroU16::new(4143));
    let labels: Vec<_> = metadata.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        labels,
        ["control_plane_ns=linkerd", "deployment=web", "pod=web-0", "serviceaccount=web-sa"]
    );
    let set = &view.unwrap().labels;
    assert_eq!((set["service"].as_str(), set["namespace"].as_str()), ("web", "shop"));
}

// proves: DST-3
#[test]
fn labels_alone_do_not_make_a_pod_meshed() {
    let mut index = filled();
    let receiver = index.endpoints(key(80));
    let mut bare = pod("web-0", "10.0.0.1");
    bare["spec"]["containers"].as_array_mut().unwrap().pop();
    index.apply(of::<Pod>(bare));
    let metadata = only(&receiver.borrow());
    assert_eq!((metadata.tls.clone(), metadata.hint), (None, ProtocolHint::Unknown));
    assert_eq!(metadata.opaque_transport, None);
    assert!(!metadata.labels.contains_key("control_plane_ns"));
}

// proves: DST-3
#[test]
fn control_plane_pods_have_an_identity_on_their_grpc_ports() {
    let mut index = DestinationIndex::new(Arc::new(config()));
    let pod = |name: &str, component: &str, ip: &str| -> Pod {
        of(json!({
            "metadata": {"namespace": "linkerd", "name": name, "labels": {
                "linkerd.io/control-plane-ns": "linkerd",
                "linkerd.io/control-plane-component": component,
            }},
            "spec": {"serviceAccountName": name, "containers": [{"name": component}]},
            "status": {"podIP": ip},
        }))
    };
    index.apply(pod("ident", "identity", "10.0.1.1"));
    index.apply(pod("dest", "destination", "10.0.1.2"));
    let mut tls = |addr: &str| {
        let key = AddressKey { addr: addr.parse().unwrap(), export: None };
        let profile = index.address_profile(key).borrow().clone().unwrap();
        let metadata = profile.endpoint.as_ref().unwrap().metadata.clone();
        assert_eq!((metadata.hint, metadata.opaque_transport), (ProtocolHint::Unknown, None));
        metadata.tls.as_ref().map(|t| t.id.to_string())
    };
    let identity =
        |sa: &str| Some(format!("{sa}.linkerd.serviceaccount.identity.linkerd.cluster.local"));
    assert_eq!(tls("10.0.1.1:8080"), identity("ident"));
    assert_eq!(tls("10.0.1.2:8086"), identity("dest"));
    assert_eq!(tls("10.0.1.2:8090"), identity("dest"));
    for plain in ["10.0.1.1:9990", "10.0.1.2:8080", "10.0.1.1:8086"] {
        assert_eq!(tls(plain), None, "{plain}");
    }
}

#[test]
fn annotations_and_servers_make_ports_opaque_or_skip_them() {
    let mut index = filled();
    let receiver = index.endpoints(key(80));
    let mut with = |key: &str, value: &str| {
        let mut annotated = pod("web-0", "10.0.0.1");
        annotated["metadata"]["annotations"][key] = json!(value);
        index.apply(of::<Pod>(annotated));
        only(&receiver.borrow())
    };
    assert_eq!(with("config.linkerd.io/opaque-ports", "http").hint, ProtocolHint::Opaque);
    assert_eq!(with("config.linkerd.io/opaque-ports", "").hint, ProtocolHint::Http2);
    let skipped = with("config.linkerd.io/skip-inbound-ports", "8000-9000");
    assert_eq!((skipped.tls.clone(), skipped.hint), (None, ProtocolHint::Unknown));

    index.apply(of::<Pod>(pod("web-0", "10.0.0.1")));
    let server = |protocol: &str| -> Server {
        of(json!({
            "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
            "metadata": {"namespace": "shop", "name": "s"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "port": "http", "proxyProtocol": protocol},
        }))
    };
    index.apply(server("opaque"));
    assert_eq!(only(&receiver.borrow()).hint, ProtocolHint::Opaque);
    index.apply(server("HTTP/1"));
    assert_eq!(only(&receiver.borrow()).hint, ProtocolHint::Http2);
    index.apply(server("opaque"));
    Index::<Server>::delete(&mut index, Some("shop"), "s");
    assert_eq!(only(&receiver.borrow()).hint, ProtocolHint::Http2);
}

#[test]
fn broken_proxy_settings_leave_the_address_out() {
    let mut index = filled();
    let receiver = index.endpoints(key(80));
    let mut broken = pod("web-0", "10.0.0.1");
    broken["spec"]["containers"][1]["env"][0]["value"] = json!("nonsense");
    index.apply(of::<Pod>(broken));
    assert!(addrs(&receiver.borrow()).is_empty());
}

#[test]
fn meta_ports_of_the_proxy_have_no_transport_header() {
    let mut index = filled();
    for (port, expected) in [(4191, None), (4190, None), (9999, NonZeroU16::new(4143))] {
        let view = index.endpoints(key(port)).borrow().clone();
        assert_eq!(addrs(&view), [format!("10.0.0.1:{port}")], "undeclared ports are target ports");
        assert_eq!(only(&view).opaque_transport, expected, "{port}");
    }
}

// proves: DST-2
#[test]
fn only_those_are_woken_whose_endpoints_changed() {
    let mut index = filled();
    let mut receiver = index.endpoints(key(80));
    receiver.mark_unchanged();
    // The same again; a condition of the Pod; another Service; an endpoint that is not ready.
    index.apply(of::<Pod>(pod("web-0", "10.0.0.1")));
    let mut touched = pod("web-0", "10.0.0.1");
    touched["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    index.apply(of::<Pod>(touched));
    let mut other = service(json!({}));
    other.metadata.name = Some("other".into());
    index.apply(other);
    let unready = json!({"addresses": ["10.0.0.9"], "conditions": {"ready": false}});
    index.apply(slice(json!([endpoint("web-0", "10.0.0.1"), unready])));
    assert!(!receiver.has_changed().unwrap());

    index.apply(of::<Pod>(pod("web-1", "10.0.0.2")));
    assert!(!receiver.has_changed().unwrap(), "not in a slice yet");
    index.apply(slice(json!([endpoint("web-0", "10.0.0.1"), endpoint("web-1", "10.0.0.2")])));
    assert!(receiver.has_changed().unwrap());
    assert_eq!(addrs(&receiver.borrow_and_update()), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    Index::<EndpointSlice>::delete(&mut index, Some("shop"), "web-1");
    assert!(addrs(&receiver.borrow_and_update()).is_empty());
}

#[test]
fn a_slice_may_come_before_its_pod() {
    let mut index = DestinationIndex::new(Arc::new(config()));
    index.apply(service(json!({})));
    index.apply(slice(json!([endpoint("web-0", "10.0.0.1")])));
    let receiver = index.endpoints(key(80));
    assert!(addrs(&receiver.borrow()).is_empty());
    index.apply(of::<Pod>(pod("web-0", "10.0.0.1")));
    assert_eq!(addrs(&receiver.borrow()), ["10.0.0.1:8080"]);
}

#[test]
fn a_new_list_takes_away_what_it_lacks() {
    let mut index = filled();
    let receiver = index.endpoints(key(80));
    Index::<Pod>::reset(&mut index, vec![]);
    assert!(addrs(&receiver.borrow()).is_empty());
    Index::<Service>::reset(&mut index, vec![]);
    assert!(matches!(&*receiver.borrow(), Err(Refusal::NoService(_))));
    Index::<Service>::reset(&mut index, vec![service(json!({}))]);
    assert!(receiver.borrow().is_ok());
}

#[test]
fn instances_narrow_by_hostname() {
    let mut index = filled();
    index.apply(of::<Pod>(pod("web-1", "10.0.0.2")));
    index.apply(slice(json!([endpoint("web-0", "10.0.0.1"), endpoint("web-1", "10.0.0.2")])));
    let one = EndpointsKey { instance: Some("web-1".into()), ..key(80) };
    assert_eq!(addrs(&index.endpoints(one.clone()).borrow()), ["10.0.0.2:8080"]);
    let profile = index.service_profile(one).borrow().clone().unwrap();
    assert_eq!(profile.endpoint.as_ref().unwrap().addr.to_string(), "10.0.0.2:8080");
    let none = EndpointsKey { instance: Some("web-7".into()), ..key(80) };
    assert!(matches!(&*index.service_profile(none).borrow(), Err(Refusal::NoInstance(..))));
}

/// A mirror as `mirror` writes it.
fn mirror(index: &mut DestinationIndex, identity: &str) {
    index.apply(of::<Service>(json!({
        "metadata": {
            "namespace": "shop", "name": "web",
            "labels": {"mirror.linkerd.io/mirrored-service": "true", "mirror.linkerd.io/cluster-name": "east"},
            "annotations": {"mirror.linkerd.io/remote-svc-fq-name": "web.shop.svc.east.local"},
        },
        "spec": {"ports": [{"name": "http", "port": 80}]},
    })));
    let mut gateway = slice(json!([{"addresses": ["203.0.113.7"]}]));
    gateway.ports.as_mut().unwrap()[0].port = Some(4143);
    gateway.metadata.annotations = Some(
        [
            ("mirror.linkerd.io/remote-svc-fq-name", "web.shop.svc.east.local"),
            ("mirror.linkerd.io/remote-gateway-identity", identity),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
    );
    index.apply(gateway);
}

// proves: DST-5
#[test]
fn a_mirror_is_reached_through_its_gateway() {
    let mut index = DestinationIndex::new(Arc::new(config()));
    mirror(&mut index, "gw.mc.serviceaccount.identity.linkerd.cluster.local");
    let view = index.endpoints(key(80)).borrow().clone();
    assert_eq!(addrs(&view), ["203.0.113.7:4143"]);
    let metadata = only(&view);
    assert_eq!(
        metadata.authority_override.as_ref().unwrap().to_string(),
        "web.shop.svc.east.local:80"
    );
    assert_eq!(
        metadata.tls.as_ref().unwrap().server_name.as_str(),
        "gw.mc.serviceaccount.identity.linkerd.cluster.local"
    );
    assert_eq!(metadata.hint, ProtocolHint::Http2);
    let labels = &view.unwrap().labels;
    for (name, value) in [
        ("target_cluster", "east"),
        ("target_service", "web"),
        ("target_service_namespace", "shop"),
    ] {
        assert_eq!(labels[name], value);
    }

    let receiver = index.endpoints(key(80));
    mirror(&mut index, "other.mc.serviceaccount.identity.linkerd.cluster.local");
    assert!(only(&receiver.borrow()).tls.as_ref().unwrap().id.as_str().starts_with("other."));
    mirror(&mut index, "not a name");
    assert!(addrs(&receiver.borrow()).is_empty(), "never in plaintext by mistake");
    mirror(&mut index, "");
    assert_eq!(only(&receiver.borrow()).tls, None);
}

// proves: EXP-2
#[test]
fn a_gateway_sees_exported_services_of_this_cluster_alone() {
    let exported = json!({"mirror.linkerd.io/exported": "true"});
    let mut index = filled();
    let refused = |view: &View<Snapshot>| view.as_ref().is_err_and(|r| *r == Refusal::NotExported);
    let endpoints = index.endpoints(gateway(80));
    let profile = index.service_profile(gateway(80));
    assert!(refused(&endpoints.borrow()));
    index.apply(service(exported.clone()));
    assert_eq!(addrs(&endpoints.borrow()), ["10.0.0.1:8080"]);
    assert!(profile.borrow().is_ok());
    index.apply(service(json!({"mirror.linkerd.io/exported": "false"})));
    assert!(refused(&endpoints.borrow()), "withdrawn");
    assert_eq!(*profile.borrow(), Err(Refusal::NotExported));
    Index::<Service>::delete(&mut index, Some("shop"), "web");
    assert!(refused(&endpoints.borrow()), "a missing Service looks the same");

    let mut both = exported;
    both["mirror.linkerd.io/mirrored-service"] = json!("true");
    index.apply(service(both));
    assert!(refused(&endpoints.borrow()), "a mirror must not lead to a third cluster");

    let mut by_address = |addr: &str| {
        let export = gateway(80).export;
        let key = AddressKey { addr: addr.parse().unwrap(), export };
        index.address_profile(key).borrow().clone()
    };
    for addr in ["10.96.0.1:80", "10.0.0.1:8080", "8.8.8.8:53"] {
        assert_eq!(by_address(addr), Err(Refusal::NotExported), "{addr}");
    }
}

// proves: DST-4
#[test]
fn profiles_of_services() {
    let mut index = filled();
    let receiver = index.service_profile(key(80));
    let profile = receiver.borrow().clone().unwrap();
    assert_eq!(profile.fqn.as_ref().unwrap().as_str(), "web.shop.svc.cluster.local");
    assert_eq!((profile.opaque, profile.endpoint.clone()), (false, None));
    let parent = profile.parent.as_ref().unwrap();
    assert_eq!((parent.group(), parent.kind(), parent.name()), ("core", "Service", "web"));
    assert_eq!(**index.service_profile(key(81)).borrow().as_ref().unwrap(), Profile::default());

    let mut opaque = service(json!({}));
    let annotation = ("config.linkerd.io/opaque-ports".to_owned(), "http".to_owned());
    opaque.metadata.annotations = Some([annotation].into());
    index.apply(opaque);
    assert!(receiver.borrow().as_ref().unwrap().opaque);
    Index::<Service>::delete(&mut index, Some("shop"), "web");
    assert!(matches!(&*receiver.borrow(), Err(Refusal::NoService(_))));
}

#[test]
fn profiles_of_addresses_follow_who_has_them() {
    let mut index = filled();
    let mut profile = |addr: &str| {
        index.address_profile(AddressKey { addr: addr.parse().unwrap(), export: None })
    };
    let cluster_ip = profile("10.96.0.1:80");
    let pod_ip = profile("10.0.0.1:8080");
    let nobody = profile("8.8.8.8:3306");
    assert!(cluster_ip.borrow().as_ref().unwrap().fqn.is_some());
    let endpoint = pod_ip.borrow().clone().unwrap().endpoint.clone().unwrap();
    assert!(endpoint.metadata.tls.is_some());
    assert_eq!(endpoint.metadata.labels["namespace"], "shop");
    let unknown = nobody.borrow().clone().unwrap();
    assert!(unknown.opaque && unknown.endpoint.as_ref().unwrap().metadata.tls.is_none());

    let mut ending = pod("web-0", "10.0.0.1");
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    index.apply(of::<Pod>(ending));
    let gone = pod_ip.borrow().clone().unwrap().endpoint.clone().unwrap();
    assert_eq!(gone.metadata.tls, None, "a Pod that goes away takes its metadata with it");
    index.apply(of::<Pod>(pod("web-1", "10.0.0.1")));
    let again = pod_ip.borrow().clone().unwrap().endpoint.clone().unwrap();
    assert_eq!(again.metadata.labels["pod"], "web-1");
    index.apply(of::<Pod>(pod("web-2", "10.0.0.1")));
    assert!(matches!(&*pod_ip.borrow(), Err(Refusal::Ambiguous(_))));

    Index::<Service>::delete(&mut index, Some("shop"), "web");
    assert!(cluster_ip.borrow().as_ref().unwrap().fqn.is_none());
}

#[test]
fn host_ports_lead_to_their_pod() {
    let mut index = DestinationIndex::new(Arc::new(config()));
    let mut hosted = pod("web-0", "10.0.0.1");
    hosted["spec"]["containers"][0]["ports"][0]["hostPort"] = json!(7000);
    hosted["status"]["hostIP"] = json!("192.0.2.1");
    index.apply(of::<Pod>(hosted));
    let mut labels = |addr: &str| {
        let key = AddressKey { addr: addr.parse().unwrap(), export: None };
        let profile = index.address_profile(key).borrow().clone().unwrap();
        profile.endpoint.as_ref().unwrap().metadata.labels.get("pod").cloned()
    };
    assert_eq!(labels("192.0.2.1:7000"), Some("web-0".into()));
    assert_eq!(labels("192.0.2.1:7001"), None);
}

#[test]
fn external_and_remote_services_say_so() {
    let mut index = DestinationIndex::new(Arc::new(config()));
    let mut external = service(json!({}));
    external.spec.as_mut().unwrap().type_ = Some("ExternalName".into());
    index.apply(external);
    assert!(matches!(&*index.endpoints(key(80)).borrow(), Err(Refusal::ExternalName(_))));
    index.apply(service(json!({"multicluster.linkerd.io/remote-discovery": "east"})));
    assert!(matches!(&*index.endpoints(key(80)).borrow(), Err(Refusal::RemoteDiscovery(_))));
}

#[test]
fn ipv6_is_offered_where_enabled_and_then_preferred() {
    let dual = || {
        let mut dual = pod("web-0", "10.0.0.1");
        dual["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        of::<Pod>(dual)
    };
    for (enable_ipv6, expected) in [(false, "10.0.0.1:8080"), (true, "[fd00::1]:8080")] {
        let mut index = DestinationIndex::new(Arc::new(Config { enable_ipv6, ..config() }));
        index.apply(service(json!({})));
        index.apply(dual());
        index.apply(slice(json!([endpoint("web-0", "10.0.0.1")])));
        let mut six = slice(json!([endpoint("web-0", "fd00::1")]));
        six.metadata.name = Some("web-6".into());
        index.apply(six);
        assert_eq!(addrs(&index.endpoints(key(80)).borrow()), [expected]);
    }
}
