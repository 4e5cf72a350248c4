//! # Who is asking
//!
//! Job: the user behind a client certificate, a bearer token, or nothing; impersonation.
//! May touch: headers, certificates, token verification. Must not touch: what users may do.
//! Callers: `connection`, `serve`, reviews.

use http::{HeaderMap, header};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    authz::{self, Attributes},
    shared::Shared,
    status::ApiError,
};

pub(crate) const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";
const ACCOUNT: &str = "system:serviceaccount:";

/// Someone who makes requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    /// Facts about the credential: the Pod of a token, for example.
    pub(crate) extra: Map<String, Value>,
}

impl User {
    fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// A ServiceAccount.
    pub(crate) fn account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{ACCOUNT}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: account_groups(namespace),
            extra: Map::new(),
        }
    }

    /// The form in reviews.
    pub(crate) fn object(&self) -> Value {
        let mut object = Map::new();
        object.insert("username".into(), self.name.clone().into());
        if !self.uid.is_empty() {
            object.insert("uid".into(), self.uid.clone().into());
        }
        object.insert("groups".into(), self.groups.clone().into());
        if !self.extra.is_empty() {
            object.insert("extra".into(), Value::Object(self.extra.clone()));
        }
        Value::Object(object)
    }
}

/// The user of a verified client certificate: common name and organisations.
pub(crate) fn certificate_user(chain: Option<&[CertificateDer<'_>]>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(chain?.first()?).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organisations = subject.iter_organization().filter_map(|o| o.as_str().ok());
    let mut groups: Vec<String> = organisations.map(str::to_owned).collect();
    groups.push(AUTHENTICATED.into());
    Some(User { name, groups, ..User::default() })
}

/// The user of a request.
///
/// # Errors
/// A token that does not verify is refused; having no credential is not an error but `system:anonymous`.
pub(crate) fn authenticate(
    shared: &Shared,
    certificate: Option<User>,
    headers: &HeaderMap,
) -> Result<User, ApiError> {
    if let Some(user) = certificate {
        return Ok(user);
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(User::anonymous()) };
    let token = value.to_str().ok().and_then(|v| {
        let (scheme, token) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    // As the real server: another scheme is no credential at all.
    let Some(token) = token.filter(|t| !t.is_empty()) else { return Ok(User::anonymous()) };
    let audience = shared.tokens.issuer().to_owned();
    match shared.tokens.verify(shared, token, &[audience]) {
        Ok(verified) => {
            let mut user = verified.user;
            user.groups.push(AUTHENTICATED.into());
            Ok(user)
        }
        Err(reason) => {
            tracing::debug!(%reason, "a token was refused");
            Err(ApiError::unauthorized())
        }
    }
}

/// The user that `--as` and `--as-group` ask to be, if the requester may.
pub(crate) fn impersonate(
    shared: &Shared,
    user: User,
    headers: &HeaderMap,
) -> Result<User, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let Some(name) = text("impersonate-user") else { return Ok(user) };
    let mut groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|v| v.to_str().ok().map(str::to_owned))
        .collect();
    let account = name.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => {
            check(shared, &user, "serviceaccounts", namespace, account)?;
        }
        None => check(shared, &user, "users", "", name)?,
    }
    for group in &groups {
        check(shared, &user, "groups", "", group)?;
    }
    if let (Some((namespace, _)), true) = (account, groups.is_empty()) {
        groups = account_groups(namespace);
    }
    if name == ANONYMOUS {
        groups.push(UNAUTHENTICATED.into());
    } else if !groups.iter().any(|g| g == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    Ok(User { name: name.to_owned(), groups, ..User::default() })
}

fn check(
    shared: &Shared,
    user: &User,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), ApiError> {
    authz::authorize(
        shared,
        user,
        &Attributes { verb: "impersonate", group: "", resource, subresource: "", namespace, name },
    )
}

fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}
