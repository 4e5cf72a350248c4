//! # Values for one Pod
//!
//! Job: the installation's values with what the Pod's annotations, else the namespace's, change.
//! An annotation that cannot be read is reported and ignored: it never blocks an admission.
//! May touch: values. Must not touch: files. Callers: `patch`.

use serde_json::{Value, json};

use crate::{
    annotations::{Form, TABLE},
    decision::Mode,
    opaque,
};

/// The values for a Pod, and what of its annotations was ignored.
pub(crate) fn for_pod(
    values: &Value,
    namespace: &Value,
    pod: &Value,
    spec: &Value,
) -> (Value, Vec<String>) {
    let mut values = values.clone();
    let mut ignored = Vec::new();
    for row in TABLE {
        for annotations in levels(row.form, namespace, pod) {
            let Some(text) = annotations[row.key].as_str() else { continue };
            match parse(row.form, text, spec, &values) {
                Ok(Some(value)) => put(&mut values, row.path, value),
                Ok(None) => {}
                Err(expected) => {
                    ignored.push(format!("{}={text:?}: expected {expected}", row.key));
                }
            }
        }
    }
    let mode = match Mode::of(pod) {
        Mode::Unset => Mode::of(namespace),
        mode => mode,
    };
    if mode == Mode::Ingress {
        put(&mut values, "proxy.isIngress", json!(true));
    }
    workers(&mut values);
    (values, ignored)
}

/// Whose annotations count, the stronger one last.
fn levels<'a>(form: Form, namespace: &'a Value, pod: &'a Value) -> Vec<&'a Value> {
    match form {
        Form::Listed => vec![],
        _ => vec![namespace, pod],
    }
}

fn parse(
    form: Form,
    text: &str,
    spec: &Value,
    values: &Value,
) -> Result<Option<Value>, &'static str> {
    let number = |expected| text.trim().parse::<i64>().map_err(|_| expected);
    Ok(Some(match form {
        Form::Text => json!(text),
        Form::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => json!(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => json!(false),
            _ => return Err("true or false"),
        },
        Form::Int => json!(number("a whole number")?),
        Form::Port => match number("a port")? {
            port @ 1..=65535 => json!(port),
            _ => return Err("a port"),
        },
        Form::Ports => match text.parse::<mesh_model::ports::PortSet>() {
            Ok(_) => json!(text.replace(' ', "")),
            Err(_) => return Err("ports and ranges, separated by commas"),
        },
        Form::NamedPorts => {
            let (ports, bad) = opaque::resolve(text, spec);
            if let Some(name) = bad.first() {
                tracing::warn!(%name, "No container port has this name; left out of opaque ports");
            }
            json!(ports)
        }
        Form::Quantity => match cores(text) {
            Some(_) => json!(text.trim()),
            None => return Err("a quantity like 100m or 20Mi"),
        },
        Form::Ratio => match text.trim().parse::<f64>() {
            Ok(ratio) if ratio > 0.0 && ratio < 1.0 => json!(text.trim()),
            _ => return Err("a number between 0 and 1"),
        },
        Form::Networks => {
            let cidr = |t: &str| {
                let (ip, bits) = t.split_once('/').unwrap_or((t, "0"));
                ip.parse::<std::net::IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|b| b <= 128)
            };
            match text.split(',').map(str::trim).all(cidr) {
                true => json!(text.replace(' ', "")),
                false => return Err("networks in CIDR form, separated by commas"),
            }
        }
        Form::Millis => json!(format!("{}ms", millis(text).ok_or("a duration like 30s")?)),
        Form::Seconds => json!(format!("{}s", millis(text).ok_or("a duration like 30s")? / 1000)),
        Form::WholeSeconds => json!(millis(text).ok_or("a duration like 30s")? / 1000),
        Form::OneOf(allowed) if allowed.contains(&text) => json!(text),
        Form::OneOf(_) => return Err("one of the values that the documentation lists"),
        Form::Enabled => match text {
            "enabled" => json!(true),
            "disabled" => json!(false),
            _ => return Err("enabled or disabled"),
        },
        Form::Env => merge_env(text, &values["proxy"]["additionalEnv"])?,
        Form::Listed => return Ok(None),
    }))
}

/// Variables of the annotation over those known so far, by name.
fn merge_env(text: &str, known: &Value) -> Result<Value, &'static str> {
    const EXPECTED: &str = "a JSON list of variables with names";
    let given: Vec<Value> = serde_json::from_str(text).map_err(|_| EXPECTED)?;
    if given.iter().any(|v| !v["name"].is_string()) {
        return Err(EXPECTED);
    }
    let mut merged = known.as_array().cloned().unwrap_or_default();
    for variable in given {
        match merged.iter_mut().find(|known| known["name"] == variable["name"]) {
            Some(known) => *known = variable,
            None => merged.push(variable),
        }
    }
    Ok(Value::Array(merged))
}

