//! # What the demo deploys
//!
//! Job: the objects of the two example applications, as JSON lines.
//! May touch: values. Callers: `demo`.

use super::cluster::NAMESPACE;
use serde_json::{Value, json};

/// The namespace, meshed.
pub(crate) fn namespace() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": NAMESPACE, "annotations": { "linkerd.io/inject": "enabled" } },
    })
}

/// A ServiceAccount and a Deployment of the demo app called `name`.
pub(crate) fn app(name: &str, cluster: &str, replicas: u32) -> [Value; 2] {
    let container = json!({
        "name": "app",
        "image": "mesh/demo",
        // A real kubelet would ask a registry for an image without a tag.
        "imagePullPolicy": "IfNotPresent",
        "args": ["app", "--cluster", cluster, "--pod", "$(POD)", "--http", "0.0.0.0:8080", "--tcp", "0.0.0.0:9090"],
        "env": [{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "tcp", "containerPort": 9090 }],
        "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
    });
    let labels = json!({ "app": name });
    [
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": NAMESPACE },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": {
                        "labels": labels,
                        "annotations": { "config.linkerd.io/opaque-ports": "9090" },
                    },
                    "spec": { "serviceAccountName": name, "containers": [container] },
                },
            },
        }),
    ]
}

/// The Service in front of the app.
pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "labels": { "app": name },
            "annotations": { "config.linkerd.io/opaque-ports": "9090" },
        },
        "spec": {
            "selector": { "app": name },
            "ports": [
                { "name": "http", "port": 80, "targetPort": "http" },
                { "name": "tcp", "port": 9090, "targetPort": "tcp" },
            ],
        },
    })
}

/// Objects as lines.
pub(crate) fn lines(objects: impl IntoIterator<Item = Value>) -> String {
    objects.into_iter().map(|object| format!("{object}\n")).collect()
}
