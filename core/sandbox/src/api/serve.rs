//! # Requests to answers
//!
//! Job: authenticate, find the resource, authorise, call the handler, write the answer and the audit line.
//! May touch: everything of the API server, through its parts. Must not touch: sockets.
//! Callers: `connection`.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{Request, body::Incoming};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    audit, authn,
    authn::User,
    authz, discovery, openapi, options, patch, pod_log, protobuf, read,
    registry::{Subresource, Verbs},
    request::{Accept, Call, Query, ResourcePath, Target, Verb},
    reviews,
    shared::Shared,
    status::{ApiError, Reason},
    tokens, watch, write,
};

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Largest request that is read; etcd's limit is near it.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// An answer before its headers.
pub(crate) enum Reply {
    Json(u16, Value),
    Bytes(Bytes, &'static str),
    Stream(Body, &'static str),
}

impl Reply {
    pub(crate) fn ok(value: Value) -> Self {
        Self::Json(200, value)
    }
}

/// Answers one request.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    certificate: Option<User>,
    request: Request<Incoming>,
) -> Response<Body> {
    let mut record = audit::Record::begin(&request);
    let mut warnings = Vec::new();
    let result = answer(&shared, certificate, request, &mut record, &mut warnings).await;
    let response = match result {
        Ok(reply) => respond(reply),
        Err(error) => respond(Reply::Json(error.code(), error.status())),
    };
    let mut response = response;
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    shared.audit.write(record, response.status().as_u16());
    response
}

async fn answer(
    shared: &Arc<Shared>,
    certificate: Option<User>,
    request: Request<Incoming>,
    record: &mut audit::Record,
    warnings: &mut Vec<String>,
) -> Result<Reply, ApiError> {
    let user = authn::authenticate(shared, certificate, request.headers())?;
    record.user(&user);
    let user = authn::impersonate(shared, user, request.headers())?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match Target::parse(request.uri().path()) {
        Target::Path => {
            authz::authorize_path(shared, &user, request.uri().path(), request.method())?;
            path_reply(shared, &request)
        }
        Target::Resource(path) => {
            record.object(&path);
            let mut call = call(shared, user, path, query, &request)?;
            record.verb(call.verb);
            authz::authorize_call(&call)?;
            if let Some(sentence) = &call.resource.deprecation {
                call.warn(sentence);
            }
            let reply = resource_reply(&mut call, request).await;
            *warnings = std::mem::take(&mut *call.warnings.lock());
            reply
        }
    }
}

fn path_reply(shared: &Shared, request: &Request<Incoming>) -> Result<Reply, ApiError> {
    let path = request.uri().path().trim_end_matches('/');
    if request.method() != http::Method::GET && request.method() != http::Method::HEAD {
        return Err(ApiError::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ));
    }
    let served = shared.registry.served();
    match path {
        "/healthz" | "/livez" | "/readyz" => {
            Ok(Reply::Bytes(Bytes::from_static(b"ok"), "text/plain; charset=utf-8"))
        }
        "/version" => Ok(Reply::ok(discovery::version())),
        "/.well-known/openid-configuration" => Ok(Reply::ok(shared.tokens.discovery(shared.addr))),
        "/openid/v1/jwks" => Ok(Reply::ok(shared.tokens.keys())),
        "/openapi/v2" => Ok(openapi::empty_v2()),
        _ if path.starts_with("/openapi/v3") => openapi::document(&served, path),
        _ => {
            let accept = Accept::parse(request.headers())?;
            discovery::document(&served, path, accept.aggregated_discovery, shared.addr)
        }
    }
}

