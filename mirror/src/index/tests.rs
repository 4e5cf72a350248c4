//! # Tests of the index
//!
//! Job: Linkerd's service-mirror cases that are in scope, and the faults that it has and we have not:
//! facts in, plans out.
//! May touch: nothing else. Callers: cargo.

use super::{
    desired::Refusal,
    plan::{Verdict, Write},
    *,
};
use mesh_cluster::requeue::Outcome;
use mesh_k8s::selector;
use mesh_link::{Exclusions, Gateway, Host, Mode, Probe, Selectors};
use serde_json::{Value, json};
use std::{num::NonZeroU16, time::Duration};

fn link() -> Link {
    let of = |t: &str| Some(selector::parse(t).unwrap());
    let port = |p| NonZeroU16::new(p).unwrap();
    Link {
        namespace: "mc".into(),
        name: "remote".into(),
        cluster: "remote".into(),
        domain: "cluster.local".parse().unwrap(),
        control_namespace: "linkerd".into(),
        credentials_secret: "cluster-credentials-remote".into(),
        gateway: Some(Gateway {
            hosts: vec![Host::Ip("192.0.2.127".parse().unwrap())],
            port: port(888),
            identity: "gateway-identity".parse().unwrap(),
            probe: Some(Probe {
                path: "/ready".into(),
                port: port(889),
                period: Duration::from_secs(3),
                timeout: Duration::from_secs(1),
                threshold: 3,
            }),
        }),
        selectors: Selectors {
            gateway: of("mirror.linkerd.io/exported=true"),
            flat: of("mirror.linkerd.io/exported=remote-discovery"),
            federated: None,
        },
        excluded_annotations: Exclusions::default(),
        excluded_labels: Exclusions::default(),
    }
}

fn service(name: &str, version: &str, labels: Value, ports: &[u16]) -> Service {
    let ports: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(n, p)| json!({"name": format!("port{}", n + 1), "port": p, "protocol": "TCP", "targetPort": p}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns1", "resourceVersion": version, "labels": labels},
        "spec": {"ports": ports, "clusterIP": "10.0.0.9", "selector": {"app": "x"}},
    }))
    .unwrap()
}

fn exported() -> Value {
    json!({"mirror.linkerd.io/exported": "true", "lk": "lv"})
}

fn gateway(health: Health) -> GatewayView {
    GatewayView {
        ips: Arc::new(["192.0.2.127".parse().unwrap()]),
        known: true,
        error: None,
        health,
    }
}

/// A world in which everything is known: one remote Service with ready Pods, no mirror yet.
struct Scene {
    world: World,
    queue: Queue<Work>,
}

impl Scene {
    fn with(link: Link, remote: Vec<Service>) -> Self {
        let mut world = World::default();
        let queue = Queue::default();
        world.local_services(vec![]);
        world.local_endpoints_all(vec![]);
        world.namespaces(["ns1".to_owned()].into());
        world.add_link(Arc::new(link), vec![], queue.clone());
        let served = remote.iter().map(Key::of).collect();
        world.remote_services("remote", remote);
        world.remote_endpoints_all("remote", served);
        world.gateway("remote", gateway(Health::Alive));
        Self { world, queue }
    }

    fn new(labels: Value) -> Self {
        Self::with(link(), vec![service("service-one", "111", labels, &[555, 666])])
    }

    fn plan(&self) -> Plan {
        self.plan_of("service-one")
    }

    fn plan_of(&self, name: &str) -> Plan {
        self.world.plan("remote", &Key::new("ns1", name)).unwrap()
    }

    /// Does what the plan says, as an API server would.
    fn carry_out(&mut self) -> Plan {
        let plan = self.plan();
        match plan.service.clone() {
            Write::Create(object) | Write::Replace(object) => {
                self.world.local_service(numbered(*object))
            }
            Write::Delete(_) => self.world.local_service_gone(&plan.mirror),
            Write::Nothing => {}
        }
        match plan.endpoints.clone() {
            Write::Create(object) | Write::Replace(object) => {
                self.world.local_endpoints(numbered(*object))
            }
            Write::Delete(_) => self.world.local_endpoints_gone(&plan.mirror),
            Write::Nothing => {}
        }
        plan
    }

