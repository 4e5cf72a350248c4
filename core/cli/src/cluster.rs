//! # Reaching the cluster
//!
//! Job: a client for the cluster that the flags name, impersonation included.
//! May touch: the kubeconfig. Must not touch: what the verbs do with the client. Callers: the verbs.

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::args::Globals;

impl Globals {
    /// The kubeconfig of `--kubeconfig`, else of `KUBECONFIG`, else `~/.kube/config`.
    ///
    /// # Errors
    /// When it cannot be read or parsed; the sentence names the file and the flag.
    pub fn kubeconfig(&self) -> anyhow::Result<Kubeconfig> {
        match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).with_context(|| {
                format!(
                    "cannot use the kubeconfig {}; pass another with --kubeconfig",
                    path.display()
                )
            }),
            None => Kubeconfig::read().context(
                "cannot use the default kubeconfig; name one with --kubeconfig or KUBECONFIG",
            ),
        }
    }

    /// Connection settings for the context that the flags name.
    ///
    /// # Errors
    /// When the kubeconfig or the context in it cannot be used.
    pub async fn config(&self) -> anyhow::Result<Config> {
        let options =
            KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let kubeconfig = self.kubeconfig()?;
        let known: Vec<_> = kubeconfig.contexts.iter().map(|c| c.name.clone()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(
            || match &self.context {
                Some(name) => format!(
                    "the kubeconfig context `{name}` cannot be used (contexts there: {known})"
                ),
                None => format!(
                    "the kubeconfig's current context cannot be used; name one with --context \
                     (contexts there: {known})"
                ),
            },
        )?;
        config.connect_timeout = Some(std::time::Duration::from_secs(5));
        if let Some(user) = &self.as_user {
            config.auth_info.impersonate = Some(user.clone());
        }
        if !self.as_group.is_empty() {
            config.auth_info.impersonate_groups = Some(self.as_group.clone());
        }
        Ok(config)
    }

    /// A client for that cluster.
    ///
    /// # Errors
    /// When the settings cannot be used. Nothing is sent yet.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = self.config().await?;
        Client::try_from(config).context("cannot prepare a client from the kubeconfig")
    }
}
