//! The charts with default, high-availability and custom values: which objects, which names, what refuses.
#![allow(clippy::unwrap_used)]

use mesh_charts::{CNI, CONTROL_PLANE, CRDS, Certificate, Chart, MULTICLUSTER, Release, values};
use serde_json::{Value, json};

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn signed(name: &str, names: &[String], days: u32) -> Result<Certificate, String> {
    assert_eq!(names, [name.to_owned()]);
    assert_eq!(days, 365);
    Ok(Certificate { certificate: PEM.to_owned(), key: "key".to_owned() })
}

fn needed() -> Value {
    json!({
        "identityTrustAnchorsPEM": PEM,
        "identity": {"issuer": {"tls": {"crtPEM": PEM, "keyPEM": "secret-key"}}},
    })
}

fn rendered(chart: &Chart, namespace: &str, over: &[Value]) -> Result<Vec<Value>, String> {
    let mut all = chart.defaults().unwrap();
    for layer in over {
        values::merge(&mut all, layer);
    }
    chart.render(Release::cli(namespace), &all, &signed).map_err(|e| e.to_string())
}

fn control_plane(over: &[Value]) -> Vec<Value> {
    let mut layers = vec![needed()];
    layers.extend_from_slice(over);
    rendered(&CONTROL_PLANE, "linkerd", &layers).unwrap()
}

fn multicluster(over: &[Value]) -> Vec<Value> {
    let mut layers = vec![json!({"identityTrustAnchorsPEM": PEM})];
    layers.extend_from_slice(over);
    rendered(&MULTICLUSTER, "linkerd-multicluster", &layers).unwrap()
}

/// One line an object: kind, namespace, name.
fn names(objects: &[Value]) -> String {
    let line = |o: &Value| {
        let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
        let meta = &o["metadata"];
        format!("{} {}/{}", text(&o["kind"]), text(&meta["namespace"]), text(&meta["name"]))
    };
    objects.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name} in\n{}", names(objects)))
}

fn env<'a>(container: &'a Value, name: &str) -> &'a Value {
    container["env"]
        .as_array()
        .and_then(|env| env.iter().find(|e| e["name"] == name))
        .unwrap_or(&Value::Null)
}

#[test]
fn crds_in_their_order_with_all_versions() {
    let objects = rendered(&CRDS, "linkerd", &[]).unwrap();
    insta::assert_snapshot!("crds", names(&objects));
    let served = |name: &str| {
        let versions = find(&objects, "CustomResourceDefinition", name)["spec"]["versions"].clone();
        let versions: Vec<_> = versions.as_array().unwrap().clone();
        let stored: Vec<_> = versions.iter().filter(|v| v["storage"] == true).collect();
        assert_eq!(stored.len(), 1, "{name}");
        let names: Vec<_> =
            versions.iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect();
        (names, stored[0]["name"].as_str().unwrap().to_owned())
    };
    let four = ["v1alpha1", "v1beta1", "v1beta2", "v1beta3"].map(String::from).to_vec();
    for name in ["servers.policy.linkerd.io", "httproutes.policy.linkerd.io"] {
        assert_eq!(served(name), (four.clone(), "v1beta3".to_owned()));
    }
    assert_eq!(served("serverauthorizations.policy.linkerd.io").1, "v1beta1");
    assert_eq!(served("serviceprofiles.linkerd.io").1, "v1alpha2");
    assert_eq!(served("externalworkloads.workload.linkerd.io").1, "v1beta1");
}

// proves: CHT-1
#[test]
fn control_plane_objects() {
    insta::assert_snapshot!("control-plane", names(&control_plane(&[])));
    let ha = control_plane(&[CONTROL_PLANE.high_availability().unwrap()]);
    insta::assert_snapshot!("control-plane-ha", names(&ha));
    let external = control_plane(&[json!({
        "identity": {"externalCA": true, "issuer": {"scheme": "kubernetes.io/tls"}},
        "proxyInjector": {"externalSecret": true, "injectCaFrom": "linkerd/cert"},
        "configReaders": [{"kind": "User", "name": "u"}],
    })]);
    insta::assert_snapshot!("control-plane-external", names(&external));
}

