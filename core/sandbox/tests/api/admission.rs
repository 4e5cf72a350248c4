//! # Admission webhooks
//!
//! Job: mutation, refusal, failure policies, selectors. May touch: the subject, a webhook on loopback.
//! Must not touch: its inside. Callers: cargo test.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::subject::{Subject, config_map};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";
pub(crate) const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";

/// A webhook under a name that answers every review with `answer`; returns its address and certificate. The request that
/// `answer` gets has the path, too. An answer `{"hang": true}` never comes, `{"raw": ..}` is sent as it is.
pub(crate) async fn webhook(name: &str, answer: fn(&Value) -> Value) -> (SocketAddr, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.into()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .expect("a certificate");
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(tcp).await else { return };
                let service = service_fn(move |request| respond(request, answer));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // The client closes when it has its answer.
                let _ = connection.await;
            });
        }
    });
    (addr, certificate.pem())
}

async fn respond(
    request: Request<Incoming>,
    answer: fn(&Value) -> Value,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a review").to_bytes();
    let mut review: Value = serde_json::from_slice(&body).expect("JSON");
    review["request"]["path"] = path.into();
    let mut response = answer(&review["request"]);
    if response["hang"] == true {
        std::future::pending::<()>().await;
    }
    if response.get("uid").is_none() {
        response["uid"] = review["request"]["uid"].clone();
    }
    let raw = response["raw"].as_str().map(str::to_owned);
    let code = response["http"].as_u64().and_then(|code| u16::try_from(code).ok());
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let text = raw.unwrap_or_else(|| review.to_string());
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() =
        http::StatusCode::from_u16(code.unwrap_or(200)).expect("a status code");
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Registers the webhook for ConfigMaps of the test's namespace and waits until it is asked.
async fn register(
    subject: &Subject,
    plural: &str,
    addr: SocketAddr,
    ca: &str,
    policy: &str,
) -> String {
    let kind = if plural.starts_with("mutating") {
        "MutatingWebhookConfiguration"
    } else {
        "ValidatingWebhookConfiguration"
    };
    let name = format!("{}-{plural}", subject.namespace);
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "webhooks": [{
            "name": "suite.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": policy, "timeoutSeconds": 2,
            "clientConfig": {"url": format!("https://{addr}/hook"), "caBundle": STANDARD.encode(ca)},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": subject.namespace}},
            "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                "operations": ["CREATE", "UPDATE", "DELETE"]}]}]});
    let path = format!("{CONFIGURATIONS}/{plural}");
    subject.post(&path, body).await.ok();
    format!("{path}/{name}")
}

/// Creates ConfigMaps until the webhook's effect shows: a real server learns of it a moment later.
async fn until_asked(subject: &Subject, effect: impl Fn(u16, &Value) -> bool) -> (u16, Value) {
    for n in 0..200 {
        let answer = subject.post(MAPS, config_map(&format!("probe-{n}"), json!({}))).await;
        if effect(answer.code, &answer.body) {
            return (answer.code, answer.body);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the webhook was never asked");
}

#[tokio::test]
async fn a_mutating_webhook_patches() {
    let subject = Subject::new().await;
    let (addr, ca) = webhook("127.0.0.1", |request| {
        assert_eq!(request["resource"]["resource"], "configmaps");
        assert!(request["userInfo"]["username"].is_string());
        let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"seen": request["operation"]}}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
    })
    .await;
    let path = register(&subject, "mutatingwebhookconfigurations", addr, &ca, "Fail").await;
    let (_, made) =
        until_asked(&subject, |_, body| body["metadata"]["labels"]["seen"] == "CREATE").await;
    let name = made["metadata"]["name"].as_str().expect("a name").to_owned();
    let patch = json!({"data": {"k": "v"}});
    let patched = subject.patch(&format!("{MAPS}/{name}"), super::subject::MERGE, patch).await.ok();
    assert_eq!(patched["metadata"]["labels"]["seen"], "UPDATE");
    let mut skipped = config_map("skipped", json!({}));
    skipped["metadata"]["labels"] = json!({"skip": "me"});
    let made = subject.post(MAPS, skipped).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"skip": "me"}));
    subject.delete(&path).await.ok();
}

