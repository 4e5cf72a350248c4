//! # Watching the issuer
//!
//! Job: bring new issuer material to the store, from the Secret (at once) and from its mounted folder
//! (twice a second, for control planes that may not read the Secret).
//! May touch: the Secret, the mounted folder. Must not touch: certificates' content.
//! Callers: `run`.

use crate::{
    events::Events,
    issuer::{IssuerStore, Material, Offered, Source},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, runtime::watcher};
use mesh_cluster::watch::{self, Index};
use mesh_pki::IssuerScheme;
use parking_lot::Mutex;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Where the issuer is.
pub(crate) struct Watched {
    pub(crate) namespace: String,
    pub(crate) folder: PathBuf,
    pub(crate) scheme: IssuerScheme,
    pub(crate) store: IssuerStore,
    pub(crate) events: Events,
}

/// Starts both watches; they end with the runtime.
pub(crate) fn spawn(client: Client, watched: Watched) {
    let offers =
        Arc::new(Offers { store: watched.store, events: watched.events, scheme: watched.scheme });
    let index = Arc::new(Mutex::new(SecretIndex(offers.clone())));
    let config = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
    // Readiness waits for an issuer from either source, not for this list.
    watch::spawn(Api::<_>::namespaced(client, &watched.namespace), config, index, ());
    tokio::spawn(follow_folder(offers, watched.folder));
}

struct Offers {
    store: IssuerStore,
    events: Events,
    scheme: IssuerScheme,
}

impl Offers {
    fn offer(&self, material: &Material, source: Source) {
        match self.store.offer(material, source, SystemTime::now()) {
            Offered::First | Offered::Unchanged => {}
            Offered::Replaced => {
                tracing::info!(?source, "Issuer replaced");
                self.events.issuer_updated();
            }
            Offered::Rejected(error) => {
                tracing::warn!(?source, %error, "New issuer rejected, the old one stays");
                self.events.issuer_skipped(&error);
            }
        }
    }
}

struct SecretIndex(Arc<Offers>);

impl Index<Secret> for SecretIndex {
    fn apply(&mut self, secret: Secret) {
        if secret.metadata.name.as_deref() != Some(SECRET) {
            return;
        }
        let data = secret.data.unwrap_or_default();
        let (certificates, key) = self.0.scheme.files();
        match (data.get(certificates), data.get(key)) {
            (Some(certificates), Some(key)) => {
                let material =
                    Material { certificates: certificates.0.clone(), key: key.0.clone() };
                self.0.offer(&material, Source::Api);
            }
            _ => tracing::warn!(
                "The Secret {SECRET} lacks {certificates} or {key}, the issuer stays as it is"
            ),
        }
    }

    /// The issuer in memory stays good without its Secret.
    fn delete(&mut self, _namespace: Option<&str>, _name: &str) {
        tracing::warn!("The Secret {SECRET} was deleted, the issuer stays as it is");
    }

    fn reset(&mut self, secrets: Vec<Secret>) {
        secrets.into_iter().for_each(|secret| self.apply(secret));
    }
}

async fn follow_folder(offers: Arc<Offers>, folder: PathBuf) {
    let mut last = None;
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // A folder that is missing or half-written is looked at again; what changed is what counts.
        let Some(material) = read(&folder, offers.scheme) else { continue };
        if last.as_ref() != Some(&material) {
            offers.offer(&material, Source::File);
            last = Some(material);
        }
    }
}

/// Both files through one resolution of `..data`, so that the pair is of one version.
fn read(folder: &Path, scheme: IssuerScheme) -> Option<Material> {
    let current = folder.join("..data");
    let version = std::fs::canonicalize(&current).unwrap_or_else(|_| folder.to_owned());
    let (certificates, key) = scheme.files();
    Some(Material {
        certificates: std::fs::read(version.join(certificates)).ok()?,
        key: std::fs::read(version.join(key)).ok()?,
    })
}

const SECRET: &str = "linkerd-identity-issuer";
const POLL: Duration = Duration::from_millis(500);
