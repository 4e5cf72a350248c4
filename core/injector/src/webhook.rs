//! # The webhook
//!
//! Job: an AdmissionReview in, an AdmissionReview with the patch out.
//! May touch: mounted files, the Kubernetes API for what the watch does not know yet.
//! Callers: `serve`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use k8s_openapi::api::{batch::v1::Job, core::v1::Namespace};
use kube::{Api, Client};
use mesh_charts::yaml;
use mesh_process::http_server::SmallResponse;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    Decision, InjectError, Origin, Subject,
    args::Config,
    events::Events,
    inject,
    metrics::Metrics,
    serve::{Namespaces, namespace_annotations},
    workload::{self, Owner},
};

/// Largest review.
const BODY: usize = 10 * 1024 * 1024;
/// Longest wait for a body, and for the API server.
const WAIT: Duration = Duration::from_secs(5);

/// Answers reviews.
pub(crate) struct Webhook {
    config: Config,
    client: Client,
    namespaces: Arc<Mutex<Namespaces>>,
    metrics: Metrics,
    events: Events,
    /// The last text of the values, and what it means: parsed once for as long as it does not change.
    values: Mutex<(String, Arc<Value>)>,
}

impl Webhook {
    pub(crate) fn new(
        config: Config,
        client: Client,
        namespaces: Arc<Mutex<Namespaces>>,
        metrics: Metrics,
        events: Events,
    ) -> Self {
        let values = Mutex::new((String::new(), Arc::new(Value::Null)));
        Self { config, client, namespaces, metrics, events, values }
    }

