//! # install-cni
//!
//! Job: bring the plugin to a node and keep it there: the program, its kubeconfig, and its place in every
//! network configuration; and take all of that away again at the end.
//! May touch: the node's two CNI folders, signals. Must not touch: how configurations look (see
//! `conflist`). Callers: `lib.rs`.

mod conflist;
mod files;
mod watch;

use crate::kubeconfig;
use conflist::PLUGIN;
use files::FileError;
use mesh_process::{
    logs,
    settings::{BadSettings, Reader, Setting, env, form},
    shutdown::Signals,
};
use serde_json::Value;
use std::{
    io,
    path::{Path, PathBuf},
};
use watch::Watch;

/// Why the plugin cannot be brought, or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("{0}")]
    File(#[from] FileError),
    #[error("CNI_NETWORK_CONFIG is not valid: {0}; the ConfigMap linkerd-cni-config has it")]
    Template(#[source] serde_json::Error),
    #[error("the folder {folder} cannot be watched: {source}")]
    Watch { folder: PathBuf, source: io::Error },
    #[error("the system refuses what a program needs to start: {0}")]
    System(#[source] io::Error),
}

/// Where everything is.
#[derive(Debug)]
struct Places {
    /// The node's folder of plugins, as it is seen here.
    bin: PathBuf,
    /// The node's folder of network configurations, as it is seen here.
    net: PathBuf,
    /// The same as the node sees it.
    net_on_node: PathBuf,
    kubeconfig: String,
    /// The plugin in the image, if it is not this program.
    source: PathBuf,
    account: PathBuf,
    authority: PathBuf,
    template: String,
    template_file: Option<PathBuf>,
    api: Api,
}

#[derive(Debug)]
struct Api {
    host: String,
    port: String,
}

const BIN: Setting =
    Setting::new("DEST_CNI_BIN_DIR", "folder of plugins on the node").default("/opt/cni/bin");
const NET: Setting =
    Setting::new("DEST_CNI_NET_DIR", "folder of network configurations on the node")
        .default("/etc/cni/net.d");
const MOUNT: Setting =
    Setting::new("CONTAINER_MOUNT_PREFIX", "where the node's folders are mounted").default("/host");
const SOURCE: Setting = Setting::new(
    "CONTAINER_CNI_BIN_DIR",
    "folder with linkerd-cni in the image; else this program is it",
)
.default("/opt/cni/bin");
const TEMPLATE: Setting =
    Setting::new("CNI_NETWORK_CONFIG", "the plugin's configuration, with placeholders").default("");
const TEMPLATE_FILE: Setting =
    Setting::new("CNI_NETWORK_CONFIG_FILE", "a file with it instead").empty_is_unset();
const KUBECONFIG: Setting =
    Setting::new("KUBECONFIG_FILE_NAME", "name of the kubeconfig that is written")
        .default("ZZZ-linkerd-cni-kubeconfig");
const ACCOUNT: Setting = Setting::new("SERVICEACCOUNT_PATH", "folder with the Pod's token")
    .default("/var/run/secrets/kubernetes.io/serviceaccount");
const AUTHORITY: Setting = Setting::new(
    "KUBE_CA_FILE",
    "certificate authority of the API server; else the token's folder has it",
)
.empty_is_unset();
const HOST: Setting = Setting::new("KUBERNETES_SERVICE_HOST", "the API server, as Pods are told");
const PORT: Setting = Setting::new("KUBERNETES_SERVICE_PORT", "its port, likewise").default("443");
const LOG_LEVEL: Setting =
    Setting::new("LOG_LEVEL", "panic, fatal, error, warn, info, debug, trace, or a filter")
        .default("info");

/// All variables.
pub(crate) const TABLE: &[Setting] = &[
    BIN,
    NET,
    MOUNT,
    SOURCE,
    TEMPLATE,
    TEMPLATE_FILE,
    KUBECONFIG,
    ACCOUNT,
    AUTHORITY,
    HOST,
    PORT,
    LOG_LEVEL,
];

/// Runs until a signal comes.
///
/// # Errors
/// When variables cannot be used or the node's folders cannot be written.
pub(crate) fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (places, level) = read(env)?;
    logs::init(&logs::from_go_level(&level), false)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(InstallError::System)?.block_on(serve(&places))?)
}

fn read(env: impl Fn(&str) -> Option<String>) -> Result<(Places, String), BadSettings> {
    let mut reader = Reader::from_lookup(&[TABLE], env);
    let bin = reader.value(&BIN, form::PATH);
    let net = reader.value(&NET, form::PATH);
    let mount = reader.value(&MOUNT, form::TEXT);
    let source = reader.value(&SOURCE, form::PATH);
    let template = reader.value(&TEMPLATE, form::TEXT);
    let template_file = reader.optional(&TEMPLATE_FILE, form::PATH);
    let kubeconfig = reader.value(&KUBECONFIG, form::NON_EMPTY);
    let account = reader.value(&ACCOUNT, form::PATH);
    let authority = reader.optional(&AUTHORITY, form::PATH);
    let host = reader.value(&HOST, form::NON_EMPTY);
    let port = reader.value(&PORT, form::NON_EMPTY);
    let level = reader.value(&LOG_LEVEL, form::NON_EMPTY);
    reader.finish()?;
    let (net, mount, account) = (net?, mount?, account?);
    let here = |path: &Path| PathBuf::from(format!("{mount}{}", path.display()));
    let places = Places {
        bin: here(&bin?),
        net: here(&net),
        net_on_node: net,
        kubeconfig: kubeconfig?,
        source: source?.join(PLUGIN),
        authority: authority?.unwrap_or_else(|| account.join("ca.crt")),
        account,
        template: template?,
        template_file: template_file?,
        api: Api { host: host?, port: port? },
    };
    Ok((places, level?))
}

