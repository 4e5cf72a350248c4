//! # Cases
//!
//! Job: what a cluster promises, one promise a function.
//! May touch: clusters of the kit. Callers: this test's `main`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Endpoints, Namespace, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use mesh_sandbox::cluster;
use serde_json::{Value, json};

use crate::kit::{Sandbox, eventually, get, spec};

const HOST: [u8; 4] = [127, 0, 0, 1];

/// Runs all cases whose name contains `filter`.
pub(crate) fn run(filter: Option<&str>) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
    let filter = filter.filter(|f| !f.starts_with('-')).unwrap_or_default();
    let mut failed = 0;
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let name = stringify!($case);
            if name.contains(filter) {
                println!("{name} ...");
                let begun = Instant::now();
                let outcome = runtime.block_on(async {
                    tokio::time::timeout(Duration::from_secs(90), $case()).await?
                });
                match outcome {
                    Ok(()) => println!("{name} ok ({} ms)", begun.elapsed().as_millis()),
                    Err(error) => {
                        failed += 1;
                        println!("{name} FAILED: {error:#}");
                    }
                }
            }
        )*};
    }
    cases!(
        an_app_runs_and_is_reached,
        pods_start_and_end_in_order,
        faults_heal,
        mirrored_endpoints_follow_fast,
        a_second_cluster_is_apart,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn deployment(replicas: i32, pod: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "echo", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "echo"}},
            "template": {"metadata": {"labels": {"app": "echo"}}, "spec": pod},
        },
    })
}

fn app() -> Value {
    json!({
        "terminationGracePeriodSeconds": 2,
        "volumes": [{"name": "config", "configMap": {"name": "settings"}}],
        "containers": [{
            "name": "app", "image": "registry.example/x/test:1.0", "args": ["serve", "0"],
            "ports": [{"name": "http", "containerPort": 8080}],
            "env": [
                {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "GREETING", "value": "I am $(WHO)"}],
            "volumeMounts": [{"name": "config", "mountPath": "/etc/settings"}],
            "readinessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 1},
        }],
    })
}

fn settings(value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "default"}, "data": {"k": value}})
}

fn balanced() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "echo"},
            "ports": [{"name": "http", "port": 8088, "targetPort": "http"}]}})
}

async fn ready_pods(sandbox: &Sandbox, count: usize) -> Result<Vec<Pod>> {
    let api: Api<Pod> = sandbox.api("default");
    eventually("ready Pods", async || {
        let pods = api.list(&ListParams::default().labels("app=echo")).await?.items;
        let ready = pods.iter().filter(|p| {
            let conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        });
        let ready = ready.count();
        ensure!(
            ready == count && pods.len() == count,
            "{ready} of {} ready: {:?}",
            pods.len(),
            pods.iter().map(|p| &p.status).collect::<Vec<_>>()
        );
        Ok(pods)
    })
    .await
}

async fn balancer(sandbox: &Sandbox) -> Result<SocketAddr> {
    let api: Api<Service> = sandbox.api("default");
    eventually("an address of the load balancer", async || {
        let service = api.get("echo").await?;
        let ingress = service.status.and_then(|s| s.load_balancer).and_then(|b| b.ingress);
        let ip = ingress.and_then(|i| i.first()?.ip.clone()).context("none yet")?;
        Ok(SocketAddr::new(ip.parse()?, 8088))
    })
    .await
}

