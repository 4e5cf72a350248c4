//! # The webhook's certificate
//!
//! Job: the TLS settings for the files in a folder, made anew when the files change.
//! May touch: the files. Must not touch: sockets. Callers: `serve`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::InjectError;

/// Settings that follow the files.
pub(crate) struct Reloading {
    folder: PathBuf,
    loaded: Option<(Vec<u8>, Vec<u8>, Arc<ServerConfig>)>,
}

impl Reloading {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, loaded: None }
    }

    /// The settings for what the files hold now. If they cannot be used, the last good ones.
    pub(crate) async fn current(&mut self) -> Result<Arc<ServerConfig>, InjectError> {
        let read = load(&self.folder, self.loaded.as_ref()).await;
        match (read, &self.loaded) {
            (Ok(Some(loaded)), _) => {
                let config = loaded.2.clone();
                self.loaded = Some(loaded);
                tracing::info!("Certificate loaded");
                Ok(config)
            }
            (Ok(None), Some((_, _, config))) => Ok(config.clone()),
            (Err(error), Some((_, _, config))) => {
                tracing::warn!(%error, "Keeping the certificate from before");
                Ok(config.clone())
            }
            (Ok(None), None) => Err(InjectError::Certificate("nothing is loaded".to_owned())),
            (Err(error), None) => Err(error),
        }
    }
}

type Loaded = (Vec<u8>, Vec<u8>, Arc<ServerConfig>);

/// Reads the files; none if they are as before.
async fn load(folder: &Path, before: Option<&Loaded>) -> Result<Option<Loaded>, InjectError> {
    let chain = read(folder.join("tls.crt")).await?;
    let key = read(folder.join("tls.key")).await?;
    if before.is_some_and(|(c, k, _)| *c == chain && *k == key) {
        return Ok(None);
    }
    let config = Arc::new(config(&chain, &key)?);
    Ok(Some((chain, key, config)))
}

async fn read(path: PathBuf) -> Result<Vec<u8>, InjectError> {
    tokio::fs::read(&path).await.map_err(|source| InjectError::File { path, source })
}

fn config(chain: &[u8], key: &[u8]) -> Result<ServerConfig, InjectError> {
    let bad = |error: &dyn std::fmt::Display| InjectError::Certificate(error.to_string());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|e| bad(&e))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| bad(&e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| bad(&e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| bad(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
