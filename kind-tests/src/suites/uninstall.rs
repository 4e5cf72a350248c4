//! # Suite: uninstall
//!
//! Job: unlink, uninstall the extension and the control plane: nothing of the mesh is left in either cluster.
//! Callers: `suites`.

use crate::{
    kubectl::Kubectl,
    run,
    stage::{DEMO, SOON, Stage},
};
use anyhow::{Result, anyhow, ensure};

/// Takes all away again, applications first; both clusters at once, as namespaces take their time to go.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let done: Vec<Result<()>> = std::thread::scope(|threads| {
        let running = stage.both().map(|cluster| threads.spawn(move || take(stage, cluster)));
        let lost = |_| Err(anyhow!("the thread of a cluster panicked"));
        running.into_iter().map(|one| one.join().unwrap_or_else(lost)).collect()
    });
    done.into_iter().collect()
}

fn take(stage: &Stage<'_>, cluster: &Kubectl) -> Result<()> {
    // A namespace that had Pods goes 16 s after them: meanwhile there is other work.
    cluster.line(&format!("delete namespace {DEMO} plain --ignore-not-found --wait=false"))?;
    run::until("the applications go", SOON, || {
        let pods = cluster.line(&format!("get pods -n {DEMO} -o name"))?;
        ensure!(pods.is_empty(), "in {} there are still: {pods}", cluster.context);
        Ok(())
    })?;
    if cluster.context == stage.west.context {
        delete(stage, cluster, "multicluster unlink --cluster-name east")?;
    }
    delete(stage, cluster, "multicluster uninstall")?;
    delete(stage, cluster, "uninstall")?;
    run::until("everything goes", SOON, || {
        let left = left(cluster)?;
        ensure!(left.is_empty(), "in {} there are still: {}", cluster.context, left.join(", "));
        Ok(())
    })
}

/// `mesh ... | kubectl delete -f -`.
fn delete(stage: &Stage<'_>, on: &Kubectl, line: &str) -> Result<()> {
    let manifests = stage.mesh(on, line)?;
    run::output_of(&mut on.command(&["delete", "--ignore-not-found", "-f", "-"]), &manifests)?;
    Ok(())
}

/// Every object, of whatever kind, that bears our name.
fn left(cluster: &Kubectl) -> Result<Vec<String>> {
    let kinds = cluster.line("api-resources --verbs=list -o name")?;
    // Events are history; they go by themselves.
    let kinds: Vec<&str> = kinds.lines().filter(|k| !k.starts_with("events")).collect();
    let applications = [format!("namespace/{DEMO}"), "namespace/plain".to_owned()];
    let all = cluster.run(&["get", &kinds.join(","), "-A", "-o", "name"])?;
    Ok(all
        .lines()
        .filter(|name| {
            name.contains("linkerd")
                || name.contains("service-mirror")
                || applications.iter().any(|a| a == name)
        })
        .map(str::to_owned)
        .collect())
}