// proves: SBX-1, SBX-2
async fn an_app_runs_and_is_reached() -> Result<()> {
    let sandbox = Sandbox::up("app").await?;
    let accounts: Api<ServiceAccount> = sandbox.api("default");
    eventually("the default account", async || Ok(accounts.get("default").await?)).await?;
    sandbox.apply(settings("one")).await?;
    sandbox.apply(balanced()).await?;
    sandbox.apply(deployment(2, app())).await?;
    let begun = Instant::now();
    let pods = ready_pods(&sandbox, 2).await?;
    println!("  two Pods ready in {} ms", begun.elapsed().as_millis());
    let ip: IpAddr =
        pods[0].status.as_ref().and_then(|s| s.pod_ip.clone()).context("ip")?.parse()?;
    let pod = SocketAddr::new(ip, 8080);
    ensure!(get(pod, HOST, "/env/GREETING").await? == format!("I am {}", pods[0].name_any()));
    ensure!(get(pod, HOST, "/file/etc/settings/k").await? == "one");
    let token = get(pod, HOST, "/file/var/run/secrets/kubernetes.io/serviceaccount/token").await?;
    ensure!(token.split('.').count() == 3, "a token: {token}");
    sandbox.apply(settings("two")).await?;
    eventually("the changed file", async || {
        let value = get(pod, HOST, "/file/etc/settings/k").await?;
        ensure!(value == "two", "{value}");
        Ok(())
    })
    .await?;

    let at = balancer(&sandbox).await?;
    let source = [127, sandbox.cluster.range.octet, 100, 7];
    let seen = eventually("the load balancer", async || get(at, source, "/").await).await?;
    ensure!(seen == Ipv4Addr::from(source).to_string(), "the source is kept: {seen}");
    dns_answers(&sandbox).await?;

    let deployments: Api<Deployment> = sandbox.api("default");
    let status = eventually("a complete rollout", async || {
        let status = deployments.get("echo").await?.status.unwrap_or_default();
        ensure!(status.available_replicas == Some(2) && status.updated_replicas == Some(2));
        Ok(status)
    })
    .await?;
    ensure!(status.observed_generation == Some(1), "{status:?}");
    let params = PatchParams::default();
    let restart = json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "1"}}}}});
    deployments.patch("echo", &params, &Patch::Merge(&restart)).await?;
    eventually("the second rollout", async || {
        let deployment = deployments.get("echo").await?;
        ensure!(
            deployment.annotations().get("deployment.kubernetes.io/revision").map(String::as_str)
                == Some("2")
        );
        let status = deployment.status.unwrap_or_default();
        ensure!(
            status.updated_replicas == Some(2)
                && status.replicas == Some(2)
                && status.available_replicas == Some(2),
            "{status:?}"
        );
        Ok(())
    })
    .await?;
    deployments.patch("echo", &params, &Patch::Merge(&json!({"spec": {"replicas": 0}}))).await?;
    eventually("a closed listener", async || match get(at, HOST, "/").await {
        Ok(answer) => bail!("still answers {answer}"),
        Err(_) => Ok(()),
    })
    .await?;
    sweep(&sandbox).await
}

async fn dns_answers(sandbox: &Sandbox) -> Result<()> {
    let service: Service = sandbox.api("default").get("echo").await?;
    let ip = service.spec.and_then(|s| s.cluster_ip).context("a ClusterIP")?;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let mut question = Message::query();
    let name = Name::from_ascii("echo.default.svc.cluster.local.")?;
    question.add_query(Query::query(name, RecordType::A));
    socket.send_to(&question.to_vec()?, sandbox.cluster.range.dns()).await?;
    let mut buffer = [0; 512];
    let received =
        tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await;
    let (length, _) = received??;
    let answer = Message::from_vec(&buffer[..length])?;
    ensure!(answer.answers.iter().any(|r| r.data.to_string() == ip), "{answer:?}");
    Ok(())
}

/// Deleting a Deployment and a namespace takes everything along.
async fn sweep(sandbox: &Sandbox) -> Result<()> {
    let deployments: Api<Deployment> = sandbox.api("default");
    deployments.delete("echo", &DeleteParams::background()).await?;
    let services: Api<Service> = sandbox.api("default");
    services.delete("echo", &DeleteParams::background()).await?;
    let sets: Api<k8s_openapi::api::apps::v1::ReplicaSet> = sandbox.api("default");
    let slices: Api<EndpointSlice> = sandbox.api("default");
    let endpoints: Api<Endpoints> = sandbox.api("default");
    eventually("collected garbage", async || {
        ensure!(sets.list(&ListParams::default()).await?.items.is_empty(), "ReplicaSets are left");
        let params = ListParams::default().labels("kubernetes.io/service-name=echo");
        ensure!(slices.list(&params).await?.items.is_empty(), "slices are left");
        ensure!(endpoints.get_opt("echo").await?.is_none(), "Endpoints are left");
        Ok(())
    })
    .await?;
    sandbox
        .apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short"}}))
        .await?;
    sandbox
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "short"}}))
        .await?;
    let maps: Api<ConfigMap> = sandbox.api("short");
    eventually("the CA's ConfigMap", async || Ok(maps.get("kube-root-ca.crt").await?)).await?;
    let namespaces: Api<Namespace> = Api::all(sandbox.client.clone());
    let begun = Instant::now();
    namespaces.delete("short", &DeleteParams::default()).await?;
    eventually("the end of a namespace", async || {
        ensure!(namespaces.get_opt("short").await?.is_none());
        Ok(())
    })
    .await?;
    println!("  namespace gone in {} ms", begun.elapsed().as_millis());
    Ok(())
}