    /// Answers a request. What is not a review gets 400 or 413; a review always gets a review.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> SmallResponse {
        let body = Limited::new(request.into_body(), BODY);
        let body = match tokio::time::timeout(WAIT, body.collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return plain(StatusCode::PAYLOAD_TOO_LARGE, "the review is larger than 10 MB");
            }
            Ok(Err(error)) => return plain(StatusCode::BAD_REQUEST, &error.to_string()),
            Err(_) => {
                return plain(StatusCode::REQUEST_TIMEOUT, "the review took too long to arrive");
            }
        };
        let review = match parse(&body) {
            Ok(review) => review,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let response = match self.decide(&review.request).await {
            Ok(patch) => allowed(&review.uid, patch),
            Err(error) => {
                tracing::warn!(%error, uid = review.uid, "Admission refused");
                let status = json!({ "message": error.to_string(), "code": 500 });
                json!({ "uid": review.uid, "allowed": false, "status": status })
            }
        };
        let review = json!({
            "apiVersion": review.api_version,
            "kind": "AdmissionReview",
            "response": response,
        });
        let mut response = Response::new(Full::new(Bytes::from(review.to_string())));
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        response
    }

    async fn decide(&self, request: &Value) -> Result<json_patch::Patch, InjectError> {
        let object = &request["object"];
        let kind = request["kind"]["kind"].as_str().unwrap_or_default();
        let namespace = request["namespace"].as_str().unwrap_or_default();
        let values = self.current_values().await?;
        let annotations = self.annotations(namespace).await;
        let owner = match kind {
            "Pod" => Some(self.owner(namespace, object).await),
            _ => None,
        };
        let created_by = format!("linkerd/proxy-injector {}", self.config.version);
        let decision = inject(&Subject {
            object,
            kind,
            namespace,
            namespace_annotations: &annotations,
            owner: owner.as_ref(),
            origin: Origin::Webhook,
            values: &values,
            control_namespace: &self.config.namespace,
            created_by: &created_by,
        })?;
        if let Some(owner) = &owner {
            let pod = &object["metadata"]["annotations"];
            self.metrics.count(&owner.kind, namespace, &annotations, pod, &decision);
            // A dry run must leave no trace.
            if request["dryRun"] != true {
                self.events.tell(namespace, owner, &decision);
            }
        }
        Ok(match decision {
            Decision::Inject(injection) => {
                for ignored in injection.ignored {
                    tracing::warn!(namespace, "Annotation ignored: {ignored}");
                }
                injection.patch
            }
            Decision::Skip { patch, .. } => patch,
        })
    }

    /// The values with the trust anchors, as mounted now.
    async fn current_values(&self) -> Result<Arc<Value>, InjectError> {
        let text = read(self.config.context.path(&self.config.values)).await?;
        let anchors = read(self.config.context.path(&self.config.anchors)).await?;
        let both = format!("{text}\0{anchors}");
        {
            let known = self.values.lock();
            if known.0 == both {
                return Ok(known.1.clone());
            }
        }
        let mut values = yaml::parse(&text).map_err(|e| InjectError::Values(e.to_string()))?;
        if !values.is_object() {
            return Err(InjectError::Values("they are no map".to_owned()));
        }
        values["identityTrustAnchorsPEM"] = anchors.into();
        let values = Arc::new(values);
        *self.values.lock() = (both, values.clone());
        Ok(values)
    }

    /// Annotations of a Namespace: from the watch, else asked for, as it may be younger than the watch knows.
    async fn annotations(&self, name: &str) -> Arc<Value> {
        if let Some(known) = self.namespaces.lock().annotations(name) {
            return known;
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let asked = mesh_cluster::within(WAIT, api.get(name)).await;
        match asked {
            Ok(namespace) => Arc::new(namespace_annotations(&namespace)),
            Err(error) => {
                tracing::warn!(namespace = name, %error, "Annotations of the Namespace are unknown");
                Arc::new(Value::Null)
            }
        }
    }

    /// The Pod's owner; of a Job, the CronJob behind it.
    async fn owner(&self, namespace: &str, pod: &Value) -> Owner {
        let owner = workload::owner(pod);
        if owner.kind != "job" {
            return owner;
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let job = mesh_cluster::within(WAIT, api.get(&owner.name)).await;
        let job = job.inspect_err(|error| {
            // Of a dry run, there may be no Job.
            if !error.is_not_found() {
                tracing::warn!(namespace, job = owner.name, %error, "The Job's owner is unknown");
            }
        });
        let parent = job.ok().and_then(|job| job.metadata.owner_references?.pop());
        match parent {
            Some(parent) if parent.kind == "CronJob" => {
                Owner { kind: "cronjob".to_owned(), name: parent.name }
            }
            _ => owner,
        }
    }
}

struct Review {
    api_version: String,
    uid: String,
    request: Value,
}

fn parse(body: &[u8]) -> Result<Review, InjectError> {
    let bad = |why: &str| InjectError::Review(why.to_owned());
    let mut review: Value = serde_json::from_slice(body).map_err(|e| bad(&e.to_string()))?;
    let api_version = match review["apiVersion"].as_str() {
        Some(v @ ("admission.k8s.io/v1" | "admission.k8s.io/v1beta1")) => v.to_owned(),
        _ => return Err(bad("apiVersion must be admission.k8s.io/v1 or v1beta1")),
    };
    let request = review["request"].take();
    let uid = request["uid"].as_str().ok_or_else(|| bad("it has no request.uid"))?.to_owned();
    Ok(Review { api_version, uid, request })
}

fn allowed(uid: &str, patch: json_patch::Patch) -> Value {
    if patch.0.is_empty() {
        return json!({ "uid": uid, "allowed": true });
    }
    let patch = serde_json::to_vec(&patch).unwrap_or_default();
    json!({
        "uid": uid,
        "allowed": true,
        "patch": BASE64_STANDARD.encode(patch),
        "patchType": "JSONPatch",
    })
}

async fn read(path: PathBuf) -> Result<String, InjectError> {
    let read = tokio::fs::read_to_string(AsRef::<Path>::as_ref(&path)).await;
    read.map_err(|source| InjectError::File { path, source })
}

fn plain(status: StatusCode, text: &str) -> SmallResponse {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}