    /// Keys that are queued, in the order of work.
    async fn queued(&self) -> Vec<String> {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let work = self.queue.run(1, move |Work::Mirror(key)| {
            sender.send(key.name).unwrap();
            async { Outcome::Done }
        });
        let _ = tokio::time::timeout(Duration::from_millis(20), work).await;
        let mut all = Vec::new();
        while let Ok(name) = receiver.try_recv() {
            all.push(name);
        }
        all
    }
}

fn numbered<K: kube::Resource>(mut object: K) -> K {
    let version =
        object.meta().resource_version.as_deref().map_or(0, |v| v.parse::<u64>().unwrap());
    object.meta_mut().resource_version = Some((version + 1).to_string());
    object.meta_mut().uid = Some("uid".into());
    object
}

fn made<K: Clone>(write: &Write<K>) -> K {
    match write {
        Write::Create(object) | Write::Replace(object) => (**object).clone(),
        _ => panic!("no object is written"),
    }
}

fn ready(endpoints: &Endpoints) -> (Vec<String>, Vec<String>) {
    let ips = |all: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
        all.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>()
    };
    let subsets = endpoints.subsets.iter().flatten();
    subsets.fold(Default::default(), |(mut up, mut down): (Vec<_>, Vec<_>), s| {
        up.extend(ips(&s.addresses));
        down.extend(ips(&s.not_ready_addresses));
        (up, down)
    })
}

// proves: MIR-2, MIR-3
#[test]
fn an_export_makes_a_service_and_endpoints_at_the_gateway() {
    let plan = Scene::new(exported()).plan();
    let service = made(&plan.service);
    assert_eq!(
        serde_json::to_value(&service).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "service-one-remote", "namespace": "ns1",
                "labels": {"lk": "lv", "mirror.linkerd.io/mirrored-service": "true", "mirror.linkerd.io/cluster-name": "remote"},
                "annotations": {
                    "mirror.linkerd.io/remote-resource-version": "111",
                    "mirror.linkerd.io/remote-svc-fq-name": "service-one.ns1.svc.cluster.local",
                },
            },
            "spec": {"ports": [
                {"name": "port1", "port": 555, "protocol": "TCP", "targetPort": 555},
                {"name": "port2", "port": 666, "protocol": "TCP", "targetPort": 666},
            ]},
        })
    );
    let endpoints = made(&plan.endpoints);
    let wire = serde_json::to_value(&endpoints).unwrap();
    assert_eq!(
        wire["subsets"],
        json!([{"addresses": [{"ip": "192.0.2.127"}], "ports": [
            {"name": "port1", "port": 888, "protocol": "TCP"}, {"name": "port2", "port": 888, "protocol": "TCP"},
        ]}])
    );
    assert_eq!(
        wire["metadata"]["annotations"]["mirror.linkerd.io/remote-gateway-identity"],
        "gateway-identity"
    );
    assert!(
        wire["metadata"]["annotations"].get("mirror.linkerd.io/remote-resource-version").is_none()
    );
    assert_eq!(plan.verdict, Some(Verdict::Mirrored));
}

// proves: MIR-5
#[test]
fn an_unchanged_mirror_is_not_written_again() {
    let mut scene = Scene::new(exported());
    assert!(!scene.carry_out().writes_nothing());
    assert!(scene.plan().writes_nothing());
    // After a restart the probe has not answered yet.
    scene.world.gateway("remote", gateway(Health::Unknown));
    assert!(scene.plan().writes_nothing());
    // The API server sorts and fills in; others add labels.
    let mut stored = scene.world.local.endpoints.clone().unwrap().into_values().next().unwrap();
    stored.subsets.as_mut().unwrap()[0].ports.as_mut().unwrap().reverse();
    stored.metadata.labels.as_mut().unwrap().insert("theirs".into(), "x".into());
    scene.world.local_endpoints(numbered(stored));
    assert!(scene.plan().writes_nothing());
}

