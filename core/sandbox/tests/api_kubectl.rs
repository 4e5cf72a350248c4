//! # kubectl against the sandbox
//!
//! Job: the commands that a person types, by the kubectl that is installed; without one it says so and passes.
//! May touch: the sandbox's API server, kubectl. Must not touch: its inside.
//! Callers: cargo test.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use mesh_sandbox::api::{ApiConfig, ApiServer};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(30);

const MANIFESTS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: mesh/demo:v1, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: a, image: x}]}
";

struct Kubectl {
    server: ApiServer,
    folder: TempDir,
}

impl Kubectl {
    /// A server with the namespace `demo`; `None` if no kubectl is installed.
    async fn start() -> Option<Self> {
        let version = Command::new("kubectl").args(["version", "--client"]).output().await;
        if version.is_err() {
            eprintln!("skipped: kubectl is not on PATH");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let addr = "127.0.0.1:0".parse().expect("an address");
        let config = ApiConfig::new("sandbox", folder.path().join("data"), addr);
        let server = ApiServer::start(config).await.expect("the server starts");
        std::fs::write(folder.path().join("kubeconfig"), server.admin_kubeconfig())
            .expect("writable");
        let kubectl = Self { server, folder };
        kubectl.ok("create namespace demo").await;
        kubectl.ok("create serviceaccount default").await;
        Some(kubectl)
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.path("kubeconfig")).args(["--namespace", "demo"]);
        command.args(args.split_whitespace()).env("HOME", self.folder.path()).kill_on_drop(true);
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    async fn run(&self, args: &str, stdin: &str) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(stdin.as_bytes()).await.expect("kubectl reads");
        drop(pipe);
        timeout(DEADLINE, child.wait_with_output())
            .await
            .expect("kubectl ends in time")
            .expect("kubectl ends")
    }

    /// Output of a command that succeeds.
    async fn ok(&self, args: &str) -> String {
        self.feed(args, "").await
    }

    async fn feed(&self, args: &str, stdin: &str) -> String {
        let output = self.run(args, stdin).await;
        let (out, err) = texts(&output);
        assert!(output.status.success(), "kubectl {args}\n{out}{err}");
        out
    }