// proves: SBX-3, SBX-4
async fn pods_start_and_end_in_order() -> Result<()> {
    let sandbox = Sandbox::up("order").await?;
    let api: Api<Pod> = sandbox.api("default");
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "ordered", "namespace": "default", "labels": {"app": "echo"}},
    "spec": {
        "terminationGracePeriodSeconds": 2,
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "initContainers": [
            {"name": "sidecar", "image": "test", "restartPolicy": "Always", "args": ["serve", "100"],
                "startupProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1}},
            {"name": "init", "image": "test", "command": ["/bin/test", "write"], "args": ["/shared/f", "written"],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "containers": [
            {"name": "crash", "image": "test", "args": ["fail"],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
    }});
    sandbox.apply(pod).await?;
    let pod = eventually("a crash loop behind init containers", async || {
        let pod = api.get("ordered").await?;
        let status = pod.status.clone().unwrap_or_default();
        let crash = status.container_statuses.iter().flatten().next().context("no status")?;
        ensure!(crash.restart_count >= 2, "{status:?}");
        Ok(pod)
    })
    .await?;
    let status = pod.status.clone().unwrap_or_default();
    let last = status.container_statuses.iter().flatten().next().and_then(|c| c.last_state.clone());
    ensure!(last.and_then(|s| s.terminated).map(|t| t.exit_code) == Some(7), "{status:?}");
    let init: Vec<_> = status.init_container_statuses.iter().flatten().collect();
    ensure!(init[0].started == Some(true), "the sidecar runs");
    let ended = init[1].state.as_ref().and_then(|s| s.terminated.as_ref());
    ensure!(ended.is_some_and(|t| t.exit_code == 0), "the init container is done");
    let written = sandbox.data_dir.join("order/pods");
    let folder = std::fs::read_dir(&written)?.flatten().next().context("a folder")?.path();
    ensure!(std::fs::read_to_string(folder.join("volumes/shared/f"))? == "written");
    ensure!(std::fs::read_to_string(folder.join("sidecar.log"))?.contains("serving on"));

    let unknown = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "unknown", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "docker.io/library/nginx:1"}]}});
    sandbox.apply(unknown).await?;
    eventually("the reason", async || {
        let status = api.get("unknown").await?.status.unwrap_or_default();
        ensure!(status.phase.as_deref() == Some("Pending"));
        let state = status.container_statuses.iter().flatten().next().and_then(|c| c.state.clone());
        let waiting = state.and_then(|s| s.waiting).context("not waiting")?;
        ensure!(waiting.reason.as_deref() == Some("ErrImagePull"), "{waiting:?}");
        ensure!(waiting.message.is_some_and(|m| m.contains("nginx")));
        Ok(())
    })
    .await?;
    let begun = Instant::now();
    api.delete("ordered", &DeleteParams::default()).await?;
    api.delete("unknown", &DeleteParams::default()).await?;
    eventually("the end of both Pods", async || {
        ensure!(api.list(&ListParams::default()).await?.items.is_empty());
        Ok(())
    })
    .await?;
    println!("  both Pods gone in {} ms", begun.elapsed().as_millis());
    eventually("clean folders", async || {
        ensure!(std::fs::read_dir(&written)?.next().is_none());
        Ok(())
    })
    .await
}

