//! # `mesh sandbox`
//!
//! Job: clusters on this machine: up, down, status, kubeconfig, and faults on request.
//! May touch: the sandbox's data folder, through `mesh-sandbox`. Callers: `lib.rs`.

use crate::{args::Globals, output, programs};
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use mesh_sandbox::cluster::{self, Launcher, SandboxSpec, Status};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Ports that the mesh's own programs bind on Pod addresses.
const POD_PORTS: [u16; 6] = [4140, 4143, 4191, 8080, 8086, 8090];

/// Arguments of `mesh sandbox`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Start clusters [default: east and west]
    Up(Up),
    /// Stop clusters and remove their state [default: all]
    Down(Named),
    /// Show processes and memory [default: of all clusters]
    Status(Named),
    /// Print where a cluster's kubeconfig is
    Kubeconfig(One),
    /// Stop a component: api, node, or NAMESPACE/POD[/CONTAINER]
    Stop(Component),
    /// Start a component that was stopped
    Start(Component),
    /// A cluster's API server with its controllers
    #[command(hide = true)]
    RunApi { state: PathBuf },
    /// A cluster's node agent
    #[command(hide = true)]
    RunNode { state: PathBuf },
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// Folder of the clusters' state [default: mesh/sandbox below the user's state folder]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Up {
    /// Names
    names: Vec<String>,
    #[command(flatten)]
    folder: Folder,
    /// Shift the API server's and the DNS server's port
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=59_092))]
    port_offset: u16,
    /// Process whose end takes the clusters down
    #[arg(long, hide = true)]
    owner: Option<u32>,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Names
    names: Vec<String>,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, clap::Args)]
struct One {
    /// Name
    name: String,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, clap::Args)]
struct Component {
    /// Cluster
    cluster: String,
    /// Component
    component: String,
    #[command(flatten)]
    folder: Folder,
}

/// Runs the verb.
pub fn run(_globals: &Globals, args: Args) -> ExitCode {
    output::exit(perform(args.verb))
}

fn perform(verb: Verb) -> Result<()> {
    match verb {
        Verb::Up(args) => up(args),
        Verb::Down(args) => {
            let folder = args.folder.path()?;
            for name in args.or_all(&folder) {
                cluster::down(&folder, &name)?;
                output::note(format!("{name} is down"));
            }
            Ok(())
        }
        Verb::Status(args) => {
            let folder = args.folder.path()?;
            let all: Vec<Status> = args
                .or_all(&folder)
                .iter()
                .map(|name| cluster::status(&folder, name))
                .collect::<Result<_, _>>()?;
            Ok(output::print(&show(&all))?)
        }
        Verb::Kubeconfig(args) => {
            let path = cluster::kubeconfig(&args.folder.path()?, &args.name)?;
            Ok(output::print(&format!("{}\n", path.display()))?)
        }
        Verb::Stop(args) => {
            Ok(cluster::stop(&args.folder.path()?, &args.cluster, &args.component)?)
        }
        Verb::Start(args) => {
            Ok(cluster::start(&args.folder.path()?, &args.cluster, &args.component)?)
        }
        Verb::RunApi { state } => Ok(cluster::run_api(&state)?),
        Verb::RunNode { state } => Ok(cluster::run_node(&state)?),
    }
}

fn up(args: Up) -> Result<()> {
    let exe = std::env::current_exe().context("cannot tell where this program lies")?;
    let folder = args.folder.path()?;
    let names =
        if args.names.is_empty() { vec!["east".to_owned(), "west".to_owned()] } else { args.names };
    let words = |verb: &str| vec!["sandbox".to_owned(), verb.to_owned()];
    let launcher = Launcher {
        exe: exe.clone(),
        argv0: None,
        api_args: words("run-api"),
        node_args: words("run-node"),
    };
    // Side by side: most of the time is spent waiting for the servers.
    let started: Vec<Result<cluster::Cluster, cluster::ClusterError>> =
        std::thread::scope(|scope| {
            let threads: Vec<_> = names
                .iter()
                .map(|name| {
                    let spec = SandboxSpec {
                        name: name.clone(),
                        data_dir: folder.clone(),
                        programs: programs::table(&exe),
                        port_offset: args.port_offset,
                        pod_ports: POD_PORTS.to_vec(),
                        owner: args.owner,
                    };
                    let launcher = &launcher;
                    scope.spawn(move || cluster::up(&spec, launcher))
                })
                .collect();
            threads.into_iter().filter_map(|t| t.join().ok()).collect()
        });
    for cluster in started {
        let cluster = cluster?;
        output::note(format!("{} is up at https://{}", cluster.name, cluster.api));
        output::print(&format!("export KUBECONFIG={}\n", cluster.kubeconfig.display()))?;
    }
    Ok(())
}

fn show(all: &[Status]) -> String {
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["CLUSTER", "PROCESS", "PID", "ANON MiB", "PSS MiB"]);
    let mut sum = 0;
    for status in all {
        sum += status.pss;
        for process in &status.processes {
            let pid =
                process.process.map_or_else(|| "not running".to_owned(), |p| p.pid.to_string());
            table.add_row([
                status.name.clone(),
                process.role.clone(),
                pid,
                mib(process.anonymous),
                mib(process.pss),
            ]);
        }
    }
    for index in 2..5 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n{} clusters, PSS {} MiB in all\n", all.len(), mib(sum))
}

impl Named {
    fn or_all(&self, folder: &Path) -> Vec<String> {
        if self.names.is_empty() { cluster::list(folder) } else { self.names.clone() }
    }
}

impl Folder {
    fn path(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.data_dir {
            return Ok(folder.clone());
        }
        let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        match env("XDG_STATE_HOME").or_else(|| env("HOME").map(|home| home.join(".local/state"))) {
            Some(state) => Ok(state.join("mesh/sandbox")),
            None => bail!("neither XDG_STATE_HOME nor HOME is set: name a folder with --data-dir"),
        }
    }
}
