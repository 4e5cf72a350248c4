//! # What all requests share
//!
//! Job: the store, the registry, keys and logs of one running API server.
//! May touch: the data folder. Must not touch: requests.
//! Callers: every part of the API server.

use std::{fs, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    ApiConfig, StartError, audit::Audit, pki::Pki, registry::Registry, tokens::TokenIssuer,
};
use crate::store::Store;

/// Table of CustomResourceDefinitions.
pub(crate) const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// State of an API server.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ApiConfig,
    pub(crate) addr: SocketAddr,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) pki: Pki,
    pub(crate) tokens: TokenIssuer,
    pub(crate) audit: Audit,
    /// Held from the choice of a Service's addresses and ports until the Service is stored.
    pub(crate) allocation: Mutex<()>,
    /// Held while definitions are read and the registry is rebuilt, so that the last write wins.
    reload: Mutex<()>,
    stopping: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn open(config: ApiConfig, addr: SocketAddr) -> Result<Self, StartError> {
        for path in [&config.data_dir, &config.pod_logs] {
            fs::create_dir_all(path)
                .map_err(|source| StartError::Folder { path: path.clone(), source })?;
        }
        let pki = Pki::open(&config, addr)?;
        let tokens = TokenIssuer::new(&pki.token_key, &config.cluster_domain)
            .map_err(|reason| StartError::Keys { path: config.data_dir.join("pki"), reason })?;
        let shared = Self {
            store: Store::open(&config.data_dir.join("store"))?,
            registry: Registry::new(),
            audit: Audit::new(),
            allocation: Mutex::new(()),
            reload: Mutex::new(()),
            stopping: watch::Sender::new(false),
            pki,
            tokens,
            addr,
            config,
        };
        shared.reload_definitions();
        Ok(shared)
    }

    /// Starts what runs beside requests: the writer of the audit log.
    pub(crate) fn spawn_background(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        if let Some(path) = self.config.audit_log.clone() {
            self.audit.spawn_writer(path);
        }
        tokio::spawn(async move {
            stopped(&mut stop).await;
            self.stopping.send_replace(true);
            self.audit.close();
        });
    }

    /// Becomes true when streams have to end.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Takes what definitions say now into the registry.
    pub(crate) fn reload_definitions(&self) {
        let _held = self.reload.lock();
        let (_, definitions) = self.store.list(DEFINITIONS, None);
        self.registry.set_definitions(definitions.iter().map(|d| &d.value));
    }
}

/// Waits until a stop is asked for; a server that was dropped stops just the same.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
