//! # LoadBalancer addresses
//!
//! Job: what a cloud does for a Service of type LoadBalancer: an address in its status that leads to the node.
//! May touch: Service status, addresses of the node's link. Callers: `node`.

use super::files::Files;
use crate::run;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// What became of a Service, as far as addresses go.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Needs,
    Has(Ipv4Addr),
    None,
}

fn change(event: &Event) -> Change {
    let service = &event.object;
    if event.kind == "DELETED" || service["spec"]["type"] != "LoadBalancer" {
        return Change::None;
    }
    let given = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
    given.and_then(|ip| ip.parse().ok()).map_or(Change::Needs, Change::Has)
}

/// Follows all Services until the watch ends.
///
/// # Errors
/// When the watch cannot be started or an address cannot be given.
pub(crate) fn serve(files: &Files, kubectl: impl Fn() -> Command) -> Result<()> {
    let mut watch = kubectl()
        .args(["get", "services", "--all-namespaces", "--watch", "--output-watch-events", "-ojson"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot watch Services")?;
    let events = watch.stdout.take().context("the watch has no output")?;
    let mut given: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
    let mut done = Ok(());
    for event in serde_json::Deserializer::from_reader(events).into_iter::<Event>() {
        done = event
            .context("cannot read the watch")
            .and_then(|e| follow(files, &kubectl, &e, &mut given));
        if done.is_err() {
            break;
        }
    }
    // It has ended, or is of no use any more.
    let _ = watch.kill();
    let _ = watch.wait();
    done
}

fn follow(
    files: &Files,
    kubectl: &impl Fn() -> Command,
    event: &Event,
    given: &mut BTreeMap<String, Ipv4Addr>,
) -> Result<()> {
    let meta = &event.object["metadata"];
    let (Some(namespace), Some(name)) = (meta["namespace"].as_str(), meta["name"].as_str()) else {
        bail!("a Service without a name: {}", event.object);
    };
    let key = format!("{namespace}/{name}");
    match change(event) {
        Change::Needs => {
            let ip = files
                .plan
                .balancers()
                .find(|ip| !given.values().any(|taken| taken == ip))
                .context("all LoadBalancer addresses are given out")?;
            address("replace", ip)?;
            given.insert(key, ip);
            let status =
                format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{ip}"}}]}}}}}}"#);
            let patch = [
                "patch",
                "service",
                name,
                "-n",
                namespace,
                "--subresource=status",
                "--type=merge",
                "-p",
                &status,
            ];
            // A Service that was deleted meanwhile needs none; its event follows.
            if let Err(error) = run::output(kubectl().args(patch)) {
                crate::note(&format!("{error:#}"));
            }
        }
        Change::Has(ip) => {
            if given.insert(key, ip).is_none() {
                address("replace", ip)?;
            }
        }
        Change::None => {
            if let Some(ip) = given.remove(&key) {
                address("del", ip)?;
            }
        }
    }
    Ok(())
}

fn address(verb: &str, ip: Ipv4Addr) -> Result<()> {
    run::line(&format!("ip addr {verb} {ip}/32 dev eth0"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_balanced_service_without_an_address_needs_one() {
        let event = |kind: &str, service_type: &str, status: Value| Event {
            kind: kind.into(),
            object: json!({"spec": {"type": service_type}, "status": {"loadBalancer": status}}),
        };
        let given = json!({"ingress": [{"ip": "172.30.10.1"}]});
        assert_eq!(change(&event("ADDED", "LoadBalancer", json!({}))), Change::Needs);
        assert_eq!(
            change(&event("ADDED", "LoadBalancer", given.clone())),
            Change::Has([172, 30, 10, 1].into())
        );
        assert_eq!(change(&event("MODIFIED", "ClusterIP", given.clone())), Change::None);
        assert_eq!(change(&event("DELETED", "LoadBalancer", given)), Change::None);
    }
}
