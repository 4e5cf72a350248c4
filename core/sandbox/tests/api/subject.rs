//! # The subject of the suite
//!
//! Job: a client of the API server under test, with a fresh namespace. May touch: sockets.
//! Must not touch: what is tested. Callers: every test of the suite.

use std::{collections::VecDeque, time::Duration};

use http::{Method, Request};
use http_body_util::BodyExt as _;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use mesh_sandbox::{
    api::{ApiConfig, ApiServer},
    controllers::{self, ControllersConfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

pub(crate) const JSON: &str = "application/json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
/// No answer and no event takes longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// An API server with a namespace for one test.
pub(crate) struct Subject {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The sandbox, if it is the subject.
    pub(crate) sandbox: Option<Sandbox>,
    kubeconfig: Value,
}

pub(crate) struct Sandbox {
    pub(crate) server: ApiServer,
    pub(crate) folder: TempDir,
}

/// An answer: code and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    /// What the Warning headers say.
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "expected success, got {self:?}");
        self.body
    }

    /// The fields that a refusal names, each with its reason, sorted: servers tell them in any order.
    #[track_caller]
    pub(crate) fn causes(&self) -> Vec<(String, String)> {
        let causes = self.body["details"]["causes"].as_array();
        let causes = causes.unwrap_or_else(|| panic!("expected causes, got {self:?}"));
        let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or("").to_owned();
        let mut causes: Vec<_> =
            causes.iter().map(|c| (text(c, "field"), text(c, "message"))).collect();
        causes.sort();
        causes.dedup();
        causes
    }

    /// The message of a refusal with this code and reason.
    #[track_caller]
    pub(crate) fn refused(self, code: u16, reason: &str) -> String {
        let got = (self.code, self.body["reason"].as_str().unwrap_or_default());
        assert_eq!(got, (code, reason), "{}", self.body);
        self.body["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Subject {
    pub(crate) async fn new() -> Self {
        let (kubeconfig, sandbox) = match std::env::var_os("MESH_API_SUITE_KUBECONFIG") {
            Some(path) => {
                let text = std::fs::read_to_string(&path).expect("a readable kubeconfig");
                (text, None)
            }
            None => {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let addr = "127.0.0.1:0".parse().expect("an address");
                let config = ApiConfig::new("suite", folder.path().join("data"), addr);
                let server = ApiServer::start(config).await.expect("the sandbox starts");
                (server.admin_kubeconfig(), Some(Sandbox { server, folder }))
            }
        };
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).expect("a kubeconfig");
        let kubeconfig = serde_json::to_value(&kubeconfig).expect("a kubeconfig is JSON");
        let random: u32 = rand::random();
        let namespace = format!("suite-{random:08x}");
        let client = client(&kubeconfig).await;
        let subject = Self { client, namespace, sandbox, kubeconfig };
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": subject.namespace}});
        subject.post("/api/v1/namespaces", body).await.ok();
        subject
    }

    /// [`Subject::new`] with the cluster's controllers beside the API server, which a real one has anyway.
    pub(crate) async fn with_controllers() -> Self {
        let subject = Self::new().await;
        if subject.sandbox.is_some() {
            let config = ControllersConfig {
                first_balancer: std::net::Ipv4Addr::new(192, 0, 2, 1),
                ca_pem: String::new(),
            };
            // It ends with the test's runtime.
            tokio::spawn(controllers::run(subject.client.clone(), config));
        }
        subject
    }

    /// A client with another credential: the `user` of a kubeconfig.
    pub(crate) async fn with_user(&self, user: Value) -> Client {
        let mut kubeconfig = self.kubeconfig.clone();
        kubeconfig["users"][0]["user"] = user;
        client(&kubeconfig).await
    }

    /// A path, or a text, with `NS` replaced by the test's namespace; a query stays, it may hold a token.
    pub(crate) fn path(&self, path: &str) -> String {
        let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
        path.replace("NS", &self.namespace) + query
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, JSON, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, JSON, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, JSON, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, kind, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, JSON, None).await
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<Value>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(self.path(path))
            .header("content-type", content_type)
            .header("accept", JSON)
            .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string().into_bytes())))
            .expect("a request");
        send(&self.client, request).await
    }

    /// A GET with headers of its own.
    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(self.path(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(&self.client, request.body(Body::empty()).expect("a request")).await
    }

    pub(crate) async fn watch(&self, path: &str) -> Watch {
        let request = Request::get(self.path(path)).header("accept", JSON);
        let request = request.body(Body::empty()).expect("a request");
        let response = timeout(DEADLINE, self.client.send(request))
            .await
            .expect("an answer in time")
            .expect("an answer");
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: Vec::new(), lines: VecDeque::new() }
    }

    /// Reads a path until its answer is as wished.
    pub(crate) async fn until(&self, path: &str, wished: impl Fn(&Answer) -> bool) -> Answer {
        let look = async {
            loop {
                let answer = self.get(path).await;
                if wished(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, look).await.expect("the wished answer in time")
    }

    /// A ServiceAccount with a token for the API server.
    pub(crate) async fn account(&self, name: &str) -> String {
        let body = json!({"metadata": {"name": name}});
        self.post("/api/v1/namespaces/NS/serviceaccounts", body).await.ok();
        let path = format!("/api/v1/namespaces/NS/serviceaccounts/{name}/token");
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = self.post(&path, request).await.ok();
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }
}

/// Sends a request; whatever the code, the answer comes back.
pub(crate) async fn send(client: &Client, request: Request<Body>) -> Answer {
    let response = timeout(DEADLINE, client.send(request))
        .await
        .expect("an answer in time")
        .expect("an answer");
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter().filter_map(|header| {
        // `299 - "a sentence"`; its quotes are escaped as in JSON.
        serde_json::from_str(header.to_str().ok()?.strip_prefix("299 - ")?).ok()
    });
    let warnings = warnings.collect();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Answer { code, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()), warnings }
}

async fn client(kubeconfig: &Value) -> Client {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a usable kubeconfig");
    Client::try_from(config).expect("a client")
}

/// An open watch.
pub(crate) struct Watch {
    body: Body,
    rest: Vec<u8>,
    lines: VecDeque<Value>,
}

impl Watch {
    /// The next event: its type and object.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        let event = timeout(DEADLINE, self.line()).await.expect("an event in time");
        let event = event.expect("the watch goes on");
        (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone())
    }

    /// The next event's type and the name of its object.
    pub(crate) async fn next_name(&mut self) -> (String, String) {
        let (change, object) = self.next().await;
        (change, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether nothing more comes.
    pub(crate) async fn ended(&mut self) -> bool {
        timeout(DEADLINE, self.line()).await.expect("an end in time").is_none()
    }

    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let frame = self.body.frame().await?.expect("a frame");
            self.rest.extend_from_slice(frame.data_ref().expect("data"));
            while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                self.lines.push_back(serde_json::from_slice(&line).expect("JSON lines"));
            }
        }
    }
}

/// A ConfigMap.
pub(crate) fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}
