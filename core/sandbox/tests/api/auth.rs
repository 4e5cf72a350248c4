//! # Who, and whether they may
//!
//! Job: credentials, roles, impersonation, reviews. May touch: the subject. Must not touch: its inside.
//! Callers: cargo test.

use http::Request;
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::subject::{Answer, Subject, config_map, send};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/NS";
const MAPS: &str = "/api/v1/namespaces/NS/configmaps";

async fn get(client: &Client, path: &str) -> Answer {
    let request = Request::get(path).header("accept", "application/json");
    send(client, request.body(Body::empty()).expect("a request")).await
}

/// Lets an account do what the rules say.
async fn grant(subject: &Subject, account: &str, rules: Value) {
    let role = json!({"metadata": {"name": account}, "rules": rules});
    subject.post(&format!("{RBAC}/roles"), role).await.ok();
    let binding = json!({"metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": subject.namespace}]});
    subject.post(&format!("{RBAC}/rolebindings"), binding).await.ok();
}

#[tokio::test]
async fn no_credential_is_anonymous_and_a_bad_one_is_refused() {
    let subject = Subject::new().await;
    let anonymous = subject.with_user(json!({})).await;
    let message = get(&anonymous, "/api/v1/nodes").await.refused(403, "Forbidden");
    assert_eq!(
        message,
        "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the \
         cluster scope"
    );
    assert_eq!(get(&anonymous, "/healthz").await.ok(), "ok");
    let message = get(&anonymous, "/apis").await.refused(403, "Forbidden");
    assert_eq!(message, "forbidden: User \"system:anonymous\" cannot get path \"/apis\"");
    let liar = subject.with_user(json!({"token": "a.b.c"})).await;
    assert_eq!(get(&liar, "/healthz").await.refused(401, "Unauthorized"), "Unauthorized");
}

// proves: API-7
#[tokio::test]
async fn an_account_can_do_what_its_role_says_and_no_more() {
    let subject = Subject::new().await;
    subject.post(MAPS, config_map("a", json!({}))).await.ok();
    let token = subject.account("reader").await;
    let client = subject.with_user(json!({"token": token})).await;
    let maps = subject.path(MAPS);
    let user = subject.path("system:serviceaccount:NS:reader");
    let message = get(&client, &maps).await.refused(403, "Forbidden");
    assert_eq!(
        message,
        subject.path(&format!(
            "configmaps is forbidden: User \"{user}\" cannot list resource \"configmaps\" in API group \"\" in \
             the namespace \"NS\""
        ))
    );
    grant(
        &subject,
        "reader",
        json!([
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]}]),
    )
    .await;
    // A real server's authoriser learns of a role a moment later.
    let secrets = subject.path("/api/v1/namespaces/NS/secrets");
    for _ in 0..100 {
        if get(&client, &format!("{secrets}/one")).await.code == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    get(&client, &format!("{maps}/a")).await.ok();
    get(&client, &format!("{secrets}/one")).await.refused(404, "NotFound");
    let message = get(&client, &format!("{secrets}/two")).await.refused(403, "Forbidden");
    assert!(message.starts_with("secrets \"two\" is forbidden: User "), "{message}");
    get(&client, &secrets).await.refused(403, "Forbidden");
    get(&client, "/api/v1/namespaces/default/configmaps").await.refused(403, "Forbidden");
    let post = Request::post(&maps).header("content-type", "application/json");
    let post = post
        .body(Body::from(config_map("b", json!({})).to_string().into_bytes()))
        .expect("a request");
    send(&client, post).await.refused(403, "Forbidden");
}

// proves: API-7
#[tokio::test]
async fn impersonation_is_a_right_of_its_own() {
    let subject = Subject::new().await;
    let as_bob = [("impersonate-user", "bob"), ("impersonate-group", "dev")];
    let message = subject.get_with(MAPS, &as_bob).await.refused(403, "Forbidden");
    assert!(message.contains("User \"bob\" cannot list resource \"configmaps\""), "{message}");
    let token = subject.account("plain").await;
    let plain = subject.with_user(json!({"token": token})).await;
    let request = Request::get(subject.path(MAPS)).header("impersonate-user", "bob");
    let request = request.body(Body::empty()).expect("a request");
    let message = send(&plain, request).await.refused(403, "Forbidden");
    assert!(
        message.contains("cannot impersonate resource \"users\" in API group \"\""),
        "{message}"
    );
}

