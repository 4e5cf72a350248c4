//! # Test kit
//!
//! Job: a cluster that is taken down when the test ends, and waiting on conditions with a deadline.
//! May touch: the cluster under test. Callers: the cases.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::DynamicObject,
    discovery::ApiResource,
};
use mesh_sandbox::cluster::{self, Cluster, Launcher, Program, SandboxSpec};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

/// A cluster of one test.
pub(crate) struct Sandbox {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) data_dir: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // What the processes have said helps whoever looks for the cause of a failure.
        if std::env::var_os("MESH_TEST_LOGS").is_some() {
            for role in ["api", "node"] {
                let log = self.data_dir.join(&self.cluster.name).join(format!("{role}.log"));
                println!("--- {role}\n{}", std::fs::read_to_string(log).unwrap_or_default());
            }
        }
        if let Err(error) = cluster::down(&self.data_dir, &self.cluster.name) {
            eprintln!("down: {error}");
        }
    }
}

impl Sandbox {
    pub(crate) async fn up(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (spec, launcher) = spec(name, folder.path().to_owned())?;
        let begun = Instant::now();
        let cluster = tokio::task::spawn_blocking(move || cluster::up(&spec, &launcher)).await??;
        println!("  up in {} ms", begun.elapsed().as_millis());
        let client = client(&cluster).await?;
        Ok(Self { cluster, client, data_dir: folder.path().to_owned(), _folder: folder })
    }

    pub(crate) async fn stop(&self, component: &str) -> Result<()> {
        let (dir, name, component) =
            (self.data_dir.clone(), self.cluster.name.clone(), component.to_owned());
        Ok(tokio::task::spawn_blocking(move || cluster::stop(&dir, &name, &component)).await??)
    }

    pub(crate) async fn start(&self, component: &str) -> Result<()> {
        let (dir, name, component) =
            (self.data_dir.clone(), self.cluster.name.clone(), component.to_owned());
        Ok(tokio::task::spawn_blocking(move || cluster::start(&dir, &name, &component)).await??)
    }

    /// Applies an object given as JSON.
    pub(crate) async fn apply(&self, object: Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("no kind")?;
        let (group, version) =
            types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
        let resource = ApiResource::from_gvk(&gvk);
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(ns) => Api::namespaced_with(self.client.clone(), ns, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let name = object.metadata.name.clone().context("no name")?;
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await?;
        Ok(())
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

pub(crate) fn spec(name: &str, data_dir: PathBuf) -> Result<(SandboxSpec, Launcher)> {
    let exe = std::env::current_exe()?;
    let program = |command: Option<&str>| Program {
        image: "test".to_owned(),
        command: command.map(str::to_owned),
        exe: exe.clone(),
        argv0: super::program::NAME.to_owned(),
    };
    let spec = SandboxSpec {
        name: name.to_owned(),
        data_dir,
        programs: vec![program(None), program(Some("/bin/test"))],
        port_offset: 0,
        pod_ports: vec![8080],
        owner: Some(std::process::id()),
    };
    let launcher = Launcher {
        exe,
        argv0: None,
        api_args: vec!["run-api".to_owned()],
        node_args: vec!["run-node".to_owned()],
    };
    Ok((spec, launcher))
}

pub(crate) async fn client(cluster: &Cluster) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&cluster.kubeconfig)?;
    let options =
        KubeConfigOptions { context: Some(cluster.name.clone()), ..KubeConfigOptions::default() };
    Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await?)?)
}

/// Waits until `attempt` gives something; the last error is in the failure.
pub(crate) async fn eventually<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited in vain for: {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The body of an HTTP answer, asked from the address `from`.
pub(crate) async fn get(address: SocketAddr, from: [u8; 4], path: &str) -> Result<String> {
    let ask = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let mut stream = socket.connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), ask).await??;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => bail!("no answer but {answer:?}"),
    }
}