// proves: MIR-6
#[test]
fn flat_exports_have_two_more_labels_and_no_endpoints() {
    let mut scene = Scene::new(json!({"mirror.linkerd.io/exported": "remote-discovery"}));
    let plan = scene.carry_out();
    let labels = made(&plan.service).metadata.labels.unwrap();
    assert_eq!(labels["multicluster.linkerd.io/remote-discovery"], "remote");
    assert_eq!(labels["multicluster.linkerd.io/remote-service"], "service-one");
    assert_eq!(plan.endpoints, Write::Nothing);
    // Relabelled, the mirror changes its mode in place.
    scene.world.remote_service("remote", service("service-one", "112", exported(), &[555]));
    let plan = scene.carry_out();
    assert!(matches!((&plan.service, &plan.endpoints), (Write::Replace(_), Write::Create(_))));
    scene.world.remote_service(
        "remote",
        service(
            "service-one",
            "113",
            json!({"mirror.linkerd.io/exported": "remote-discovery"}),
            &[555],
        ),
    );
    let plan = scene.plan();
    assert!(matches!((&plan.service, &plan.endpoints), (Write::Replace(_), Write::Delete(_))));
}

// proves: MIR-6
#[test]
fn a_link_without_gateway_mirrors_flat_exports_only() {
    let mut without = link();
    without.gateway = None;
    without.selectors.gateway = None;
    let flat =
        service("flat", "1", json!({"mirror.linkerd.io/exported": "remote-discovery"}), &[1]);
    let scene = Scene::with(without, vec![flat, service("gate", "1", exported(), &[1])]);
    assert!(matches!(scene.plan_of("flat").service, Write::Create(_)));
    let plan = scene.plan_of("gate");
    assert!(plan.writes_nothing() && plan.verdict.is_none());
    // With a selector but no gateway it is refused with the reason.
    let mut without = link();
    without.gateway = None;
    let scene = Scene::with(without, vec![service("service-one", "1", exported(), &[1])]);
    assert!(
        matches!(scene.plan().verdict, Some(Verdict::Refused(r)) if r.message.contains("gatewayAddress"))
    );
}

// proves: MIR-8
#[tokio::test]
async fn a_missing_namespace_is_told_and_the_mirror_comes_with_it() {
    let mut scene = Scene::new(exported());
    scene.world.namespace("ns1", false);
    let plan = scene.plan();
    assert!(plan.writes_nothing());
    let Some(Verdict::Refused(Refusal { reason, event, .. })) = plan.verdict else { panic!() };
    assert_eq!(
        (reason, event),
        ("MissingNamespace", Some("Skipped mirroring service: namespace does not exist"))
    );
    scene.queued().await;
    scene.world.namespace("ns1", true);
    assert_eq!(scene.queued().await, ["service-one"]);
    assert!(matches!(scene.plan().service, Write::Create(_)));
    // It begins to go, and is gone: only then can it be made again.
    for _ in 0..2 {
        scene.world.namespace("ns1", false);
        assert_eq!(scene.queued().await, ["service-one"]);
    }
}

// proves: GWA-2, GWA-3
#[test]
fn a_dead_gateway_moves_all_addresses_to_not_ready_and_back() {
    let mut scene = Scene::new(exported());
    scene.carry_out();
    scene.world.gateway("remote", gateway(Health::Dead));
    let plan = scene.carry_out();
    assert_eq!(plan.service, Write::Nothing);
    assert_eq!(ready(&made(&plan.endpoints)), (vec![], vec!["192.0.2.127".into()]));
    // An update meanwhile does not bring them back.
    let mut labels = exported();
    labels["new"] = json!("x");
    scene.world.remote_service("remote", service("service-one", "2", labels, &[555, 666]));
    let plan = scene.carry_out();
    assert_eq!(made(&plan.service).labels()["new"], "x");
    assert_eq!(ready(&made(&plan.endpoints)).0, Vec::<String>::new());
    // Not knowing anything (a restart) changes nothing either.
    scene.world.gateway("remote", gateway(Health::Unknown));
    assert!(scene.plan().writes_nothing());
    scene.world.gateway("remote", gateway(Health::Alive));
    assert_eq!(ready(&made(&scene.plan().endpoints)), (vec!["192.0.2.127".into()], vec![]));
}

