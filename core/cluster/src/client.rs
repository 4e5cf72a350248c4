//! # Clients
//!
//! Job: a kube client from a Pod's mounted credentials, or from a kubeconfig (file or text).
//! May touch: the mounted token and CA, kubeconfig files. Must not touch: cluster objects.
//! Callers: binaries (once, at start), `link` (a client an exporting cluster).

use crate::Error;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig as File},
};
use mesh_process::context::PodContext;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where Kubernetes mounts a Pod's credentials.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The operator's choice of kubeconfig. All-default means `$KUBECONFIG`, then `~/.kube/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubeconfig {
    /// File to read; `None`: the usual places.
    pub path: Option<PathBuf>,
    /// Context to use; `None`: the current one.
    pub context: Option<String>,
    /// User to act as.
    pub impersonate: Option<String>,
    /// Groups to act as.
    pub impersonate_groups: Vec<String>,
}

/// A client: from the kubeconfig if one is given, else from the Pod's mounted credentials, whose token
/// and CA are read again when they rotate.
///
/// # Errors
/// When the kubeconfig or the mounted files cannot be read. The API server itself is not asked.
pub async fn client(
    context: &PodContext,
    kubeconfig: Option<&Kubeconfig>,
) -> Result<Client, Error> {
    let config = match kubeconfig {
        Some(choice) => from_choice(choice).await?,
        None => in_cluster(context)?,
    };
    build(config)
}

/// The parsed kubeconfig of the operator, for verbs that copy parts of it.
///
/// # Errors
/// When it cannot be read or parsed.
pub fn read_kubeconfig(choice: &Kubeconfig) -> Result<File, Error> {
    let path = choice.path.as_deref();
    let file = match path {
        Some(path) => File::read_from(path),
        None => File::read(),
    };
    file.map_err(|e| bad_kubeconfig(path, &e))
}

/// A client from the text of a kubeconfig, as credentials Secrets hold it. What the text may refer to
/// is the caller's decision.
///
/// # Errors
/// When it does not parse or lacks a part.
pub async fn from_kubeconfig_text(text: &str) -> Result<Client, Error> {
    let file = File::from_yaml(text).map_err(|e| bad_kubeconfig(None, &e))?;
    from_kubeconfig(file).await
}

/// A client from a parsed kubeconfig.
///
/// # Errors
/// When it lacks a part.
pub async fn from_kubeconfig(file: File) -> Result<Client, Error> {
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| bad_kubeconfig(None, &e))?;
    build(config)
}

async fn from_choice(choice: &Kubeconfig) -> Result<Config, Error> {
    let file = read_kubeconfig(choice)?;
    let options = KubeConfigOptions { context: choice.context.clone(), ..Default::default() };
    let mut config = Config::from_custom_kubeconfig(file, &options)
        .await
        .map_err(|e| bad_kubeconfig(choice.path.as_deref(), &e))?;
    if choice.impersonate.is_some() {
        config.auth_info.impersonate.clone_from(&choice.impersonate);
    }
    if !choice.impersonate_groups.is_empty() {
        config.auth_info.impersonate_groups = Some(choice.impersonate_groups.clone());
    }
    Ok(config)
}

fn in_cluster(context: &PodContext) -> Result<Config, Error> {
    let Some(api) = &context.api else {
        return Config::incluster().map_err(|e| Error::NoCluster(e.to_string()));
    };
    let uri = api.parse().map_err(|_| Error::NoCluster(format!("`{api}` is not a URL")))?;
    let file = |name: &str| context.path(&Path::new(MOUNT).join(name));
    let read = |name: &str| {
        std::fs::read_to_string(file(name)).map_err(|e| Error::Mount {
            path: file(name).display().to_string(),
            reason: e.to_string(),
        })
    };
    read("ca.crt")?;
    read("token")?;
    let mut config = Config::new(uri);
    config.default_namespace = read("namespace").map(|n| n.trim().to_owned()).unwrap_or_default();
    config.root_cert_file = Some(file("ca.crt"));
    config.auth_info =
        AuthInfo { token_file: Some(file("token").display().to_string()), ..AuthInfo::default() };
    Ok(config)
}

/// Assembles the HTTP stack: as kube's own, with TCP_NODELAY, since a 40 ms delayed acknowledgement
/// would be most of the time that a mirror may take.
fn build(mut config: Config) -> Result<Client, Error> {
    config.connect_timeout = Some(Duration::from_secs(5));
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    // kube asks for the process-wide provider; somebody else having set it is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let pool = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(90))
        .build::<_, Body>(connector);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(Into::<tower::BoxError>::into)
        .service(pool);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

fn bad_kubeconfig(path: Option<&Path>, error: &dyn std::error::Error) -> Error {
    let mut reason = error.to_string();
    if let Some(inner) = error.source() {
        reason = format!("{reason}: {inner}");
    }
    Error::Kubeconfig { path: path.map(|p| p.display().to_string()), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_kubeconfig_is_one_clear_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kc");
        std::fs::write(&path, "clusters: [").unwrap();
        for path in [path, dir.path().join("absent")] {
            let choice = Kubeconfig { path: Some(path.clone()), ..Kubeconfig::default() };
            let error = client(&PodContext::default(), Some(&choice)).await.err().unwrap();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }

    #[tokio::test]
    async fn missing_mounts_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let context = PodContext {
            root: Some(dir.path().to_owned()),
            api: Some("https://127.0.0.1:1".into()),
            ..PodContext::default()
        };
        let error = client(&context, None).await.err().unwrap();
        assert!(error.to_string().contains("ca.crt"), "{error}");
    }

    #[tokio::test]
    async fn the_mounts_make_a_client() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join(MOUNT.trim_start_matches('/'));
        std::fs::create_dir_all(&mount).unwrap();
        for (name, text) in [("ca.crt", ""), ("token", "t"), ("namespace", "mesh\n")] {
            std::fs::write(mount.join(name), text).unwrap();
        }
        let context = PodContext {
            root: Some(dir.path().to_owned()),
            api: Some("https://127.0.0.1:1".into()),
            ..PodContext::default()
        };
        let made = in_cluster(&context).unwrap();
        assert_eq!(made.default_namespace, "mesh");
        assert_eq!(made.auth_info.token_file.unwrap(), mount.join("token").display().to_string());
    }
}
