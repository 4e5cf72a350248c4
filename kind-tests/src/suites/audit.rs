//! # Suite: permissions
//!
//! Job: no component of the mesh asked the API server for what its role does not give: the audit logs of all that the
//! suites before this one did have no 403 for our service accounts, but for a request that met a role younger than the
//! API server's view of it. And no role gives what nobody ever asked for.
//! Callers: `suites`.

use super::rights;
use crate::stage::Stage;
use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
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

/// An API server takes a role up from its own watch, some moments after it has stored it: what is answered well so soon
/// after a refusal was asked too early, not without right.
const TAKEN_UP: SignedDuration = SignedDuration::from_secs(2);

/// What a cluster's audit log tells of our accounts.
#[derive(Default)]
struct Told {
    requests: usize,
    /// Who asked for what and was refused, and when.
    refused: BTreeMap<(String, String), Vec<Timestamp>>,
    used: BTreeSet<Use>,
}

impl Told {
    /// A request that was answered well: refusals of the same just before it came too early.
    fn answered(&mut self, asked: &(String, String), at: Timestamp) {
        if let Some(refusals) = self.refused.get_mut(asked) {
            refusals.retain(|refusal| at.duration_since(*refusal) > TAKEN_UP);
        }
    }
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
        let refused: Vec<String> = refused
            .iter()
            .filter(|(_, times)| !times.is_empty())
            .map(|((user, what), times)| format!("{} x {user}: {what}", times.len()))
            .collect();
        ensure!(
            refused.is_empty(),
            "in {}, requests of the mesh were refused:\n{}",
            cluster.context,
            refused.join("\n")
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
        let at: Timestamp = text(&event["requestReceivedTimestamp"]).parse()?;
        // Without its query: a list that was refused comes back as a list from another version.
        let uri = text(&event["requestURI"]);
        let asked = (user.clone(), format!("{verb} {}", uri.split('?').next().unwrap_or(&uri)));
        match event["responseStatus"]["code"].as_u64() {
            Some(403) => told.refused.entry(asked).or_default().push(at),
            Some(code) if code < 400 => told.answered(&asked, at),
            _ => {}
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

    const OURS: &str = "system:serviceaccount:linkerd:linkerd-destination";

    fn line(user: &str, second: u8, code: u16) -> String {
        format!(
            r#"{{"user":{{"username":"{user}"}},"verb":"get","requestURI":"/x?limit={second}","requestReceivedTimestamp":"2026-11-21T10:00:0{second}.123456Z","objectRef":{{"resource":"leases","subresource":"status","apiGroup":"x"}},"responseStatus":{{"code":{code}}}}}"#
        )
    }

    fn told(lines: &[String]) -> Told {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        read(file.path()).unwrap()
    }

    #[test]
    fn refused_requests_of_ours_are_counted() {
        let other = "system:serviceaccount:demo:x";
        let told = told(&[line(OURS, 0, 200), line(OURS, 1, 403), line(other, 1, 403), "{".into()]);
        let refusals: Vec<usize> = told.refused.values().map(Vec::len).collect();
        assert_eq!((told.requests, refusals), (2, vec![1]));
        assert!(told.used.contains(&(OURS.into(), "get".into(), "leases/status.x".into())));
    }

    #[test]
    fn a_refusal_that_is_answered_well_at_once_came_too_early() {
        let refusals = |lines: &[String]| told(lines).refused.values().map(Vec::len).sum::<usize>();
        assert_eq!(refusals(&[line(OURS, 1, 403), line(OURS, 2, 200)]), 0);
        assert_eq!(refusals(&[line(OURS, 1, 403), line(OURS, 2, 403), line(OURS, 4, 200)]), 1);
        assert_eq!(refusals(&[line(OURS, 1, 403), line(OURS, 9, 200)]), 1);
    }
}
