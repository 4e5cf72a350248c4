//! # Pod
//!
//! Job: carries one Pod from its binding to its end: address, volumes, init containers in order, native
//! sidecars, containers, statuses, and a graceful end in the reverse order.
//! May touch: the Pod's folder, the API for this Pod. Must not touch: other Pods. Callers: the node agent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodStatus},
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Agent,
    board::{Board, Phase, State, Termination, View, is_sidecar},
    container::{ContainerTask, Restart, Wish},
    env::Place,
    launch,
    mounts::Tokens,
};

/// Pause before a failed write of a status or a deletion is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(100);
/// What a sidecar gets to drain in any case when the Pod is not killed outright.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);

/// One Pod on this node.
pub(crate) struct PodTask {
    pub(crate) agent: Arc<Agent>,
    pub(crate) pod: watch::Receiver<Arc<Pod>>,
    /// The object is gone from the API: nothing is left to be graceful for.
    pub(crate) removed: CancellationToken,
    pub(crate) dir: PathBuf,
    pub(crate) place: Place,
}

struct Started {
    sidecar: bool,
    wish: watch::Sender<Wish>,
    task: JoinHandle<()>,
}

impl PodTask {
    /// Runs the Pod until it is gone.
    pub(crate) async fn run(self) {
        let pod = self.current();
        let runs = |name: &str| launch::recorded(&self.dir.join(format!("{name}.run"))).is_some();
        let mut board = Board::resume(&pod, runs, Timestamp::now());
        board.ip = Some(self.place.pod_ip.clone());
        let over = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let over = matches!(over, Some("Succeeded" | "Failed"));
        let board = Arc::new(watch::channel(board).0);
        let mut started = Vec::new();
        if !over {
            let published = self.publish(board.clone());
            let _writer = AbortOnDropHandle::new(tokio::spawn(published));
            let deletion = self.deletion();
            tokio::select! {
                () = self.live(&board, &mut started) => self.deletion().await,
                () = deletion => {}
            }
            self.terminate(&mut started).await;
        } else {
            self.deletion().await;
        }
        self.bury(&board).await;
    }

    pub(crate) fn current(&self) -> Arc<Pod> {
        self.pod.borrow().clone()
    }

    /// Completes when the Pod is to end.
    async fn deletion(&self) {
        let mut pod = self.pod.clone();
        tokio::select! {
            () = self.removed.cancelled() => {}
            _ = pod.wait_for(|pod| pod.metadata.deletion_timestamp.is_some()) => {}
        }
    }

    /// Starts everything in order; completes when all containers have ended for good.
    async fn live(&self, board: &Arc<watch::Sender<Board>>, started: &mut Vec<Started>) {
        let mut tokens = Tokens::new();
        self.mount(&mut tokens).await;
        let refresh = self.refresh(tokens);
        tokio::pin!(refresh);
        tokio::select! {
            () = self.sequence(board, started) => {}
            () = &mut refresh => {}
        }
    }

    async fn sequence(&self, board: &Arc<watch::Sender<Board>>, started: &mut Vec<Started>) {
        let pod = self.current();
        let Some(spec) = pod.spec.as_ref() else { return };
        let resumed = spec
            .containers
            .iter()
            .any(|c| launch::recorded(&self.dir.join(format!("{}.run", c.name))).is_some());
        let restart = match spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        for container in spec.init_containers.iter().flatten() {
            let name = &container.name;
            if is_sidecar(container) {
                started.push(self.start(container, Restart::Always, true, board));
                wait(board, |b| b.views.get(name).is_some_and(|v| v.started)).await;
                continue;
            }
            if resumed {
                board.send_modify(|b| {
                    b.views.insert(name.clone(), finished_before(&pod, name));
                });
                continue;
            }
            let retry = if restart == Restart::Never { restart } else { Restart::OnFailure };
            started.push(self.start(container, retry, false, board));
            wait(board, |b| b.views.get(name).is_some_and(|v| v.over)).await;
            if !succeeded(&board.borrow(), name) {
                board.send_modify(|b| b.phase = Some(Phase::Failed));
                return;
            }
            board.send_modify(|b| {
                if let Some(view) = b.views.get_mut(name) {
                    view.ready = true;
                }
            });
        }
        board.send_modify(|b| {
            b.initialized = true;
            for container in &spec.containers {
                if let Some(View { state: State::Waiting { reason, .. }, .. }) =
                    b.views.get_mut(&container.name)
                {
                    *reason = "ContainerCreating".to_owned();
                }
            }
        });
        for container in &spec.containers {
            started.push(self.start(container, restart, false, board));
            // A hook after the start holds back the containers after it, as with the kubelet.
            let name = &container.name;
            wait(board, |b| b.views.get(name).is_some_and(|v| v.tried || v.over)).await;
        }
        let all_over = |b: &Board| {
            spec.containers.iter().all(|c| b.views.get(&c.name).is_some_and(|v| v.over))
        };
        wait(board, all_over).await;
        stop_sidecars(started, Instant::now() + SIDECAR_GRACE).await;
        board.send_modify(|b| {
            let good = spec.containers.iter().all(|c| succeeded(b, &c.name));
            b.phase = Some(if good { Phase::Succeeded } else { Phase::Failed });
        });
    }

    fn start(
        &self,
        container: &Container,
        restart: Restart,
        sidecar: bool,
        board: &Arc<watch::Sender<Board>>,
    ) -> Started {
        let (wish, wishes) = watch::channel(Wish::Run);
        let task = ContainerTask {
            agent: self.agent.clone(),
            pod: self.pod.clone(),
            container: container.clone(),
            place: self.place.clone(),
            dir: self.dir.clone(),
            restart,
            board: board.clone(),
            wish: wishes,
        };
        Started { sidecar, wish, task: tokio::spawn(task.run()) }
    }

