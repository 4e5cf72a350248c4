//! Every chart, rendered by the real helm and by `mesh`: the same objects, but for the differences listed here.
//!
//! Needs helm, which `deploy/helm/build.sh` builds once from its Go module, so it is a step of its own:
//! `.ci/run helm`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use mesh_charts::yaml;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// What only `mesh` prints: helm makes the namespace itself, and remembers values in its own Secret.
const ONLY_MESH: [&str; 4] = [
    "v1 Namespace /linkerd",
    "v1 Namespace /linkerd-cni",
    "v1 Namespace /linkerd-multicluster",
    "v1 Secret linkerd/linkerd-config-overrides",
];
/// Who rendered stands in an annotation, and so in sums over templates that have it.
const ANNOTATIONS: [&str; 2] = ["linkerd.io/created-by", "checksum/config"];

/// Root, issuer and a webhook's certificate for all renderings.
struct Credentials {
    folder: tempfile::TempDir,
}

impl Credentials {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_str().unwrap();
        run(env!("CARGO_BIN_EXE_mesh"), &["ca", "create", "--out", out]);
        Self { folder }
    }

    /// Flags of `--set-file` for the control plane.
    fn control_plane(&self) -> Vec<String> {
        let rows = [
            ("identityTrustAnchorsPEM", "ca.crt"),
            ("identity.issuer.tls.crtPEM", "issuer.crt"),
            ("identity.issuer.tls.keyPEM", "issuer.key"),
            // Without a pair of its own each rendering would make another.
            ("proxyInjector.crtPEM", "issuer.crt"),
            ("proxyInjector.keyPEM", "issuer.key"),
        ];
        rows.iter().flat_map(|row| self.file(*row)).collect()
    }

    fn file(&self, (value, name): (&str, &str)) -> [String; 2] {
        let path = self.folder.path().join(name);
        ["--set-file".to_owned(), format!("{value}={}", path.display())]
    }
}

#[test]
#[ignore = "needs helm: .ci/run helm"]
fn crds() {
    compare("linkerd-crds", "linkerd", &["install", "--crds"], &[], &[]);
}

#[test]
#[ignore = "needs helm: .ci/run helm"]
fn control_plane() {
    // proves: CHT-1
    let credentials = Credentials::make();
    let given = credentials.control_plane();
    let chart = "linkerd-control-plane";
    let ha = charts().join(chart).join("values-ha.yaml");
    let domain = ["--set", "clusterDomain=example.org,identityTrustDomain=trust.example.org"];
    let many = [
        "--set",
        "imagePullSecrets[0].name=pull,proxy.accessLog=json,configReaders[0].kind=User,configReaders[0].name=u",
        "--set-string",
        "podAnnotations.a=1,podLabels.b=true,commonLabels.c=d",
        "--set",
        "controllerGID=7,tolerations[0].operator=Exists,priorityClassName=high,nodeSelector.disk=ssd",
    ];
    compare(chart, "linkerd", &["install"], &given, &[]);
    compare(
        chart,
        "linkerd",
        &["install", "--ha"],
        &with(&given, &["-f", ha.to_str().unwrap()]),
        &given,
    );
    compare(chart, "linkerd", &["install"], &with(&given, &domain), &[]);
    compare(chart, "linkerd", &["install"], &with(&given, &["--set", "cniEnabled=true"]), &[]);
    compare(chart, "linkerd", &["install"], &with(&given, &many), &[]);
}

