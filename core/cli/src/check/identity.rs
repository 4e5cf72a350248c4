//! # Checks of certificates
//!
//! Job: trust anchors, issuer and webhook certificates: usable, in time, belonging together.
//! May touch: ConfigMaps, Secrets and webhook configurations, reading. Callers: `check`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{ConfigMap, Secret},
};
use kube::Api;
use mesh_pki::{Certificate, Issuer, IssuerScheme, KeyKind, TrustBundle};

use super::{
    Category, check,
    view::{Finding, View, none, none_or_warn},
};

/// What ends sooner is told.
const SOON: Duration = Duration::from_secs(60 * 24 * 3600);
/// The curve P-256.
const P256: &str = "1.2.840.10045.3.1.7";

/// linkerd-identity
pub(super) fn credentials(view: &Arc<View>) -> Category {
    Category {
        name: "linkerd-identity",
        checks: vec![
            check!(view, "certificate config is valid", "l5d-identity-cert-config-valid", valid)
                .fatal(),
            check!(
                view,
                "trust anchors are using supported crypto algorithm",
                "l5d-identity-trustAnchors-use-supported-crypto",
                anchors_crypto
            )
            .fatal(),
            check!(
                view,
                "trust anchors are within their validity period",
                "l5d-identity-trustAnchors-are-time-valid",
                anchors_time
            )
            .fatal(),
            check!(
                view,
                "trust anchors are valid for at least 60 days",
                "l5d-identity-trustAnchors-not-expiring-soon",
                anchors_soon
            ),
            check!(
                view,
                "issuer cert is using supported crypto algorithm",
                "l5d-identity-issuer-cert-uses-supported-crypto",
                issuer_crypto
            )
            .fatal(),
            check!(
                view,
                "issuer cert is within its validity period",
                "l5d-identity-issuer-cert-is-time-valid",
                issuer_time
            )
            .fatal(),
            check!(
                view,
                "issuer cert is valid for at least 60 days",
                "l5d-identity-issuer-cert-not-expiring-soon",
                issuer_soon
            ),
            check!(
                view,
                "issuer cert is issued by the trust anchor",
                "l5d-identity-issuer-cert-issued-by-trust-anchor",
                issuer_verifies
            ),
        ],
    }
}

/// linkerd-webhooks-and-apisvc-tls
pub(super) fn webhooks(view: &Arc<View>) -> Category {
    Category {
        name: "linkerd-webhooks-and-apisvc-tls",
        checks: vec![
            check!(
                view,
                "proxy-injector webhook has valid cert",
                "l5d-proxy-injector-webhook-cert-valid",
                webhook_valid
            )
            .fatal(),
            check!(
                view,
                "proxy-injector cert is valid for at least 60 days",
                "l5d-proxy-injector-webhook-cert-not-expiring-soon",
                webhook_soon
            ),
        ],
    }
}

async fn anchors(view: &View) -> Result<TrustBundle> {
    let api: Api<ConfigMap> = Api::namespaced(view.client().await?, &view.control);
    let config = api
        .get("linkerd-identity-trust-roots")
        .await
        .context("cannot read ConfigMap linkerd-identity-trust-roots")?;
    let pem = config.data.unwrap_or_default().remove("ca-bundle.crt").unwrap_or_default();
    TrustBundle::from_pem(pem.as_bytes())
        .context("ca-bundle.crt of linkerd-identity-trust-roots holds no usable trust anchors")
}

async fn secret(view: &View, name: &str) -> Result<impl Fn(&str) -> Vec<u8>> {
    let api: Api<Secret> = Api::namespaced(view.client().await?, &view.control);
    let secret = api.get(name).await.with_context(|| format!("cannot read Secret {name}"))?;
    let data = secret.data.unwrap_or_default();
    Ok(move |key: &str| data.get(key).map(|value| value.0.clone()).unwrap_or_default())
}

async fn issuer(view: &View) -> Result<Issuer> {
    let values = view.values().await?;
    let scheme = values["identity"]["issuer"]["scheme"].as_str().unwrap_or_default();
    let scheme = IssuerScheme::parse(scheme)
        .with_context(|| format!("linkerd-config has an unknown issuer scheme `{scheme}`"))?;
    let (certificate, key) = scheme.files();
    let data = secret(view, "linkerd-identity-issuer").await?;
    Issuer::from_pem(&data(certificate), &data(key)).with_context(|| {
        format!("`{certificate}` and `{key}` of Secret linkerd-identity-issuer cannot be used")
    })
}

async fn valid(view: &View) -> Result<Finding> {
    anchors(view).await?;
    issuer(view).await.map(|_| Finding::Good)
}