    /// Ends what runs: containers first, then the sidecars from the last to the first.
    async fn terminate(&self, started: &mut Vec<Started>) {
        let pod = self.current();
        let grace = |pod: &Pod| {
            Duration::from_secs(
                pod.metadata
                    .deletion_grace_period_seconds
                    .and_then(|s| u64::try_from(s).ok())
                    .unwrap_or(30),
            )
        };
        let begun = Instant::now();
        let mut deadline = begun + grace(&pod);
        let mut updates = self.pod.clone();
        if self.removed.is_cancelled() {
            deadline = begun;
        }
        let tell = |started: &[Started], deadline| {
            for s in started.iter().filter(|s| !s.sidecar) {
                s.wish.send_replace(Wish::StopBy(deadline));
            }
        };
        tell(started, deadline);
        loop {
            let ended = async {
                for s in started.iter_mut().filter(|s| !s.sidecar && !s.task.is_finished()) {
                    let _ = (&mut s.task).await;
                }
            };
            tokio::select! {
                () = ended => break,
                () = self.removed.cancelled(), if deadline > Instant::now() => {
                    deadline = Instant::now();
                }
                Ok(()) = updates.changed() => {
                    // A second, more impatient deletion shortens the wait.
                    let shorter = begun + grace(&updates.borrow_and_update());
                    deadline = deadline.min(shorter);
                }
            }
            tell(started, deadline);
        }
        let forced = deadline <= begun;
        let last = if forced { begun } else { deadline.max(Instant::now() + SIDECAR_GRACE) };
        stop_sidecars(started, last).await;
        started.clear();
    }

    /// Publishes the last status, deletes the object, forgets the Pod.
    async fn bury(&self, board: &watch::Sender<Board>) {
        let pod = self.current();
        let api: Api<Pod> =
            Api::namespaced(self.agent.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        if !self.removed.is_cancelled() {
            let before = pod.status.clone().unwrap_or_default();
            let status = board.borrow().status(&pod, &self.place, &before, Timestamp::now());
            let _ = timeout(Duration::from_secs(1), write_status(&api, &pod, &status)).await;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        while !self.removed.is_cancelled() {
            match api.delete(&name, &params).await {
                Ok(_) => break,
                Err(kube::Error::Api(s)) if matches!(s.code, 404 | 409) => break,
                Err(error) => {
                    tracing::debug!(%error, pod = name, "deletion will be tried again");
                    tokio::select! {
                        () = sleep(RETRY) => {}
                        () = self.removed.cancelled() => {}
                    }
                }
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        self.agent.forget(&pod.uid().unwrap_or_default(), &self.place.pod_ip);
    }

    /// Writes the status whenever it changes.
    fn publish(&self, board: Arc<watch::Sender<Board>>) -> impl Future<Output = ()> + use<> {
        let mut pods = self.pod.clone();
        let mut boards = board.subscribe();
        let agent = self.agent.clone();
        let place = self.place.clone();
        async move {
            let first = pods.borrow().clone();
            let api: Api<Pod> =
                Api::namespaced(agent.client.clone(), &first.namespace().unwrap_or_default());
            let mut last: PodStatus = first.status.clone().unwrap_or_default();
            let mut written = false;
            loop {
                let pod = pods.borrow_and_update().clone();
                let status =
                    boards.borrow_and_update().status(&pod, &place, &last, Timestamp::now());
                if status != last || !written {
                    match write_status(&api, &pod, &status).await {
                        Ok(()) => {
                            last = status;
                            written = true;
                        }
                        Err(error) => {
                            tracing::debug!(%error, "status will be written again");
                            sleep(RETRY).await;
                            continue;
                        }
                    }
                }
                tokio::select! {
                    changed = boards.changed() => if changed.is_err() { return },
                    changed = pods.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

/// Ends the sidecars one by one, the last first.
async fn stop_sidecars(started: &mut [Started], deadline: Instant) {
    for s in started.iter_mut().rev().filter(|s| s.sidecar) {
        s.wish.send_replace(Wish::StopBy(deadline));
        if !s.task.is_finished() {
            let _ = (&mut s.task).await;
        }
    }
}

async fn wait(board: &watch::Sender<Board>, condition: impl FnMut(&Board) -> bool) {
    let _ = board.subscribe().wait_for(condition).await;
}

fn succeeded(board: &Board, name: &str) -> bool {
    matches!(
        board.views.get(name).map(|v| &v.state),
        Some(State::Terminated(Termination { code: 0, .. }))
    )
}

/// An init container that has ended under an earlier agent.
fn finished_before(pod: &Pod, name: &str) -> View {
    let statuses = pod.status.iter().flat_map(|s| s.init_container_statuses.iter().flatten());
    let ended =
        statuses.filter(|s| s.name == name).find_map(|s| s.state.as_ref()?.terminated.as_ref());
    let time = |t: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        t.map_or_else(Timestamp::now, |t| t.0)
    };
    let end = Termination {
        code: 0,
        signal: None,
        reason: "Completed".to_owned(),
        started: time(ended.and_then(|e| e.started_at.as_ref())),
        finished: time(ended.and_then(|e| e.finished_at.as_ref())),
    };
    View { state: State::Terminated(end), over: true, ready: true, ..View::default() }
}

/// Writes a status; a Pod that is gone needs none.
async fn write_status(api: &Api<Pod>, pod: &Pod, status: &PodStatus) -> Result<(), kube::Error> {
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let params = PatchParams::default();
    match api.patch_status(&pod.name_any(), &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(s)) if matches!(s.code, 404 | 409 | 422) => {
            tracing::debug!(code = s.code, message = s.message, "a status was refused");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