// proves: GWA-2
#[test]
fn an_export_through_a_dead_gateway_starts_not_ready() {
    let mut scene = Scene::new(exported());
    scene.world.gateway("remote", gateway(Health::Dead));
    assert_eq!(ready(&made(&scene.plan().endpoints)), (vec![], vec!["192.0.2.127".into()]));
}

// proves: GWA-1
#[test]
fn new_gateway_addresses_go_into_every_mirror_and_none_blocks() {
    let mut scene = Scene::new(exported());
    scene.carry_out();
    let mut moved = gateway(Health::Alive);
    moved.ips = Arc::new(["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
    scene.world.gateway("remote", moved);
    assert_eq!(ready(&made(&scene.plan().endpoints)).0, ["192.0.2.1", "2001:db8::1"]);
    let none =
        GatewayView { known: true, error: Some("NXDOMAIN".into()), ..GatewayView::default() };
    scene.world.gateway("remote", none);
    let plan = scene.plan();
    assert!(plan.writes_nothing(), "what was known goes on serving");
    assert!(matches!(plan.verdict, Some(Verdict::Refused(r)) if r.message.contains("NXDOMAIN")));
}

// proves: MIR-4
#[test]
fn an_unexport_deletes_both_and_the_status_entry() {
    for gone in [true, false] {
        let mut scene = Scene::new(exported());
        scene.carry_out();
        if gone {
            scene.world.remote_service_gone("remote", Key::new("ns1", "service-one"));
        } else {
            scene.world.remote_service("remote", service("service-one", "112", json!({}), &[555]));
        }
        let plan = scene.carry_out();
        assert_eq!(plan.service, Write::Delete(Some("uid".into())));
        assert_eq!(plan.endpoints, Write::Delete(Some("uid".into())));
        assert_eq!(plan.verdict, None);
        assert!(scene.plan().writes_nothing());
    }
}

// proves: MIR-3
#[test]
fn changed_ports_go_into_both_objects() {
    let mut scene = Scene::new(exported());
    scene.carry_out();
    scene.world.remote_service("remote", service("service-one", "112", exported(), &[1, 2, 3]));
    let plan = scene.plan();
    assert_eq!(made(&plan.service).spec.unwrap().ports.unwrap().len(), 3);
    let endpoints = made(&plan.endpoints);
    assert!(endpoints.metadata.resource_version.is_some(), "bound to what is known");
    assert_eq!(endpoints.subsets.unwrap()[0].ports.as_ref().unwrap().len(), 3);
}

// proves: MIR-3
#[test]
fn removed_labels_and_annotations_go_and_the_cluster_ip_stays() {
    let mut scene = Scene::new(exported());
    scene.carry_out();
    let mut have = scene.world.local.services.clone().unwrap().into_values().next().unwrap();
    have.spec.as_mut().unwrap().cluster_ip = Some("10.9.9.9".into());
    scene.world.local_service(numbered(have));
    scene.world.remote_service(
        "remote",
        service("service-one", "112", json!({"mirror.linkerd.io/exported": "true"}), &[555, 666]),
    );
    let plan = scene.plan();
    let service = made(&plan.service);
    assert!(!service.labels().contains_key("lk"));
    assert!(!made(&plan.endpoints).labels().contains_key("lk"));
    assert_eq!(service.spec.unwrap().cluster_ip.unwrap(), "10.9.9.9");
}

// proves: MIR-9
#[tokio::test]
async fn an_export_without_ready_pods_has_empty_endpoints() {
    let mut scene = Scene::new(exported());
    scene.carry_out();
    scene.queued().await;
    let key = Key::new("ns1", "service-one");
    scene.world.remote_endpoints("remote", key.clone(), true);
    assert!(scene.queued().await.is_empty(), "no news");
    scene.world.remote_endpoints("remote", key.clone(), false);
    assert_eq!(scene.queued().await, ["service-one"]);
    let plan = scene.carry_out();
    assert_eq!((made(&plan.endpoints).subsets, plan.service), (None, Write::Nothing));
    // An edit meanwhile does not fill them.
    scene.world.remote_service("remote", service("service-one", "112", exported(), &[1]));
    assert_eq!(scene.plan().endpoints, Write::Nothing);
    scene.world.remote_endpoints("remote", key, true);
    assert_eq!(ready(&made(&scene.plan().endpoints)).0.len(), 1);
}

// proves: MIR-7
#[test]
fn excluded_keys_and_topology_hints_do_not_travel() {
    let mut with = link();
    with.excluded_labels = Exclusions::new(["app".into(), "team.io/*".into()]);
    with.excluded_annotations = Exclusions::new(["config.linkerd.io/*".into(), "note".into()]);
    let mut remote = service(
        "service-one",
        "1",
        json!({"mirror.linkerd.io/exported": "true", "app": "x", "team.io/a": "b", "team.iox/a": "b",
               "multicluster.linkerd.io/z": "y"}),
        &[1],
    );
    remote.metadata.annotations = Some(
        [
            "note",
            "keep",
            "service.kubernetes.io/topology-mode",
            "service.kubernetes.io/topology-aware-hints",
            "config.linkerd.io/opaque-ports",
            "config.linkerd.io/x",
            "kubectl.kubernetes.io/last-applied-configuration",
        ]
        .map(|k| (k.to_owned(), "v".to_owned()))
        .into(),
    );
    let made = made(&Scene::with(with, vec![remote]).plan().service);
    assert_eq!(
        made.labels().keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "mirror.linkerd.io/cluster-name",
            "mirror.linkerd.io/mirrored-service",
            "multicluster.linkerd.io/z",
            "team.iox/a"
        ]
    );
    assert_eq!(
        made.annotations().keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "config.linkerd.io/opaque-ports",
            "keep",
            "mirror.linkerd.io/remote-resource-version",
            "mirror.linkerd.io/remote-svc-fq-name"
        ]
    );
}

