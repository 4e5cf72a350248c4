//! # Credentials of an installation
//!
//! Job: trust anchors and issuer of the control plane: from files, values, the cluster, or new.
//! May touch: the files named, the issuer's Secret. Callers: `install`, `upgrade`.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use mesh_charts::Certificate;
use mesh_pki::{CaParams, Issuer, TrustBundle, create_root, create_server};
use serde_json::{Value, json};

use crate::{
    proxy_flags::{lookup, put},
    values::read_text,
};

/// How long what is made here lives.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(10);

/// Where the credentials lie among the values.
pub(crate) const ANCHORS: &str = "identityTrustAnchorsPEM";
pub(crate) const CERTIFICATE: &str = "identity.issuer.tls.crtPEM";
pub(crate) const KEY: &str = "identity.issuer.tls.keyPEM";
pub(crate) const SCHEME: &str = "identity.issuer.scheme";
/// The scheme of an issuer that somebody else puts into the cluster.
pub(crate) const EXTERNAL: &str = "kubernetes.io/tls";

/// Flags about identity that an upgrade takes too.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Identity flags")]
pub(crate) struct Files {
    /// File with the trust anchors, in PEM
    #[arg(long)]
    identity_trust_anchors_file: Option<PathBuf>,
    /// File with the issuer's certificate, in PEM
    #[arg(long)]
    identity_issuer_certificate_file: Option<PathBuf>,
    /// File with the issuer's private key, in PEM
    #[arg(long)]
    identity_issuer_key_file: Option<PathBuf>,
    /// How long a proxy's certificate lives
    #[arg(long)]
    identity_issuance_lifetime: Option<String>,
    /// How far clocks may differ
    #[arg(long)]
    identity_clock_skew_allowance: Option<String>,
}

impl Files {
    /// Lays the flags that are no files on the values.
    pub(super) fn lay_on(&self, values: &mut Value) {
        let rows = [
            ("identity.issuer.issuanceLifetime", &self.identity_issuance_lifetime),
            ("identity.issuer.clockSkewAllowance", &self.identity_clock_skew_allowance),
        ];
        for (path, value) in rows {
            if let Some(value) = value {
                put(values, path, json!(value));
            }
        }
    }

    /// Puts the files' content into the values.
    pub(super) fn read(&self, values: &mut Value) -> Result<()> {
        let rows = [
            ("--identity-trust-anchors-file", &self.identity_trust_anchors_file, ANCHORS),
            (
                "--identity-issuer-certificate-file",
                &self.identity_issuer_certificate_file,
                CERTIFICATE,
            ),
            ("--identity-issuer-key-file", &self.identity_issuer_key_file, KEY),
        ];
        for (flag, file, path) in rows {
            if let Some(file) = file {
                let text = read_text(file).with_context(|| format!("{flag} cannot be used"))?;
                put(values, path, json!(text));
            }
        }
        Ok(())
    }

    /// Whether the issuer's certificate or key is named.
    pub(crate) fn name_an_issuer(&self) -> bool {
        self.identity_issuer_certificate_file.is_some() || self.identity_issuer_key_file.is_some()
    }
}

/// Flags about identity that are decided once, by the installation.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Identity flags")]
pub(crate) struct Flags {
    /// Domain of identities; the cluster domain when not given
    #[arg(long)]
    identity_trust_domain: Option<String>,
    /// The Secret linkerd-identity-issuer is in the cluster already (kubernetes.io/tls)
    #[arg(long)]
    identity_external_issuer: bool,
    /// The ConfigMap linkerd-identity-trust-roots is in the cluster already
    #[arg(long)]
    identity_external_ca: bool,
}

impl Flags {
    /// Lays the flags on the values.
    pub(super) fn lay_on(&self, values: &mut Value) {
        if let Some(domain) = &self.identity_trust_domain {
            put(values, "identityTrustDomain", json!(domain));
        }
        if self.identity_external_issuer {
            put(values, SCHEME, json!(EXTERNAL));
        }
        if self.identity_external_ca {
            put(values, "identity.externalCA", json!(true));
        }
    }
}

