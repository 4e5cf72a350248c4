//! # The exporting cluster
//!
//! Job: watch the credentials, keep a client and the watches of the exporting cluster that they open,
//! and say in one sentence what is wrong while that does not work.
//! May touch: the credentials Secret, the exporting cluster's API (reading, and Events).
//! Must not touch: mirrors. Callers: `term.rs`.

use crate::feeds::{RemoteEndpoints, RemoteServices, Shared};
use k8s_openapi::api::core::v1::{Endpoints, Secret, Service};
use kube::{Api, Client, api::ListParams, runtime::watcher};
use mesh_cluster::{Error, watch, within};
use mesh_k8s::names;
use mesh_link::{Link, credentials};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch as channel;
use tokio_util::task::AbortOnDropHandle;

/// How often access is tried while it works, and while it does not.
const CALM: Duration = Duration::from_secs(10);
const TROUBLED: Duration = Duration::from_secs(2);
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The exporting cluster of a Link.
pub(crate) struct Remote {
    pub(crate) local: Client,
    pub(crate) world: Shared,
    pub(crate) link: Arc<Link>,
    /// For Events; `None` until credentials were usable once.
    pub(crate) client: Arc<Mutex<Option<Client>>>,
    /// What is wrong, if anything.
    pub(crate) problem: channel::Sender<Option<String>>,
}

/// The kubeconfig bytes as they stand in the Secret.
type Kubeconfig = Option<Vec<u8>>;

struct SecretFeed(channel::Sender<Kubeconfig>);

impl watch::Index<Secret> for SecretFeed {
    fn apply(&mut self, object: Secret) {
        let bytes = object.data.and_then(|mut d| d.remove(names::CREDENTIALS_KEY)).map(|b| b.0);
        self.0.send_if_modified(|now| {
            let changed = *now != bytes;
            *now = bytes;
            changed
        });
    }
    fn delete(&mut self, _: Option<&str>, _: &str) {
        self.0.send_replace(None);
    }
    fn reset(&mut self, objects: Vec<Secret>) {
        match objects.into_iter().next() {
            Some(secret) => self.apply(secret),
            None => self.delete(None, ""),
        }
    }
}

impl Remote {
    /// Runs for ever; dropping the future stops everything.
    pub(crate) async fn run(self) {
        let (sender, mut kubeconfig) = channel::channel(None);
        let secrets: Api<_> = Api::namespaced(self.local.clone(), &self.link.namespace);
        let only = watcher::Config::default()
            .fields(&format!("metadata.name={}", self.link.credentials_secret));
        let _secret = AbortOnDropHandle::new(watch::spawn::<Secret, _>(
            secrets,
            only,
            Arc::new(Mutex::new(SecretFeed(sender))),
            (),
        ));
        let mut watches = None;
        loop {
            let bytes = kubeconfig.borrow_and_update().clone();
            let Some(bytes) = bytes else {
                // The last good client goes on serving.
                tokio::select! {
                    changed = kubeconfig.changed() => if changed.is_err() { return },
                    () = self.explain_missing() => {}
                }
                continue;
            };
            let client = match open(bytes).await {
                Ok(client) => client,
                Err(error) => {
                    self.say(Some(format!("Secret {}: {error}", self.link.credentials_secret)));
                    if kubeconfig.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            // New watches start before the old ones end; each starts with a complete list.
            watches.replace(self.watch(&client));
            self.client.lock().replace(client.clone());
            tokio::select! {
                changed = kubeconfig.changed() => if changed.is_err() { return },
                () = self.try_access(&client) => {}
            }
        }
    }

    fn watch(&self, client: &Client) -> [AbortOnDropHandle<()>; 2] {
        let name = &self.link.name;
        let services = Arc::new(Mutex::new(RemoteServices(self.world.clone(), name.clone())));
        let endpoints = Arc::new(Mutex::new(RemoteEndpoints(self.world.clone(), name.clone())));
        let config = watcher::Config::default;
        [
            watch::spawn::<Service, _>(Api::all(client.clone()), config(), services, ()),
            watch::spawn::<Endpoints, _>(Api::all(client.clone()), config(), endpoints, ()),
        ]
        .map(AbortOnDropHandle::new)
    }

    /// Says why there is no Secret: absent, or not ours to read.
    async fn explain_missing(&self) {
        // The watch delivers in moments if all is well.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (namespace, name) = (&self.link.namespace, &self.link.credentials_secret);
        let api: Api<Secret> = Api::namespaced(self.local.clone(), namespace);
        let problem = match within(PATIENCE, api.get_opt(name)).await {
            Ok(Some(secret)) => match credentials::kubeconfig(&secret) {
                // The watch will tell.
                Ok(_) => return tokio::time::sleep(TROUBLED).await,
                Err(error) => format!("Secret {namespace}/{name}: {error}"),
            },
            Ok(None) => format!(
                "Secret {namespace}/{name} does not exist: apply what `mesh multicluster link` printed"
            ),
            Err(error) if error.is_denied() => format!(
                "Secret {namespace}/{name} may not be read by the mirror: apply the Role and RoleBinding that \
                 `mesh multicluster link` prints, or add the Link to the chart's controllers"
            ),
            Err(error) => format!("Secret {namespace}/{name}: {error}"),
        };
        self.say(Some(problem));
        tokio::time::sleep(TROUBLED).await;
    }

    /// Tries the credentials again and again; the watches only log what hinders them.
    async fn try_access(&self, client: &Client) {
        let services: Api<Service> = Api::all(client.clone());
        loop {
            let tried =
                within(PATIENCE, services.list_metadata(&ListParams::default().limit(1))).await;
            let problem = tried.err().map(|error| self.describe(&error));
            let pause = if problem.is_some() { TROUBLED } else { CALM };
            self.say(problem);
            tokio::time::sleep(pause).await;
        }
    }

    fn describe(&self, error: &Error) -> String {
        let cluster = &self.link.cluster;
        match error.code() {
            Some(401) => format!(
                "cluster {cluster} does not accept the token in Secret {}: print the credentials again with \
                 `mesh multicluster link`",
                self.link.credentials_secret
            ),
            Some(403) => {
                format!("cluster {cluster} does not let the mirror list Services: {error}")
            }
            _ => format!("cluster {cluster}: {error}"),
        }
    }

    fn say(&self, problem: Option<String>) {
        self.problem.send_if_modified(|now| {
            let changed = *now != problem;
            if changed && let Some(problem) = &problem {
                tracing::warn!(link = %self.link.name, "{problem}");
            }
            *now = problem;
            changed
        });
    }
}

async fn open(bytes: Vec<u8>) -> Result<Client, credentials::CredentialsError> {
    let text = String::from_utf8(bytes)
        .map_err(|_| credentials::CredentialsError::Malformed("it is not text".into()))?;
    credentials::client(credentials::parse(&text)?).await
}
