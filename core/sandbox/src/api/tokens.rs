//! # ServiceAccount tokens
//!
//! Job: signs and verifies tokens (ES256): bound ones on request, and the lasting ones of token Secrets.
//! May touch: the signing key, the store, reading. Must not touch: roles.
//! Callers: authentication, token requests and reviews, Secrets.

use std::net::SocketAddr;

use ::base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    authn::User,
    kinds::new_uid,
    object::{at, list, map_at, map_of, meta, text},
    request::Call,
    serve::Reply,
    shared::Shared,
    status::{ApiError, FieldError},
};
use crate::{schema, store::Key};

const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
const LEGACY: &str = "kubernetes.io/serviceaccount/";
const HOUR: i64 = 3600;
/// Shortest and longest life of a requested token, in seconds.
const LIFE: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

/// The signing key and its public half.
#[derive(Debug)]
pub(crate) struct TokenIssuer {
    key: EcdsaKeyPair,
    issuer: String,
    key_id: String,
}

/// What a good token says.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) user: User,
    /// The audiences asked for that the token is meant for.
    pub(crate) audiences: Vec<String>,
}

impl TokenIssuer {
    pub(crate) fn new(pkcs8: &[u8], cluster_domain: &str) -> Result<Self, String> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|e| format!("sa.key: {e}"))?;
        let key_id = encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self { key, issuer: format!("https://kubernetes.default.svc.{cluster_domain}"), key_id })
    }

    /// The issuer of bound tokens, which is also the API server's own audience.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    fn sign(&self, claims: &Value) -> Result<String, ApiError> {
        let head = json!({"alg": "ES256", "kid": self.key_id});
        let text = format!("{}.{}", encode(head.to_string()), encode(claims.to_string()));
        let signature = self
            .key
            .sign(&SystemRandom::new(), text.as_bytes())
            .map_err(|_| ApiError::internal("the token could not be signed"))?;
        Ok(format!("{text}.{}", encode(signature.as_ref())))
    }

    /// The lasting token of a Secret.
    pub(crate) fn legacy(&self, secret: &Value, account: &Value) -> Result<String, ApiError> {
        let (namespace, name) = (meta(account, "namespace"), meta(account, "name"));
        self.sign(&json!({
            "iss": LEGACY_ISSUER,
            format!("{LEGACY}namespace"): namespace,
            format!("{LEGACY}secret.name"): meta(secret, "name"),
            format!("{LEGACY}service-account.name"): name,
            format!("{LEGACY}service-account.uid"): meta(account, "uid"),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        }))
    }

    fn bound(&self, account: &Value, claim: &Claim<'_>) -> Result<String, ApiError> {
        let (namespace, name) = (meta(account, "namespace"), meta(account, "name"));
        let now = jiff::Timestamp::now().as_second();
        let mut facts = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": meta(account, "uid")},
        });
        if let Some((kind, name, uid)) = &claim.bound {
            facts[kind.to_lowercase()] = json!({"name": name, "uid": uid});
        }
        self.sign(&json!({
            "aud": claim.audiences, "exp": now + claim.seconds, "iat": now, "nbf": now,
            "iss": self.issuer, "jti": new_uid(), "kubernetes.io": facts,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        }))
    }

    /// Checks a token for any of the audiences.
    ///
    /// # Errors
    /// Why it is refused, for the log and for TokenReviews.
    pub(crate) fn verify(
        &self,
        shared: &Shared,
        token: &str,
        audiences: &[String],
    ) -> Result<Verified, String> {
        let claims = self.claims(token)?;
        if claims["iss"] == LEGACY_ISSUER {
            return self.verify_legacy(shared, token, &claims, audiences);
        }
        if claims["iss"] != self.issuer.as_str() {
            return Err("invalid bearer token, unknown issuer".into());
        }
        let now = jiff::Timestamp::now().as_second();
        if claims["exp"].as_i64().is_none_or(|exp| exp <= now) {
            return Err("[invalid bearer token, service account token has expired]".into());
        }
        if claims["nbf"].as_i64().is_some_and(|nbf| nbf > now + 1) {
            return Err("invalid bearer token, service account token is not valid yet".into());
        }
        let meant: Vec<&str> = list(&claims, &["aud"]).iter().filter_map(Value::as_str).collect();
        let audiences: Vec<String> =
            audiences.iter().filter(|a| meant.contains(&a.as_str())).cloned().collect();
        if audiences.is_empty() {
            return Err(format!(
                "[invalid bearer token, token audiences {meant:?} is invalid for the target audiences]"
            ));
        }
        Ok(Verified { user: live_user(shared, &claims)?, audiences })
    }

    fn verify_legacy(
        &self,
        shared: &Shared,
        token: &str,
        claims: &Value,
        audiences: &[String],
    ) -> Result<Verified, String> {
        let claim = |name: &str| claims[format!("{LEGACY}{name}")].as_str().unwrap_or_default();
        if !audiences.contains(&self.issuer) {
            return Err("invalid bearer token, it is for the API server only".into());
        }
        let namespace = claim("namespace");
        let secret = shared.store.get("/secrets", &Key::new(namespace, claim("secret.name")));
        let kept = secret.as_ref().map_or("", |s| text(&s.value, &["data", "token"]));
        if kept != super::pki::base64(token.as_bytes()) {
            return Err("Token has been invalidated".into());
        }
        let name = claim("service-account.name");
        let account = shared.store.get("/serviceaccounts", &Key::new(namespace, name));
        let uid = account.as_ref().map_or("", |a| meta(&a.value, "uid"));
        if uid.is_empty() || uid != claim("service-account.uid") {
            return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
        }
        let user = User::account(namespace, name, uid);
        Ok(Verified { user, audiences: vec![self.issuer.clone()] })
    }

    fn claims(&self, token: &str) -> Result<Value, String> {
        let garbled = || "invalid bearer token".to_owned();
        let (text, signature) = token.rsplit_once('.').ok_or_else(garbled)?;
        let (_, claims) = text.split_once('.').ok_or_else(garbled)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| garbled())?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(text.as_bytes(), &signature)
            .map_err(|_| garbled())?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| garbled())?;
        serde_json::from_slice(&claims).map_err(|_| garbled())
    }

    /// `/.well-known/openid-configuration`.
    pub(crate) fn discovery(&self, addr: SocketAddr) -> Value {
        json!({
            "issuer": self.issuer, "jwks_uri": format!("https://{addr}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// `/openid/v1/jwks`: the public key, an uncompressed point.
    pub(crate) fn keys(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = point.get(1..65).unwrap_or(&[0; 64]).split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": encode(x), "y": encode(y),
        }]})
    }
}

