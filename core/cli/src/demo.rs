//! # `mesh demo`
//!
//! Job: two clusters, one root CA, a Service exported in `east`, its mirror in `west`, and a request
//! that crosses the gateway under mTLS: each step is what a person does on real clusters, by this
//! program's own verbs and the API.
//! May touch: a folder of its own, the sandbox through `mesh sandbox`, clusters through their API.
//! Must not touch: the insides of any room below. Callers: `lib.rs`.

mod cluster;
mod manifests;
mod report;
mod steps;
mod verbs;

use crate::{args::Globals, output};
use anyhow::{Context, Result, bail, ensure};
use cluster::{Cluster, NAMESPACE};
use mesh_demo::{
    app::Told,
    client::{Client, Protocol, RequestError, Target},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};
use steps::Steps;
use verbs::Mesh;

/// Label that exports a Service.
const EXPORTED: &str = "mirror.linkerd.io/exported";

/// Arguments of `mesh demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop everything when all steps are done, instead of staying up
    #[arg(long)]
    pub once: bool,
    /// Folder for the clusters' state, made anew and removed at the end [default: one below the
    /// system's temporary folder]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Shift every port by this much, where another program is in the way
    #[arg(long, default_value_t = 0)]
    pub port_offset: u16,
    /// Stay up until standard input ends, for a caller whose end should be the demo's
    #[arg(long, hide = true)]
    pub until_eof: bool,
}

/// Runs the verb: exit code 0, or 1 with the failed step and its cause.
pub fn run(_globals: &Globals, args: Args) -> ExitCode {
    output::exit(crate::block_on(demo(args)))
}

async fn demo(args: Args) -> Result<()> {
    let dir = Folder::make(args.data_dir.clone())?;
    let mesh = Mesh::new()?;
    let stage = Stage { mesh, dir: dir.path.clone(), port_offset: args.port_offset };
    let shown = tokio::select! {
        shown = stage.perform(&args) => shown,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    let stopped = stage.tear_down().await;
    shown.and(stopped)
}

/// Waits for Ctrl-C or a request to end.
async fn interrupted() {
    mesh_process::shutdown::signal().await;
}

/// Waits until whoever holds the other end of standard input has gone.
async fn end_of_input() {
    // An input that cannot be read is as good as ended.
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

/// The state folder; removed when dropped.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(wanted: Option<PathBuf>) -> Result<Self> {
        let path = wanted.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("mesh-demo-{}", std::process::id()))
        });
        if path.exists() {
            bail!(
                "{} exists already: name another folder with --data-dir, or remove it",
                path.display()
            );
        }
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path: path.canonicalize()? })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is in the temporary folder, which the system clears.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Where the demo plays.
struct Stage {
    mesh: Mesh,
    dir: PathBuf,
    port_offset: u16,
}

impl Stage {
    async fn perform(&self, args: &Args) -> Result<()> {
        let begun = Instant::now();
        let mut steps = Steps::new();
        let ca = steps.run("make a root CA and an issuer for each cluster", self.make_ca()).await?;
        let (east, west) = steps.run("start clusters east and west", self.start()).await?;
        steps.run("install the mesh in both", self.install(&east, &west, &ca)).await?;
        steps.run("install the multicluster extension in both", self.extend(&east, &west)).await?;
        steps.run("link west to east", self.link(&east, &west)).await?;
        steps.run("deploy the applications", self.deploy(&east, &west)).await?;
        steps.run("mesh check in both", self.check(&east, &west)).await?;
        let (client, ip) = west.pod(NAMESPACE, "web").await?;
        let proxy = SocketAddr::new(ip, 4140);
        let told = steps
            .run("export Service echo in east, call echo-east in west", cross(&east, &west, proxy))
            .await?;
        let gateway = west.mirrored("echo-east").await?;
        steps.run("call the gateway without the mesh", refused(&gateway)).await?;
        steps.run("unexport, and export again", again(&east, &west, proxy)).await?;
        steps.run("mesh mc check and mc gateways in west", self.check_link(&west)).await?;
        output::print(&format!(
            "\n{}\n\n{}\nall done in {:.1} s\n",
            report::table(steps.done()),
            report::map(&client, &gateway, &told),
            begun.elapsed().as_secs_f64()
        ))?;
        if !args.once {
            let exe = std::env::current_exe()?;
            let next = report::next(&exe.display().to_string(), &west, ip);
            output::print(&format!("\nBoth clusters stay up until Ctrl-C. Try next:\n{next}"))?;
            output::note(format!(
                "processes and memory: {} sandbox status --data-dir {}",
                exe.display(),
                self.dir.join("sandbox").display()
            ));
            match args.until_eof {
                true => end_of_input().await,
                false => interrupted().await,
            }
        }
        Ok(())
    }

