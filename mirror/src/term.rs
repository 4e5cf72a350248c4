//! # A term
//!
//! Job: everything that runs while we hold a Link's Lease: the exporting cluster's watches, the gateway's
//! addresses and probe, the work on mirrors, the status. Dropping it stops all of it; mirrors stay.
//! May touch: both clusters through the parts that it starts. Must not touch: decisions (`index`).
//! Callers: `links.rs`.

use crate::{
    apply::{self, Failure},
    feeds::Shared,
    index::{
        GatewayView, Key, Work,
        desired::Refusal,
        plan::{Plan, Verdict},
    },
    metrics::Metrics,
    remote::Remote,
    status::{self, Book},
};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use mesh_cluster::{
    events::{self, Note},
    lease::Annotations,
    requeue::{Outcome, Queue},
};
use mesh_k8s::{
    annotations,
    link::{LinkStatus, ObjectRef},
};
use mesh_link::{
    Gateway, Link, addresses,
    probe::{
        Health,
        dial::Dial,
        driver::{self, Report},
    },
};
use mesh_net::dns::Resolver;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

/// Mirrors that are written at the same time, a Link.
const CONCURRENCY: usize = 32;

/// What all terms share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) client: Client,
    pub(crate) world: Shared,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) resolver: Option<Resolver>,
    pub(crate) metrics: Metrics,
    pub(crate) create_namespaces: bool,
}

/// A running term.
pub(crate) struct Term {
    common: Common,
    link: Arc<Link>,
    _tasks: JoinSet<()>,
}

impl Drop for Term {
    fn drop(&mut self) {
        self.common.world.lock().remove_link(&self.link.name);
        self.common.metrics.stopped(&self.link.cluster);
    }
}

impl Term {
    /// Starts. `status` and `version` are the Link's as last seen; `notes` go onto its Lease.
    pub(crate) fn start(
        common: Common,
        link: Link,
        status: Option<&LinkStatus>,
        version: Option<String>,
        notes: watch::Sender<Annotations>,
    ) -> Self {
        let link = Arc::new(link);
        let queue = Queue::default();
        let book = Arc::new(Book::open(status));
        common.world.lock().add_link(link.clone(), book.services(), queue.clone());
        let probed = link.gateway.as_ref().is_some_and(|g| g.probe.is_some());
        common.metrics.started(&link.cluster, probed);

        let mut tasks = JoinSet::new();
        let (problem, problems) = watch::channel(None);
        let remote_client = Arc::new(Mutex::new(None));
        let remote = Remote {
            local: common.client.clone(),
            world: common.world.clone(),
            link: link.clone(),
            client: remote_client.clone(),
            problem,
        };
        tasks.spawn(remote.run());
        let api = Api::namespaced(common.client.clone(), &link.namespace);
        tasks.spawn(status::run(api, link.name.clone(), book.clone(), version));
        let worker =
            Arc::new(Worker { common: common.clone(), link: link.clone(), book, remote_client });
        tasks.spawn(tell_problems(worker.clone(), problems, notes.clone()));
        tasks.spawn(async move {
            queue.run(CONCURRENCY, move |work| work_on(worker.clone(), work)).await;
        });
        if let Some(gateway) = link.gateway.clone() {
            tasks.spawn(follow_gateway(common.clone(), link.clone(), gateway, notes));
        }
        Self { common, link, _tasks: tasks }
    }
}

/// Keeps what the index knows of the gateway, the metrics and the Lease's annotations up to date.
async fn follow_gateway(
    common: Common,
    link: Arc<Link>,
    gateway: Gateway,
    notes: watch::Sender<Annotations>,
) {
    let (mut addresses, look_up) =
        addresses::spawn(gateway.hosts.clone(), gateway.port.get(), common.resolver.clone());
    let _look_up = AbortOnDropHandle::new(look_up);
    // Without a probe the gateway counts as alive.
    let unprobed = Report { health: Health::Alive, ..Report::default() };
    let (_keep, mut reports) = watch::channel(unprobed);
    let _probe = gateway.probe.as_ref().map(|probe| {
        let (receiver, task) =
            driver::spawn(&gateway, probe, addresses.clone(), common.dial.clone());
        reports = receiver;
        AbortOnDropHandle::new(task)
    });
    let (mut told, mut seen) = (Report::default(), GatewayView::default());
    loop {
        let report = reports.borrow_and_update().clone();
        let view = {
            let now = addresses.borrow_and_update();
            GatewayView {
                ips: now.ips.clone().into(),
                known: now.known,
                error: now.error.clone(),
                health: report.health,
            }
        };
        if seen.known && seen != view {
            common.metrics.repaired(&link.cluster);
            if seen.health != view.health {
                tracing::info!(link = %link.name, alive = view.health == Health::Alive, failure = report.failure.as_ref().map(ToString::to_string), "gateway");
            }
        }
        common.world.lock().gateway(&link.name, view.clone());
        seen = view;
        if gateway.probe.is_some() {
            common.metrics.probed(&link.cluster, &told, &report);
        }
        annotate(&notes, &report);
        told = report;
        tokio::select! {
            // A look-up that has nothing to follow ends, and its last word stands.
            Ok(()) = addresses.changed() => {}
            Ok(()) = reports.changed() => {}
            else => std::future::pending().await,
        }
    }
}

