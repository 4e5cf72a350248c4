//! # Settings of the identity service
//!
//! Job: Linkerd's flags as rows, and the typed configuration that they make.
//! May touch: values. Must not touch: the command line itself (`controller` reads it).
//! Callers: `controller`.

use mesh_model::identity::{DnsName, Identity, InvalidName};
use mesh_pki::{IssuerScheme, LeafPolicy};
use mesh_process::settings::{Form, Reader, Reported, Setting, form};
use std::{net::SocketAddr, path::PathBuf};

/// What the service needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the gRPC server listens.
    pub addr: SocketAddr,
    /// Where the admin server listens.
    pub admin_addr: SocketAddr,
    /// Namespace of this control plane, a DNS label.
    pub controller_namespace: String,
    /// Last part of identities, lower-case.
    pub trust_domain: DnsName,
    /// Kind of the issuer Secret.
    pub scheme: IssuerScheme,
    /// Lifetime and clock skew of leafs.
    pub leaf: LeafPolicy,
    /// Where the issuer Secret is mounted.
    pub issuer_dir: PathBuf,
    /// The mounted trust anchors.
    pub anchors: PathBuf,
}

/// Scheme or trust domain were not given: Linkerd's service then ends with exit code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disabled;

const ADDR: Setting = Setting::new("addr", "where the gRPC server listens").default(":8080");
const ADMIN_ADDR: Setting =
    Setting::new("admin-addr", "where the admin server listens").default(":9990");
const NAMESPACE: Setting =
    Setting::new("controller-namespace", "namespace of the control plane").default("linkerd");
const SCHEME: Setting = Setting::new(
    "identity-scheme",
    "`linkerd.io/tls` or `kubernetes.io/tls`; empty ends the service",
)
.empty_is_unset();
const TRUST_DOMAIN: Setting =
    Setting::new("identity-trust-domain", "last part of identities; empty ends the service")
        .empty_is_unset();
const LIFETIME: Setting =
    Setting::new("identity-issuance-lifetime", "how long leafs are valid").default("24h");
const SKEW: Setting =
    Setting::new("identity-clock-skew-allowance", "added to both ends of a leaf's validity")
        .default("10s");
const ISSUER: Setting = Setting::new("issuer", "folder with the mounted issuer Secret")
    .default("/var/run/linkerd/identity/issuer");
const ANCHORS: Setting = Setting::new("trust-anchors", "file with the trust anchors, PEM")
    .default("/var/run/linkerd/identity/trust-roots/ca-bundle.crt");
const QPS: Setting = Setting::new("kube-apiclient-qps", "there is no client-side limit").ignored();
const BURST: Setting =
    Setting::new("kube-apiclient-burst", "there is no client-side limit").ignored();

/// The service's own rows; flags that all controllers share (`log-level`, `kubeconfig`, ...) are the
/// binary's.
pub const TABLE: &[Setting] = &[
    ADDR,
    ADMIN_ADDR,
    NAMESPACE,
    SCHEME,
    TRUST_DOMAIN,
    LIFETIME,
    SKEW,
    ISSUER,
    ANCHORS,
    QPS,
    BURST,
];

const SCHEME_FORM: Form<IssuerScheme> =
    Form::new("`linkerd.io/tls` or `kubernetes.io/tls`", IssuerScheme::parse);
const LABEL_FORM: Form<String> =
    Form::new("a DNS-1123 label: at most 63 of a-z, 0-9 and `-`, no `-` at either end", |t| {
        is_dns_label(t).then(|| t.to_owned())
    });
const DOMAIN_FORM: Form<DnsName> = Form::new("a DNS-1123 subdomain", |t| {
    let labels = t.split('.').all(is_dns_label);
    t.parse().ok().filter(|_| labels)
});

impl Config {
    /// Reads the rows of [`TABLE`]; problems stay in the reader. A duration that does not parse is
    /// logged and its default taken.
    ///
    /// # Errors
    /// When any value is bad; the reader knows which.
    pub fn read(reader: &mut Reader<'_>) -> Result<Result<Self, Disabled>, Reported> {
        let addr = reader.value(&ADDR, form::GO_LISTEN);
        let admin_addr = reader.value(&ADMIN_ADDR, form::GO_LISTEN);
        let namespace = reader.value(&NAMESPACE, LABEL_FORM);
        let scheme = reader.optional(&SCHEME, SCHEME_FORM);
        let trust_domain = reader.optional(&TRUST_DOMAIN, DOMAIN_FORM);
        let lifetime = reader.lenient(&LIFETIME, form::GO_DURATION);
        let clock_skew = reader.lenient(&SKEW, form::GO_DURATION);
        let issuer = reader.value(&ISSUER, form::PATH);
        let anchors = reader.value(&ANCHORS, form::PATH);
        let (Some(scheme), Some(trust_domain)) = (scheme?, trust_domain?) else {
            return Ok(Err(Disabled));
        };
        Ok(Ok(Self {
            addr: addr?,
            admin_addr: admin_addr?,
            controller_namespace: namespace?,
            trust_domain,
            scheme,
            leaf: LeafPolicy { lifetime: lifetime?, clock_skew: clock_skew? },
            issuer_dir: issuer?,
            anchors: anchors?,
        }))
    }

    /// The service's own identity.
    ///
    /// # Errors
    /// When the parts do not form a DNS name.
    pub fn own_identity(&self) -> Result<Identity, InvalidName> {
        Identity::of_service_account(
            SERVICE_ACCOUNT,
            &self.controller_namespace,
            &self.controller_namespace,
            self.trust_domain.as_str(),
        )
    }
}

/// The service account that the service runs as, and its Deployment's name.
pub(crate) const SERVICE_ACCOUNT: &str = "linkerd-identity";

/// DNS-1123 label: lower case, unlike names in DNS.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_process::settings::BadSettings;
    use std::{ffi::OsString, time::Duration};

    fn read(args: &[&str]) -> Result<Result<Config, Disabled>, BadSettings> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let tables: &[&[Setting]] = &[TABLE];
        let mut reader = Reader::from_flags(tables, &args);
        let config = Config::read(&mut reader);
        reader.finish()?;
        Ok(config?)
    }

    // proves: ID-1
    #[test]
    fn flags_as_the_chart_passes_them() {
        let config = read(&[
            "-controller-namespace=linkerd",
            "-identity-trust-domain=cluster.local",
            "-identity-issuance-lifetime=20s",
            "-identity-clock-skew-allowance=soon",
            "-identity-scheme=linkerd.io/tls",
            "-kube-apiclient-qps=100",
        ])
        .unwrap()
        .unwrap();
        assert_eq!(config.leaf.lifetime, Duration::from_secs(20));
        assert_eq!(config.leaf.clock_skew, Duration::from_secs(10));
        assert_eq!(config.addr.port(), 8080);
        assert_eq!(
            config.own_identity().unwrap().as_str(),
            "linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local"
        );
    }

    // proves: ID-1
    #[test]
    fn without_scheme_or_domain_it_is_off() {
        assert_eq!(read(&["-identity-scheme=linkerd.io/tls"]).unwrap().err(), Some(Disabled));
        assert_eq!(read(&["-identity-trust-domain=a"]).unwrap().err(), Some(Disabled));
        let both =
            ["-identity-scheme=x", "-identity-trust-domain=A_b", "-controller-namespace=a.b"];
        assert_eq!(read(&both).unwrap_err().0.len(), 3);
    }
}
