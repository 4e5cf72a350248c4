//! # Measurements
//!
//! Job: the figures of two joined clusters: how soon an export answers, what the mesh adds to a request, what a lost
//! gateway costs; each beside the unmeshed figure of the same run where there is one.
//! Callers: `suites`, on request only: a busy machine measures itself.

use super::walk::{MULTICLUSTER, PODINFO};
use crate::{
    api::Api,
    kubectl::Kubectl,
    note, run,
    stage::{DEMO, EXPORTED, SOON, Stage, app, lines},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const ROUNDS: usize = 10;
const OUTAGE: Duration = Duration::from_secs(25);

/// All rows.
pub(super) fn run(stage: &Stage<'_>) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    stage.east.line(&format!("label service {PODINFO} -n {DEMO} {EXPORTED}-"))?;
    runtime.block_on(exports(stage))?;
    stage.east.line(&format!("label service {PODINFO} -n {DEMO} {EXPORTED}=true"))?;
    loads(stage)?;
    connections(stage)?;
    runtime.block_on(outage(stage))?;
    replaced(stage)?;
    if stage.provider.set_link("east", true).is_ok() {
        runtime.block_on(silent(stage))?;
    }
    many(stage)
}

/// A poller in west's client Pod; each change of the answer with the time at which it came.
struct Poller {
    child: Child,
    changes: Receiver<(Duration, String)>,
}

impl Poller {
    fn start(west: &Kubectl, url: &str) -> Result<Self> {
        let mut child = west
            .command(&["exec", "-n", DEMO, "deploy/client", "-c", "app", "--"])
            .args(["/mesh-demo", "poll", url, "--every", "5"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        let said = child.stdout.take().context("kubectl has no output")?;
        let (tell, changes) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let parts =
                    line.split_once(' ').and_then(|(ms, what)| Some((ms.parse().ok()?, what)));
                let Some((ms, what)) = parts else { continue };
                if tell.send((Duration::from_millis(ms), what.to_owned())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, changes })
    }

    /// The moment, since 1970, at which the answer became (or stopped being) 200.
    fn until(&self, good: bool) -> Result<Duration> {
        loop {
            let (at, what) = self.changes.recv_timeout(SOON).context("no change of the answer")?;
            if (what == "200") == good {
                return Ok(at);
            }
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
}

fn has_addresses(object: Option<&Value>) -> bool {
    object.is_some_and(|e| e["subsets"][0]["addresses"].is_array())
}

fn service_path(name: &str) -> String {
    format!("/api/v1/namespaces/{DEMO}/services/{name}")
}

fn endpoints_path() -> String {
    format!("/api/v1/namespaces/{DEMO}/endpoints/{PODINFO}-east")
}

async fn exports(stage: &Stage<'_>) -> Result<()> {
    let (east, west) = (Api::open(&stage.east)?, Api::open(&stage.west)?);
    let mirror = service_path(&format!("{PODINFO}-east"));
    let label = |value: Value| json!({"metadata": {"labels": {EXPORTED: value}}});
    let poller = Poller::start(&stage.west, &format!("http://{PODINFO}-east.{DEMO}/"))?;
    poller.until(false)?;
    let [mut services, mut endpoints, mut answers, mut gone] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let endpoint_path = endpoints_path();
        let (set, service, endpoint) = tokio::try_join!(
            async {
                let at = east.patch(&service_path(PODINFO), &label(json!("true"))).await?;
                Ok((at, now()))
            },
            west.when(&mirror, |o| o.is_some()),
            west.when(&endpoint_path, has_addresses),
        )?;
        services.push(service.saturating_duration_since(set.0));
        endpoints.push(endpoint.saturating_duration_since(set.0));
        answers.push(poller.until(true)?.saturating_sub(set.1));
        let unset = east.patch(&service_path(PODINFO), &label(Value::Null)).await?;
        gone.push(west.when(&mirror, |o| o.is_none()).await?.saturating_duration_since(unset));
        poller.until(false)?;
    }
    note(&format!(
        "  export -> mirror Service / endpoints / first 200, ms (medians of {ROUNDS}): {:.0} / {:.0} / {:.0}; unexport -> gone: {:.0}",
        median(&mut services),
        median(&mut endpoints),
        median(&mut answers),
        median(&mut gone)
    ));
    Ok(())
}

/// What a request costs: unmeshed, inside the mesh, through the gateway.
fn loads(stage: &Stage<'_>) -> Result<()> {
    let west = &stage.west;
    west.apply(&lines(app("plain", PODINFO, "west", 1)))?;
    west.rolled_out("plain", &format!("deploy/{PODINFO}"), SOON)?;
    let rows = [
        ("unmeshed", "plain", format!("http://{PODINFO}.plain/")),
        ("meshed, same cluster", DEMO, format!("http://{PODINFO}.{DEMO}/")),
        ("meshed, through the gateway", DEMO, format!("http://{PODINFO}-east.{DEMO}/")),
    ];
    for pace in [
        &["--rate", "200", "--seconds", "15", "--workers", "200"][..],
        &["--workers", "16", "--requests", "40000"],
    ] {
        for (what, namespace, url) in &rows {
            let mut command = vec!["/mesh-demo", "load", url.as_str()];
            // The first requests find routes and make connections.
            let warm = [&command[..], &["--requests", "500"]].concat();
            run::until("an answer", SOON, || west.exec(namespace, "deploy/client", "app", &warm))?;
            command.extend(pace);
            let report = west.exec(namespace, "deploy/client", "app", &command)?;
            note(&format!("  {what}, {}: {}", pace[..2].join(" "), report.trim()));
        }
    }
    Ok(())
}

/// A connection for each request: as HTTP, and on ports that nothing is read from.
fn connections(stage: &Stage<'_>) -> Result<()> {
    const OPAQUE: &str = "opaque";
    for cluster in stage.both() {
        let mut objects = app(DEMO, OPAQUE, &cluster.context, 1);
        let ports = json!({"config.linkerd.io/opaque-ports": "80,8080"});
        objects[1]["spec"]["template"]["metadata"]["annotations"] = ports.clone();
        objects[2]["metadata"]["annotations"] = ports;
        objects[2]["metadata"]["labels"] = json!({EXPORTED: "true"});
        cluster.apply(&lines(objects))?;
        cluster.rolled_out(DEMO, &format!("deploy/{OPAQUE}"), SOON)?;
    }
    let rows = [
        ("unmeshed", "plain", PODINFO.to_owned()),
        ("HTTP, same cluster", DEMO, PODINFO.to_owned()),
        ("HTTP, through the gateway", DEMO, format!("{PODINFO}-east")),
        ("opaque, same cluster", DEMO, OPAQUE.to_owned()),
        ("opaque, through the gateway", DEMO, format!("{OPAQUE}-east")),
    ];
    for (what, namespace, service) in &rows {
        // By address: a look-up for each connection costs the client more than the connection.
        let get = format!("get service {service} -n {namespace} -o jsonpath={{.spec.clusterIP}}");
        let ip = run::until("the Service", SOON, || stage.west.line(&get))?;
        let url = &format!("http://{}/", ip.trim());
        let load = |requests: &str| {
            let command = ["/mesh-demo", "load", url, "--fresh", "--requests", requests];
            stage.west.exec(namespace, "deploy/client", "app", &command)
        };
        run::until("an answer", SOON, || load("200"))?;
        note(&format!("  new connections, {what}: {}", load("8000")?.trim()));
    }
    for cluster in stage.both() {
        cluster.line(&format!("delete -n {DEMO} deploy/{OPAQUE} service/{OPAQUE}"))?;
    }
    Ok(())
}

/// The gateway has no Pods for a while.
async fn outage(stage: &Stage<'_>) -> Result<()> {
    let west = Api::open(&stage.west)?;
    let poller = Poller::start(&stage.west, &format!("http://{PODINFO}-east.{DEMO}/"))?;
    poller.until(true)?;
    let gateway = format!("deploy/linkerd-gateway -n {MULTICLUSTER}");
    stage.east.line(&format!("scale {gateway} --replicas=0"))?;
    let failed = poller.until(false)?;
    let empty = west.when(&endpoints_path(), |o| !has_addresses(o)).await?;
    let withdrawn = now().saturating_sub(failed).saturating_sub(empty.elapsed());
    std::thread::sleep(OUTAGE.saturating_sub(now().saturating_sub(failed)));
    stage.east.line(&format!("scale {gateway} --replicas=1"))?;
    let begun = Instant::now();
    let good = poller.until(true)?;
    ensure!(begun.elapsed() < SOON, "the gateway did not come back");
    note(&format!(
        "  gateway refuses: withdrawn {:.1} s after the first failure; an outage of {} s costs {:.1} s of traffic",
        withdrawn.as_secs_f64(),
        OUTAGE.as_secs(),
        good.saturating_sub(failed).as_secs_f64()
    ));
    Ok(())
}

/// The gateway's one Pod is deleted and replaced.
fn replaced(stage: &Stage<'_>) -> Result<()> {
    stage.east.rolled_out(MULTICLUSTER, "deploy/linkerd-gateway", SOON)?;
    let poller = Poller::start(&stage.west, &format!("http://{PODINFO}-east.{DEMO}/"))?;
    poller.until(true)?;
    let gateway = format!("-n {MULTICLUSTER} -l app=linkerd-gateway");
    stage.east.line(&format!("delete pod {gateway} --wait=false"))?;
    // No change at all within the limit is the best of all results.
    let lost = match poller.changes.recv_timeout(Duration::from_secs(20)) {
        Err(_) => Duration::ZERO,
        Ok((failed, _)) => poller.until(true)?.saturating_sub(failed),
    };
    note(&format!("  gateway Pod replaced: {:.2} s of failed traffic", lost.as_secs_f64()));
    Ok(())
}

/// Nothing passes between the clusters, and nothing says so.
async fn silent(stage: &Stage<'_>) -> Result<()> {
    let west = Api::open(&stage.west)?;
    west.when(&endpoints_path(), has_addresses).await?;
    let cut = Instant::now();
    stage.provider.set_link("east", false)?;
    let empty = west.when(&endpoints_path(), |o| !has_addresses(o)).await;
    stage.provider.set_link("east", true)?;
    let withdrawn = empty?.saturating_duration_since(cut);
    let back = Instant::now();
    let again = west.when(&endpoints_path(), has_addresses).await?;
    note(&format!(
        "  gateway silent: withdrawn after {:.1} s; the path is there again: endpoints after {:.1} s",
        withdrawn.as_secs_f64(),
        again.saturating_duration_since(back).as_secs_f64()
    ));
    Ok(())
}

/// So many Services are exported at once.
fn many(stage: &Stage<'_>) -> Result<()> {
    const SERVICES: usize = 300;
    let services = (0..SERVICES).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("many-{number}"), "namespace": DEMO, "labels": {"many": "true"}},
            "spec": {"selector": {"app": PODINFO}, "ports": [{"port": 80, "targetPort": "http"}]},
        })
    });
    stage.east.apply(&lines(services))?;
    let begun = Instant::now();
    stage.east.line(&format!("label services -n {DEMO} -l many=true {EXPORTED}=true"))?;
    let labelled = begun.elapsed();
    let filled = || -> Result<usize> {
        let mirrors = stage
            .west
            .get(&format!("endpoints -n {DEMO} -l mirror.linkerd.io/mirrored-service=true"))?;
        let all = mirrors["items"].as_array().cloned().unwrap_or_default();
        let many = |e: &&Value| {
            e["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("many-"))
        };
        Ok(all.iter().filter(many).filter(|e| has_addresses(Some(e))).count())
    };
    run::until("all mirrors have endpoints", SOON, || {
        let now = filled()?;
        ensure!(now == SERVICES, "{now} of {SERVICES}");
        Ok(())
    })?;
    note(&format!(
        "  {SERVICES} exports: kubectl labelled them in {:.1} s, all mirrors had endpoints {:.1} s after it began",
        labelled.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    ));
    stage.east.line(&format!("delete services -n {DEMO} -l many=true"))?;
    Ok(())
}
