//! # Tests of the patch
//!
//! Job: what a Pod looks like with the patch applied, with the installation's default values. Callers: `cargo test`.

#![allow(clippy::unwrap_used)]

use mesh_charts::CONTROL_PLANE;

use super::*;

const ANCHORS: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn values() -> Value {
    let mut values = CONTROL_PLANE.defaults().unwrap();
    values["identityTrustAnchorsPEM"] = ANCHORS.into();
    values
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "web-1", "annotations": {"a/b": "c"}},
        "spec": {
            "initContainers": [{"name": "first"}],
            "containers": [{
                "name": "app",
                "ports": [{"containerPort": 8080}, {"containerPort": 3306}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{
                    "name": "token",
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                    "readOnly": true,
                }],
            }],
        },
    })
}

fn decided(object: &Value, kind: &str, namespace: Value, values: &Value) -> Decision {
    let owner = Owner { kind: "deployment".into(), name: "web".into() };
    inject(&Subject {
        object,
        kind,
        namespace: "shop",
        namespace_annotations: &namespace,
        owner: Some(&owner),
        origin: Origin::Webhook,
        values,
        control_namespace: "linkerd",
        created_by: "linkerd/proxy-injector test",
    })
    .unwrap()
}

/// The object with the patch applied.
fn patched(object: &Value, kind: &str, namespace: Value, values: &Value) -> Value {
    let patch = match decided(object, kind, namespace, values) {
        Decision::Inject(injection) => {
            assert_eq!(injection.ignored, Vec::<String>::new());
            injection.patch
        }
        Decision::Skip { patch, .. } => patch,
    };
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    patched
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
}

fn env<'a>(container: &'a Value, name: &str) -> &'a Value {
    container["env"].as_array().unwrap().iter().find(|e| e["name"] == name).unwrap_or(&Value::Null)
}

// proves: INJ-4
#[test]
fn a_native_sidecar_stands_before_the_other_init_containers() {
    let pod = patched(&pod(), "Pod", json!({"linkerd.io/inject": "enabled"}), &values());
    assert_eq!(names(&pod["spec"]["initContainers"]), ["linkerd-init", "linkerd-proxy", "first"]);
    assert_eq!(names(&pod["spec"]["containers"]), ["app"]);
    assert_eq!(
        names(&pod["spec"]["volumes"]),
        [
            "linkerd-proxy-init-xtables-lock",
            "linkerd-identity-end-entity",
            "linkerd-identity-token"
        ]
    );
    let proxy = &pod["spec"]["initContainers"][1];
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["startupProbe"]["periodSeconds"], 1);
    assert_eq!(proxy["startupProbe"]["failureThreshold"], 120);
    assert_eq!(proxy["livenessProbe"]["initialDelaySeconds"], 10);
    assert_eq!(proxy["readinessProbe"]["initialDelaySeconds"], 2);
    assert!(proxy["lifecycle"].is_null());
    assert_eq!(proxy["securityContext"]["runAsUser"], 2102);
    assert_eq!(proxy["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(names(&proxy["ports"]), ["linkerd-proxy", "linkerd-admin"]);
    let mounts = names(&proxy["volumeMounts"]);
    assert_eq!(mounts, ["linkerd-identity-end-entity", "linkerd-identity-token", "token"]);
}

// proves: INJ-4
#[test]
fn metadata_of_an_injected_pod() {
    let namespace = json!({
        "linkerd.io/inject": "enabled",
        "config.linkerd.io/proxy-log-level": "debug",
        "config.linkerd.io/admission-webhooks": "enabled",
        "other": "x",
    });
    let pod = patched(&pod(), "Pod", namespace, &values());
    let digest: String = Sha256::digest(ANCHORS).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        pod["metadata"]["annotations"],
        json!({
            "a/b": "c",
            "linkerd.io/inject": "enabled",
            "config.linkerd.io/proxy-log-level": "debug",
            "config.linkerd.io/opaque-ports": "3306",
            "linkerd.io/created-by": "linkerd/proxy-injector test",
            "linkerd.io/proxy-version": env!("CARGO_PKG_VERSION"),
            "linkerd.io/trust-root-sha256": digest,
        })
    );
    assert_eq!(
        pod["metadata"]["labels"],
        json!({
            "linkerd.io/control-plane-ns": "linkerd",
            "linkerd.io/workload-ns": "shop",
            "linkerd.io/proxy-deployment": "web",
        })
    );
}

