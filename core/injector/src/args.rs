//! # Settings of the injector
//!
//! Job: the typed settings; the binary fills them. May touch: nothing. Callers: the controller, `serve`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use mesh_process::context::PodContext;

/// Settings of the injector.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the webhook listens; mapped by the Pod context.
    pub addr: SocketAddr,
    /// The control plane's namespace.
    pub namespace: String,
    /// This program's version, written into annotations.
    pub version: String,
    /// The installation's values, as mounted.
    pub values: PathBuf,
    /// The trust anchors, as mounted.
    pub anchors: PathBuf,
    /// Folder with `tls.crt` and `tls.key`, as mounted.
    pub tls: PathBuf,
    /// Where the program runs.
    pub context: PodContext,
}

impl Config {
    /// The settings that a chart's Deployment implies.
    pub fn new(namespace: &str, context: PodContext) -> Self {
        Self {
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443),
            namespace: namespace.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            values: "/var/run/linkerd/config/values".into(),
            anchors: "/var/run/linkerd/identity/trust-roots/ca-bundle.crt".into(),
            tls: "/var/run/linkerd/tls".into(),
            context,
        }
    }
}
