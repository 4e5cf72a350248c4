//! # A node's network configurations
//!
//! Job: put the plugin at the end of a configuration's plugins, and take it out again.
//! May touch: JSON. Must not touch: files. Callers: `install`.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The plugin's type, which is its file's name too.
pub(crate) const PLUGIN: &str = "linkerd-cni";

/// A configuration with our plugin in it.
#[derive(Debug, PartialEq)]
pub(crate) struct Patched {
    /// Where it goes: the same file, or a list beside a single configuration, which it replaces.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Whether a file of the folder is a configuration that the runtime reads.
pub(crate) fn is_configuration(path: &Path) -> bool {
    matches!(path.extension().and_then(|e| e.to_str()), Some("conf" | "conflist"))
}

/// Puts the plugin last; `None` if nothing changes.
///
/// # Errors
/// When the text is no network configuration: the sentence says why.
pub(crate) fn insert(path: &Path, text: &str, plugin: &Value) -> Result<Option<Patched>, String> {
    let before = parse(text)?;
    let mut list = as_list(&before);
    let plugins = list["plugins"].as_array_mut().ok_or("`plugins` is no list")?;
    plugins.retain(|p| !is_ours(p));
    if plugins.is_empty() {
        // A list of our own alone makes no network.
        return Err("it has no plugin that makes a network".to_owned());
    }
    let mut plugin = plugin.clone();
    // In a list, name and version are the list's.
    if let Some(fields) = plugin.as_object_mut() {
        fields.remove("cniVersion");
    }
    plugins.push(plugin);
    if list == before {
        return Ok(None);
    }
    Ok(Some(Patched { path: path.with_extension("conflist"), text: format!("{list:#}\n") }))
}

/// Takes the plugin out; `None` if it is not there.
pub(crate) fn remove(text: &str) -> Option<String> {
    let before = parse(text).ok()?;
    let mut list = before.clone();
    list["plugins"].as_array_mut()?.retain(|p| !is_ours(p));
    (list != before).then(|| format!("{list:#}\n"))
}

fn parse(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
    match value.is_object() {
        true => Ok(value),
        false => Err("it is no JSON object".to_owned()),
    }
}

/// A single configuration as a list of one, under the name and version that Linkerd gives it.
fn as_list(configuration: &Value) -> Value {
    if !configuration["plugins"].is_null() {
        return configuration.clone();
    }
    json!({ "name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [configuration] })
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin() -> Value {
        json!({"name": "linkerd-cni", "cniVersion": "0.3.1", "type": "linkerd-cni", "linkerd": {}})
    }

    fn patched(path: &str, text: &str) -> Result<Option<(String, Value)>, String> {
        let found = insert(Path::new(path), text, &plugin())?;
        Ok(found.map(|p| {
            (p.path.to_string_lossy().into_owned(), serde_json::from_str(&p.text).unwrap())
        }))
    }

    // proves: INIT-12
    #[test]
    fn the_plugin_is_put_last_once_and_taken_out_again() {
        let text = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
        let (path, list) = patched("/n/10-a.conflist", text).unwrap().unwrap();
        assert_eq!(path, "/n/10-a.conflist");
        let types: Vec<_> =
            list["plugins"].as_array().unwrap().iter().map(|p| &p["type"]).collect();
        assert_eq!(types, ["bridge", "portmap", "linkerd-cni"]);
        assert!(list["plugins"][2]["cniVersion"].is_null());
        assert_eq!(patched("/n/10-a.conflist", &list.to_string()).unwrap(), None);
        let mut stale = list.clone();
        stale["plugins"][2]["linkerd"] = json!({"old": 1});
        assert_eq!(patched("/n/10-a.conflist", &stale.to_string()).unwrap().unwrap().1, list);
        let removed: Value = serde_json::from_str(&remove(&list.to_string()).unwrap()).unwrap();
        assert_eq!(removed, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(remove(text), None);
    }

    // proves: INIT-12
    #[test]
    fn a_single_configuration_becomes_a_list() {
        let (path, list) =
            patched("/n/10-a.conf", r#"{"name":"x","type":"ptp"}"#).unwrap().unwrap();
        assert_eq!(path, "/n/10-a.conflist");
        assert_eq!(list["name"], "k8s-pod-network");
        assert_eq!(
            (&list["plugins"][0]["type"], &list["plugins"][0]["name"]),
            (&json!("ptp"), &json!("x"))
        );
    }

    #[test]
    fn what_is_no_network_is_left_alone() {
        for text in ["", "[]", r#"{"plugins":{}}"#, r#"{"plugins":[{"type":"linkerd-cni"}]}"#] {
            assert!(patched("/n/a.conflist", text).is_err(), "{text}");
        }
        let is = |name: &str| is_configuration(Path::new(name));
        assert!(is("a.conf") && is("a.conflist"));
        assert!(!is("a.conflist.install") && !is("ZZZ-linkerd-cni-kubeconfig") && !is("a.json"));
    }
}