// proves: API-8
#[tokio::test]
async fn tokens_are_reviewed_by_audience() {
    let subject = Subject::new().await;
    subject.account("who").await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": ["mesh"], "expirationSeconds": 600}});
    let path = "/api/v1/namespaces/NS/serviceaccounts/who/token";
    let answer = subject.post(path, request).await;
    assert_eq!(answer.code, 201);
    let token = answer.body["status"]["token"].as_str().expect("a token").to_owned();
    let review = |audiences: Value| {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences}});
        let subject = &subject;
        async move { subject.post("/apis/authentication.k8s.io/v1/tokenreviews", body).await.ok() }
    };
    let good = review(json!(["other", "mesh"])).await;
    let status = &good["status"];
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["mesh"])));
    assert_eq!(status["user"]["username"], subject.path("system:serviceaccount:NS:who"));
    let groups = status["user"]["groups"].as_array().expect("groups");
    for group in [
        "system:serviceaccounts",
        &subject.path("system:serviceaccounts:NS"),
        "system:authenticated",
    ] {
        assert!(groups.iter().any(|g| g == group), "{group}");
    }
    let wrong = review(json!(["other"])).await;
    assert_ne!(wrong["status"]["authenticated"], json!(true));
    assert!(wrong["status"]["error"].as_str().is_some_and(|e| e.contains("audience")), "{wrong}");
    // A token for someone else opens nothing here.
    let client = subject.with_user(json!({"token": token})).await;
    get(&client, "/api/v1/namespaces").await.refused(401, "Unauthorized");
    let short = json!({"spec": {"expirationSeconds": 1}});
    let message = subject.post(path, short).await.refused(422, "Invalid");
    assert!(message.contains("may not specify a duration less than 10 minutes"), "{message}");
}

// proves: API-8
#[tokio::test]
async fn a_token_dies_with_its_account_and_its_pod() {
    let subject = Subject::new().await;
    let token = subject.account("gone").await;
    let client = subject.with_user(json!({"token": token})).await;
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let ask = || {
        let request = Request::post(whoami).header("content-type", "application/json");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        request.body(Body::from(body.to_string().into_bytes())).expect("a request")
    };
    let answer = send(&client, ask()).await.ok();
    assert_eq!(
        answer["status"]["userInfo"]["username"],
        subject.path("system:serviceaccount:NS:gone")
    );
    subject.delete("/api/v1/namespaces/NS/serviceaccounts/gone").await.ok();
    let mut code = 201;
    // A real server trusts a token that it has seen for some seconds.
    for _ in 0..600 {
        code = send(&client, ask()).await.code;
        if code == 401 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(code, 401);
}

#[tokio::test]
async fn access_reviews_tell_what_would_be() {
    let subject = Subject::new().await;
    subject.account("may").await;
    grant(
        &subject,
        "may",
        json!([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]}]),
    )
    .await;
    let user = subject.path("system:serviceaccount:NS:may");
    let review = |sub: &str| {
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": user, "resourceAttributes": {"namespace": subject.namespace, "verb": "patch",
                "group": "apps", "resource": "deployments", "subresource": sub}}});
        let subject = &subject;
        async move {
            let answer =
                subject.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", body).await.ok();
            answer["status"]["allowed"] == json!(true)
        }
    };
    let mut allowed = false;
    for _ in 0..100 {
        allowed = review("scale").await;
        if allowed {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(allowed);
    assert!(!review("").await);
    let own = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let answer =
        subject.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", own).await.ok();
    assert_eq!(answer["status"]["allowed"], true);
}

#[tokio::test]
async fn bodies_of_the_wrong_shape_are_refused() {
    let subject = Subject::new().await;
    subject.account("odd").await;
    for (path, body) in [
        ("/api/v1/namespaces/NS/serviceaccounts/odd/token", json!({"spec": "x"})),
        ("/apis/authorization.k8s.io/v1/subjectaccessreviews", json!({"spec": ["x"]})),
        (
            "/apis/authentication.k8s.io/v1/tokenreviews",
            json!({"metadata": 1, "spec": {"token": {}}}),
        ),
        (
            "/api/v1/namespaces/NS/services",
            json!({"metadata": {"name": "s"}, "spec": {"ports": "x"}}),
        ),
        ("/api/v1/namespaces/NS/pods", json!({"metadata": [], "spec": []})),
        ("/api/v1/namespaces/NS/configmaps", json!([1])),
        ("/api/v1/namespaces/NS/configmaps", json!("x")),
    ] {
        let answer = subject.post(path, body.clone()).await;
        assert!((400..500).contains(&answer.code), "{path} {body}: {answer:?}");
    }
}

#[tokio::test]
async fn a_token_secret_is_filled_whenever_its_account_comes() {
    let subject = Subject::new().await;
    if subject.sandbox.is_none() {
        // On a real cluster that is the controller manager's work, which this subject does not have.
        return;
    }
    let secret = json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "late"}},
        "type": "kubernetes.io/service-account-token"});
    let path = "/api/v1/namespaces/NS/secrets";
    subject.post(path, secret).await.ok();
    subject.account("late").await;
    let filled = subject.get(&format!("{path}/t")).await.ok();
    let token = filled["data"]["token"].as_str().expect("a token");
    let token = {
        use ::base64::{Engine as _, engine::general_purpose::STANDARD};
        String::from_utf8(STANDARD.decode(token).expect("base64")).expect("text")
    };
    let client = subject.with_user(json!({"token": token})).await;
    get(&client, "/version").await.ok();
    subject.delete(&format!("{path}/t")).await.ok();
    get(&client, "/version").await.refused(401, "Unauthorized");
}