// proves: SBX-5
async fn faults_heal() -> Result<()> {
    let sandbox = Sandbox::up("faults").await?;
    sandbox.apply(settings("one")).await?;
    sandbox.apply(balanced()).await?;
    sandbox.apply(deployment(1, app())).await?;
    ready_pods(&sandbox, 1).await?;
    let at = balancer(&sandbox).await?;
    let pid = eventually("the app", async || get(at, HOST, "/pid").await).await?;

    let begun = Instant::now();
    sandbox.stop("api").await?;
    println!("  API server stopped in {} ms", begun.elapsed().as_millis());
    ensure!(get(at, HOST, "/pid").await? == pid, "forwarding needs no API server");
    sandbox.stop("node").await?;
    let status = cluster::status(&sandbox.data_dir, "faults")?;
    ensure!(status.processes.iter().filter(|p| p.process.is_some()).count() == 1, "{status:?}");
    sandbox.start("api").await?;
    sandbox.start("node").await?;
    let again = eventually("the adopted app", async || get(at, HOST, "/pid").await).await?;
    ensure!(again == pid, "the same process serves on");
    let pods = ready_pods(&sandbox, 1).await?;
    let restarts = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        statuses.map(|c| c.restart_count).sum::<i32>()
    };
    ensure!(restarts(&pods[0]) == 0);

    sandbox.stop("default/echo").await?;
    eventually("a closed listener", async || match get(at, HOST, "/").await {
        Ok(answer) => bail!("still answers {answer}"),
        Err(_) => Ok(()),
    })
    .await?;
    sandbox.start("default/echo").await?;
    let other = eventually("the restarted app", async || get(at, HOST, "/pid").await).await?;
    ensure!(other != pid);
    eventually("the counted restart", async || {
        let pods = ready_pods(&sandbox, 1).await?;
        ensure!(restarts(&pods[0]) == 1, "{:?}", pods[0].status);
        Ok(())
    })
    .await?;
    let error = sandbox.stop("default/none").await.expect_err("no such Pod").to_string();
    ensure!(error.contains("default/echo-"), "known components are named: {error}");

    let status = cluster::status(&sandbox.data_dir, "faults")?;
    for process in &status.processes {
        println!(
            "  {:40} anonymous {:6} kB, PSS {:6} kB",
            process.role,
            process.anonymous / 1024,
            process.pss / 1024
        );
    }
    let processes: Vec<_> = status.processes.iter().filter_map(|p| p.process).collect();
    ensure!(processes.len() == 3);
    drop(sandbox);
    ensure!(processes.iter().all(|p| !p.is_alive()), "down leaves nothing");
    Ok(())
}

// proves: SBX-6
async fn mirrored_endpoints_follow_fast() -> Result<()> {
    let sandbox = Sandbox::up("mirror").await?;
    let services: Api<Service> = sandbox.api("default");
    let endpoints: Api<Endpoints> = sandbox.api("default");
    let slices: Api<EndpointSlice> = sandbox.api("default");
    let pair = |i: usize| -> Result<(Service, Endpoints)> {
        let metadata = json!({"name": format!("echo-{i}"), "labels": {"mirrored": "yes"}});
        let service =
            json!({"metadata": metadata, "spec": {"ports": [{"name": "http", "port": 8080}]}});
        let endpoints = json!({"metadata": metadata, "subsets": [{
            "addresses": [{"ip": "127.0.0.2"}], "ports": [{"name": "http", "port": 4143}]}]});
        Ok((serde_json::from_value(service)?, serde_json::from_value(endpoints)?))
    };
    let mut times = Vec::new();
    for i in 0..20 {
        let (service, e) = pair(i)?;
        services.create(&PostParams::default(), &service).await?;
        endpoints.create(&PostParams::default(), &e).await?;
        let begun = Instant::now();
        let params = ListParams::default().labels(&format!("kubernetes.io/service-name=echo-{i}"));
        eventually("the mirrored slice", async || {
            let found = slices.list(&params).await?.items;
            ensure!(found.first().is_some_and(|s| s.labels().contains_key("mirrored") && !s.endpoints.is_empty()));
            Ok(())
        })
        .await?;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("  Endpoints -> EndpointSlice: median {:?}, worst {:?}", times[10], times[19]);
    let begun = Instant::now();
    for i in 20..320 {
        let (service, e) = pair(i)?;
        services.create(&PostParams::default(), &service).await?;
        endpoints.create(&PostParams::default(), &e).await?;
    }
    println!("  300 Services and Endpoints written in {} ms", begun.elapsed().as_millis());
    eventually("320 slices", async || {
        let found = slices.list(&ListParams::default().labels("mirrored=yes")).await?.items.len();
        ensure!(found == 320, "{found}");
        Ok(())
    })
    .await?;
    println!("  all slices after {} ms", begun.elapsed().as_millis());
    // The Service takes its hand-written Endpoints along, and they their slice.
    services.delete("echo-7", &DeleteParams::default()).await?;
    eventually("the withdrawn slice", async || {
        let params = ListParams::default().labels("kubernetes.io/service-name=echo-7");
        ensure!(slices.list(&params).await?.items.is_empty());
        Ok(())
    })
    .await
}

// proves: SBX-7
async fn a_second_cluster_is_apart() -> Result<()> {
    let first = Sandbox::up("east").await?;
    let second = Sandbox::up("west").await?;
    ensure!(first.cluster.range.octet != second.cluster.range.octet);
    let (again, launcher) = spec("east", first.data_dir.clone())?;
    let error = cluster::up(&again, &launcher).expect_err("it is up").to_string();
    ensure!(error.contains("is up already"), "{error}");
    Ok(())
}
