//! # Checks of extensions
//!
//! Job: find the extensions, run each one's `check` as a child with a time limit, and read its reports.
//! An extension is built in, or a program `linkerd-NAME` that a namespace's label asks for by name, or one
//! that says of itself that it is always checked.
//! May touch: PATH, child processes, Namespaces. Callers: `check`.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::ListParams};
use serde_json::{Deserializer, Value};
use tokio::process::Command;

use super::{
    Args, Category, check,
    engine::{CategoryReport, CheckReport, Grade, Report},
    view::{Finding, View, none_or_warn},
};
use crate::args::Globals;

/// Longest run of an extension, beside its own waiting.
const LIMIT: Duration = Duration::from_secs(30);
const LABEL: &str = "linkerd.io/extension";
/// Extensions that are part of this program, with their verbs.
const BUILT_IN: [(&str, &str); 1] = [("multicluster", "multicluster")];
const CATEGORY: &str = "linkerd-extension-checks";

/// linkerd-extension-checks
pub(super) fn namespaces(view: &Arc<View>) -> Category {
    Category {
        name: CATEGORY,
        checks: vec![check!(
            view,
            "namespace configuration for extensions",
            "l5d-extension-namespaces",
            one_namespace_each
        )],
    }
}

async fn labelled(view: &View) -> Result<BTreeMap<String, Vec<String>>> {
    let api: Api<Namespace> = Api::all(view.client().await?);
    let found =
        api.list(&ListParams::default().labels(LABEL)).await.context("cannot list Namespaces")?;
    let mut by_extension: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for namespace in found.items {
        let labels = namespace.metadata.labels.unwrap_or_default();
        if let Some(extension) = labels.get(LABEL) {
            let name = namespace.metadata.name.unwrap_or_default();
            by_extension.entry(extension.clone()).or_default().push(name);
        }
    }
    Ok(by_extension)
}

async fn one_namespace_each(view: &View) -> Result<Finding> {
    let twice = labelled(view).await?.into_iter().filter(|(_, namespaces)| namespaces.len() > 1);
    let lines =
        twice.map(|(extension, namespaces)| format!("{extension}: {}", namespaces.join(", ")));
    Ok(none_or_warn("an extension should have one namespace:", lines.collect()))
}

/// Runs all extensions' checks, one after the other; what is missing or broken is a report of its own.
pub(super) async fn run(view: &View, globals: &Globals, args: &Args) -> Vec<Report> {
    let wanted: BTreeSet<String> = match labelled(view).await {
        Ok(labelled) => {
            labelled.into_keys().map(|n| n.trim_start_matches("linkerd-").to_owned()).collect()
        }
        Err(error) => {
            return vec![broken(
                "find extensions",
                &crate::output::sentence(&error),
                Grade::Warning,
            )];
        }
    };
    let mut reports = Vec::new();
    for (name, verb) in BUILT_IN {
        if wanted.contains(name) {
            match std::env::current_exe() {
                Ok(program) => reports.extend(child(&program, Some(verb), globals, args).await),
                Err(error) => reports.push(broken(verb, &error.to_string(), Grade::Error)),
            }
        }
    }
    let programs = on_path();
    for (name, program) in &programs {
        if !BUILT_IN.iter().any(|(known, _)| known == name)
            && (wanted.contains(name) || always(program).await)
        {
            reports.extend(child(program, None, globals, args).await);
        }
    }
    for name in &wanted {
        if !programs.contains_key(name) && !BUILT_IN.iter().any(|(known, _)| known == name) {
            let what = format!("Linkerd extension command linkerd-{name} exists");
            let why =
                format!("exec: \"linkerd-{name}\" is not on PATH; install it to have its checks");
            reports.push(broken(&what, &why, Grade::Warning));
        }
    }
    reports
}

/// Programs `linkerd-NAME` on PATH, by NAME; the first of a name wins, as in a shell.
fn on_path() -> BTreeMap<String, PathBuf> {
    let path = mesh_process::settings::env("PATH").unwrap_or_default();
    let mut found = BTreeMap::new();
    for entry in
        std::env::split_paths(&path).filter_map(|dir| dir.read_dir().ok()).flatten().flatten()
    {
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|f| f.strip_prefix("linkerd-")) else { continue };
        let runnable = entry
            .path()
            .metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        if runnable {
            found.entry(name.to_owned()).or_insert_with(|| entry.path());
        }
    }
    found
}

/// Whether a program says that it is an extension to be checked in any case.
async fn always(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("_extension-metadata");
    let Ok(output) = limited(command, LIMIT).await else { return false };
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    metadata["checks"] == "always"
}

async fn child(program: &Path, verb: Option<&str>, globals: &Globals, args: &Args) -> Vec<Report> {
    let mut command = Command::new(program);
    command.args(verb).arg("check").args(flags(globals, args)).arg("--output=json");
    let shown =
        format!("{} {}check", program.display(), verb.map(|v| format!("{v} ")).unwrap_or_default());
    let output = match limited(command, LIMIT + args.wait).await {
        Ok(output) => output,
        Err(error) => {
            return vec![broken(
                &format!("Running: {shown}"),
                &crate::output::sentence(&error),
                Grade::Error,
            )];
        }
    };
    let documents: Result<Vec<Report>, _> =
        Deserializer::from_slice(&output.stdout).into_iter::<Report>().collect();
    match documents {
        Ok(reports) if !reports.is_empty() => reports,
        _ => {
            let text = String::from_utf8_lossy(&output.stderr);
            let why = match text.trim() {
                "" => "it printed no report",
                text => text,
            };
            vec![broken(&format!("Running: {shown}"), why, Grade::Error)]
        }
    }
}

/// Runs a program to its end, or kills it when its time is up.
async fn limited(mut command: Command, limit: Duration) -> Result<std::process::Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("it was ended after {} s", limit.as_secs()))?
        .context("it could not be started")
}

fn flags(globals: &Globals, args: &Args) -> Vec<String> {
    let mut flags = vec![format!("--linkerd-namespace={}", globals.linkerd_namespace)];
    let mut flag = |name: &str, value: Option<String>| {
        flags.extend(value.map(|value| format!("--{name}={value}")));
    };
    flag("kubeconfig", globals.kubeconfig.as_ref().map(|p| p.display().to_string()));
    flag("context", globals.context.clone());
    flag("as", globals.as_user.clone());
    flag("api-addr", globals.api_addr.clone());
    flag("namespace", args.namespace.clone());
    flag("wait", Some(format!("{}s", args.wait.as_secs())));
    flags.extend(globals.as_group.iter().map(|group| format!("--as-group={group}")));
    flags.extend(args.proxy.then(|| "--proxy".to_owned()));
    flags.extend(globals.verbose.then(|| "--verbose".to_owned()));
    flags
}

fn broken(what: &str, why: &str, result: Grade) -> Report {
    let check = CheckReport {
        description: what.to_owned(),
        hint: Some("https://linkerd.io/2/checks/#extensions".to_owned()),
        error: Some(why.to_owned()),
        result,
    };
    let category = CategoryReport { category_name: CATEGORY.to_owned(), checks: vec![check] };
    Report { success: result != Grade::Error, categories: vec![category] }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = limited(command, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("it was ended after"), "{error}");
    }

    #[tokio::test]
    async fn only_a_program_that_says_so_is_always_checked() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let yes = program("linkerd-a", r#"echo '{"name":"a","checks":"always"}'"#);
        let no = program("linkerd-b", "echo hello");
        assert!(always(&yes).await && !always(&no).await);
    }
}