async fn serve(places: &Places) -> Result<(), InstallError> {
    let mut signals = Signals::install().map_err(InstallError::System)?;
    // Watched before the first look, so that no change is missed.
    let mut watch = Watch::new(&[&places.net, &places.account])?;
    places.copy_program()?;
    let ended = loop {
        if let Err(error) = places.bring() {
            break Err(error);
        }
        tokio::select! {
            changed = watch.changed() => if let Err(error) = changed { break Err(error) },
            cause = signals.recv() => {
                tracing::info!(%cause, "Taking the plugin away");
                break Ok(());
            }
        }
    };
    places.take_away();
    ended
}

impl Places {
    /// The program comes first: a configuration that names it must find it.
    fn copy_program(&self) -> Result<(), InstallError> {
        let source = match self.source.exists() {
            true => self.source.clone(),
            false => std::env::current_exe().map_err(InstallError::System)?,
        };
        let target = self.bin.join(PLUGIN);
        files::replace(&target, &files::read(&source)?, EXECUTABLE)?;
        tracing::info!(path = %target.display(), "The plugin's program is in place");
        Ok(())
    }

    /// Makes everything as it should be; what is so already is left alone.
    fn bring(&self) -> Result<(), InstallError> {
        let token = files::read_text(&self.account.join("token"))?;
        let authority = files::read(&self.authority)?;
        let host = match self.api.host.contains(':') {
            true => format!("[{}]", self.api.host),
            false => self.api.host.clone(),
        };
        let server = format!("https://{host}:{}", self.api.port);
        let text = kubeconfig::write(&server, &authority, &token);
        files::replace(&self.net.join(&self.kubeconfig), text.as_bytes(), PRIVATE)?;
        let plugin = self.plugin(&token)?;
        for path in files::list(&self.net)? {
            if conflist::is_configuration(&path) {
                self.patch(&path, &plugin)?;
            }
        }
        Ok(())
    }

    /// The plugin's own configuration, its placeholders filled.
    fn plugin(&self, token: &str) -> Result<Value, InstallError> {
        let template = match &self.template_file {
            Some(file) => files::read_text(file)?,
            None => self.template.clone(),
        };
        let kubeconfig = self.net_on_node.join(&self.kubeconfig);
        let mut plugin: Value = serde_json::from_str(&template).map_err(InstallError::Template)?;
        fill(&mut plugin, &|text: &str| {
            text.replace("__KUBECONFIG_FILEPATH__", &kubeconfig.to_string_lossy())
                .replace("__KUBERNETES_SERVICE_HOST__", &self.api.host)
                .replace("__KUBERNETES_SERVICE_PORT__", &self.api.port)
                .replace("__SERVICEACCOUNT_TOKEN__", token.trim())
        });
        Ok(plugin)
    }

    fn patch(&self, path: &Path, plugin: &Value) -> Result<(), InstallError> {
        // A file that is gone again brings a change of its own.
        let Ok(text) = files::read_text(path) else { return Ok(()) };
        match conflist::insert(path, &text, plugin) {
            Err(reason) => tracing::warn!(path = %path.display(), reason, "Left alone"),
            Ok(None) => {}
            Ok(Some(patched)) => {
                files::replace(&patched.path, patched.text.as_bytes(), PRIVATE)?;
                if patched.path != path {
                    files::remove(path)?;
                }
                tracing::info!(path = %patched.path.display(), "The plugin is in the configuration");
            }
        }
        Ok(())
    }

    /// The other way round: no configuration may name a program that is gone. What fails is told, and the
    /// rest goes on.
    fn take_away(&self) {
        for path in files::list(&self.net).unwrap_or_default() {
            let text = files::read_text(&path).unwrap_or_default();
            if let Some(text) =
                conflist::remove(&text).filter(|_| conflist::is_configuration(&path))
            {
                told(files::replace(&path, text.as_bytes(), PRIVATE));
            }
        }
        told(files::remove(&self.net.join(&self.kubeconfig)));
        told(files::remove(&self.bin.join(PLUGIN)));
    }
}

/// Fills the placeholders in every text of a value.
fn fill(value: &mut Value, with: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = with(text),
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, with)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, with)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn told(done: Result<(), FileError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "Something of the plugin stays on the node");
    }
}

const EXECUTABLE: u32 = 0o755;
const PRIVATE: u32 = 0o600;