fn call(
    shared: &Arc<Shared>,
    user: User,
    path: ResourcePath,
    query: Query,
    request: &Request<Incoming>,
) -> Result<Call, ApiError> {
    let header = |name: header::HeaderName| {
        request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let resource = shared
        .registry
        .find(&path.group, &path.version, &path.plural)
        .ok_or_else(ApiError::no_such_path)?;
    let subresource = match path.subresource.as_str() {
        "" => None,
        name => Some(
            Subresource::parse(name)
                .filter(|&sub| resource.has(sub))
                .ok_or_else(ApiError::no_such_path)?,
        ),
    };
    let mut namespace = path.namespace;
    if !resource.namespaced && !namespace.is_empty() {
        // `/namespaces/x` itself is the one cluster-scoped path below `namespaces`.
        return Err(ApiError::no_such_path());
    }
    if resource.plural == "namespaces" && resource.group.is_empty() {
        namespace = String::new();
    }
    let watch = query.flag("watch");
    let verb = Verb::of(request.method(), !path.name.is_empty(), watch).ok_or_else(|| {
        ApiError::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
    })?;
    Ok(Call {
        shared: shared.clone(),
        user,
        subresource,
        verb,
        namespace,
        name: path.name,
        dry_run: query.get("dryRun") == "All",
        query,
        accept: Accept::parse(request.headers()).or_else(|e| {
            // Logs are plain text whatever the client says.
            if subresource == Some(Subresource::Log) { Ok(Accept::default()) } else { Err(e) }
        })?,
        content_type: header(header::CONTENT_TYPE),
        user_agent: header(header::USER_AGENT),
        warnings: Mutex::default(),
        resource,
    })
}

async fn resource_reply(call: &mut Call, request: Request<Incoming>) -> Result<Reply, ApiError> {
    options::check(call)?;
    if call.resource.verbs == Verbs::CreateOnly {
        return match call.verb {
            Verb::Create => reviews::review(call, object(call, body(request).await?)?),
            _ => Err(not_allowed()),
        };
    }
    match (call.subresource, call.verb) {
        (Some(Subresource::Log), Verb::Get) => pod_log::read(call).await,
        (Some(Subresource::Token), Verb::Create) => {
            tokens::request(call, object(call, body(request).await?)?)
        }
        (Some(Subresource::Log | Subresource::Token | Subresource::Eviction), _) => {
            Err(not_allowed())
        }
        (Some(Subresource::Binding), Verb::Create) => {
            write::bind(call, object(call, body(request).await?)?).await
        }
        (Some(Subresource::Scale), Verb::Get) => read::scale(call),
        (_, Verb::Get) => read::get(call),
        (None, Verb::List) => read::list(call),
        (None, Verb::Watch) => watch::stream(call),
        (None, Verb::Create) if call.name.is_empty() => {
            write::create(call, object(call, body(request).await?)?).await
        }
        (_, Verb::Update) => write::update(call, object(call, body(request).await?)?).await,
        (_, Verb::Patch) => {
            let kind = patch::PatchType::of(call)?;
            write::patch(call, kind, body(request).await?).await
        }
        (None, Verb::Delete | Verb::DeleteCollection) => {
            let options = deletion(call, body(request).await?)?;
            call.dry_run = options["dryRun"].as_array().is_some_and(|values| !values.is_empty());
            match call.verb {
                Verb::Delete => write::delete(call, options).await,
                _ => write::delete_collection(call, options).await,
            }
        }
        _ => Err(not_allowed()),
    }
}

fn not_allowed() -> ApiError {
    ApiError::new(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

async fn body(request: Request<Incoming>) -> Result<Bytes, ApiError> {
    match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {MAX_BODY}"),
        )),
        Err(e) => Err(ApiError::bad_request(format!("the body could not be read: {e}"))),
    }
}

/// Parses a body by its content type.
pub(crate) fn object(call: &Call, body: Bytes) -> Result<Value, ApiError> {
    let media = call.content_type.split(';').next().unwrap_or_default().trim();
    let value = match media {
        "" | "application/json" => parse_json(call, &body)?,
        "application/yaml" | "application/apply-patch+yaml" => parse_yaml(&body)?,
        "application/vnd.kubernetes.protobuf" => {
            protobuf::decode(&body).map_err(ApiError::bad_request)?
        }
        other => {
            return Err(ApiError::new(
                Reason::UnsupportedMediaType,
                format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json, application/yaml; got {other}"
                ),
            ));
        }
    };
    if value.is_object() {
        return Ok(value);
    }
    Err(ApiError::bad_request(
        "couldn't get version/kind; json parse error: json: cannot unmarshal the body into an object",
    ))
}

fn parse_json(call: &Call, body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|e| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {e}",
            call.resource.kind, call.resource.version, call.resource.kind
        ))
    })
}

/// Parses YAML, of which JSON is the common case.
pub(crate) fn parse_yaml(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body)
        .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
    serde_saphyr::from_str(text)
        .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))
}

fn deletion(call: &Call, body: Bytes) -> Result<Value, ApiError> {
    let body = if body.is_empty() { Value::Null } else { object(call, body)? };
    options::deletion(call, body)
}

fn respond(reply: Reply) -> Response<Body> {
    let full = |bytes: Bytes| Full::new(bytes).boxed_unsync();
    let (code, body, media) = match reply {
        Reply::Json(code, value) => {
            let bytes = serde_json::to_vec(&value).unwrap_or_default();
            (code, full(bytes.into()), "application/json")
        }
        Reply::Bytes(bytes, media) => (200, full(bytes), media),
        Reply::Stream(body, media) => (200, body, media),
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
