//! # Token Secrets
//!
//! Job: fills Secrets of type `kubernetes.io/service-account-token` with the account's lasting token.
//! May touch: the store, the signing key. Must not touch: requests.
//! Callers: `kinds` at a Secret's creation, `write` at a ServiceAccount's.

use serde_json::Value;

use crate::{
    api::{
        object::{map_at, map_of, meta, meta_mut, text},
        pki::base64,
        shared::Shared,
        status::ApiError,
    },
    store::Key,
};

pub(super) const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Fills a new token Secret if its account exists.
pub(super) fn fill_token(shared: &Shared, secret: &mut Value) -> Result<(), ApiError> {
    if text(secret, &["type"]) != TOKEN_TYPE || !text(secret, &["data", "token"]).is_empty() {
        return Ok(());
    }
    let name = text(secret, &["metadata", "annotations", ACCOUNT]);
    let key = Key::new(meta(secret, "namespace"), name);
    match shared.store.get("/serviceaccounts", &key) {
        Some(account) => fill(shared, secret, &account.value),
        None => Ok(()),
    }
}

/// Fills the Secrets that were waiting for a ServiceAccount.
pub(crate) fn fill_waiting(shared: &Shared, account: &Value) {
    let (namespace, name) = (meta(account, "namespace"), meta(account, "name"));
    let (_, secrets) = shared.store.list("/secrets", Some(namespace));
    for secret in secrets {
        let waiting = text(&secret.value, &["type"]) == TOKEN_TYPE
            && text(&secret.value, &["metadata", "annotations", ACCOUNT]) == name
            && text(&secret.value, &["data", "token"]).is_empty();
        if !waiting {
            continue;
        }
        let mut filled = secret.value.clone();
        let key = Key::new(namespace, meta(&secret.value, "name"));
        let stored = fill(shared, &mut filled, account)
            .map(|()| shared.store.replace("/secrets", key, secret.revision, filled));
        if !matches!(stored, Ok(Ok(_))) {
            tracing::warn!(namespace, name, "a token Secret could not be filled");
        }
    }
}

fn fill(shared: &Shared, secret: &mut Value, account: &Value) -> Result<(), ApiError> {
    let token = shared.tokens.legacy(secret, account)?;
    let annotations = map_at(meta_mut(secret), "annotations");
    annotations.insert(ACCOUNT_UID.into(), meta(account, "uid").into());
    let data = map_at(map_of(secret), "data");
    data.insert("token".into(), base64(token.as_bytes()).into());
    data.insert("ca.crt".into(), base64(shared.pki.ca_pem.as_bytes()).into());
    data.insert("namespace".into(), base64(meta(account, "namespace").as_bytes()).into());
    Ok(())
}
