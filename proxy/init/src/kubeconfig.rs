//! # The plugin's kubeconfig
//!
//! Job: the file through which the plugin, outside of any container, reaches the API server: how the
//! installer writes it and how the plugin reads it.
//! May touch: YAML, the files that a kubeconfig names. Callers: `cni::api`, `install`.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Uri;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use serde_json::json;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadKubeconfig {
    #[error(
        "the kubeconfig {path} cannot be read: {source}; see that the DaemonSet linkerd-cni runs on this node"
    )]
    Read { path: PathBuf, source: io::Error },
    #[error("the kubeconfig {path} is not valid: {reason}")]
    Invalid { path: PathBuf, reason: String },
    #[error("the certificate authority in the kubeconfig cannot be used: {0}")]
    Authority(String),
}

/// What a kubeconfig gives.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) server: Uri,
    pub(crate) authority: Vec<CertificateDer<'static>>,
    pub(crate) token: String,
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
}

/// An entry under its name; which does not matter, as the first one counts.
#[derive(Deserialize)]
struct Named<T> {
    #[serde(alias = "cluster", alias = "user")]
    value: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
    certificate_authority: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl Access {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, BadKubeconfig> {
        let open = |path: &Path| {
            fs::read_to_string(path)
                .map_err(|source| BadKubeconfig::Read { path: path.to_owned(), source })
        };
        let invalid = |reason: String| BadKubeconfig::Invalid { path: path.to_owned(), reason };
        let parsed: Kubeconfig =
            serde_saphyr::from_str(&open(path)?).map_err(|e| invalid(e.to_string()))?;
        let cluster = parsed.clusters.into_iter().next();
        let cluster = cluster.ok_or_else(|| invalid("it names no cluster".into()))?.value;
        let user = parsed.users.into_iter().next();
        let user = user.ok_or_else(|| invalid("it names no user".into()))?.value;
        let server: Uri =
            cluster.server.parse().map_err(|_| invalid("its server is no URL".into()))?;
        if server.scheme_str() != Some("https") || server.host().is_none() {
            return Err(invalid("its server is not https://host:port".into()));
        }
        let pem = match (cluster.certificate_authority_data, cluster.certificate_authority) {
            (Some(data), _) => BASE64_STANDARD
                .decode(data.trim())
                .map_err(|e| BadKubeconfig::Authority(e.to_string()))?,
            (None, Some(file)) => open(&file)?.into_bytes(),
            (None, None) => return Err(BadKubeconfig::Authority("there is none".into())),
        };
        let authority = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let authority = authority.map_err(|e| BadKubeconfig::Authority(e.to_string()))?;
        let token = match (user.token, user.token_file) {
            (Some(token), _) => token,
            (None, Some(file)) => open(&file)?,
            (None, None) => return Err(invalid("its user has no token".into())),
        };
        Ok(Self { server, authority, token: token.trim().to_owned() })
    }
}

/// The text of a kubeconfig. It is JSON, which is YAML too.
pub(crate) fn write(server: &str, authority: &[u8], token: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {
            "server": server, "certificate-authority-data": BASE64_STANDARD.encode(authority)}}],
        "users": [{"name": "linkerd-cni", "user": {"token": token.trim()}}],
        "contexts": [{"name": "linkerd-cni-context", "context": {"cluster": "local", "user": "linkerd-cni"}}],
        "current-context": "linkerd-cni-context",
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let pem = b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        fs::write(&path, write("https://[fd00::1]:443", pem, "secret\n")).unwrap();
        let access = Access::read(&path).unwrap();
        assert_eq!((access.token.as_str(), access.authority.len()), ("secret", 1));
        assert_eq!(access.server.host(), Some("[fd00::1]"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        assert!(Access::read(&path).unwrap_err().to_string().contains("DaemonSet"));
        for (text, part) in [
            ("clusters: []\nusers: []\n", "no cluster"),
            ("clusters: [{cluster: {server: 'http://x'}}]\nusers: [{user: {token: t}}]\n", "https"),
            (
                "clusters: [{cluster: {server: 'https://x'}}]\nusers: [{user: {token: t}}]\n",
                "authority",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = Access::read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
