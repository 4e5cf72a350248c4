//! # What a user may do
//!
//! Job: role-based access control over the roles and bindings that are stored now.
//! May touch: the store, reading. Must not touch: who the user is.
//! Callers: `serve`, impersonation, access reviews.

use http::Method;
use serde_json::{Value, json};

use super::{
    authn::User,
    object::{list, meta, text},
    pki::MASTERS,
    request::Call,
    selector::Labels,
    shared::Shared,
    status::{ApiError, Reason},
};
use crate::store::Key;

const GROUP: &str = "rbac.authorization.k8s.io";
/// How many roles deep aggregation is followed: view into edit into admin.
const AGGREGATION: usize = 3;

/// An action on a resource; empty parts are absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

pub(crate) fn authorize_call(call: &Call) -> Result<(), ApiError> {
    let attributes = Attributes {
        verb: call.verb.name(),
        group: &call.resource.group,
        resource: &call.resource.plural,
        subresource: call.subresource.map_or("", |s| s.name()),
        namespace: &call.namespace,
        name: &call.name,
    };
    // Lists and watches of one object by name are checked as if they named it.
    let by_field =
        super::selector::Fields::parse(call.query.get("fieldSelector"), &call.resource.table);
    let pinned = by_field.as_ref().ok().and_then(|f| f.name()).unwrap_or_default();
    if call.name.is_empty() && !pinned.is_empty() {
        return authorize(&call.shared, &call.user, &Attributes { name: pinned, ..attributes });
    }
    authorize(&call.shared, &call.user, &attributes)
}

/// Whether the user may do it; the error is what the real server answers.
pub(crate) fn authorize(
    shared: &Shared,
    user: &User,
    attributes: &Attributes<'_>,
) -> Result<(), ApiError> {
    if allowed(shared, user, attributes) {
        return Ok(());
    }
    let mut resource = attributes.resource.to_owned();
    if !attributes.subresource.is_empty() {
        resource = format!("{resource}/{}", attributes.subresource);
    }
    let place = if attributes.namespace.is_empty() {
        " at the cluster scope".to_owned()
    } else {
        format!(" in the namespace {:?}", attributes.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?}{place}",
        user.name, attributes.verb, attributes.group
    );
    Err(ApiError::forbidden(attributes.resource, attributes.group, attributes.name, &why))
}

pub(crate) fn allowed(shared: &Shared, user: &User, attributes: &Attributes<'_>) -> bool {
    user.groups.iter().any(|g| g == MASTERS)
        || rules(shared, user, attributes.namespace).iter().any(|rule| covers(rule, attributes))
}

pub(crate) fn authorize_path(
    shared: &Shared,
    user: &User,
    path: &str,
    method: &Method,
) -> Result<(), ApiError> {
    let verb = method.as_str().to_lowercase();
    if path_allowed(shared, user, path, &verb) {
        return Ok(());
    }
    let mut error = ApiError::new(
        Reason::Forbidden,
        format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name),
    );
    error.details = Some(json!({}));
    Err(error)
}

pub(crate) fn path_allowed(shared: &Shared, user: &User, path: &str, verb: &str) -> bool {
    if user.groups.iter().any(|g| g == MASTERS) {
        return true;
    }
    rules(shared, user, "").iter().any(|rule| {
        has(rule, "verbs", verb)
            && list(rule, &["nonResourceURLs"]).iter().filter_map(Value::as_str).any(|url| {
                url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
            })
    })
}

/// The rules that hold for a user: of the cluster, and of a namespace if one is given.
pub(crate) fn rules(shared: &Shared, user: &User, namespace: &str) -> Vec<Value> {
    let mut rules = Vec::new();
    let (_, bindings) = shared.store.list(&format!("{GROUP}/clusterrolebindings"), None);
    for binding in bindings.iter().filter(|b| binds(&b.value, user, "")) {
        bound_rules(shared, &binding.value, "", &mut rules);
    }
    if !namespace.is_empty() {
        let (_, bindings) = shared.store.list(&format!("{GROUP}/rolebindings"), Some(namespace));
        for binding in bindings.iter().filter(|b| binds(&b.value, user, namespace)) {
            bound_rules(shared, &binding.value, namespace, &mut rules);
        }
    }
    rules
}

fn binds(binding: &Value, user: &User, namespace: &str) -> bool {
    list(binding, &["subjects"]).iter().any(|subject| {
        let name = text(subject, &["name"]);
        match text(subject, &["kind"]) {
            "User" => name == user.name,
            "Group" => user.groups.iter().any(|g| g == name),
            "ServiceAccount" => {
                let own = match text(subject, &["namespace"]) {
                    "" => namespace,
                    own => own,
                };
                user.name
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'))
                    .is_some_and(|account| account == (own, name))
            }
            _ => false,
        }
    })
}

fn bound_rules(shared: &Shared, binding: &Value, namespace: &str, rules: &mut Vec<Value>) {
    let name = text(binding, &["roleRef", "name"]);
    let (table, key) = if text(binding, &["roleRef", "kind"]) == "Role" {
        (format!("{GROUP}/roles"), Key::new(namespace, name))
    } else {
        (format!("{GROUP}/clusterroles"), Key::new("", name))
    };
    // A binding to a role that does not exist grants nothing.
    if let Some(role) = shared.store.get(&table, &key) {
        role_rules(shared, &role.value, rules, AGGREGATION);
    }
}

/// The rules of a role and, to a depth, of the cluster roles that it aggregates.
fn role_rules(shared: &Shared, role: &Value, rules: &mut Vec<Value>, depth: usize) {
    rules.extend_from_slice(list(role, &["rules"]));
    let selectors = list(role, &["aggregationRule", "clusterRoleSelectors"]);
    if selectors.is_empty() || depth == 0 {
        return;
    }
    let selectors: Vec<_> = selectors.iter().map(Labels::from_object).collect();
    let (_, roles) = shared.store.list(&format!("{GROUP}/clusterroles"), None);
    for other in roles.iter().filter(|other| meta(&other.value, "name") != meta(role, "name")) {
        if selectors.iter().any(|s| s.matches(&other.value)) {
            role_rules(shared, &other.value, rules, depth - 1);
        }
    }
}

/// Whether a rule grants an action on a resource.
fn covers(rule: &Value, attributes: &Attributes<'_>) -> bool {
    has(rule, "verbs", attributes.verb)
        && has(rule, "apiGroups", attributes.group)
        && list(rule, &["resources"]).iter().filter_map(Value::as_str).any(|resource| {
            if resource == "*" {
                return true;
            }
            match resource.split_once('/') {
                None => resource == attributes.resource && attributes.subresource.is_empty(),
                Some((resource, sub)) => {
                    (resource == "*" || resource == attributes.resource)
                        && sub == attributes.subresource
                }
            }
        })
        && {
            let names = list(rule, &["resourceNames"]);
            names.is_empty() || names.iter().any(|n| n.as_str() == Some(attributes.name))
        }
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, &[field]).iter().filter_map(Value::as_str).any(|v| v == "*" || v == wanted)
}