struct Claim<'a> {
    audiences: Vec<String>,
    seconds: i64,
    /// Kind, name and uid of what the token lives with.
    bound: Option<(&'a str, &'a str, &'a str)>,
}

/// The user of a bound token, if what it is bound to still exists.
fn live_user(shared: &Shared, claims: &Value) -> Result<User, String> {
    let facts = &claims["kubernetes.io"];
    let namespace = text(facts, &["namespace"]);
    let (name, uid) =
        (text(facts, &["serviceaccount", "name"]), text(facts, &["serviceaccount", "uid"]));
    let alive = |table: &str, name: &str, uid: &str| {
        shared
            .store
            .get(table, &Key::new(namespace, name))
            .is_some_and(|o| meta(&o.value, "uid") == uid)
    };
    if !alive("/serviceaccounts", name, uid) {
        return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
    }
    let mut user = User::account(namespace, name, uid);
    for (kind, table) in [("pod", "/pods"), ("secret", "/secrets")] {
        if let Some(bound) = facts.get(kind) {
            let (name, uid) = (text(bound, &["name"]), text(bound, &["uid"]));
            if !alive(table, name, uid) {
                return Err(format!("the token's {kind} {namespace}/{name} has been deleted"));
            }
            if kind == "pod" {
                user.extra.insert("authentication.kubernetes.io/pod-name".into(), json!([name]));
                user.extra.insert("authentication.kubernetes.io/pod-uid".into(), json!([uid]));
            }
        }
    }
    let id = format!("JTI={}", text(claims, &["jti"]));
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), json!([id]));
    Ok(user)
}

