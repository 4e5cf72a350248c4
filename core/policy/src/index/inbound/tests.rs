//! # Tests of the inbound index
//!
//! Job: objects in, policies out: which Server, which authorizations, which routes, and who is woken.
//! Callers: `cargo test`.

use super::*;
use k8s_openapi::api::core::v1::Pod;
use mesh_cluster::watch::Index;
use mesh_k8s::policy::{AuthorizationPolicy, MeshTLSAuthentication, NetworkAuthentication, Server};
use mesh_model::inbound::{ClientTls, DefaultPolicy, IdentityMatch};
use serde_json::{Value, json};

fn config() -> Config {
    Config {
        grpc_addr: "127.0.0.1:0".parse().unwrap(),
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        control_plane_namespace: "linkerd".into(),
        identity_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
        probe_networks: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        default_policy: DefaultPolicy::AllUnauthenticated,
        default_opaque_ports: "3306".parse().unwrap(),
    }
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(annotations: Value) -> Pod {
    of(json!({
        "metadata": {
            "namespace": "shop", "name": "web-0", "annotations": annotations,
            "labels": {"app": "web", "linkerd.io/control-plane-ns": "linkerd"},
        },
        "spec": {"containers": [
            {
                "name": "app",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"port": "http", "path": "/ready?full=1"}},
                "livenessProbe": {"httpGet": {"port": 8080}},
            },
            {
                "name": "linkerd-proxy",
                "ports": [{"name": "linkerd-admin", "containerPort": 4191}],
                "livenessProbe": {"httpGet": {"port": 4191, "path": "/live"}},
                "readinessProbe": {"httpGet": {"port": 4191, "path": "/ready"}},
            },
        ]},
    }))
}

fn server(name: &str, spec: Value) -> Server {
    let mut all = json!({"podSelector": {"matchLabels": {"app": "web"}}, "port": "http"});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    of(json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {
            "namespace": "shop", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": all,
    }))
}

fn policy(name: &str, target: Value, required: Value) -> AuthorizationPolicy {
    of(json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"targetRef": target, "requiredAuthenticationRefs": required},
    }))
}

fn mesh(namespace: &str, spec: Value) -> MeshTLSAuthentication {
    of(json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "MeshTLSAuthentication",
        "metadata": {"namespace": namespace, "name": "clients"}, "spec": spec,
    }))
}

fn network(networks: Value) -> NetworkAuthentication {
    of(json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "NetworkAuthentication",
        "metadata": {"namespace": "shop", "name": "nets"}, "spec": {"networks": networks},
    }))
}

fn web() -> Value {
    json!({"group": "policy.linkerd.io", "kind": "Server", "name": "web"})
}

fn needs(kind: &str, name: &str) -> Value {
    json!({"group": "policy.linkerd.io", "kind": kind, "name": name})
}

fn filled() -> InboundIndex {
    let mut index = InboundIndex::new(Arc::new(config()));
    index.apply(pod(json!({})));
    index
}

fn watch(index: &mut InboundIndex, port: u16) -> watch::Receiver<PortView> {
    index.port("shop", "web-0", NonZeroU16::new(port).unwrap())
}

fn now(receiver: &watch::Receiver<PortView>) -> Arc<ServerPolicy> {
    receiver.borrow().clone().unwrap()
}

fn authorizers(policy: &ServerPolicy) -> Vec<String> {
    policy.authorizations.iter().map(|a| a.meta.name().to_owned()).collect()
}

// proves: POL-4
#[test]
fn unmatched_ports_have_the_default_policy() {
    let mut index = filled();
    let policy = now(&watch(&mut index, 9000));
    assert_eq!((policy.meta.kind(), policy.meta.name()), ("default", "all-unauthenticated"));
    assert!(matches!(policy.protocol, ServerProtocol::Detect { .. }));
    assert_eq!(authorizers(&policy), ["all-unauthenticated"]);

    index.apply(pod(json!({
        "config.linkerd.io/default-inbound-policy": "cluster-unauthenticated",
        "config.linkerd.io/proxy-require-identity-inbound-ports": "9001",
        "config.linkerd.io/opaque-ports": "9002,http",
    })));
    assert_eq!(authorizers(&now(&watch(&mut index, 9000))), ["cluster-unauthenticated"]);
    assert_eq!(now(&watch(&mut index, 9001)).meta.name(), "cluster-authenticated");
    for opaque in [9002, 8080] {
        assert_eq!(now(&watch(&mut index, opaque)).protocol, ServerProtocol::Opaque);
    }
    assert!(matches!(now(&watch(&mut index, 3306)).protocol, ServerProtocol::Detect { .. }));

    index.apply(pod(json!({"config.linkerd.io/default-inbound-policy": "nonsense"})));
    assert_eq!(now(&watch(&mut index, 9000)).meta.name(), "all-unauthenticated");
    index.apply(pod(json!({"config.linkerd.io/default-inbound-policy": "deny"})));
    assert!(authorizers(&now(&watch(&mut index, 9000))).is_empty());
}

