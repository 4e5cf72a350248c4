//! # Value flags
//!
//! Job: Helm's `-f`, `--set`, `--set-string`, `--set-file` to values, in Helm's order.
//! May touch: the files named. Must not touch: clusters. Callers: the verbs that render a chart.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mesh_charts::{
    values::{self, Kind},
    yaml,
};
use serde_json::{Map, Value, json};

/// Flags that change a chart's values.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ValueFlags {
    /// File with values in YAML (repeatable, later ones win)
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Value as key=value, several with commas (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Value that stays a string, as key=value (repeatable)
    #[arg(long = "set-string", value_name = "KEY=VALUE")]
    set_string: Vec<String>,
    /// Value that is a file's content, as key=path (repeatable)
    #[arg(long = "set-file", value_name = "KEY=FILE")]
    set_file: Vec<String>,
}

impl ValueFlags {
    /// The values, to be laid on a chart's defaults; a null removes a default.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, or a setting is malformed.
    pub fn read(&self) -> Result<Value> {
        let mut all = json!({});
        for file in &self.files {
            let text = read_text(file)?;
            let read = yaml::parse(&text)
                .with_context(|| format!("cannot use the values in {}", file.display()))?;
            match read {
                Value::Null => {}
                Value::Object(map) => overlay(&mut all, map),
                _ => bail!("{} holds no map of values", file.display()),
            }
        }
        for text in &self.set {
            values::set(&mut all, text, Kind::Typed)?;
        }
        for text in &self.set_string {
            values::set(&mut all, text, Kind::Text)?;
        }
        for text in &self.set_file {
            let (key, file) = values::file_setting(text)?;
            values::set_file(&mut all, key, &read_text(Path::new(file))?)?;
        }
        Ok(all)
    }
}

/// Reads a text file.
///
/// # Errors
/// Names the file.
pub fn read_text(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// As `merge`, but a null is kept: it removes a default later.
fn overlay(base: &mut Value, over: Map<String, Value>) {
    if !base.is_object() {
        *base = json!({});
    }
    if let Value::Object(base) = base {
        for (key, value) in over {
            match (base.get_mut(&key), value) {
                (Some(known @ Value::Object(_)), Value::Object(value)) => overlay(known, value),
                (_, value) => {
                    base.insert(key, value);
                }
            }
        }
    }
}

/// Paths of `given` that a chart with these defaults does not know, as `a.b.c`.
pub fn unknown(defaults: &Value, given: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(defaults, given, "", &mut found);
    found
}

fn collect(defaults: &Value, given: &Value, path: &str, found: &mut Vec<String>) {
    // An empty map among the defaults stands for keys that the user names.
    let (Value::Object(defaults), Value::Object(given)) = (defaults, given) else { return };
    if defaults.is_empty() {
        return;
    }
    for (key, value) in given {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match defaults.get(key) {
            Some(default) => collect(default, value, &path, found),
            None => found.push(path),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // proves: CLI-1
    #[test]
    fn later_sources_win() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let pem = file("pem", "one\ntwo\n");
        let flags = ValueFlags {
            files: vec![file("a", "x: 1\nm: {a: 1, b: 2}\n"), file("b", "m: {b: null}\nz: 1\n")],
            set: vec!["x=2,l={a,b}".into()],
            set_string: vec!["z=3".into()],
            set_file: vec![format!("pem={}", pem.display())],
        };
        let expected = json!({
            "x": 2, "m": {"a": 1, "b": null}, "z": "3", "l": ["a", "b"], "pem": "one\ntwo\n",
        });
        assert_eq!(flags.read().unwrap(), expected);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let bad = folder.path().join("bad.yaml");
        std::fs::write(&bad, "a: [").unwrap();
        for file in [bad, folder.path().join("absent.yaml")] {
            let name = file.display().to_string();
            let error = ValueFlags { files: vec![file], ..Default::default() }.read().unwrap_err();
            assert!(format!("{error:#}").contains(&name), "{error:#}");
        }
    }

    #[test]
    fn unknown_values_are_found_below_maps_with_known_keys() {
        let defaults = json!({"a": {"b": 1}, "free": {}});
        let given = json!({"a": {"b": 2, "c": 3}, "free": {"x": 1}, "d": 1});
        assert_eq!(unknown(&defaults, &given), ["a.c", "d"]);
    }
}