/// Whole workers for the CPU asked for and allowed.
fn workers(values: &mut Value) {
    for (bound, count) in [("request", "minimum"), ("limit", "maximum")] {
        let text = match &values["proxy"]["resources"]["cpu"][bound] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => continue,
        };
        if let Some(cores) = cores(&text).filter(|c| *c > 0.0 && *c <= 4096.0) {
            // At most 4096, so nothing is lost.
            put(values, &format!("proxy.runtime.workers.{count}"), json!(cores.ceil() as u64));
        }
    }
}

/// A quantity as a number.
fn cores(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor = match &text[digits..] {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        _ => return None,
    };
    Some(number * factor)
}

/// A Go duration in milliseconds.
fn millis(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-6,
                "us" | "µs" => 1e-3,
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 6e4,
                "h" => 3.6e6,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    // A year at most, so that nothing is lost and nothing overflows.
    (total <= 365.0 * 24.0 * 3.6e6).then_some(total as u64)
}

fn put(values: &mut Value, path: &str, value: Value) {
    let mut at = values;
    for key in path.split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &str, text: &str) -> (Value, Vec<String>) {
        let spec = json!({"containers": [{"ports": [{"name": "sql", "containerPort": 3306}]}]});
        let values = json!({"proxy": {"additionalEnv": [{"name": "A", "value": "1"}]}});
        for_pod(&values, &json!({}), &json!({ key: text }), &spec)
    }

    // proves: INJ-5
    #[test]
    fn annotations_change_values() {
        let cases = [
            (
                "config.linkerd.io/proxy-cpu-limit",
                "1500m",
                "/proxy/runtime/workers/maximum",
                json!(2),
            ),
            (
                "config.linkerd.io/proxy-cpu-request",
                "100m",
                "/proxy/runtime/workers/minimum",
                json!(1),
            ),
            ("config.linkerd.io/opaque-ports", "sql,7", "/proxy/opaquePorts", json!("3306,7")),
            ("config.linkerd.io/opaque-ports", "", "/proxy/opaquePorts", json!("")),
            (
                "config.linkerd.io/proxy-outbound-connect-timeout",
                "2s",
                "/proxy/outboundConnectTimeout",
                json!("2000ms"),
            ),
            (
                "config.linkerd.io/close-wait-timeout",
                "1m",
                "/proxyInit/closeWaitTimeoutSecs",
                json!(60),
            ),
            ("config.linkerd.io/proxy-await", "disabled", "/proxy/await", json!(false)),
            ("config.linkerd.io/enable-gateway", "true", "/proxy/isGateway", json!(true)),
            ("linkerd.io/inject", "ingress", "/proxy/isIngress", json!(true)),
        ];
        for (key, text, pointer, expected) in cases {
            let (values, ignored) = read(key, text);
            assert_eq!(values.pointer(pointer), Some(&expected), "{key}");
            assert!(ignored.is_empty(), "{ignored:?}");
        }
    }

    // proves: INJ-5
    #[test]
    fn what_cannot_be_read_is_ignored_and_told() {
        for (key, text) in [
            ("config.linkerd.io/inbound-port", "70000"),
            ("config.linkerd.io/proxy-cpu-limit", "lots"),
            ("config.linkerd.io/default-inbound-policy", "open"),
            ("config.linkerd.io/proxy-outbound-connect-timeout", "soon"),
            ("config.linkerd.io/proxy-additional-env", "[{}]"),
            ("config.linkerd.io/skip-subnets", "x"),
            ("config.linkerd.io/enable-gateway", "maybe"),
        ] {
            let (_, ignored) = read(key, text);
            assert_eq!(ignored.len(), 1, "{key}");
            assert!(ignored[0].contains(key), "{ignored:?}");
        }
    }

    #[test]
    fn variables_are_merged_by_name_over_three_levels() {
        let values = json!({"proxy": {"additionalEnv": [{"name": "A", "value": "1"}]}});
        let key = "config.linkerd.io/proxy-additional-env";
        let namespace = json!({key: r#"[{"name":"A","value":"2"},{"name":"B","value":"2"}]"#});
        let pod = json!({key: r#"[{"name":"B","value":"3"}]"#});
        let (values, _) = for_pod(&values, &namespace, &pod, &json!({}));
        let expected = json!([{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]);
        assert_eq!(values["proxy"]["additionalEnv"], expected);
    }
}
