//! # `mesh upgrade`
//!
//! Job: print the manifests of this version with what the installation changed: its values, its trust anchors and
//! its issuer stay unless a flag says otherwise. Writes nothing anywhere.
//! May touch: the cluster (reading), the files named. Callers: `lib.rs`; `prune` for what is installed.

mod stored;

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use mesh_charts::{CONTROL_PLANE, values};
use mesh_pki::{Issuer, TrustBundle};
use serde_json::Value;

pub(crate) use stored::Stored;

use crate::{
    args::Globals,
    block_on,
    check::proxy_of,
    install::{ANCHORS, CERTIFICATE, Common, EXTERNAL, KEY, SCHEME, render, text, verify},
    output::{self, note},
    values::unknown,
};

/// Arguments of `mesh upgrade`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read the installation from a file with its Secrets and ConfigMaps (- for stdin) instead of the cluster
    #[arg(long, value_name = "FILE")]
    from_manifests: Option<PathBuf>,
    /// Print the manifests although running proxies do not trust the issuer
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

/// Prints the manifests.
pub(crate) fn run(globals: &Globals, args: Box<Args>) -> ExitCode {
    output::exit(block_on(async {
        let objects = match args.common.crds {
            true => args.common.crds(&globals.linkerd_namespace)?,
            false => control_plane(globals, &args).await?,
        };
        output::manifests(&objects, args.common.output)?;
        Ok(())
    }))
}

async fn control_plane(globals: &Globals, args: &Args) -> Result<Vec<Value>> {
    let namespace = &globals.linkerd_namespace;
    let (stored, client) = match &args.from_manifests {
        Some(file) => (Stored::from_file(file, namespace)?, None),
        None => {
            let client = globals.client().await?;
            (Stored::from_cluster(&client, namespace).await?, Some(client))
        }
    };
    let kept = stored.values(args.common.base()?);
    let mut all = kept.clone();
    args.common.lay_on(&mut all)?;
    for path in unknown(&CONTROL_PLANE.defaults()?, &stored.overrides) {
        note(format!("The installed value `{path}` is dropped: this version does not know it."));
        values::remove(&mut all, &path);
    }
    if text(&kept, SCHEME) == EXTERNAL {
        if args.common.identity.name_an_issuer() {
            bail!(
                "the issuer is managed outside of the mesh (identity.issuer.scheme=kubernetes.io/tls): \
                 change the Secret linkerd-identity-issuer instead of naming files"
            );
        }
    } else {
        verify(&all)?;
    }
    if text(&all, ANCHORS).trim() != text(&kept, ANCHORS).trim() {
        note(
            "The trust anchors change: restart all meshed Pods after the upgrade, so that they trust the new ones.",
        );
    }
    if let Some(client) = client.filter(|_| !args.force && text(&all, SCHEME) != EXTERNAL) {
        trusted(&client, &all, namespace).await?;
    }
    render(namespace, &all)
}

/// Every running proxy must trust the issuer, or it could not talk to any that the issuer certifies.
async fn trusted(client: &Client, values: &Value, namespace: &str) -> Result<()> {
    let issuer =
        Issuer::from_pem(text(values, CERTIFICATE).as_bytes(), text(values, KEY).as_bytes())
            .context("the issuer's certificate and key cannot be used")?;
    let labelled =
        ListParams::default().labels(&format!("linkerd.io/control-plane-ns={namespace}"));
    let pods: Api<Pod> = Api::all(client.clone());
    let pods = pods.list(&labelled).await.context("cannot list meshed Pods")?;
    let lines: Vec<_> = pods
        .iter()
        .filter(|pod| !trusts(pod, &issuer))
        .map(|pod| {
            let meta = &pod.metadata;
            let name = meta.name.as_deref().unwrap_or_default();
            format!("\t* {}/{name}", meta.namespace.as_deref().unwrap_or_default())
        })
        .collect();
    if !lines.is_empty() {
        bail!(
            "these Pods do not trust the issuer; restart them after the trust anchors have changed, or pass \
             --force:\n{}",
            lines.join("\n")
        );
    }
    Ok(())
}

/// Whether a proxy trusts the issuer; true where it reads the anchors from the control plane's ConfigMap.
fn trusts(pod: &Pod, issuer: &Issuer) -> bool {
    let env = proxy_of(pod).and_then(|container| container.env.as_deref()).unwrap_or_default();
    let anchors = env.iter().find(|e| e.name == "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS");
    let Some(anchors) = anchors.and_then(|e| e.value.as_deref()) else { return true };
    TrustBundle::from_pem(anchors.as_bytes())
        .is_ok_and(|anchors| issuer.verify(&anchors, SystemTime::now()).is_ok())
}
