//! # Reviews
//!
//! Job: answers the questions "who is this token" and "may they do that", which store nothing.
//! May touch: tokens, roles. Must not touch: the store, writing.
//! Callers: `serve`.

use serde_json::{Value, json};

use super::{
    authn::{AUTHENTICATED, User},
    authz::{self, Attributes},
    decode,
    object::{at, list, text},
    pki::MASTERS,
    request::Call,
    serve::Reply,
    status::ApiError,
};

pub(crate) fn review(call: &Call, body: Value) -> Result<Reply, ApiError> {
    let mut body = decode::question(call, body)?;
    let status = match call.resource.kind.as_str() {
        "TokenReview" => token(call, &body),
        "SelfSubjectReview" => json!({"userInfo": call.user.object()}),
        "SelfSubjectRulesReview" => rules(call, text(&body, &["spec", "namespace"])),
        "SelfSubjectAccessReview" => access(call, &call.user, &body)?,
        _ => access(call, &subject(&body)?, &body)?,
    };
    body["kind"] = call.resource.kind.clone().into();
    body["apiVersion"] = call.resource.api_version().into();
    body["status"] = status;
    // Clients of typed languages expect the map to be there.
    super::object::meta_mut(&mut body);
    Ok(Reply::Json(201, body))
}

fn token(call: &Call, body: &Value) -> Value {
    let issuer = call.shared.tokens.issuer().to_owned();
    let mut audiences: Vec<String> = list(body, &["spec", "audiences"])
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(issuer);
    }
    let token = text(body, &["spec", "token"]);
    match call.shared.tokens.verify(&call.shared, token, &audiences) {
        Ok(verified) => {
            let mut user = verified.user;
            user.groups.push(AUTHENTICATED.into());
            json!({"authenticated": true, "user": user.object(), "audiences": verified.audiences})
        }
        Err(reason) => json!({"user": {}, "error": reason}),
    }
}

fn subject(body: &Value) -> Result<User, ApiError> {
    let name = text(body, &["spec", "user"]).to_owned();
    let groups: Vec<String> = list(body, &["spec", "groups"])
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::bad_request("at least one of user or group must be specified"));
    }
    Ok(User { name, groups, ..User::default() })
}

fn access(call: &Call, user: &User, body: &Value) -> Result<Value, ApiError> {
    let allowed = match (
        at(body, &["spec", "resourceAttributes"]),
        at(body, &["spec", "nonResourceAttributes"]),
    ) {
        (Some(asked), None) => {
            let field = |name: &str| text(asked, &[name]);
            let attributes = Attributes {
                verb: field("verb"),
                group: field("group"),
                resource: field("resource"),
                subresource: field("subresource"),
                namespace: field("namespace"),
                name: field("name"),
            };
            authz::allowed(&call.shared, user, &attributes)
        }
        (None, Some(asked)) => {
            authz::path_allowed(&call.shared, user, text(asked, &["path"]), text(asked, &["verb"]))
        }
        _ => {
            return Err(ApiError::bad_request(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ));
        }
    };
    let reason = if allowed { "RBAC: allowed" } else { "" };
    Ok(json!({"allowed": allowed, "reason": reason}))
}

fn rules(call: &Call, namespace: &str) -> Value {
    let mut rules = authz::rules(&call.shared, &call.user, namespace);
    if call.user.groups.iter().any(|g| g == MASTERS) {
        rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    let (paths, resources): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| rule.get("nonResourceURLs").is_some());
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
