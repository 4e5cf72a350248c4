//! # Arguments
//!
//! Job: the command tree and the flags that every verb shares.
//! May touch: text. Must not touch: files, clusters. Callers: `lib.rs`, every verb.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The mesh for many Kubernetes clusters.
#[derive(Debug, Parser)]
#[command(name = "mesh", version = crate::args::VERSION, disable_version_flag = true)]
#[command(about = "A service mesh for many Kubernetes clusters")]
pub struct Cli {
    /// Flags that every verb takes.
    #[command(flatten)]
    pub globals: Globals,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// This build's version, as it stands in `created-by` annotations and image tags.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Flags that every verb takes.
#[derive(Args, Clone, Debug)]
pub struct Globals {
    /// Namespace in which the control plane is installed
    #[arg(
        short = 'L',
        long = "linkerd-namespace",
        global = true,
        default_value = "linkerd",
        env = "LINKERD_NAMESPACE",
        value_parser = namespace,
        hide_env = true
    )]
    pub linkerd_namespace: String,
    /// Path to the kubeconfig file to use
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the kubeconfig context to use
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// User to impersonate
    #[arg(long = "as", global = true)]
    pub as_user: Option<String>,
    /// Group to impersonate (repeatable)
    #[arg(long = "as-group", global = true)]
    pub as_group: Vec<String>,
    /// Control-plane address (host:port) to use instead of a port-forward
    #[arg(long = "api-addr", global = true)]
    pub api_addr: Option<String>,
    /// Print debug messages
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make root and issuer certificates
    Ca(crate::ca::Args),
    /// Check the mesh for problems
    Check(crate::check::Args),
    /// Print a shell completion script
    Completion(crate::completion::Args),
    /// Run two linked clusters on this machine and send a request across
    Demo(crate::demo::Args),
    /// Add the sidecar, or what asks for it, to manifests
    Inject(Box<crate::inject::Args>),
    /// Print the manifests of the mesh
    Install(Box<crate::install::Args>),
    /// Print the manifests of the CNI plugin
    InstallCni(Box<crate::install_cni::Args>),
    /// Manage the multicluster extension
    #[command(alias = "mc")]
    Multicluster(crate::mc::Args),
    /// Print what this version no longer has, to be deleted
    Prune(crate::prune::Args),
    /// Run clusters on this machine
    Sandbox(crate::sandbox::Args),
    /// Take the sidecar out of manifests
    Uninject(crate::inject::UninjectArgs),
    /// Print what removes the control plane
    Uninstall(crate::uninstall::Args),
    /// Print the manifests of this version with the values of the installation
    Upgrade(Box<crate::upgrade::Args>),
    /// Print client and server versions
    Version(crate::version::Args),
}

/// A namespace name as Linkerd's commands accept it.
fn namespace(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || !text.chars().all(legal) {
        return Err("a namespace has letters, digits and `-` only".to_owned());
    }
    Ok(text.to_owned())
}