/// Completes anchors and issuer of a new installation, or refuses what does not fit together.
pub(super) async fn resolve(
    values: &mut Value,
    namespace: &str,
    client: Option<&Client>,
) -> Result<()> {
    if text(values, SCHEME) == EXTERNAL {
        return external(values, namespace, client).await;
    }
    let given = [ANCHORS, CERTIFICATE, KEY].map(|path| !text(values, path).is_empty());
    match given {
        [false, false, false] => generate(values, namespace),
        _ => verify(values),
    }
}

/// A string among the values; empty if it is not there.
pub(crate) fn text<'a>(values: &'a Value, path: &str) -> &'a str {
    lookup(values, path).and_then(Value::as_str).unwrap_or_default()
}

/// Anchors and issuer must be there and belong together, or no proxy would get a certificate.
pub(crate) fn verify(values: &Value) -> Result<()> {
    if [ANCHORS, CERTIFICATE, KEY].iter().any(|path| text(values, path).is_empty()) {
        bail!(
            "trust anchors, issuer certificate and issuer key must be given together: \
             --identity-trust-anchors-file, --identity-issuer-certificate-file and \
             --identity-issuer-key-file; or none of them, and new ones are made"
        );
    }
    let anchors = TrustBundle::from_pem(text(values, ANCHORS).as_bytes())
        .context("the trust anchors cannot be used")?;
    let issuer =
        Issuer::from_pem(text(values, CERTIFICATE).as_bytes(), text(values, KEY).as_bytes())
            .context("the issuer's certificate and key cannot be used")?;
    issuer
        .verify(&anchors, SystemTime::now())
        .context("the issuer's certificate does not verify against the trust anchors")
}

/// A self-signed root that is its own issuer, for a year: good for a trial.
fn generate(values: &mut Value, namespace: &str) -> Result<()> {
    let domain = match text(values, "identityTrustDomain") {
        "" => text(values, "clusterDomain"),
        domain => domain,
    };
    let name = format!("identity.{namespace}.{domain}");
    let made = create_root(&CaParams::root(&name, SystemTime::now() - SKEW, YEAR))
        .context("cannot make a root certificate")?;
    let certificate = made.certificate.to_pem();
    put(values, ANCHORS, json!(certificate));
    put(values, CERTIFICATE, json!(certificate));
    put(values, KEY, json!(made.key.to_pem()));
    Ok(())
}

/// The issuer is in the cluster; its `ca.crt` are the anchors unless somebody else manages those.
async fn external(values: &mut Value, namespace: &str, client: Option<&Client>) -> Result<()> {
    let external_ca = lookup(values, "identity.externalCA").and_then(Value::as_bool) == Some(true);
    if external_ca || !text(values, ANCHORS).is_empty() {
        return Ok(());
    }
    let Some(client) = client else {
        bail!(
            "--identity-external-issuer with --ignore-cluster needs --identity-trust-anchors-file"
        );
    };
    let secret: Secret = Api::namespaced(client.clone(), namespace)
        .get("linkerd-identity-issuer")
        .await
        .with_context(|| {
            format!(
                "--identity-external-issuer needs the Secret linkerd-identity-issuer in {namespace}"
            )
        })?;
    let anchors = secret.data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default().0;
    let pem = String::from_utf8(anchors).unwrap_or_default();
    TrustBundle::from_pem(pem.as_bytes())
        .context("`ca.crt` of the Secret linkerd-identity-issuer holds no trust anchors")?;
    put(values, ANCHORS, json!(pem));
    Ok(())
}

/// A server certificate under a CA of its own, whose key is forgotten at once. The PEM holds both, so that
/// it serves as chain and as bundle.
pub(crate) fn self_signed(
    name: &str,
    names: &[String],
    days: u32,
) -> std::result::Result<Certificate, String> {
    let begin = SystemTime::now() - SKEW;
    let lifetime = Duration::from_secs(u64::from(days) * 24 * 3600);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let root = create_root(&CaParams::root(name, begin, lifetime)).map_err(|e| e.to_string())?;
    let server =
        create_server(&root, &names, &[], begin, begin + lifetime).map_err(|e| e.to_string())?;
    Ok(Certificate {
        certificate: format!("{}{}", server.certificate.to_pem(), root.certificate.to_pem()),
        key: server.key.to_pem(),
    })
}