    /// Message of a command that fails.
    async fn fails(&self, args: &str) -> String {
        let output = self.run(args, "").await;
        let (out, err) = texts(&output);
        assert!(!output.status.success(), "kubectl {args}\n{out}");
        format!("{out}{err}")
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_get_describe_and_delete() {
    let Some(kubectl) = Kubectl::start().await else { return };
    let applied = kubectl.feed("apply -f -", MANIFESTS).await;
    assert_eq!(applied, "deployment.apps/web created\nservice/web created\n");
    let applied = kubectl.feed("apply -f -", MANIFESTS).await;
    assert_eq!(applied, "deployment.apps/web unchanged\nservice/web unchanged\n");
    let changed = MANIFESTS.replace("replicas: 2", "replicas: 3");
    let applied = kubectl.feed("apply -f -", &changed).await;
    assert_eq!(applied, "deployment.apps/web configured\nservice/web unchanged\n");
    let applied = kubectl.feed("apply --server-side --force-conflicts -f -", &changed).await;
    assert_eq!(applied, "deployment.apps/web serverside-applied\nservice/web serverside-applied\n");
    let wide = kubectl.ok("get deployments -o wide").await;
    assert!(wide.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE"), "{wide}");
    assert!(wide.contains("web          mesh/demo:v1   app=web"), "{wide}");
    let all = kubectl.ok("get all").await;
    assert!(all.contains("service/web") && all.contains("deployment.apps/web"), "{all}");
    let yaml = kubectl.ok("get service web -o yaml").await;
    assert!(yaml.contains("clusterIP: ") && yaml.contains("targetPort: 8080"), "{yaml}");
    let json = kubectl.ok("get service web -o jsonpath={.spec.ports[0].port}").await;
    assert_eq!(json, "80");
    let described = kubectl.ok("describe deployment web").await;
    assert!(described.contains("StrategyType:           RollingUpdate"), "{described}");
    assert!(
        kubectl.ok("describe service web").await.contains("TargetPort:               8080/TCP")
    );
    assert_eq!(kubectl.ok("delete service web").await, "service \"web\" deleted\n");
    let missing = kubectl.fails("get service web").await;
    assert_eq!(missing, "Error from server (NotFound): services \"web\" not found\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_refusals_and_tries_are_told() {
    let Some(kubectl) = Kubectl::start().await else { return };
    let map = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{k: '{value}'}}\n")
    };
    kubectl.feed("apply --server-side --field-manager=one -f -", &map("1")).await;
    let output = kubectl.run("apply --server-side --field-manager=two -f -", &map("2")).await;
    let message = texts(&output).1;
    let start = "error: Apply failed with 1 conflict: conflict with \"one\": .data.k\nPlease review the fields above";
    assert!(!output.status.success() && message.starts_with(start), "{message}");
    // Kubernetes' JSON patches replace what is not there, too.
    let patch = "[{\"op\":\"replace\",\"path\":\"/data/new\",\"value\":\"x\"}]";
    kubectl.ok(&format!("patch configmap a --type=json -p {patch}")).await;
    let deleted = kubectl.ok("delete configmap a --dry-run=server").await;
    assert!(deleted.contains("deleted (server dry run)"), "{deleted}");
    let kept = kubectl.ok("get configmap a -o jsonpath={.data}{.metadata.deletionTimestamp}").await;
    assert_eq!(kept, "{\"k\":\"1\",\"new\":\"x\"}");
}

#[tokio::test(flavor = "multi_thread")]
async fn label_annotate_patch_scale_and_rollout() {
    let Some(kubectl) = Kubectl::start().await else { return };
    kubectl.feed("apply -f -", MANIFESTS).await;
    assert_eq!(kubectl.ok("label service web a=b").await, "service/web labeled\n");
    assert_eq!(kubectl.ok("label service web a-").await, "service/web unlabeled\n");
    assert_eq!(kubectl.ok("annotate service web note=x").await, "service/web annotated\n");
    let patched = kubectl.ok("patch deployment web -p {\"spec\":{\"paused\":true}}").await;
    assert_eq!(patched, "deployment.apps/web patched\n");
    kubectl
        .ok("patch deployment web --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/paused\"}]")
        .await;
    assert_eq!(
        kubectl.ok("scale deployment web --replicas=4").await,
        "deployment.apps/web scaled\n"
    );
    assert_eq!(kubectl.ok("get deployment web -o jsonpath={.spec.replicas}").await, "4");
    assert_eq!(
        kubectl.ok("rollout restart deployment web").await,
        "deployment.apps/web restarted\n"
    );
    let status = r#"patch deployment web --subresource=status --type=merge -p {"status":{"observedGeneration":5,"replicas":4,"updatedReplicas":4,"readyReplicas":4,"availableReplicas":4,"conditions":[{"type":"Available","status":"True"}]}}"#;
    kubectl.ok(status).await;
    let rolled = kubectl.ok("rollout status deployment web --timeout=5s").await;
    assert_eq!(rolled, "deployment \"web\" successfully rolled out\n");
    let waited = kubectl.ok("wait --for=condition=Available deployment/web --timeout=5s").await;
    assert_eq!(waited, "deployment.apps/web condition met\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_changes() {
    let Some(kubectl) = Kubectl::start().await else { return };
    kubectl.ok("create configmap first --from-literal=a=b").await;
    let mut command = kubectl.command("get configmaps --watch -o name");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = async || {
        timeout(DEADLINE, lines.next_line())
            .await
            .expect("a line in time")
            .expect("a line")
            .expect("a line")
    };
    assert_eq!(next().await, "configmap/first");
    kubectl.ok("create configmap second").await;
    assert_eq!(next().await, "configmap/second");
    child.kill().await.expect("kubectl ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_asked_and_enforced() {
    let Some(kubectl) = Kubectl::start().await else { return };
    kubectl.ok("create role reader --verb=get,list --resource=pods").await;
    kubectl.ok("create serviceaccount bot").await;
    kubectl.ok("create rolebinding reader --role=reader --serviceaccount=demo:bot").await;
    let bot = "--as=system:serviceaccount:demo:bot";
    assert_eq!(kubectl.ok(&format!("auth can-i list pods {bot}")).await, "yes\n");
    assert_eq!(kubectl.fails(&format!("auth can-i create pods {bot}")).await, "no\n");
    let list = kubectl.ok(&format!("auth can-i --list {bot}")).await;
    assert!(
        list.lines().any(|line| line.starts_with("pods ") && line.contains("[get list]")),
        "{list}"
    );
    let refused = kubectl.fails(&format!("get secrets {bot}")).await;
    assert_eq!(
        refused,
        "Error from server (Forbidden): secrets is forbidden: User \"system:serviceaccount:demo:bot\" cannot \
         list resource \"secrets\" in API group \"\" in the namespace \"demo\"\n"
    );
    let token = kubectl.ok("create token bot").await;
    let config = kubectl.server.token_kubeconfig("bot", token.trim());
    std::fs::write(kubectl.path("kubeconfig"), config).expect("writable");
    assert!(kubectl.fails("get secrets").await.contains("(Forbidden)"));
    assert!(kubectl.ok("auth whoami").await.contains("system:serviceaccount:demo:bot"));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_printed() {
    let Some(kubectl) = Kubectl::start().await else { return };
    kubectl.feed("create -f -", POD).await;
    let uid = kubectl.ok("get pod p -o jsonpath={.metadata.uid}").await;
    let folder = kubectl.path(&format!("data/pods/demo_p_{uid}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("a.log"), "hello\nworld\n").expect("a log");
    assert_eq!(kubectl.ok("logs p").await, "hello\nworld\n");
    assert_eq!(kubectl.ok("logs p --tail=1").await, "world\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_one_clear_sentence() {
    let Some(kubectl) = Kubectl::start().await else { return };
    let strict = MANIFESTS.replace("replicas", "replicaz");
    let output = kubectl.run("apply -f -", &strict).await;
    let (_, message) = texts(&output);
    assert!(!output.status.success());
    assert!(
        message.contains("strict decoding error: unknown field \"spec.replicaz\""),
        "{message}"
    );
    let output = kubectl
        .run("apply -f -", "apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: x}\n")
        .await;
    let (_, message) = texts(&output);
    assert!(
        message.contains("no matches for kind \"Nothing\" in version \"example.com/v1\""),
        "{message}"
    );
    let message = kubectl.fails("label namespace demo bad/key/x=1").await;
    assert!(
        message.contains("metadata.labels: Invalid value: \"bad/key/x\": a qualified name must"),
        "{message}"
    );
}
