//! # Tables
//!
//! Job: what `kubectl get` prints. May touch: the subject. Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::subject::{Subject, config_map};

const TABLE: (&str, &str) =
    ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");

fn columns(table: &Value, wide: bool) -> Vec<String> {
    let columns = table["columnDefinitions"].as_array().expect("columns");
    columns
        .iter()
        .filter(|c| wide || c["priority"] == 0)
        .map(|c| c["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn kinds_have_kubernetes_columns() {
    let subject = Subject::new().await;
    for (path, expected) in [
        (
            "/api/v1/namespaces/NS/pods",
            "Name,Ready,Status,Restarts,Age,IP,Node,Nominated Node,Readiness Gates",
        ),
        ("/api/v1/namespaces/NS/services", "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector"),
        ("/api/v1/namespaces/NS/endpoints", "Name,Endpoints,Age"),
        ("/api/v1/namespaces/NS/configmaps", "Name,Data,Age"),
        ("/api/v1/namespaces/NS/secrets", "Name,Type,Data,Age"),
        ("/api/v1/namespaces/NS/serviceaccounts", "Name,Secrets,Age"),
        (
            "/api/v1/namespaces/NS/events",
            "Last Seen,Type,Reason,Object,Subobject,Source,Message,First Seen,Count,Name",
        ),
        ("/api/v1/namespaces", "Name,Status,Age"),
        (
            "/api/v1/nodes",
            "Name,Status,Roles,Age,Version,Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime",
        ),
        (
            "/apis/apps/v1/namespaces/NS/deployments",
            "Name,Ready,Up-to-date,Available,Age,Containers,Images,Selector",
        ),
        (
            "/apis/apps/v1/namespaces/NS/replicasets",
            "Name,Desired,Current,Ready,Age,Containers,Images,Selector",
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/NS/endpointslices",
            "Name,AddressType,Ports,Endpoints,Age",
        ),
        ("/apis/coordination.k8s.io/v1/namespaces/NS/leases", "Name,Holder,Age"),
        (
            "/apis/rbac.authorization.k8s.io/v1/namespaces/NS/rolebindings",
            "Name,Role,Age,Users,Groups,ServiceAccounts",
        ),
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "Name,Created At"),
    ] {
        let table = subject.get_with(path, &[TABLE]).await.ok();
        assert_eq!(columns(&table, true).join(","), expected, "{path}");
    }
}

#[tokio::test]
async fn rows_carry_cells_and_metadata() {
    let subject = Subject::new().await;
    let body = json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let made = subject.post("/api/v1/namespaces/NS/services", body).await.ok();
    let table = subject.get_with("/api/v1/namespaces/NS/services", &[TABLE]).await.ok();
    let row = &table["rows"][0];
    let cells = row["cells"].as_array().expect("cells");
    assert_eq!(cells[..2], [json!("s"), json!("ClusterIP")]);
    assert_eq!(cells[2], made["spec"]["clusterIP"]);
    assert_eq!(cells[3..5], [json!("<none>"), json!("80/TCP")]);
    assert_eq!(cells[6], "a=b");
    assert_eq!(
        (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("s"))
    );
}

#[tokio::test]
async fn one_object_can_be_a_table_too() {
    let subject = Subject::new().await;
    subject
        .post("/api/v1/namespaces/NS/configmaps", config_map("a", json!({"x": "1", "y": "2"})))
        .await
        .ok();
    let table = subject.get_with("/api/v1/namespaces/NS/configmaps/a", &[TABLE]).await.ok();
    assert_eq!(
        table["rows"][0]["cells"].as_array().map(|c| &c[..2]),
        Some(&[json!("a"), json!(2)][..])
    );
    let accept = [("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")];
    let partial = subject.get_with("/api/v1/namespaces/NS/configmaps/a", &accept).await.ok();
    assert_eq!((&partial["kind"], partial.get("data")), (&json!("PartialObjectMetadata"), None));
    let accept = [("accept", "application/vnd.unknown")];
    let answer = subject.get_with("/api/v1/namespaces/NS/configmaps/a", &accept).await;
    assert_eq!(answer.code, 406);
}

#[tokio::test]
async fn discovery_comes_whole_or_in_parts() {
    let subject = Subject::new().await;
    let groups = subject.get("/apis").await.ok();
    let apps = groups["groups"].as_array().expect("groups").iter().find(|g| g["name"] == "apps");
    assert_eq!(apps.map(|g| &g["preferredVersion"]["groupVersion"]), Some(&json!("apps/v1")));
    let core = subject.get("/api/v1").await.ok();
    let find = |name: &str| {
        core["resources"]
            .as_array()
            .expect("resources")
            .iter()
            .find(|r| r["name"] == name)
            .cloned()
            .expect(name)
    };
    assert_eq!(find("pods")["shortNames"], json!(["po"]));
    assert_eq!(find("serviceaccounts/token")["kind"], "TokenRequest");
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = subject.get_with("/apis", &accept).await.ok();
    assert_eq!(all["kind"], "APIGroupDiscoveryList");
    let version = subject.get("/version").await.ok();
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("34")));
    let index = subject.get("/openapi/v3").await.ok();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a document");
    let document = subject.get(url).await.ok();
    let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]
        ["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(subject.get("/apis/apps/v1/nonsense").await.code, 404);
}