#[tokio::test]
async fn a_validating_webhook_refuses() {
    let subject = Subject::new().await;
    let (addr, ca) = webhook("127.0.0.1", |request| match request["operation"].as_str() {
        Some("DELETE") => {
            json!({"allowed": false, "status": {"code": 409, "message": "it is needed"}})
        }
        _ if request["object"]["data"]["bad"].is_string() => {
            json!({"allowed": false, "status": {"message": "bad data"}})
        }
        _ => json!({"allowed": true, "warnings": ["looks odd"]}),
    })
    .await;
    subject.post(MAPS, config_map("kept", json!({}))).await.ok();
    let path = register(&subject, "validatingwebhookconfigurations", addr, &ca, "Fail").await;
    let refusal = |answer: &super::subject::Answer| {
        answer.body["message"].as_str().unwrap_or_default().to_owned()
    };
    let mut answer = subject.post(MAPS, config_map("bad-0", json!({"bad": "x"}))).await;
    for n in 1..200 {
        if answer.code >= 400 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        answer = subject.post(MAPS, config_map(&format!("bad-{n}"), json!({"bad": "x"}))).await;
    }
    assert_eq!(answer.code, 400);
    assert_eq!(
        refusal(&answer),
        "admission webhook \"suite.example.com\" denied the request: bad data"
    );
    let answer = subject.delete(&format!("{MAPS}/kept")).await;
    assert_eq!(
        (answer.code, refusal(&answer)),
        (409, "admission webhook \"suite.example.com\" denied the request: it is needed".into())
    );
    subject.delete(&path).await.ok();
}

#[tokio::test]
async fn a_webhook_that_is_away_fails_or_is_ignored() {
    let subject = Subject::new().await;
    let (_, ca) = webhook("127.0.0.1", |_| json!({"allowed": true})).await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let path = register(&subject, "mutatingwebhookconfigurations", nobody, &ca, "Fail").await;
    let (code, body) = until_asked(&subject, |code, _| code >= 400).await;
    let message = body["message"].as_str().unwrap_or_default();
    assert_eq!((code, body["reason"].as_str()), (500, Some("InternalError")));
    let expected = "Internal error occurred: failed calling webhook \"suite.example.com\": failed to call webhook: \
        Post \"https://127.0.0.1:";
    assert!(message.starts_with(expected), "{message}");
    subject.delete(&path).await.ok();
}

#[tokio::test]
async fn a_webhook_is_found_through_its_service() {
    let subject = Subject::new().await;
    if subject.sandbox.is_none() {
        // A real server refuses loopback addresses in EndpointSlices.
        return;
    }
    let name = subject.path("hook.NS.svc");
    let (addr, ca) = webhook(
        &name,
        |request| json!({"allowed": request["object"]["metadata"]["name"] != "refused"}),
    )
    .await;
    let service =
        json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443, "name": "https"}]}});
    subject.post("/api/v1/namespaces/NS/services", service).await.ok();
    let body = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": subject.namespace},
        "webhooks": [{
            "name": "suite.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": STANDARD.encode(ca),
                "service": {"namespace": subject.namespace, "name": "hook", "path": "/hook"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                "operations": ["CREATE"]}]}]});
    subject.post(&format!("{CONFIGURATIONS}/validatingwebhookconfigurations"), body).await.ok();
    let answer = subject.post(MAPS, config_map("early", json!({}))).await;
    assert_eq!(
        answer.refused(500, "InternalError"),
        "Internal error occurred: failed calling webhook \"suite.example.com\": failed to call webhook: Post \
         \"https://hook.NS.svc:443/hook?timeout=10s\": no endpoints available for service \"hook\""
            .replace("NS", &subject.namespace)
    );
    let slice = json!({"metadata": {"name": "hook", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": addr.port()}],
        "endpoints": [{"addresses": ["127.0.0.9"], "conditions": {"ready": false}},
            {"addresses": [addr.ip().to_string()], "conditions": {"ready": true}}]});
    subject.post("/apis/discovery.k8s.io/v1/namespaces/NS/endpointslices", slice).await.ok();
    subject.post(MAPS, config_map("taken", json!({}))).await.ok();
    let answer = subject.post(MAPS, config_map("refused", json!({}))).await;
    assert_eq!(answer.code, 400);
}