// proves: MIR-3
#[test]
fn declared_protocols_travel_and_node_ports_do_not() {
    let mut remote = service("service-one", "1", exported(), &[80]);
    let port = &mut remote.spec.as_mut().unwrap().ports.as_mut().unwrap()[0];
    (port.app_protocol, port.node_port) = (Some("kubernetes.io/h2c".into()), Some(30_000));
    let plan = Scene::with(link(), vec![remote]).plan();
    let port = made(&plan.service).spec.unwrap().ports.unwrap().remove(0);
    assert_eq!((port.app_protocol.as_deref(), port.node_port), (Some("kubernetes.io/h2c"), None));
}

// proves: MIR-10
#[test]
fn somebody_elses_object_is_never_taken_over_nor_deleted() {
    let mut scene = Scene::new(exported());
    let mut theirs = service(
        "service-one-remote",
        "9",
        json!({"mirror.linkerd.io/mirrored-service": "true", "mirror.linkerd.io/cluster-name": "other"}),
        &[1],
    );
    theirs.metadata.uid = Some("theirs".into());
    scene.world.local_service(theirs);
    let plan = scene.plan();
    assert!(plan.writes_nothing());
    assert!(
        matches!(plan.verdict, Some(Verdict::Refused(r)) if r.reason == "Error" && r.message.contains("exists"))
    );
    scene.world.remote_service_gone("remote", Key::new("ns1", "service-one"));
    assert!(scene.plan().writes_nothing());
}