#[test]
#[ignore = "needs helm: .ci/run helm"]
fn multicluster() {
    let credentials = Credentials::make();
    let given = credentials.file(("identityTrustAnchorsPEM", "ca.crt"));
    let (chart, namespace) = ("linkerd-multicluster", "linkerd-multicluster");
    let ha = charts().join(chart).join("values-ha.yaml");
    let domain = ["--set", "clusterDomain=example.org,identityTrustDomain=trust.example.org"];
    let many = [
        "--set",
        "controllers[0].link.ref.name=east,gateway.serviceType=NodePort,gateway.nodePort=30143",
        "--set",
        "remoteMirrorServiceAccountName=one\\,two,enableNamespaceCreation=true,cniEnabled=true",
    ];
    let verb = ["multicluster", "install"];
    compare(chart, namespace, &verb, &given, &[]);
    let ha_verb = ["multicluster", "install", "--ha"];
    compare(chart, namespace, &ha_verb, &with(&given, &["-f", ha.to_str().unwrap()]), &given);
    compare(chart, namespace, &verb, &with(&given, &domain), &[]);
    compare(chart, namespace, &verb, &with(&given, &many), &[]);
}

#[test]
#[ignore = "needs helm: .ci/run helm"]
fn cni() {
    let many = [
        "--set",
        "inboundProxyPort=5143,portsToRedirect=80\\,443,privileged=true,priorityClassName=high",
    ];
    let (chart, namespace) = ("linkerd2-cni", "linkerd-cni");
    compare(chart, namespace, &["install-cni"], &[], &[]);
    compare(chart, namespace, &["install-cni"], &with(&[], &many), &[]);
}

fn with(flags: &[String], more: &[&str]) -> Vec<String> {
    flags.iter().cloned().chain(more.iter().map(|flag| (*flag).to_owned())).collect()
}

/// Renders with both and compares. `helm_flags` go to both, unless `mesh_flags` are given for `mesh`.
fn compare(
    chart: &str,
    namespace: &str,
    verb: &[&str],
    helm_flags: &[String],
    mesh_flags: &[String],
) {
    let folder = charts().join(chart);
    let mut helm_args = vec!["template", chart, folder.to_str().unwrap(), "--namespace", namespace];
    helm_args.extend(["--kube-version", "1.34.4"]);
    helm_args.extend(helm_flags.iter().map(String::as_str));
    let theirs = objects(&run(helm(), &helm_args));
    let mut mesh_args = verb.to_vec();
    mesh_args.push("--ignore-cluster");
    let flags = if mesh_flags.is_empty() { helm_flags } else { mesh_flags };
    mesh_args.extend(flags.iter().map(String::as_str));
    let mut ours = objects(&run(env!("CARGO_BIN_EXE_mesh"), &mesh_args));
    ours.retain(|name, _| !ONLY_MESH.contains(&name.as_str()));
    let what = format!("{chart} {}", helm_flags.join(" "));
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "{what}");
    for (name, our) in &ours {
        let their = &theirs[name];
        assert_eq!(our, their, "{what}: {name}\nmesh: {our:#}\nhelm: {their:#}");
    }
    println!("{what}: {} objects", ours.len());
}

/// Objects by what tells them apart, without what may differ.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents = yaml::parse_all(text).unwrap();
    let documents = documents.into_iter().filter(|document| !document.is_null());
    let named = documents.map(|mut object| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let meta = &object["metadata"];
        let name = format!(
            "{} {} {}/{}",
            text(&object["apiVersion"]),
            text(&object["kind"]),
            text(&meta["namespace"]),
            text(&meta["name"])
        );
        for path in ["/metadata/annotations", "/spec/template/metadata/annotations"] {
            for key in ANNOTATIONS {
                if let Some(value) = object.pointer_mut(path).and_then(|a| a.get_mut(key)) {
                    *value = json!("rendered");
                }
            }
        }
        // A text in YAML: the order and the quotes of its lines mean nothing.
        if let Some(values) = object["data"].get_mut("values") {
            *values = yaml::parse(values.as_str().unwrap()).unwrap();
        }
        (name, object)
    });
    named.collect()
}

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/charts").canonicalize().unwrap()
}

/// The real helm.
fn helm() -> &'static str {
    static HELM: OnceLock<String> = OnceLock::new();
    HELM.get_or_init(|| {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/build.sh");
        run(build.to_str().unwrap(), &[]).trim().to_owned()
    })
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}