/// One line a certificate that is not as it should be.
fn each<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
    wrong: impl Fn(&Certificate) -> Option<String>,
) -> Vec<String> {
    let line = |c: &Certificate| {
        wrong(c).map(|why| format!("{} {}: {why}", c.common_name, &c.fingerprint()[..16]))
    };
    certificates.into_iter().filter_map(line).collect()
}

fn unsupported(certificate: &Certificate) -> Option<String> {
    match &certificate.key {
        KeyKind::Ecdsa(curve) if curve == P256 => None,
        KeyKind::Rsa(2048 | 4096) => None,
        other => Some(format!("{other:?}; use ECDSA P-256 or RSA with 2048 or 4096 bits")),
    }
}

fn out_of_time(certificate: &Certificate) -> Option<String> {
    let now = SystemTime::now();
    (!certificate.is_valid_at(now)).then(|| match certificate.not_before > now {
        true => "not valid yet; look at the clocks".to_owned(),
        false => "expired; replace it".to_owned(),
    })
}

fn ends_soon(certificate: &Certificate) -> Option<String> {
    let left = certificate.remaining(SystemTime::now());
    (left < SOON).then(|| format!("ends in {} days", left.as_secs() / 86_400))
}

async fn anchors_crypto(view: &View) -> Result<Finding> {
    Ok(none(
        "trust anchors that proxies cannot use:",
        each(anchors(view).await?.roots(), unsupported),
    ))
}

async fn anchors_time(view: &View) -> Result<Finding> {
    Ok(none("trust anchors out of their time:", each(anchors(view).await?.roots(), out_of_time)))
}

async fn anchors_soon(view: &View) -> Result<Finding> {
    Ok(none_or_warn("trust anchors to replace:", each(anchors(view).await?.roots(), ends_soon)))
}

async fn issuer_crypto(view: &View) -> Result<Finding> {
    let issuer = issuer(view).await?;
    let wrong = |c: &Certificate| match &c.key {
        KeyKind::Ecdsa(curve) if curve == P256 => None,
        other => Some(format!("{other:?}; use ECDSA P-256")),
    };
    Ok(none("the issuer cannot be used:", each([issuer.certificate()], wrong)))
}

async fn issuer_time(view: &View) -> Result<Finding> {
    let issuer = issuer(view).await?;
    Ok(none("the issuer is out of its time:", each([issuer.certificate()], out_of_time)))
}

async fn issuer_soon(view: &View) -> Result<Finding> {
    let issuer = issuer(view).await?;
    Ok(none_or_warn("the issuer should be replaced:", each([issuer.certificate()], ends_soon)))
}

async fn issuer_verifies(view: &View) -> Result<Finding> {
    let anchors = anchors(view).await?;
    Ok(match issuer(view).await?.verify(&anchors, SystemTime::now()) {
        Ok(()) => Finding::Good,
        Err(error) => Finding::Bad(format!(
            "the issuer does not verify against the trust anchors: {error}; issue it under one of them"
        )),
    })
}

async fn webhook_certificate(view: &View) -> Result<Vec<Certificate>> {
    let data = secret(view, "linkerd-proxy-injector-k8s-tls").await?;
    let chain = Certificate::chain_from_pem(&data("tls.crt"))
        .context("tls.crt of Secret linkerd-proxy-injector-k8s-tls cannot be used")?;
    anyhow::ensure!(!chain.is_empty(), "Secret linkerd-proxy-injector-k8s-tls has no certificate");
    Ok(chain)
}

async fn webhook_valid(view: &View) -> Result<Finding> {
    let chain = webhook_certificate(view).await?;
    let api: Api<MutatingWebhookConfiguration> = Api::all(view.client().await?);
    let config = api
        .get("linkerd-proxy-injector-webhook-config")
        .await
        .context("cannot read the webhook's configuration")?;
    let webhook = config.webhooks.unwrap_or_default().into_iter().next();
    let bundle = webhook.and_then(|w| w.client_config.ca_bundle).unwrap_or_default().0;
    let bundle =
        Certificate::chain_from_pem(&bundle).context("the webhook's caBundle cannot be used")?;
    let mut problems = each(&chain, out_of_time);
    // The bundle is rendered together with the Secret, so one of the chain must be in it.
    if !bundle
        .iter()
        .any(|root| chain.iter().any(|c| c.der == root.der || c.issuer_name == root.common_name))
    {
        problems.push("the webhook's caBundle does not fit its certificate".to_owned());
    }
    let host = format!("linkerd-proxy-injector.{}.svc", view.control);
    if !chain[0].names.iter().any(|name| name.as_str() == host) {
        problems.push(format!("the certificate is not for {host}"));
    }
    Ok(none("apply the output of `mesh install` again:", problems))
}

async fn webhook_soon(view: &View) -> Result<Finding> {
    let chain = webhook_certificate(view).await?;
    Ok(none_or_warn("the webhook's certificate should be replaced:", each(&chain, ends_soon)))
}
