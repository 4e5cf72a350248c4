//! # Credentials
//!
//! Job: from a credentials Secret to a client of the exporting cluster, with the exact reason if not.
//! May touch: Secret data. Must not touch: files or programs that a kubeconfig names.
//! Callers: `mirror`, the CLI.

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, config::Kubeconfig};
use mesh_k8s::names;

/// Why a Secret gives no access.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The Secret has no such key.
    #[error(
        "the Secret has no key `{}`: print it again with `mesh multicluster link`",
        names::CREDENTIALS_KEY
    )]
    NoKubeconfig,
    /// The kubeconfig does not parse, or lacks a part.
    #[error("the kubeconfig cannot be used: {0}: print it again with `mesh multicluster link`")]
    Malformed(String),
    /// The kubeconfig refers to what lies on the machine of whoever wrote it, or runs a program.
    #[error(
        "the kubeconfig refers to {0}, which only exists where it was written: embed the data instead"
    )]
    NotSelfContained(&'static str),
}

/// The kubeconfig in a credentials Secret, if it stands on its own.
///
/// # Errors
/// When it is absent, malformed, or refers to files or programs.
pub fn kubeconfig(secret: &Secret) -> Result<Kubeconfig, CredentialsError> {
    let bytes = secret.data.as_ref().and_then(|d| d.get(names::CREDENTIALS_KEY));
    let text =
        match (bytes, secret.string_data.as_ref().and_then(|d| d.get(names::CREDENTIALS_KEY))) {
            (Some(bytes), _) => String::from_utf8(bytes.0.clone())
                .map_err(|_| CredentialsError::Malformed("it is not text".into()))?,
            (None, Some(text)) => text.clone(),
            (None, None) => return Err(CredentialsError::NoKubeconfig),
        };
    parse(&text)
}

/// As [`kubeconfig`], from text.
///
/// # Errors
/// As [`kubeconfig`].
pub fn parse(text: &str) -> Result<Kubeconfig, CredentialsError> {
    let file =
        Kubeconfig::from_yaml(text).map_err(|e| CredentialsError::Malformed(first_line(&e)))?;
    for user in file.auth_infos.iter().filter_map(|a| a.auth_info.as_ref()) {
        let foreign = [
            (user.exec.is_some(), "a program (exec)"),
            (user.auth_provider.is_some(), "an auth provider"),
            (user.token_file.is_some(), "a token file"),
            (user.client_certificate.is_some(), "a client certificate file"),
            (user.client_key.is_some(), "a client key file"),
        ];
        if let Some((_, what)) = foreign.iter().find(|(is, _)| *is) {
            return Err(CredentialsError::NotSelfContained(what));
        }
    }
    if file
        .clusters
        .iter()
        .filter_map(|c| c.cluster.as_ref())
        .any(|c| c.certificate_authority.is_some())
    {
        return Err(CredentialsError::NotSelfContained("a CA file (certificate-authority)"));
    }
    Ok(file)
}

/// A client of the exporting cluster. Nothing is sent yet.
///
/// # Errors
/// When the kubeconfig lacks a part or its CA or token is malformed.
pub async fn client(kubeconfig: Kubeconfig) -> Result<Client, CredentialsError> {
    for cluster in kubeconfig.clusters.iter().filter_map(|c| c.cluster.as_ref()) {
        let ca = cluster.certificate_authority_data.as_deref().unwrap_or_default();
        if base64::engine::general_purpose::STANDARD.decode(ca).is_err() {
            return Err(CredentialsError::Malformed(
                "certificate-authority-data is not base64".into(),
            ));
        }
    }
    mesh_cluster::client::from_kubeconfig(kubeconfig)
        .await
        .map_err(|e| CredentialsError::Malformed(first_line(&e)))
}

fn first_line(error: &dyn std::error::Error) -> String {
    let inner = error.source().map(|s| format!(": {s}")).unwrap_or_default();
    let text = format!("{error}{inner}");
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: e, user: u}}}}]\n\
             clusters: [{{name: e, cluster: {{server: 'https://127.9.0.1:6443', {cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    // proves: LNK-4
    #[tokio::test]
    async fn a_kubeconfig_must_stand_on_its_own() {
        assert!(client(parse(&text("", "token: t")).unwrap()).await.is_ok());
        for (cluster, user) in [
            ("certificate-authority: /ca", "token: t"),
            ("", "tokenFile: /t"),
            ("", "exec: {command: sh, apiVersion: client.authentication.k8s.io/v1}"),
            ("", "client-certificate: /c"),
        ] {
            let error = parse(&text(cluster, user)).unwrap_err();
            assert!(matches!(error, CredentialsError::NotSelfContained(_)), "{error}");
        }
    }

    // proves: LNK-4
    #[tokio::test]
    async fn garbage_is_one_sentence() {
        assert_eq!(kubeconfig(&Secret::default()).err(), Some(CredentialsError::NoKubeconfig));
        for bad in ["{", "- a", "clusters: 3"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(!error.contains('\n') && error.contains("cannot be used"), "{error}");
        }
        for (cluster, user) in [("certificate-authority-data: '%%'", ""), ("server: ':::'", "")] {
            if let Ok(file) = parse(&text(cluster, user)) {
                assert!(client(file).await.is_err());
            }
        }
        assert!(client(parse("kind: Config").unwrap()).await.is_err());
    }
}
