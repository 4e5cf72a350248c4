//! # Token reviews
//!
//! Job: ask the API server whose token this is, and whether we may ask.
//! May touch: TokenReview, SelfSubjectAccessReview. Must not touch: certificates. Callers: `certify`, `run`.

use crate::{
    args::is_dns_label,
    error::{Error, Refusal},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use mesh_cluster::within;
use std::time::Duration;

/// Whom a token proves, from a username `system:<kind>:<namespace>:<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// `serviceaccount`, in practice.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Asks the API server about tokens.
#[derive(Clone)]
pub struct Reviewer(Client);

impl Reviewer {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Checks that TokenReviews may be created at all.
    ///
    /// # Errors
    /// When they may not, or the API server does not answer.
    pub async fn may_review(&self) -> Result<(), Error> {
        let attributes = ResourceAttributes {
            group: Some("authentication.k8s.io".into()),
            version: Some("v1".into()),
            resource: Some("tokenreviews".into()),
            verb: Some("create".into()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.0.clone());
        let answer = within(DEADLINE, api.create(&PostParams::default(), &review)).await?;
        match answer.status {
            Some(status) if status.allowed => Ok(()),
            status => {
                let reason = status.and_then(|s| s.reason).filter(|reason| !reason.is_empty());
                // Kubernetes' own authorizer gives none for what no rule allows.
                Err(Error::NoTokenReview(reason.unwrap_or_else(|| "no rule allows it".into())))
            }
        }
    }

    /// Whom a token proves. It is reviewed for our audience; an API server that complains about
    /// audiences is asked again without, for tokens of the old kind.
    ///
    /// # Errors
    /// The refusals of the Certify call.
    pub async fn review(&self, token: &str) -> Result<Reviewed, Refusal> {
        let mut status = self.ask(token, Some(vec![AUDIENCE.to_owned()])).await?;
        if status.error.as_deref().is_some_and(|e| e.contains("token audiences")) {
            status = self.ask(token, None).await?;
        }
        judge(status)
    }

    async fn ask(
        &self,
        token: &str,
        audiences: Option<Vec<String>>,
    ) -> Result<TokenReviewStatus, Refusal> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.0.clone());
        let answer = within(DEADLINE, api.create(&PostParams::default(), &review)).await;
        Ok(answer.map_err(Refusal::Review)?.status.unwrap_or_default())
    }
}

fn judge(status: TokenReviewStatus) -> Result<Reviewed, Refusal> {
    if let Some(error) = status.error.filter(|e| !e.is_empty()) {
        return Err(Refusal::Malformed(format!("the token is not valid: {error}")));
    }
    if status.authenticated != Some(true) {
        return Err(Refusal::NotAuthenticated);
    }
    let username = status.user.and_then(|u| u.username).unwrap_or_default();
    let parts: Vec<_> = username.split(':').collect();
    match parts.as_slice() {
        ["system", kind, namespace, name]
            if [kind, namespace, name].iter().all(|part| is_dns_label(part)) =>
        {
            Ok(Reviewed {
                kind: (*kind).to_owned(),
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            })
        }
        _ => Err(Refusal::Malformed(format!("`{username}` is not a service account"))),
    }
}

/// The audience of tokens for the mesh.
const AUDIENCE: &str = "identity.l5d.io";
const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;
    use tonic::Code;

    fn status(error: &str, authenticated: Option<bool>, username: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            error: (!error.is_empty()).then(|| error.to_owned()),
            authenticated,
            user: Some(UserInfo { username: Some(username.into()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        }
    }

    // proves: ID-5
    #[test]
    fn verdicts() {
        let good = judge(status("", Some(true), "system:serviceaccount:shop:web")).unwrap();
        assert_eq!((good.name.as_str(), good.namespace.as_str()), ("web", "shop"));
        for (status, code) in [
            (status("expired", Some(true), "system:serviceaccount:a:b"), Code::InvalidArgument),
            (status("", Some(false), "system:serviceaccount:a:b"), Code::FailedPrecondition),
            (status("", None, ""), Code::FailedPrecondition),
            (status("", Some(true), "system:anonymous"), Code::InvalidArgument),
            (status("", Some(true), "system:serviceaccount:a:b.c"), Code::InvalidArgument),
            (status("", Some(true), "other:serviceaccount:a:b"), Code::InvalidArgument),
            (status("", Some(true), "system:serviceaccount:A:b"), Code::InvalidArgument),
        ] {
            assert_eq!(judge(status.clone()).unwrap_err().code(), code, "{status:?}");
        }
    }
}
