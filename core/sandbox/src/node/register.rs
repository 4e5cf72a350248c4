//! # Registration
//!
//! Job: shows this machine as the cluster's one node, and shows it again should somebody delete it.
//! May touch: the API's Nodes. Must not touch: Pods. Callers: the node agent.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;

use super::NodeConfig;
use crate::feed::{Change, feed};

/// Pause between two attempts.
const RETRY: Duration = Duration::from_millis(50);

/// Registers the node, however long it takes.
pub(crate) async fn register(client: &Client, config: &NodeConfig) {
    let api: Api<Node> = Api::all(client.clone());
    while let Err(error) = try_register(&api, config).await {
        tracing::debug!(%error, "the node is not registered yet");
        tokio::time::sleep(RETRY).await;
    }
}

/// Registers the node again after a deletion. Never ends.
pub(crate) async fn keep_registered(client: Client, config: NodeConfig) {
    let api: Api<Node> = Api::all(client.clone());
    let mine = watcher::Config::default().fields(&format!("metadata.name={}", config.name));
    let mut changes = Box::pin(feed(api, mine));
    while let Some(change) = changes.next().await {
        let gone = match change {
            Change::Apply(_) => false,
            Change::Delete(node) => node.name_any() == config.name,
            Change::Replace(nodes) => !nodes.iter().any(|n| n.name_any() == config.name),
        };
        if gone {
            register(&client, &config).await;
        }
    }
}

async fn try_register(api: &Api<Node>, config: &NodeConfig) -> Result<(), kube::Error> {
    let node: Node = serde_json::from_value(node(config)).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    let patch = json!({"status": node.status});
    api.patch_status(&config.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

fn node(config: &NodeConfig) -> serde_json::Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|l| l.split_whitespace().next()).unwrap_or("0").to_owned();
    let capacity =
        json!({"cpu": cores.to_string(), "memory": format!("{memory}Ki"), "pods": "1000"});
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let cidr = format!("127.{}.0.0/17", config.range.octet);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": config.name, "labels": {
            "kubernetes.io/hostname": config.name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture(), "beta.kubernetes.io/os": "linux",
            "node-role.kubernetes.io/control-plane": "",
        }},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr], "providerID": format!("sandbox://{}", config.name)},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": config.range.node().to_string()},
                {"type": "Hostname", "address": config.name}],
            "capacity": capacity, "allocatable": capacity,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "architecture": architecture(), "operatingSystem": "linux", "bootID": "",
                "containerRuntimeVersion": "sandbox://1", "kernelVersion": kernel.trim(),
                "kubeProxyVersion": "v1.34.0", "kubeletVersion": "v1.34.0", "machineID": "",
                "osImage": "Sandbox", "systemUUID": ""},
        },
    })
}

/// The machine's architecture as Kubernetes writes it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
