//! # Rights of our service accounts
//!
//! Job: reads from a cluster which rights our accounts were given: one a role, rule and resource; and tells the role
//! that lacks one of them. Callers: suites about permissions.

use crate::kubectl::Kubectl;
use anyhow::Result;
use serde_json::Value;
use std::fmt;

/// Verbs on one resource that an account has by one rule.
#[derive(Clone, Debug)]
pub(super) struct Right {
    /// Full user name of the account.
    pub(super) account: String,
    /// The Role or ClusterRole, as `kubectl replace` takes it.
    pub(super) role: Value,
    rule: usize,
    /// API group; empty is the core.
    pub(super) group: String,
    /// Resource, with its subresource if it has one.
    pub(super) resource: String,
    /// What may be done.
    pub(super) verbs: Vec<String>,
}

/// All rights of accounts in the mesh's namespaces.
///
/// # Errors
/// When the cluster cannot be read.
pub(super) fn of_mesh(cluster: &Kubectl) -> Result<Vec<Right>> {
    let list = |what: &str| -> Result<Vec<Value>> {
        Ok(cluster.get(&format!("{what} -A"))?["items"].as_array().cloned().unwrap_or_default())
    };
    let mut roles = list("clusterroles")?;
    roles.extend(list("roles")?);
    let mut bindings = list("clusterrolebindings")?;
    bindings.extend(list("rolebindings")?);
    let mut found = Vec::new();
    for binding in &bindings {
        let Some(account) = account(binding) else { continue };
        let wanted = &binding["roleRef"];
        let of = |role: &&Value| {
            role["kind"] == wanted["kind"]
                && role["metadata"]["name"] == wanted["name"]
                && (role["kind"] == "ClusterRole"
                    || role["metadata"]["namespace"] == binding["metadata"]["namespace"])
        };
        found.extend(roles.iter().find(of).into_iter().flat_map(|role| rights(&account, role)));
    }
    Ok(found)
}

/// The account of ours that a binding names.
fn account(binding: &Value) -> Option<String> {
    let subjects = binding["subjects"].as_array()?;
    subjects.iter().find_map(|subject| {
        let namespace = subject["namespace"].as_str()?;
        let ours = ["linkerd", "linkerd-multicluster"].contains(&namespace);
        let name = subject["name"].as_str().filter(|_| ours)?;
        Some(format!("system:serviceaccount:{namespace}:{name}"))
    })
}

fn rights(account: &str, role: &Value) -> Vec<Right> {
    let mut role = role.clone();
    if let Some(meta) = role["metadata"].as_object_mut() {
        // What was read may be old by the time that it is written back.
        for field in ["resourceVersion", "uid", "managedFields", "creationTimestamp"] {
            meta.remove(field);
        }
    }
    let strings = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let mut found = Vec::new();
    for (rule, content) in role["rules"].as_array().into_iter().flatten().enumerate() {
        for group in strings(&content["apiGroups"]) {
            for resource in strings(&content["resources"]) {
                found.push(Right {
                    account: account.to_owned(),
                    role: role.clone(),
                    rule,
                    group: group.clone(),
                    resource,
                    verbs: strings(&content["verbs"]),
                });
            }
        }
    }
    found
}

impl Right {
    /// The role without this right.
    pub(super) fn lesser_role(&self) -> Value {
        let mut role = self.role.clone();
        let Some(rules) = role["rules"].as_array_mut() else { return role };
        if let Some(resources) = rules[self.rule]["resources"].as_array_mut() {
            resources.retain(|resource| *resource != self.resource);
            if resources.is_empty() {
                rules.remove(self.rule);
            }
        }
        role
    }

    /// Whether a line of a log tells that this right is missing, in the API server's words or by the resource's name.
    pub(super) fn is_named_by(&self, line: &str) -> bool {
        let line = line.replace("\\\"", "\"");
        let ours = line.contains("may not") && line.to_lowercase().contains(&self.resource);
        let its = line.contains("cannot ")
            && line.contains(&format!("resource \"{}\"", self.resource))
            && line.contains(&format!("API group \"{}\"", self.group));
        ours || its
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = self.account.trim_start_matches("system:serviceaccount:");
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        write!(f, "{account}: {} {}{group}", self.verbs.join(", "), self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role() -> Value {
        json!({"kind": "ClusterRole", "metadata": {"name": "r", "uid": "x"}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["list"]},
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]},
        ]})
    }

    #[test]
    fn each_resource_of_each_rule_is_a_right_and_can_be_taken_away() {
        let rights = rights("a", &role());
        let names: Vec<String> = rights.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a: list pods", "a: list services", "a: get jobs.batch"]);
        assert_eq!(rights[0].lesser_role()["rules"][0]["resources"], json!(["services"]));
        assert_eq!(rights[2].lesser_role()["rules"].as_array().map(Vec::len), Some(1));
        assert_eq!(rights[0].role["metadata"], json!({"name": "r"}));
    }

    #[test]
    fn a_refusal_is_known_by_its_resource_and_group() {
        let right = &rights("a", &role())[2];
        let said = r#"error="jobs.batch is forbidden: User \"a\" cannot get resource \"jobs\" in API group \"batch\"""#;
        assert!(right.is_named_by(said));
        assert!(!right.is_named_by(&said.replace("jobs\\\"", "pods\\\"")));
    }
}
