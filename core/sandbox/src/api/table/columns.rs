//! # Columns
//!
//! Job: one row a kind: which columns it has, and what fills them.
//! May touch: objects. Must not touch: the store.
//! Callers: `table`.

use serde_json::{Value, json};

use super::{duration::age, json_path, rows};
use crate::api::{object::meta, registry::Resource};

/// A column with the function that fills it.
pub(super) struct Column {
    name: String,
    kind: String,
    format: &'static str,
    wide: bool,
    fill: Fill,
}

enum Fill {
    Builtin(fn(&Value) -> Value),
    Path(String),
}

impl Column {
    fn new(name: &str, fill: fn(&Value) -> Value) -> Self {
        Self {
            name: name.into(),
            kind: "string".into(),
            format: if name == "Name" { "name" } else { "" },
            wide: false,
            fill: Fill::Builtin(fill),
        }
    }

    fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    fn number(mut self) -> Self {
        self.kind = "integer".into();
        self
    }

    pub(super) fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format, "description": "",
            "priority": i32::from(self.wide),
        })
    }

    pub(super) fn cell(&self, object: &Value) -> Value {
        match &self.fill {
            Fill::Builtin(fill) => fill(object),
            Fill::Path(path) => path_cell(object, path, &self.kind),
        }
    }
}

fn path_cell(object: &Value, path: &str, kind: &str) -> Value {
    let found = json_path::find(object, path);
    let Some(first) = found.first() else { return Value::Null };
    match kind {
        "date" => age(first).into(),
        "integer" | "number" | "boolean" => (*first).clone(),
        _ => {
            let texts: Vec<String> = found
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            texts.join(",").into()
        }
    }
}

/// The columns of a resource.
pub(super) fn of(resource: &Resource) -> Vec<Column> {
    if resource.table == "/events" {
        return event_columns();
    }
    let mut columns = vec![Column::new("Name", |o| meta(o, "name").into())];
    if let Some(custom) = &resource.custom {
        for column in &custom.columns {
            columns.push(Column {
                name: column.name.clone(),
                kind: column.kind.clone(),
                format: "",
                wide: column.priority > 0,
                fill: Fill::Path(column.json_path.clone()),
            });
        }
        if custom.columns.is_empty() {
            columns.push(Column::new("Age", rows::age_of));
        }
        return columns;
    }
    let c = Column::new;
    let age = || Column::new("Age", rows::age_of);
    columns.extend(match resource.table.as_str() {
        "/pods" => vec![
            c("Ready", rows::pod_ready),
            c("Status", rows::pod_status),
            c("Restarts", rows::pod_restarts),
            age(),
            c("IP", rows::pod_ip).wide(),
            c("Node", rows::pod_node).wide(),
            c("Nominated Node", |_| "<none>".into()).wide(),
            c("Readiness Gates", |_| "<none>".into()).wide(),
        ],
        "/services" => vec![
            c("Type", |o| o["spec"]["type"].clone()),
            c("Cluster-IP", rows::cluster_ip),
            c("External-IP", rows::external_ip),
            c("Port(s)", rows::service_ports),
            age(),
            c("Selector", rows::service_selector).wide(),
        ],
        "/endpoints" => vec![c("Endpoints", rows::endpoints), age()],
        "discovery.k8s.io/endpointslices" => vec![
            c("AddressType", |o| o["addressType"].clone()),
            c("Ports", rows::slice_ports),
            c("Endpoints", rows::slice_endpoints),
            age(),
        ],
        "apps/deployments" => vec![
            c("Ready", rows::deployment_ready),
            c("Up-to-date", |o| rows::count(o, "updatedReplicas")).number(),
            c("Available", |o| rows::count(o, "availableReplicas")).number(),
            age(),
            c("Containers", rows::container_names).wide(),
            c("Images", rows::images).wide(),
            c("Selector", rows::workload_selector).wide(),
        ],
        "apps/replicasets" => vec![
            c("Desired", |o| o["spec"]["replicas"].clone()).number(),
            c("Current", |o| rows::count(o, "replicas")).number(),
            c("Ready", |o| rows::count(o, "readyReplicas")).number(),
            age(),
            c("Containers", rows::container_names).wide(),
            c("Images", rows::images).wide(),
            c("Selector", rows::workload_selector).wide(),
        ],
        "/nodes" => vec![
            c("Status", rows::node_status),
            c("Roles", rows::node_roles),
            age(),
            c("Version", |o| rows::node_info(o, "kubeletVersion")),
            c("Internal-IP", |o| rows::node_address(o, "InternalIP")).wide(),
            c("External-IP", |o| rows::node_address(o, "ExternalIP")).wide(),
            c("OS-Image", |o| rows::node_info(o, "osImage")).wide(),
            c("Kernel-Version", |o| rows::node_info(o, "kernelVersion")).wide(),
            c("Container-Runtime", |o| rows::node_info(o, "containerRuntimeVersion")).wide(),
        ],
        "/namespaces" => vec![c("Status", |o| o["status"]["phase"].clone()), age()],
        "/configmaps" => vec![c("Data", rows::data_count).number(), age()],
        "/secrets" => {
            vec![c("Type", |o| o["type"].clone()), c("Data", rows::data_count).number(), age()]
        }
        "/serviceaccounts" => vec![c("Secrets", rows::secret_count).number(), age()],
        "coordination.k8s.io/leases" => {
            vec![c("Holder", |o| o["spec"]["holderIdentity"].clone()), age()]
        }
        "apiextensions.k8s.io/customresourcedefinitions"
        | "rbac.authorization.k8s.io/roles"
        | "rbac.authorization.k8s.io/clusterroles" => {
            vec![c("Created At", |o| o["metadata"]["creationTimestamp"].clone())]
        }
        "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterrolebindings" => vec![
            c("Role", rows::bound_role),
            age(),
            c("Users", |o| rows::subjects(o, "User")).wide(),
            c("Groups", |o| rows::subjects(o, "Group")).wide(),
            c("ServiceAccounts", |o| rows::subjects(o, "ServiceAccount")).wide(),
        ],
        "admissionregistration.k8s.io/mutatingwebhookconfigurations"
        | "admissionregistration.k8s.io/validatingwebhookconfigurations" => {
            vec![
                c("Webhooks", |o| o["webhooks"].as_array().map_or(0, Vec::len).into()).number(),
                age(),
            ]
        }
        _ => vec![age()],
    });
    columns
}

fn event_columns() -> Vec<Column> {
    let c = Column::new;
    vec![
        c("Last Seen", rows::event_last_seen),
        c("Type", |o| o["type"].clone()),
        c("Reason", |o| o["reason"].clone()),
        c("Object", rows::event_object),
        c("Subobject", |o| rows::involved(o)["fieldPath"].clone()).wide(),
        c("Source", rows::event_source).wide(),
        c("Message", |o| rows::either(o, "message", "note").clone()),
        c("First Seen", rows::event_first_seen).wide(),
        c("Count", rows::event_count).number().wide(),
        c("Name", |o| meta(o, "name").into()).wide(),
    ]
}