// proves: MIR-11
#[test]
fn what_cannot_be_mirrored_says_why() {
    let reason = |service: Service| match Scene::with(link(), vec![service.clone()])
        .plan_of(&service.name_any())
        .verdict
    {
        Some(Verdict::Refused(r)) => (r.reason, r.event.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(service("service-one", "1", exported(), &[])), ("InvalidService", true));
    assert_eq!(reason(service(&"s".repeat(60), "1", exported(), &[1])), ("InvalidService", false));
    let mut external = service("service-one", "1", exported(), &[1]);
    external.spec.as_mut().unwrap().type_ = Some("ExternalName".into());
    assert_eq!(reason(external), ("InvalidService", false));
}

// proves: MIR-6
#[tokio::test]
async fn empty_selectors_select_nothing() {
    let both = || {
        vec![
            service("gate", "1", exported(), &[1]),
            service("flat", "1", json!({"mirror.linkerd.io/exported": "remote-discovery"}), &[1]),
        ]
    };
    for (gate, flat, expected) in
        [(true, false, vec!["gate"]), (false, true, vec!["flat"]), (false, false, vec![])]
    {
        let mut link = link();
        let some = |keep: bool, s: &Option<_>| {
            if keep { s.clone() } else { Some(selector::parse("").unwrap()) }
        };
        link.selectors.gateway = some(gate, &link.selectors.gateway);
        link.selectors.flat = some(flat, &link.selectors.flat);
        assert_eq!(Scene::with(link, both()).queued().await, expected);
    }
}

// proves: MIR-12
#[tokio::test]
async fn orphans_of_a_time_when_nobody_looked_are_found() {
    let mut scene = Scene::with(link(), vec![service("kept", "1", exported(), &[1])]);
    let mirror = |name: &str, extra: Value| {
        let mut labels = json!({"mirror.linkerd.io/mirrored-service": "true", "mirror.linkerd.io/cluster-name": "remote"});
        labels.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut object = service(name, "1", labels, &[1]);
        object.metadata.uid = Some("uid".into());
        object
    };
    scene.queued().await;
    scene.world.local_services(vec![
        mirror("kept-remote", json!({})),
        mirror("gone-remote", json!({})),
        mirror("pod-0-remote", json!({"mirror.linkerd.io/headless-mirror-svc-name": "x-remote"})),
        mirror("oddly-named", json!({})),
    ]);
    let mut queued = scene.queued().await;
    queued.sort();
    assert_eq!(queued, ["gone", "kept"]);
    assert!(matches!(scene.plan_of("gone").service, Write::Delete(_)));
    assert!(matches!(scene.plan_of("kept").service, Write::Replace(_)));
}

// proves: STA-3
#[tokio::test]
async fn services_that_the_status_speaks_of_are_looked_at_too() {
    let mut world = World::default();
    let queue = Queue::default();
    world.local_services(vec![]);
    world.local_endpoints_all(vec![]);
    world.namespaces(HashSet::new());
    world.add_link(Arc::new(link()), vec![Key::new("ns9", "gone")], queue.clone());
    world.remote_services("remote", vec![]);
    world.remote_endpoints_all("remote", HashSet::new());
    assert_eq!(
        world.plan("remote", &Key::new("ns9", "gone")),
        None,
        "not before the gateway is known"
    );
    world.gateway("remote", gateway(Health::Unknown));
    let scene = Scene { world, queue };
    assert_eq!(scene.queued().await, ["gone"]);
    assert_eq!(scene.world.plan("remote", &Key::new("ns9", "gone")).unwrap().verdict, None);
}

// proves: MIR-13
#[tokio::test]
async fn each_stimulus_queues_what_it_concerns() {
    let mut scene = Scene::new(exported());
    assert_eq!(scene.queued().await, ["service-one"], "at the start");
    scene.world.remote_service("remote", service("other", "1", json!({}), &[1]));
    assert!(scene.queued().await.is_empty(), "not exported");
    scene.world.remote_service_gone("remote", Key::new("ns1", "other"));
    assert!(scene.queued().await.is_empty());
    scene.world.remote_service("remote", service("service-one", "112", json!({}), &[1]));
    assert_eq!(scene.queued().await, ["service-one"], "label gone");
    scene.world.remote_service("remote", service("service-one", "113", exported(), &[1]));
    assert_eq!(scene.queued().await, ["service-one"], "label back");
    scene.carry_out();
    scene.queued().await;
    scene.world.local_service_gone(&Key::new("ns1", "service-one-remote"));
    assert_eq!(scene.queued().await, ["service-one"], "somebody deleted the mirror");
}

// proves: MIR-13
#[test]
fn an_older_version_from_the_watch_does_not_undo_our_own_write() {
    let mut scene = Scene::new(exported());
    scene.carry_out();
    let mut older = scene.world.local.services.clone().unwrap().into_values().next().unwrap();
    older.metadata.labels.as_mut().unwrap().remove("lk");
    older.metadata.resource_version = Some("0".into());
    scene.world.local_service(older);
    assert!(scene.plan().writes_nothing());
}

#[test]
fn modes_are_told_apart() {
    let link = link();
    let labels = |v: Value| serde_json::from_value(v).unwrap();
    assert_eq!(link.selectors.mode(&labels(exported())), Some(Mode::Gateway));
}