// proves: INJ-6
#[test]
fn environment_of_the_proxy() {
    let pod = patched(&pod(), "Pod", json!({"linkerd.io/inject": "enabled"}), &values());
    let proxy = &pod["spec"]["initContainers"][1];
    let cases = [
        ("LINKERD2_PROXY_DESTINATION_SVC_ADDR", "linkerd-dst.linkerd.svc.cluster.local.:8086"),
        ("LINKERD2_PROXY_POLICY_SVC_ADDR", "linkerd-policy.linkerd.svc.cluster.local.:8090"),
        ("LINKERD2_PROXY_IDENTITY_SVC_ADDR", "linkerd-identity.linkerd.svc.cluster.local.:8080"),
        ("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", ANCHORS),
        (
            "LINKERD2_PROXY_IDENTITY_LOCAL_NAME",
            "$(_pod_sa).$(_pod_ns).serviceaccount.identity.linkerd.cluster.local",
        ),
        ("LINKERD2_PROXY_INBOUND_PORTS", "3306,8080"),
        ("LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "3306"),
        ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140"),
        ("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "0.0.0.0:4143"),
        ("LINKERD2_PROXY_DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local."),
        ("LINKERD2_PROXY_CORES", "1"),
        ("LINKERD2_PROXY_LOG", "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off"),
    ];
    for (name, expected) in cases {
        assert_eq!(env(proxy, name)["value"], expected, "{name}");
    }
    let context = env(proxy, "LINKERD2_PROXY_DESTINATION_CONTEXT")["value"].as_str().unwrap();
    let context: Value = serde_json::from_str(context).unwrap();
    assert_eq!(
        context,
        json!({"ns": "$(_pod_ns)", "nodeName": "$(_pod_nodeName)", "pod": "$(_pod_name)"})
    );
    assert!(env(proxy, "LINKERD2_PROXY_INBOUND_GATEWAY_SUFFIXES").is_null());
}

// proves: INJ-4
#[test]
fn arguments_of_init_stand_in_their_order() {
    let pod = patched(&pod(), "Pod", json!({"linkerd.io/inject": "enabled"}), &values());
    let init = &pod["spec"]["initContainers"][0];
    assert_eq!(
        init["args"],
        json!([
            "--firewall-bin-path",
            "iptables-nft",
            "--firewall-save-bin-path",
            "iptables-nft-save",
            "--ipv6=false",
            "--incoming-proxy-port",
            "4143",
            "--outgoing-proxy-port",
            "4140",
            "--proxy-uid",
            "2102",
            "--inbound-ports-to-ignore",
            "4190,4191,4567,4568",
            "--outbound-ports-to-ignore",
            "4567,4568",
        ])
    );
    assert_eq!(init["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
    assert_eq!(init["securityContext"]["runAsUser"], 65534);
    assert_eq!(init["volumeMounts"][0]["mountPath"], "/run");
}

// proves: INJ-4
#[test]
fn with_the_cni_plugin_a_validator_stands_in_the_place_of_init() {
    let mut with_cni = values();
    with_cni["cniEnabled"] = json!(true);
    let pod = patched(&pod(), "Pod", json!({"linkerd.io/inject": "enabled"}), &with_cni);
    let init = &pod["spec"]["initContainers"];
    assert_eq!(names(init), ["linkerd-network-validator", "linkerd-proxy", "first"]);
    let expected = "--log-format plain --log-level debug --connect-addr 1.1.1.1:20001 \
                    --listen-addr 0.0.0.0:4140 --timeout 10s";
    assert_eq!(init[0]["args"], json!(expected.split_whitespace().collect::<Vec<_>>()));
    assert_eq!(init[0]["command"], json!(["/usr/lib/linkerd/linkerd2-network-validator"]));
    assert_eq!(init[0]["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(init[0]["securityContext"]["runAsUser"], 65534);
    assert!(!names(&pod["spec"]["volumes"]).iter().any(|v| v.contains("xtables")));
}

// proves: INJ-4
#[test]
fn a_sidecar_that_is_not_native() {
    let namespace = json!({
        "linkerd.io/inject": "enabled",
        "config.linkerd.io/proxy-enable-native-sidecar": "false",
        "config.alpha.linkerd.io/proxy-wait-before-exit-seconds": "5",
    });
    let awaited = patched(&pod(), "Pod", namespace.clone(), &values());
    assert_eq!(names(&awaited["spec"]["initContainers"]), ["first", "linkerd-init"]);
    assert_eq!(names(&awaited["spec"]["containers"]), ["linkerd-proxy", "app"]);
    let lifecycle = &awaited["spec"]["containers"][0]["lifecycle"];
    assert_eq!(
        lifecycle["postStart"]["exec"]["command"],
        json!(["/usr/lib/linkerd/linkerd-await", "--timeout=2m", "--port=4191"])
    );
    assert_eq!(lifecycle["preStop"]["exec"]["command"], json!(["/bin/sleep", "5"]));
    let mut unawaited = namespace;
    unawaited["config.linkerd.io/proxy-await"] = "disabled".into();
    let unawaited = patched(&pod(), "Pod", unawaited, &values());
    assert_eq!(names(&unawaited["spec"]["containers"]), ["app", "linkerd-proxy"]);
    assert!(unawaited["spec"]["containers"][1]["lifecycle"]["postStart"].is_null());
}

#[test]
fn workloads_get_the_sidecar_in_their_template() {
    let template = pod();
    let deployment = json!({"kind": "Deployment", "spec": {"template": template}});
    let enabled = json!({"linkerd.io/inject": "enabled"});
    let done = patched(&deployment, "Deployment", enabled.clone(), &values());
    assert_eq!(names(&done["spec"]["template"]["spec"]["initContainers"])[1], "linkerd-proxy");
    let cron =
        json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": []}}}}}});
    let done = patched(&cron, "CronJob", enabled, &values());
    let template = &done["spec"]["jobTemplate"]["spec"]["template"];
    assert_eq!(names(&template["spec"]["initContainers"]), ["linkerd-init", "linkerd-proxy"]);
    assert_eq!(template["metadata"]["labels"]["linkerd.io/workload-ns"], "shop");
}

// proves: INJ-3
#[test]
fn what_gets_no_sidecar_gets_its_opaque_ports() {
    let done = patched(&pod(), "Pod", json!({}), &values());
    assert_eq!(done["metadata"]["annotations"]["config.linkerd.io/opaque-ports"], "3306");
    assert!(done["spec"]["volumes"].is_null());
    let service = json!({"spec": {"ports": [{"port": 1, "targetPort": 25}]}});
    let done = patched(&service, "Service", json!({}), &values());
    assert_eq!(done["metadata"]["annotations"]["config.linkerd.io/opaque-ports"], "1");
    let annotated = json!({"metadata": {"annotations": {"config.linkerd.io/opaque-ports": ""}}});
    assert_eq!(patched(&annotated, "Service", json!({}), &values()), annotated);
}

// proves: INJ-2
#[test]
fn reasons_accumulate() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = true.into();
    let decision = decided(&pod, "Pod", json!({}), &values());
    let Decision::Skip { reasons, .. } = decision else { panic!("{decision:?}") };
    assert_eq!(reasons, [SkipReason::HostNetwork, SkipReason::NotEnabled]);
    let config = json!({"kind": "ConfigMap"});
    let decision = decided(&config, "ConfigMap", json!({}), &values());
    let Decision::Skip { reasons, .. } = decision else { panic!("{decision:?}") };
    assert_eq!(reasons, [SkipReason::Unsupported]);
}

#[test]
fn udp_is_a_warning_and_a_bad_annotation_is_told() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 53, "protocol": "UDP"}]);
    pod["metadata"]["annotations"] =
        json!({"linkerd.io/inject": "enabled", "config.linkerd.io/proxy-uid": "root"});
    let decision = decided(&pod, "Pod", json!({}), &values());
    let Decision::Inject(injection) = decision else { panic!("{decision:?}") };
    assert_eq!(injection.warnings, [SkipReason::UdpPorts]);
    assert_eq!(injection.ignored.len(), 1);
}

/// An admission must take far less than the API server's patience.
#[test]
fn a_decision_is_quick() {
    let (pod, values) = (pod(), values());
    let enabled = json!({"linkerd.io/inject": "enabled"});
    decided(&pod, "Pod", enabled.clone(), &values);
    let mut took: Vec<_> = (0..50)
        .map(|_| {
            let start = std::time::Instant::now();
            decided(&pod, "Pod", enabled.clone(), &values);
            start.elapsed()
        })
        .collect();
    took.sort();
    // Generous, for a debug build on a busy machine; the bound for a release build is 10 ms at p99.
    assert!(took[25] < std::time::Duration::from_millis(200), "{:?}", took[25]);
}
