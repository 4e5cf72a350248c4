//! # Where clusters come from
//!
//! Job: what a provider of two clusters can do. Every verb may be said again.
//! May touch: the folder of its state; nothing else itself. Callers: the verbs of the tool, the suites.

use crate::kubectl::Kubectl;
use anyhow::{Context, Result};
use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Two clusters named east and west that reach each other's LoadBalancer addresses and API servers.
pub(crate) trait Provider: Sync {
    /// Looks whether this machine can have the clusters.
    ///
    /// # Errors
    /// With what is missing and the remedy.
    fn check(&self) -> Result<()>;

    /// Builds what the clusters are made of, if that was not done yet.
    ///
    /// # Errors
    /// With what is missing and the remedy, or when the build fails.
    fn build(&self) -> Result<()> {
        Ok(())
    }

    /// Makes both clusters ready, or finds them so.
    ///
    /// # Errors
    /// With what is missing and the remedy.
    fn up(&self) -> Result<()>;

    /// Gives every cluster the images of an archive (docker or OCI).
    ///
    /// # Errors
    /// When the clusters are not up or the file is no archive.
    fn load_image(&self, archive: &Path) -> Result<()>;

    /// A kubeconfig with the contexts `east` and `west`.
    ///
    /// # Errors
    /// When the clusters are not up.
    fn kubeconfig(&self) -> Result<PathBuf>;

    /// URL of a cluster's API server as the other cluster's Pods reach it.
    ///
    /// # Errors
    /// When the cluster is not up.
    fn api_address(&self, cluster: &str) -> Result<String>;

    /// Which clusters there are and how they do, a line each.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn status(&self) -> Result<Vec<String>>;

    /// Takes both clusters and all that they left away.
    ///
    /// # Errors
    /// With what would not go.
    fn down(&self) -> Result<()>;

    /// The folder with the logs of every component.
    fn logs(&self) -> PathBuf;

    /// The log of every request to a cluster's API server, if the provider keeps one.
    fn audit_log(&self, cluster: &str) -> Option<PathBuf>;

    /// The folders of network configurations and of CNI plugins on a cluster's node, as the node sees them.
    ///
    /// # Errors
    /// When there is no such cluster.
    fn cni_folders(&self, cluster: &str) -> Result<(PathBuf, PathBuf)>;

    /// The kubectl of the clusters' version.
    ///
    /// # Errors
    /// When there is none.
    fn kubectl(&self) -> Result<PathBuf>;

    /// Cuts a cluster's node off, or joins it again.
    ///
    /// # Errors
    /// When the provider cannot.
    fn set_link(&self, cluster: &str, up: bool) -> Result<()>;

    /// kubectl on one cluster.
    ///
    /// # Errors
    /// When the clusters are not up.
    fn on(&self, cluster: &str) -> Result<Kubectl> {
        Ok(Kubectl::new(self.kubectl()?, self.kubeconfig()?, cluster))
    }
}

/// Makes the folder of a provider's state, for its owner alone: it holds the keys of clusters.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn make_state(folder: &Path) -> Result<()> {
    let mut made = DirBuilder::new();
    made.recursive(true).mode(0o700).create(folder).with_context(|| {
        format!("cannot make {}: name another folder with --state", folder.display())
    })
}