/// The token subresource of ServiceAccounts.
pub(crate) fn request(call: &Call, mut body: Value) -> Result<Reply, ApiError> {
    let account = super::read::find(call)?;
    let schema = schema::builtin_kind("authentication.k8s.io", "v1", "TokenRequest");
    if let Some((path, found, expected)) = schema::prune(&mut body, schema.get(), true).mismatch {
        return Err(ApiError::bad_request(format!(
            "TokenRequest in version \"v1\" cannot be handled as a TokenRequest: json: cannot unmarshal {found} into \
             Go struct field TokenRequest.{path} of type {expected}"
        )));
    }
    let mut audiences: Vec<String> = list(&body, &["spec", "audiences"])
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(call.shared.tokens.issuer().to_owned());
    }
    let asked = at(&body, &["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(HOUR);
    if !LIFE.contains(&asked) {
        let why = if asked < *LIFE.start() {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let error = FieldError::invalid("spec.expirationSeconds", &json!(asked), why);
        return Err(ApiError::invalid("TokenRequest", "authentication.k8s.io", "", &[error]));
    }
    let reference = at(&body, &["spec", "boundObjectRef"]).cloned();
    let bound = match &reference {
        Some(reference) => Some(bound_object(call, reference)?),
        None => None,
    };
    let claim = Claim {
        audiences: audiences.clone(),
        seconds: asked,
        bound: bound.as_ref().map(|(kind, name, uid)| (kind.as_str(), name.as_str(), uid.as_str())),
    };
    let token = call.shared.tokens.bound(&account.value, &claim)?;
    let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(asked);
    body["kind"] = "TokenRequest".into();
    body["apiVersion"] = "authentication.k8s.io/v1".into();
    let spec = map_at(map_of(&mut body), "spec");
    spec.insert("audiences".into(), audiences.into());
    spec.insert("expirationSeconds".into(), asked.into());
    let metadata = super::object::meta_mut(&mut body);
    metadata.insert("name".into(), call.name.clone().into());
    metadata.insert("namespace".into(), call.namespace.clone().into());
    metadata.insert("creationTimestamp".into(), super::object::now().into());
    body["status"] = json!({
        "token": token,
        "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    Ok(Reply::Json(201, body))
}

fn bound_object(call: &Call, reference: &Value) -> Result<(String, String, String), ApiError> {
    let (kind, name) = (text(reference, &["kind"]), text(reference, &["name"]));
    let (table, plural) = match kind {
        "Pod" => ("/pods", "pods"),
        "Secret" => ("/secrets", "secrets"),
        other => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to object type {other}",
                call.name
            )));
        }
    };
    let object = call
        .shared
        .store
        .get(table, &Key::new(&call.namespace, name))
        .ok_or_else(|| ApiError::not_found(plural, "", name))?;
    let uid = meta(&object.value, "uid");
    let asked = text(reference, &["uid"]);
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(plural, "", name, &why));
    }
    if kind == "Pod" {
        let account = match text(&object.value, &["spec", "serviceAccountName"]) {
            "" => "default",
            account => account,
        };
        if account != call.name {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.name
            )));
        }
    }
    Ok((kind.to_owned(), name.to_owned(), uid.to_owned()))
}

/// A token for the API server, for callers in this process.
pub(crate) fn issue_for(shared: &Shared, namespace: &str, name: &str) -> Option<String> {
    let account = shared.store.get("/serviceaccounts", &Key::new(namespace, name))?;
    let audiences = vec![shared.tokens.issuer().to_owned()];
    shared.tokens.bound(&account.value, &Claim { audiences, seconds: HOUR, bound: None }).ok()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