// proves: API-10
#[tokio::test]
async fn the_audit_log_has_a_line_for_every_write() {
    let subject = Subject::new().await;
    let Some(sandbox) = &subject.sandbox else {
        // The log of a real server is where its flags say.
        return;
    };
    subject.post(MAPS, config_map("audited", json!({}))).await.ok();
    subject.get(&format!("{MAPS}/nope")).await.refused(404, "NotFound");
    let path = sandbox.folder.path().join("data/audit.log");
    let wanted = |lines: &[Value], verb: &str, name: &str, code: u64| {
        lines.iter().any(|line| {
            line["verb"] == verb
                && line["objectRef"]["resource"] == "configmaps"
                && line["objectRef"]["name"].as_str().unwrap_or_default() == name
                && line["responseStatus"]["code"] == code
                && line["stage"] == "ResponseComplete"
                && line["user"]["username"] == "kubernetes-admin"
        })
    };
    for _ in 0..200 {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if wanted(&lines, "create", "", 201) && wanted(&lines, "get", "nope", 404) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the lines are missing");
}

// proves: API-9
#[tokio::test]
async fn a_restart_keeps_objects_credentials_and_tokens() {
    let subject = Subject::new().await;
    subject.post(MAPS, config_map("kept", json!({"k": "v"}))).await.ok();
    let token = subject.account("kept").await;
    let namespace = subject.namespace.clone();
    let Some(sandbox) = subject.sandbox else {
        // Only the sandbox can be restarted from here.
        return;
    };
    let addr = sandbox.server.addr();
    let kubeconfig = sandbox.server.admin_kubeconfig();
    sandbox.server.shutdown().await;
    drop(subject.client);
    let data = sandbox.folder.path().join("data");
    let config = mesh_sandbox::api::ApiConfig::new("suite", data, addr);
    let server =
        mesh_sandbox::api::ApiServer::start(config).await.expect("the same folder and port");
    assert_eq!(server.admin_kubeconfig(), kubeconfig);
    let kubeconfig =
        kube::config::Kubeconfig::from_yaml(&server.token_kubeconfig("t", &token)).expect("YAML");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .expect("usable");
    let client = Client::try_from(config).expect("a client");
    get(&client, "/version").await.ok();
    let admin = kube::config::Kubeconfig::from_yaml(&server.admin_kubeconfig()).expect("YAML");
    let config =
        kube::Config::from_custom_kubeconfig(admin, &Default::default()).await.expect("usable");
    let client = Client::try_from(config).expect("a client");
    let kept = get(&client, &format!("/api/v1/namespaces/{namespace}/configmaps/kept")).await.ok();
    assert_eq!(kept["data"], json!({"k": "v"}));
    server.shutdown().await;
}
