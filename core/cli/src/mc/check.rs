//! # `mesh multicluster check`
//!
//! Job: is every Link usable, and if not, why: credentials, API, anchors, mirror, gateway, mirrors.
//! May touch: this cluster and, with each Link's own credentials, the exporting ones; reading only.
//! Callers: `mc`, and `mesh check` as an extension.

mod probes;

use crate::{
    args::Globals,
    check::{Category, Check, Format, Session, engine},
};
use anyhow::Result;
use probes::View;
use std::{process::ExitCode, sync::Arc, time::Duration};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to print: table, short or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// How long to retry what may become good
    #[arg(long, default_value = "5m", value_parser = engine::duration)]
    wait: Duration,
    /// Longest that one look-up may take
    #[arg(long, default_value = "10s", value_parser = engine::duration)]
    timeout: Duration,
    /// Accepted for callers that check proxies
    #[arg(long, hide = true)]
    proxy: bool,
    /// Accepted for callers that check proxies
    #[arg(short, long, hide = true)]
    namespace: Option<String>,
}

/// Runs the checks; exit code 1 if one failed.
pub(super) async fn run(globals: &Globals, args: Args) -> Result<ExitCode> {
    let client = globals.client().await?;
    let namespace = super::gateways::extension_namespace(&client).await?;
    let view = Arc::new(View { client, namespace, timeout: args.timeout });
    let mut session = Session::new(args.output, args.wait);
    session.run(vec![category(&view)]).await;
    Ok(if session.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn category(view: &Arc<View>) -> Category {
    macro_rules! check {
        ($text:literal, $anchor:literal, $probe:ident) => {{
            let view = view.clone();
            Check::new($text, $anchor, move || {
                let view = view.clone();
                async move { view.$probe().await }
            })
        }};
    }
    Category {
        name: "linkerd-multicluster",
        checks: vec![
            check!("Link CRD exists", "l5d-multicluster-link-crd-exists", crd_exists).fatal(),
            check!("Link resources are valid", "l5d-multicluster-links-are-valid", links_are_valid)
                .fatal(),
            check!("Link and CLI versions match", "l5d-multicluster-links-version", versions_match),
            check!(
                "remote cluster access credentials are valid",
                "l5d-smc-target-clusters-access",
                access
            ),
            check!(
                "clusters share trust anchors",
                "l5d-multicluster-clusters-share-anchors",
                anchors
            ),
            check!(
                "service mirror controller has required permissions",
                "l5d-multicluster-source-rbac-correct",
                permissions
            ),
            check!(
                "service mirror controllers are running",
                "l5d-multicluster-service-mirror-running",
                mirror_runs
            )
            .retry(),
            check!(
                "probe services able to communicate with all gateway mirrors",
                "l5d-multicluster-gateways-endpoints",
                gateways
            )
            .retry(),
            check!(
                "all mirror services have endpoints",
                "l5d-multicluster-services-endpoints",
                endpoints
            ),
            check!(
                "all mirror services are part of a Link",
                "l5d-multicluster-orphaned-services",
                orphans
            ),
        ],
    }
}