    async fn make_ca(&self) -> Result<(PathBuf, String)> {
        let ca = self.dir.join("ca");
        self.mesh
            .run(["ca", "create", "--out", &text(&ca), "--issuer", "east", "--issuer", "west"])
            .await?;
        Ok((ca, "one root, two issuers".into()))
    }

    async fn start(&self) -> Result<((Cluster, Cluster), String)> {
        let data = text(&self.dir.join("sandbox"));
        let offset = self.port_offset.to_string();
        self.mesh
            .run([
                "sandbox",
                "up",
                "east",
                "west",
                "--data-dir",
                &data,
                "--port-offset",
                &offset,
                "--owner",
                &std::process::id().to_string(),
            ])
            .await?;
        let open = |name: &'static str| {
            let file = self.dir.join("sandbox").join(name).join("kubeconfig");
            async move { Cluster::open(name, &file).await }
        };
        let (east, west) = tokio::try_join!(open("east"), open("west"))?;
        let versions =
            tokio::try_join!(east.client.apiserver_version(), west.client.apiserver_version())?;
        Ok(((east, west), format!("Kubernetes API {} in both", versions.0.git_version)))
    }

    async fn install(&self, east: &Cluster, west: &Cluster, ca: &Path) -> Result<((), String)> {
        let counts = tokio::try_join!(self.install_one(east, ca), self.install_one(west, ca))?;
        Ok(((), format!("{} objects each, control plane ready", counts.0.max(counts.1))))
    }

    async fn install_one(&self, cluster: &Cluster, ca: &Path) -> Result<usize> {
        let [flag, file] = cluster.flags();
        let crds = self.mesh.run(["install", "--crds", "-o", "json", &flag, &file]).await?;
        let mut count = cluster.apply(&crds).await?;
        let anchors = text(&ca.join("ca.crt"));
        let issuer = |kind: &str| text(&ca.join(&cluster.name).join(format!("issuer.{kind}")));
        let manifests = self
            .mesh
            .run([
                "install",
                "-o",
                "json",
                &flag,
                &file,
                "--identity-trust-anchors-file",
                &anchors,
                "--identity-issuer-certificate-file",
                &issuer("crt"),
                "--identity-issuer-key-file",
                &issuer("key"),
                "--set",
                "clusterNetworks=127.0.0.0/8",
            ])
            .await?;
        count += cluster.apply(&manifests).await?;
        for name in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
            cluster.rolled_out("linkerd", name).await?;
        }
        Ok(count)
    }

    async fn extend(&self, east: &Cluster, west: &Cluster) -> Result<((), String)> {
        tokio::try_join!(self.extend_one(east), self.extend_one(west))?;
        Ok(((), "gateways and mirrors ready".into()))
    }

    async fn extend_one(&self, cluster: &Cluster) -> Result<()> {
        let [flag, file] = cluster.flags();
        let manifests =
            self.mesh.run(["multicluster", "install", "-o", "json", &flag, &file]).await?;
        cluster.apply(&manifests).await?;
        for name in ["linkerd-gateway", "linkerd-service-mirror"] {
            cluster.rolled_out("linkerd-multicluster", name).await?;
        }
        Ok(())
    }

    async fn link(&self, east: &Cluster, west: &Cluster) -> Result<((), String)> {
        let [flag, file] = east.flags();
        let link = self
            .mesh
            .run(["multicluster", "link", "--cluster-name", "east", "-o", "json", &flag, &file])
            .await?;
        let count = west.apply(&link).await?;
        Ok(((), format!("{count} objects applied in west")))
    }

    async fn deploy(&self, east: &Cluster, west: &Cluster) -> Result<((), String)> {
        let backend = std::iter::once(manifests::namespace())
            .chain(manifests::app("echo", "east", 2))
            .chain([manifests::service("echo")]);
        let caller =
            std::iter::once(manifests::namespace()).chain(manifests::app("web", "west", 1));
        east.apply(&manifests::lines(backend)).await?;
        west.apply(&manifests::lines(caller)).await?;
        tokio::try_join!(east.rolled_out(NAMESPACE, "echo"), west.rolled_out(NAMESPACE, "web"))?;
        Ok(((), "echo in east, web in west, injected and ready".into()))
    }

    async fn check(&self, east: &Cluster, west: &Cluster) -> Result<((), String)> {
        let check = |cluster: &Cluster| {
            let [flag, file] = cluster.flags();
            async move { self.mesh.run(["check", "--wait", "30s", "-o", "short", &flag, &file]).await }
        };
        let (in_east, in_west) = tokio::try_join!(check(east), check(west))?;
        let said = |text: String| text.lines().next_back().unwrap_or_default().trim().to_owned();
        Ok(((), format!("east: {}, west: {}", said(in_east), said(in_west))))
    }

    async fn check_link(&self, west: &Cluster) -> Result<((), String)> {
        let [flag, file] = west.flags();
        self.mesh.run(["multicluster", "check", "--wait", "30s", &flag, &file]).await?;
        let gateways = self.mesh.run(["multicluster", "gateways", &flag, &file]).await?;
        let row = gateways
            .lines()
            .find(|l| l.starts_with("east"))
            .context("mc gateways does not list east")?;
        let row = row.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(row.contains("True"), "mc gateways says: {row}");
        Ok(((), format!("green; {row}")))
    }

    async fn tear_down(&self) -> Result<()> {
        let data = self.dir.join("sandbox");
        if data.exists() {
            self.mesh.run(["sandbox", "down", "--data-dir", &text(&data)]).await?;
        }
        Ok(())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Exports `echo` and waits for the first good answer through the gateway.
async fn cross(east: &Cluster, west: &Cluster, proxy: SocketAddr) -> Result<(Told, String)> {
    east.label_service("echo", EXPORTED, Some("true")).await?;
    let begun = Instant::now();
    let endpoints = async {
        west.mirrored("echo-east").await?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    let (mirrored, told) = tokio::try_join!(endpoints, first_answer(proxy))?;
    let answered = begun.elapsed();
    ensure!(told.cluster == "east", "echo-east was answered by cluster {}", told.cluster);
    let result = format!(
        "endpoints after {} ms, first 200 after {} ms",
        mirrored.as_millis(),
        answered.as_millis()
    );
    Ok((told, result))
}

async fn first_answer(proxy: SocketAddr) -> Result<Told> {
    let mut client = Client::new(Target {
        uri: http::Uri::from_static("http://echo-east.demo/"),
        proxy: Some(proxy),
        protocol: Protocol::Http1,
        source: None,
        timeout: Duration::from_secs(5),
    });
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    let mut last = String::from("no request was sent");
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        tick.tick().await;
        match client.get().await {
            Ok(answer) if answer.status.is_success() => {
                return serde_json::from_slice(&answer.body)
                    .context("the answer is not the demo app's");
            }
            Ok(answer) => {
                last = format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))
            }
            Err(error) => last = error.to_string(),
        }
    }
    bail!("no good answer from echo-east within 30 s; the last was: {}", last.trim())
}

/// A client without the mesh must get nothing from the gateway.
async fn refused(gateway: &str) -> Result<((), String)> {
    let mut client = Client::new(Target {
        uri: format!("http://{gateway}/").parse()?,
        proxy: None,
        protocol: Protocol::Http1,
        source: None,
        timeout: Duration::from_secs(5),
    });
    match client.get().await {
        Ok(answer) => bail!("the gateway answered an unmeshed client with {}", answer.status),
        Err(RequestError::Http(_)) => {
            Ok(((), "refused: it closed the connection, and answered nothing".into()))
        }
        Err(error) => Err(error).context("the gateway could not be asked"),
    }
}

/// Takes the export back, sees the mirror go, and exports again.
async fn again(east: &Cluster, west: &Cluster, proxy: SocketAddr) -> Result<((), String)> {
    east.label_service("echo", EXPORTED, None).await?;
    let begun = Instant::now();
    west.gone("echo-east").await?;
    let gone = begun.elapsed();
    let (_, result) = cross(east, west, proxy).await?;
    Ok(((), format!("gone after {} ms; {result}", gone.as_millis())))
}