// proves: CHT-4
#[test]
fn control_plane_containers_and_ports() {
    let objects = control_plane(&[]);
    let mut lines = Vec::new();
    for object in objects.iter().filter(|o| o["kind"] == "Deployment") {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1, "no sidecars");
        let container = &containers[0];
        assert_eq!(container["startupProbe"]["periodSeconds"], 1);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        let ports = container["ports"].as_array().unwrap().iter();
        let ports: Vec<_> = ports
            .map(|p| format!("{} {}", p["name"].as_str().unwrap(), p["containerPort"]))
            .collect();
        let name = object["metadata"]["name"].as_str().unwrap();
        let container = container["name"].as_str().unwrap();
        lines.push(format!("{name}/{container}: {}", ports.join(", ")));
    }
    insta::assert_snapshot!(lines.join("\n"), @r"
    linkerd-identity/identity: ident-grpc 8080, ident-admin 9990
    linkerd-destination/destination: dest-grpc 8086, dest-admin 9996, policy-grpc 8090, policy-admin 9990
    linkerd-proxy-injector/proxy-injector: proxy-injector 8443, injector-admin 9995
    ");
}

// proves: CHT-3
#[test]
fn configuration_has_no_private_key() {
    let objects =
        control_plane(&[json!({"proxyInjector": {"crtPEM": PEM, "keyPEM": "secret-key"}})]);
    let config = find(&objects, "ConfigMap", "linkerd-config");
    let text = config["data"]["values"].as_str().unwrap();
    assert!(!text.contains("secret-key"), "{text}");
    let read = mesh_charts::yaml::parse(text).unwrap();
    assert_eq!(read["identityTrustDomain"], "cluster.local");
    assert_eq!(read["proxy"]["ports"]["inbound"], 4143);
    assert_eq!(read["identity"]["issuer"]["tls"]["crtPEM"], PEM);
}

#[test]
fn every_object_says_whose_it_is() {
    for object in control_plane(&[CONTROL_PLANE.high_availability().unwrap()]) {
        let meta = &object["metadata"];
        assert_eq!(meta["labels"]["linkerd.io/control-plane-ns"], "linkerd", "{meta}");
        let by = meta["annotations"]["linkerd.io/created-by"].as_str().unwrap();
        assert!(by.starts_with("linkerd/cli "), "{by}");
    }
    for object in multicluster(&[MULTICLUSTER.high_availability().unwrap()]) {
        assert_eq!(object["metadata"]["labels"]["linkerd.io/extension"], "multicluster");
    }
}

#[test]
fn multicluster_objects() {
    insta::assert_snapshot!("multicluster", names(&multicluster(&[])));
    let ha = multicluster(&[
        MULTICLUSTER.high_availability().unwrap(),
        json!({"controllers": [{"link": {"ref": {"name": "east"}}}]}),
    ]);
    insta::assert_snapshot!("multicluster-ha", names(&ha));
    let without = multicluster(&[json!({
        "gateway": {"enabled": false},
        "remoteMirrorServiceAccountName": "one, two",
        "serviceMirror": {"enabled": false},
    })]);
    insta::assert_snapshot!("multicluster-without-gateway", names(&without));
}