// proves: POL-5
#[test]
fn probes_have_a_route_of_their_own() {
    let mut index = filled();
    let routes = |index: &mut InboundIndex, port| {
        let policy = now(&watch(index, port));
        let rows: Vec<_> = policy
            .protocol
            .routes()
            .iter()
            .map(|route| {
                let matches = route.rules.iter().flat_map(|rule| &rule.matches);
                let paths: Vec<_> = matches.map(|m| format!("{:?}", m.path)).collect();
                (route.meta.name().to_owned(), paths.join(" "))
            })
            .collect();
        rows
    };
    let exact = |path: &str| format!("Some(Exact({path:?}))");
    let all = || ("default".to_owned(), "Some(Prefix(\"/\"))".to_owned());
    let probe = |paths: [&str; 2]| ("probe".to_owned(), paths.map(exact).join(" "));
    assert_eq!(routes(&mut index, 4191), [all(), probe(["/live", "/ready"])]);
    assert_eq!(routes(&mut index, 8080), [all(), probe(["/", "/ready"])]);
    assert_eq!(routes(&mut index, 9000), [all()]);

    index.apply(pod(json!({"config.linkerd.io/default-inbound-policy": "deny"})));
    let policy = now(&watch(&mut index, 4191));
    let kubelet = "192.0.2.1:1".parse().unwrap();
    let asks = |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).body(()).unwrap();
        let view = mesh_model::route::RequestView::of(&request);
        let route = policy.route(&view).unwrap().route;
        policy.authorize_route(route, kubelet, &ClientTls::Plaintext).is_ok()
    };
    assert!(asks("GET", "/live") && asks("GET", "/ready"));
    assert!(!asks("POST", "/live") && !asks("GET", "/metrics"));
}

// proves: POL-6
#[test]
fn the_oldest_server_wins_then_the_first_name() {
    let mut index = filled();
    let receiver = watch(&mut index, 8080);
    index.apply(server("b", json!({"proxyProtocol": "HTTP/2"})));
    let policy = now(&receiver);
    assert_eq!(
        (policy.meta.group(), policy.meta.kind(), policy.meta.name()),
        (GROUP, "server", "b")
    );
    assert!(matches!(policy.protocol, ServerProtocol::Http2(_)));
    assert!(authorizers(&policy).is_empty(), "the access policy defaults to deny");
    index.apply(server("a", json!({"proxyProtocol": "TLS", "port": 8080})));
    assert_eq!(now(&receiver).protocol, ServerProtocol::Tls);
    let mut older = server("z", json!({"proxyProtocol": "gRPC", "accessPolicy": "audit"}));
    older.metadata.creation_timestamp.as_mut().unwrap().0 = "2025-01-01T00:00:00Z".parse().unwrap();
    index.apply(older);
    let policy = now(&receiver);
    assert!(matches!(&policy.protocol, ServerProtocol::Grpc(routes) if routes.len() == 1));
    assert_eq!(authorizers(&policy), ["audit"]);
    for (protocol, port) in [("HTTP/1", 8080), ("opaque", 8080), ("unknown", 8080)] {
        Index::<Server>::reset(
            &mut index,
            vec![server("s", json!({"proxyProtocol": protocol, "port": port}))],
        );
        let fits = match (protocol, &now(&receiver).protocol) {
            ("HTTP/1", ServerProtocol::Http1(_)) | ("opaque", ServerProtocol::Opaque) => true,
            ("unknown", ServerProtocol::Detect { timeout, .. }) => *timeout == DETECT_TIMEOUT,
            _ => false,
        };
        assert!(fits, "{protocol}");
    }
    Index::<Server>::delete(&mut index, Some("shop"), "s");
    assert_eq!(now(&receiver).meta.name(), "all-unauthenticated");
}

#[test]
fn servers_select_by_labels_and_namespace() {
    let mut index = filled();
    let mut elsewhere = server("a", json!({}));
    elsewhere.metadata.namespace = Some("other".into());
    index.apply(elsewhere);
    index.apply(server("b", json!({"podSelector": {"matchLabels": {"app": "db"}}})));
    index.apply(server("c", json!({"port": "grpc"})));
    let mut external = server("d", json!({"externalWorkloadSelector": {}}));
    external.spec.pod_selector = None;
    index.apply(external);
    assert_eq!(now(&watch(&mut index, 8080)).meta.kind(), "default");
    index.apply(server("e", json!({"podSelector": {}, "port": 8080})));
    assert_eq!(now(&watch(&mut index, 8080)).meta.name(), "e");
}

