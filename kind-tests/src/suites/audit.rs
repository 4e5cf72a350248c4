//! # Suite: permissions
//!
//! Job: no component of the mesh asked the API server for what its role does not give: the audit logs of all that the
//! suites before this one did have no 403 for our service accounts. And no role gives what nobody ever asked for.
//! Callers: `suites`.

use super::rights;
use crate::stage::Stage;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

/// Rights that these suites need not use: (end of the account's name, resource and verb or none for all, their use).
const UNUSED: [(&str, &str, &str, &str); 6] = [
    (
        "remote-access-default",
        "",
        "",
        "Linkerd's own mirror and destination service, when the other cluster has those",
    ),
    (
        "service-mirror",
        "services",
        "get",
        "a Service of the mirror's name that somebody else made first",
    ),
    ("service-mirror", "endpoints", "get", "as services"),
    ("service-mirror", "links", "get", "the first status after a start, and after a conflict"),
    ("service-mirror", "secrets", "get", "to say what is wrong with a Link's credentials"),
    ("proxy-injector", "namespaces", "get", "a Namespace that is younger than the watch knows"),
];

/// What accounts did: the account, the verb, the resource with its group.
type Use = (String, String, String);

/// What a cluster's audit log tells of our accounts.
#[derive(Default)]
struct Told {
    requests: usize,
    refused: BTreeMap<String, usize>,
    used: BTreeSet<Use>,
}

/// Reads both clusters' audit logs.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let mut used = BTreeSet::new();
    for cluster in stage.both() {
        let Some(path) = stage.provider.audit_log(&cluster.context) else {
            crate::note("  this provider keeps no audit log");
            return Ok(());
        };
        let told = read(&path)?;
        let (requests, refused) = (told.requests, told.refused);
        ensure!(
            refused.is_empty(),
            "in {}, {} requests of the mesh were refused:\n{}",
            cluster.context,
            refused.values().sum::<usize>(),
            refused.iter().map(|(what, n)| format!("{n} x {what}")).collect::<Vec<_>>().join("\n")
        );
        ensure!(requests > 0, "{} has no requests of the mesh", path.display());
        crate::note(&format!(
            "  {}: {requests} requests of the mesh, none refused",
            cluster.context
        ));
        used.extend(told.used);
    }
    needless(stage, &used)
}

/// Every right was used, by its account in either cluster.
fn needless(stage: &Stage<'_>, used: &BTreeSet<Use>) -> Result<()> {
    let mut idle = BTreeSet::new();
    for right in rights::of_mesh(&stage.west)?.into_iter().chain(rights::of_mesh(&stage.east)?) {
        let what = format!("{}.{}", right.resource, right.group);
        for verb in &right.verbs {
            let known = UNUSED.iter().any(|(account, resource, of, _)| {
                right.account.ends_with(account)
                    && [right.resource.as_str(), ""].contains(resource)
                    && [verb.as_str(), ""].contains(of)
            });
            if !known && !used.contains(&(right.account.clone(), verb.clone(), what.clone())) {
                idle.insert(format!("{}: {verb} {what}", right.account));
            }
        }
    }
    ensure!(
        idle.is_empty(),
        "rights that nobody used, so take them from the chart or name their use here:\n{}",
        idle.into_iter().collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

/// The requests by our accounts.
fn read(path: &Path) -> Result<Told> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut told = Told::default();
    for line in BufReader::new(file).lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let user = text(&event["user"]["username"]);
        if !ours(&user) {
            continue;
        }
        told.requests += 1;
        let (verb, about) = (text(&event["verb"]), &event["objectRef"]);
        if event["responseStatus"]["code"] == 403 {
            let uri = &event["requestURI"];
            *told.refused.entry(format!("{user}: {verb} {uri}")).or_default() += 1;
        }
        let resource = match about["subresource"].as_str() {
            Some(part) => format!("{}/{part}", text(&about["resource"])),
            None => text(&about["resource"]),
        };
        told.used.insert((user, verb, format!("{resource}.{}", text(&about["apiGroup"]))));
    }
    Ok(told)
}

fn ours(user: &str) -> bool {
    ["linkerd", "linkerd-multicluster", "linkerd-cni"]
        .iter()
        .any(|namespace| user.starts_with(&format!("system:serviceaccount:{namespace}:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_requests_of_ours_are_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |user: &str, code: u16| {
            format!(
                r#"{{"user":{{"username":"{user}"}},"verb":"get","requestURI":"/x","objectRef":{{"resource":"leases","subresource":"status","apiGroup":"x"}},"responseStatus":{{"code":{code}}}}}"#
            )
        };
        let ours = "system:serviceaccount:linkerd:linkerd-destination";
        let text = [
            line(ours, 200),
            line(ours, 403),
            line("system:serviceaccount:demo:x", 403),
            "{".into(),
        ];
        std::fs::write(file.path(), text.join("\n")).unwrap();
        let told = read(file.path()).unwrap();
        assert_eq!((told.requests, told.refused.len()), (2, 1));
        assert!(told.used.contains(&(ours.into(), "get".into(), "leases/status.x".into())));
    }
}
