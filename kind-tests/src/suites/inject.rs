//! # Suite: injection
//!
//! Job: which Pods get a sidecar and in which form; Jobs that complete; ports that stay outside.
//! Callers: `suites`.

use super::walk::get;
use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, SOON, Stage, app, lines, namespace},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const NAMESPACE: &str = "inject";
const PROXY: &str = "linkerd-proxy";

/// What is asked for, and what must come of it.
struct Case {
    name: &'static str,
    annotations: &'static [(&'static str, &'static str)],
    host_network: bool,
    expected: Sidecar,
}

/// Where the sidecar is.
#[derive(Debug, PartialEq, Eq)]
enum Sidecar {
    None,
    /// An init container that restarts.
    Native,
    /// A container beside the app.
    Beside,
}

const CASES: [Case; 5] = [
    Case { name: "enabled", annotations: &[], host_network: false, expected: Sidecar::Native },
    Case {
        name: "disabled",
        annotations: &[("linkerd.io/inject", "disabled")],
        host_network: false,
        expected: Sidecar::None,
    },
    Case {
        name: "beside",
        annotations: &[("config.linkerd.io/proxy-enable-native-sidecar", "false")],
        host_network: false,
        expected: Sidecar::Beside,
    },
    Case {
        name: "skipped",
        annotations: &[("config.linkerd.io/skip-inbound-ports", "8080")],
        host_network: false,
        expected: Sidecar::Native,
    },
    Case { name: "host-network", annotations: &[], host_network: true, expected: Sidecar::None },
];

/// Applies all cases at once in west and looks at each.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let west = &stage.west;
    let mut objects = vec![namespace(NAMESPACE, true)];
    objects.extend(CASES.iter().flat_map(deployment));
    objects.push(job());
    west.apply(&lines(objects))?;
    for case in &CASES {
        west.rolled_out(NAMESPACE, &format!("deploy/{}", case.name), SOON)?;
        let pod = pod(west, case.name)?;
        let found = sidecar(&pod["spec"]);
        ensure!(
            found == case.expected,
            "{}: expected {:?}, found {found:?}",
            case.name,
            case.expected
        );
    }
    west.run(&["wait", "-n", NAMESPACE, "--for=condition=complete", "job/once", "--timeout=60s"])
        .context("a Job with a sidecar does not complete")?;
    told(stage)?;
    west.line(&format!("delete namespace {NAMESPACE} --wait=false"))?;
    Ok(())
}

/// What each app is told of the meshed client: its identity only where the sidecar takes the traffic.
fn told(stage: &Stage<'_>) -> Result<()> {
    for (name, meshed) in
        [("enabled", true), ("beside", true), ("disabled", false), ("skipped", false)]
    {
        let url = format!("http://{name}.{NAMESPACE}/");
        let told =
            run::until(&format!("an answer of {name}"), SOON, || get(&stage.west, DEMO, &url))?;
        let client = told["client_id"].as_str();
        let right =
            client.is_some_and(|id| id.starts_with(&format!("client.{DEMO}.serviceaccount.")));
        ensure!(
            if meshed { right } else { client.is_none() },
            "{name}: told of the caller: {client:?}, expected {}",
            if meshed { "its identity" } else { "nothing" }
        );
    }
    Ok(())
}

fn deployment(case: &Case) -> Vec<Value> {
    let mut objects = app(NAMESPACE, case.name, "west", 1);
    for (key, value) in case.annotations {
        objects[1]["spec"]["template"]["metadata"]["annotations"][*key] = json!(value);
    }
    if case.host_network {
        let spec = &mut objects[1]["spec"]["template"]["spec"];
        spec["hostNetwork"] = json!(true);
        // The node's own network: ports that nothing else there has.
        let args = spec["containers"][0]["args"].as_array_mut();
        args.into_iter().for_each(|args| {
            args.extend(["--http", "0.0.0.0:18080", "--tcp", "0.0.0.0:19090"].map(Value::from));
        });
        spec["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 18080}, {"name": "tcp", "containerPort": 19090}]);
        spec["containers"][0]["readinessProbe"]["tcpSocket"]["port"] = json!(18080);
    }
    objects
}

/// Asks once and ends; its sidecar must not keep it.
fn job() -> Value {
    let url = format!("http://enabled.{NAMESPACE}/");
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "once", "namespace": NAMESPACE},
        "spec": {
            "backoffLimit": 10,
            "template": {"spec": {
                "restartPolicy": "OnFailure",
                "containers": [{
                    "name": "app", "image": "mesh/demo", "imagePullPolicy": "IfNotPresent",
                    "args": ["get", url, "--timeout", "20"],
                }],
            }},
        },
    })
}

fn pod(cluster: &Kubectl, app: &str) -> Result<Value> {
    let list = cluster.get(&format!("pods -n {NAMESPACE} -l app={app}"))?;
    let pod = list["items"].get(0).cloned();
    pod.with_context(|| format!("no Pod of {app}"))
}

fn sidecar(spec: &Value) -> Sidecar {
    let has = |list: &str| {
        spec[list].as_array().is_some_and(|all| all.iter().any(|c| c["name"] == PROXY))
    };
    match (has("initContainers"), has("containers")) {
        (true, _) => Sidecar::Native,
        (false, true) => Sidecar::Beside,
        (false, false) => Sidecar::None,
    }
}