/// What changed for the better or worse is written at once; a new latency goes along with the next sign.
fn annotate(notes: &watch::Sender<Annotations>, report: &Report) {
    let alive = match report.health {
        Health::Unknown => None,
        health => Some((health == Health::Alive).to_string()),
    };
    let error =
        report.failure.as_ref().filter(|_| report.health != Health::Alive).map(ToString::to_string);
    notes.send_if_modified(|notes| {
        if let Some(latency) = report.latency {
            // Under a millisecond still took some time.
            let ms = latency.as_millis().max(1).to_string();
            notes.insert(annotations::GATEWAY_LATENCY_MS.into(), Some(ms));
        }
        let mut changed = false;
        for (key, value) in
            [(annotations::GATEWAY_ALIVE, alive), (annotations::GATEWAY_ERROR, error)]
        {
            changed |= notes.insert(key.to_owned(), value.clone()).flatten() != value;
        }
        changed
    });
}

async fn tell_problems(
    worker: Arc<Worker>,
    mut problems: watch::Receiver<Option<String>>,
    notes: watch::Sender<Annotations>,
) {
    let secret = Key::new(&worker.link.namespace, &worker.link.credentials_secret);
    loop {
        let problem = problems.borrow_and_update().clone();
        worker.book.set_problem(&secret, problem.as_deref(), Timestamp::now());
        notes.send_if_modified(|notes| {
            let before = notes.insert(annotations::LINK_ERROR.into(), problem.clone());
            before.flatten() != problem
        });
        if problems.changed().await.is_err() {
            return;
        }
    }
}

/// Works on one Link's mirrors.
struct Worker {
    common: Common,
    link: Arc<Link>,
    book: Arc<Book>,
    remote_client: Arc<Mutex<Option<Client>>>,
}

async fn work_on(worker: Arc<Worker>, work: Work) -> Outcome {
    let Work::Mirror(key) = work;
    let Some(plan) = worker.common.world.lock().plan(&worker.link.name, &key) else {
        // Not everything is known yet; when it is, all keys come again.
        return Outcome::Done;
    };
    worker.mirror(&key, plan).await
}

impl Worker {
    async fn mirror(&self, key: &Key, plan: Plan) -> Outcome {
        let written = if plan.writes_nothing() {
            Ok(())
        } else {
            apply::carry_out(&self.common.client, &self.common.world, &self.link.cluster, &plan)
                .await
        };
        let (verdict, outcome) = match written {
            Ok(()) => (plan.verdict, Outcome::Done),
            Err(Failure::Stale) => return Outcome::Retry,
            Err(Failure::Foreign(message) | Failure::Failed(message)) => {
                tracing::warn!(link = %self.link.name, namespace = %key.namespace, service = %key.name, "{message}");
                let refusal = Refusal { reason: "Error", message, event: None };
                (Some(Verdict::Refused(refusal)), Outcome::Retry)
            }
        };
        let news = self.book.set(key, &plan.mirror, verdict.as_ref(), Timestamp::now());
        match &verdict {
            Some(Verdict::Refused(refusal))
                if refusal.reason == "MissingNamespace" && self.common.create_namespaces =>
            {
                self.create_namespace(key).await
            }
            Some(Verdict::Refused(refusal)) if news => {
                self.tell(key, refusal).await;
                outcome
            }
            _ => outcome,
        }
    }

    async fn create_namespace(&self, key: &Key) -> Outcome {
        let made =
            apply::create_namespace(&self.common.client, &key.namespace, &self.link.cluster).await;
        let Err(error) = made else {
            // The namespace's watch brings the key back.
            return Outcome::Done;
        };
        let message = format!("Failed to create namespace: {error}");
        let refusal = Refusal { reason: "Error", message, event: None };
        let mirror = Key::new(&key.namespace, "");
        self.book.set(key, &mirror, Some(&Verdict::Refused(refusal)), Timestamp::now());
        Outcome::Retry
    }

    /// Best effort: the status says the same.
    async fn tell(&self, key: &Key, refusal: &Refusal) {
        let Some(message) = refusal.event else { return };
        let Some(client) = self.remote_client.lock().clone() else { return };
        let note = Note {
            about: ObjectRef::service(&key.namespace, &key.name).object_reference(),
            warning: false,
            reason: "ServiceMirroringSkipped".into(),
            message: message.into(),
            component: format!("linkerd-service-mirror-{}", self.link.cluster),
        };
        if let Err(error) = events::record(&client, note).await {
            tracing::info!(link = %self.link.name, %error, "event not written");
        }
    }
}
