//! # Suite: permissions
//!
//! Job: no component of the mesh asked the API server for what its role does not give: the audit logs of all that the
//! suites before this one did have no 403 for our service accounts.
//! Callers: `suites`.

use crate::stage::Stage;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

/// Reads both clusters' audit logs.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    for cluster in stage.both() {
        let Some(path) = stage.provider.audit_log(&cluster.context) else {
            crate::note("  this provider keeps no audit log");
            return Ok(());
        };
        let (requests, refused) = read(&path)?;
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
    }
    Ok(())
}

/// The number of requests by our accounts, and those that were refused by what they were.
fn read(path: &Path) -> Result<(usize, BTreeMap<String, usize>)> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut requests, mut refused) = (0, BTreeMap::new());
    for line in BufReader::new(file).lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        let user = event["user"]["username"].as_str().unwrap_or_default();
        if !ours(user) {
            continue;
        }
        requests += 1;
        if event["responseStatus"]["code"] == 403 {
            let (verb, uri) = (&event["verb"], &event["requestURI"]);
            *refused.entry(format!("{user}: {verb} {uri}")).or_default() += 1;
        }
    }
    Ok((requests, refused))
}

fn ours(user: &str) -> bool {
    ["linkerd", "linkerd-multicluster"]
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
                r#"{{"user":{{"username":"{user}"}},"verb":"get","requestURI":"/x","responseStatus":{{"code":{code}}}}}"#
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
        let (requests, refused) = read(file.path()).unwrap();
        assert_eq!((requests, refused.len()), (2, 1));
    }
}