#[test]
fn the_gateway_is_a_proxy_alone() {
    let objects = multicluster(&[]);
    let gateway = find(&objects, "Deployment", "linkerd-gateway");
    let template = &gateway["spec"]["template"];
    let containers = template["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    let proxy = &containers[0];
    assert_eq!(proxy["name"], "linkerd-proxy");
    let ports: Vec<_> = proxy["ports"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(ports, ["linkerd-proxy", "linkerd-admin"]);
    assert_eq!(template["metadata"]["labels"]["linkerd.io/control-plane-ns"], "linkerd");
    assert_eq!(
        env(proxy, "LINKERD2_PROXY_INBOUND_GATEWAY_SUFFIXES")["value"],
        "svc.cluster.local."
    );
    assert_eq!(env(proxy, "MESH_ORIGINAL_DST")["value"], "local");
    assert_eq!(env(proxy, "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS")["value"], PEM);
    let context = env(proxy, "LINKERD2_PROXY_DESTINATION_CONTEXT")["value"].as_str().unwrap();
    let context: Value = serde_json::from_str(context).unwrap();
    assert_eq!(context["gateway"]["export"], "mirror.linkerd.io/exported=true");
    let service = find(&objects, "Service", "linkerd-gateway");
    let annotations = &service["metadata"]["annotations"];
    assert_eq!(
        annotations["mirror.linkerd.io/gateway-identity"],
        "linkerd-gateway.linkerd-multicluster.serviceaccount.identity.linkerd.cluster.local"
    );
    assert_eq!(annotations["mirror.linkerd.io/probe-period"], "3");
    let ports: Vec<_> =
        service["spec"]["ports"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(ports, ["mc-gateway", "mc-probe"]);
}

#[test]
fn other_anchors_restart_the_multicluster_pods() {
    let sum = |pem: &str| {
        let objects = multicluster(&[json!({ "identityTrustAnchorsPEM": pem })]);
        ["linkerd-gateway", "linkerd-service-mirror"].map(|name| {
            find(&objects, "Deployment", name)["spec"]["template"]["metadata"]["annotations"]
                ["checksum/config"]
                .as_str()
                .unwrap()
                .to_owned()
        })
    };
    let (one, other) = (sum("one"), sum("other"));
    assert_ne!(one[0], other[0]);
    assert_ne!(one[1], other[1]);
}

// proves: CHT-2
#[test]
fn values_that_cannot_work_are_refused_with_the_remedy() {
    let cases = [
        (json!({"proxy": {"defaultInboundPolicy": "open"}}), "use one of all-unauthenticated"),
        (json!({"imagePullPolicy": "Sometimes"}), "use Always, IfNotPresent or Never"),
        (json!({"proxy": {"opaquePorts": "25,x"}}), "is not a list of ports"),
        (json!({"proxy": {"resources": {"cpu": {"request": "lots"}}}}), "is not a quantity"),
        (json!({"proxyInjector": {"injectCaFrom": "a", "injectCaFromSecret": "b"}}), "set one"),
        (json!({"proxyInjector": {"externalSecret": true}}), "needs one of"),
        (json!({"identityTrustAnchorsPEM": ""}), "set identityTrustAnchorsPEM"),
        (json!({"identity": {"issuer": {"scheme": "vault"}}}), "use linkerd.io/tls"),
    ];
    for (over, expected) in cases {
        let error = rendered(&CONTROL_PLANE, "linkerd", &[needed(), over.clone()]).unwrap_err();
        assert!(error.contains(expected), "{over}: {error}");
        assert!(error.contains(".yaml:"), "{error}");
    }
    let anchors = rendered(&MULTICLUSTER, "m", &[]).unwrap_err();
    assert!(anchors.contains("set identityTrustAnchorsPEM"), "{anchors}");
    let link = json!({"identityTrustAnchorsPEM": PEM, "controllers": [{"replicas": 1}]});
    let link = rendered(&MULTICLUSTER, "m", &[link]).unwrap_err();
    assert!(link.contains("controllers[].link.ref.name"), "{link}");
}

#[test]
fn the_cni_plugin() {
    let objects = rendered(&CNI, "linkerd-cni", &[]).unwrap();
    insta::assert_snapshot!("cni", names(&objects));
    let over = json!({"ignoreInboundPorts": "22, 100-200", "proxyGID": 7, "disableIPv6": false});
    let objects = rendered(&CNI, "linkerd-cni", &[over]).unwrap();
    let config =
        find(&objects, "ConfigMap", "linkerd-cni-config")["data"]["cni_network_config"].as_str();
    let config: Value = serde_json::from_str(config.unwrap()).unwrap();
    let expected = json!({
        "incoming-proxy-port": 4143, "outgoing-proxy-port": 4140, "proxy-uid": 2102, "proxy-gid": 7,
        "ports-to-redirect": [], "inbound-ports-to-ignore": ["4190", "4191", "22", "100-200"],
        "outbound-ports-to-ignore": [], "simulate": false, "use-wait-flag": false,
        "iptables-mode": "nft", "ipv6": true,
    });
    assert_eq!(config["linkerd"], expected);
    let pod = &find(&objects, "DaemonSet", "linkerd-cni")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["volumeMounts"][0]["mountPath"], "/host/opt/cni/bin");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    let repair = json!({"repairController": {"enabled": true}});
    assert!(rendered(&CNI, "linkerd-cni", &[repair]).unwrap_err().contains("code 95"));
}