// proves: POL-7
#[test]
fn policies_authorize_by_identity_and_network() {
    let mut index = filled();
    index.apply(server("web", json!({})));
    let receiver = watch(&mut index, 8080);
    let required =
        json!([needs("meshtlsauthentication", "clients"), needs("NetworkAuthentication", "nets")]);
    index.apply(policy("p", web(), required));
    assert!(authorizers(&now(&receiver)).is_empty(), "a missing authentication lets nobody in");
    index.apply(mesh("shop", json!({"identities": ["*.a.b", "x.y", "not a name"], "identityRefs": [
        {"kind": "ServiceAccount", "name": "sa", "namespace": "n"}, {"kind": "Namespace", "name": "m"},
    ]})));
    index.apply(network(
        json!([{"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}, {"cidr": "nonsense"}]),
    ));
    let policy_now = now(&receiver);
    assert_eq!(authorizers(&policy_now), ["p"]);
    let authorization = &policy_now.authorizations[0];
    assert_eq!(
        (authorization.meta.group(), authorization.meta.kind()),
        (GROUP, "authorizationpolicy")
    );
    let labels = |t: &str| IdentityMatch::Suffix(t.split('.').map(str::to_owned).collect());
    assert_eq!(
        authorization.authentication,
        Authentication::TlsAuthenticated(vec![
            labels("a.b"),
            IdentityMatch::Exact("x.y".parse().unwrap()),
            IdentityMatch::Exact(
                "sa.n.serviceaccount.identity.linkerd.cluster.local".parse().unwrap()
            ),
            labels("m.serviceaccount.identity.linkerd.cluster.local"),
        ])
    );
    let allows = |ip: &str, id: &str| {
        let tls = ClientTls::Mesh { client: Some(id.parse().unwrap()) };
        authorization.admits(ip.parse().unwrap(), &tls)
    };
    assert!(allows("10.1.0.1", "x.y") && allows("10.1.0.1", "q.a.b"));
    assert!(!allows("10.9.0.1", "x.y") && !allows("11.0.0.1", "x.y") && !allows("10.1.0.1", "y.x"));

    index.apply(network(json!([])));
    assert!(authorizers(&now(&receiver)).is_empty(), "no network matches nobody");
}

// proves: POL-7
#[test]
fn policies_that_are_understood_in_part_let_nobody_in() {
    let mut index = filled();
    index.apply(server("web", json!({})));
    index.apply(mesh("shop", json!({"identities": ["*"]})));
    let receiver = watch(&mut index, 8080);
    let account = json!({"kind": "ServiceAccount", "name": "sa"});
    for (required, expected) in [
        (json!([]), true),
        (json!([account]), true),
        (json!([needs("MeshTLSAuthentication", "clients")]), true),
        (json!([account, needs("MeshTLSAuthentication", "clients")]), false),
        (json!([account, {"kind": "Pod", "name": "x"}]), false),
        (json!([needs("NetworkAuthentication", "nets")]), false),
    ] {
        index.apply(policy("p", web(), required.clone()));
        assert_eq!(!authorizers(&now(&receiver)).is_empty(), expected, "{required}");
    }
    for (target, expected) in [
        (json!({"kind": "Namespace", "name": "shop"}), true),
        (json!({"kind": "Namespace", "name": "other"}), false),
        (json!({"group": "policy.linkerd.io", "kind": "HTTPRoute", "name": "web"}), false),
        (json!({"group": "policy.linkerd.io", "kind": "server", "name": "web"}), true),
        (json!({"group": "policy.linkerd.io", "kind": "Server", "name": "other"}), false),
    ] {
        index.apply(policy("p", target.clone(), json!([])));
        assert_eq!(!authorizers(&now(&receiver)).is_empty(), expected, "{target}");
    }
}

// proves: POL-8
#[test]
fn one_change_is_one_message_and_equal_values_are_none() {
    let mut index = filled();
    index.apply(server("web", json!({})));
    let mut receiver = watch(&mut index, 8080);
    let mut elsewhere = watch(&mut index, 9000);
    receiver.mark_unchanged();
    elsewhere.mark_unchanged();
    index.apply(pod(json!({})));
    index.apply(server("web", json!({})));
    index.apply(mesh("other", json!({"identities": ["*"]})));
    index.apply(policy("p", web(), json!([needs("NetworkAuthentication", "nets")])));
    assert!(!receiver.has_changed().unwrap(), "nothing that was said differs");
    index.apply(network(json!([{"cidr": "10.0.0.0/8"}])));
    assert!(receiver.has_changed().unwrap());
    assert_eq!(authorizers(receiver.borrow_and_update().as_ref().unwrap()), ["p"]);
    assert!(!elsewhere.has_changed().unwrap(), "another port is not touched");
}

#[test]
fn unmeshed_and_missing_pods_have_no_policy() {
    let mut index = filled();
    let receiver = watch(&mut index, 8080);
    let mut bare = pod(json!({}));
    bare.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    index.apply(bare);
    assert!(matches!(&*receiver.borrow(), Err(Refusal::NoWorkload(..))));
    index.apply(pod(json!({})));
    assert!(receiver.borrow().is_ok());
    Index::<Pod>::reset(&mut index, vec![]);
    assert!(receiver.borrow().is_err());
}
