//! # Container
//!
//! Job: keeps one container as its Pod's restart policy says: start, probes, exit, back-off, stop within the
//! grace period, and publishes each change on the Pod's board.
//! May touch: its child process, its Pod's folder. Must not touch: the API.
//! Callers: the Pod's task.

use std::{path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, LifecycleHandler, Pod},
    jiff::Timestamp,
};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Agent, PodSources,
    board::{Board, State, Termination, View},
    env::{Place, environment},
    launch::{self, Exit, Launch, Refusal, Running},
    probe::{self, Kind, Verdict},
};

/// First pause before a restart, doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A container that ran this long is restarted at once.
const STEADY: Duration = Duration::from_secs(10);
/// How often a container which is held by a fault looks whether it may go on.
const HELD: Duration = Duration::from_millis(50);

/// What the Pod wants of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Run,
    /// End until then, by force if need be.
    StopBy(Instant),
}

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// One container of one Pod.
pub(crate) struct ContainerTask {
    pub(crate) agent: Arc<Agent>,
    pub(crate) pod: watch::Receiver<Arc<Pod>>,
    pub(crate) container: Container,
    pub(crate) place: Place,
    pub(crate) dir: PathBuf,
    pub(crate) restart: Restart,
    pub(crate) board: Arc<watch::Sender<Board>>,
    pub(crate) wish: watch::Receiver<Wish>,
}

impl ContainerTask {
    /// Runs until the container will not run again.
    pub(crate) async fn run(mut self) {
        let mut pause = Duration::ZERO;
        let mut adopted = launch::recorded(&self.file("run")).map(Running::Adopted);
        if adopted.is_none() {
            self.publish(|view| view.end_unseen(Timestamp::now()));
        }
        loop {
            if !self.hold().await {
                break;
            }
            let running = match adopted.take() {
                Some(running) => running,
                None => match self.launch() {
                    Ok(running) => running,
                    Err((reason, message)) => {
                        pause = next_pause(pause);
                        self.event("Warning", "Failed", message.clone());
                        self.publish(|view| {
                            view.state = State::Waiting { reason, message: Some(message) };
                            view.tried = true;
                        });
                        if !self.rest(pause).await {
                            break;
                        }
                        continue;
                    }
                },
            };
            let end = self.supervise(running).await;
            let ran = end.finished.duration_since(end.started).unsigned_abs();
            let again = !self.stopping()
                && match self.restart {
                    Restart::Always => true,
                    Restart::OnFailure => end.code != 0,
                    Restart::Never => false,
                };
            self.publish(|view| {
                view.started = false;
                view.ready = false;
                view.over = !again;
                view.state = State::Terminated(end.clone());
            });
            if !again {
                return;
            }
            pause = if ran >= STEADY { Duration::ZERO } else { next_pause(pause) };
            self.await_restart(&end, pause);
            if !self.rest(pause).await {
                break;
            }
        }
        self.publish(|view| {
            view.over = true;
            view.ready = false;
            if let (State::Waiting { .. }, Some(last)) = (&view.state, view.last.clone()) {
                view.state = State::Terminated(last);
            }
        });
    }

    fn await_restart(&self, end: &Termination, pause: Duration) {
        if pause >= Duration::from_secs(1) {
            let name = &self.container.name;
            let pod = self.pod.borrow().clone();
            let pod_name = pod.metadata.name.clone().unwrap_or_default();
            let message = format!("Back-off restarting failed container {name} in pod {pod_name}");
            self.event("Warning", "BackOff", message);
        }
        let message = format!("back-off {pause:?} restarting failed container");
        self.publish(|view| {
            view.last = Some(end.clone());
            view.restarts += 1;
            if !pause.is_zero() {
                let reason = "CrashLoopBackOff".to_owned();
                view.state = State::Waiting { reason, message: Some(message) };
            }
        });
    }

    /// Starts the process; on failure the reason and message to show.
    fn launch(&self) -> Result<Running, (String, String)> {
        let pod = self.pod.borrow().clone();
        let sources = PodSources::of(&self.agent, &pod);
        let mut env = environment(&pod, &self.container, &self.place, &sources)
            .map_err(|e| ("CreateContainerConfigError".to_owned(), e.to_string()))?;
        let image = self.container.image.clone().unwrap_or_default();
        let (command, args) = launch::command_line(&self.container, &env);
        let program = launch::find(&self.agent.config.programs, &image, command.as_deref())
            .map_err(|refusal| {
                let reason = match refusal {
                    Refusal::Image(_) => "ErrImagePull",
                    Refusal::Command { .. } => "CreateContainerError",
                };
                (reason.to_owned(), refusal.to_string())
            })?;
        let failed = |e: std::io::Error| ("CreateContainerError".to_owned(), e.to_string());
        let root = self.dir.join("roots").join(&self.container.name);
        let volumes = super::volumes::volumes(&pod, self.agent.automounts(&pod));
        let volumes_dir = self.dir.join("volumes");
        super::volumes::mount(&root, &volumes_dir, &self.container, &volumes).map_err(failed)?;
        for (name, value) in self.agent.context(&pod, &self.place, &root) {
            env.entry(name).or_insert(value);
        }
        let launch = Launch {
            program,
            args,
            env,
            root: &root,
            log: &self.file("log"),
            record: &self.file("run"),
        };
        let running = launch.start().map_err(|e| {
            ("RunContainerError".to_owned(), format!("{}: {e}", program.exe.display()))
        })?;
        let name = &self.container.name;
        self.event(
            "Normal",
            "Pulled",
            format!("Container image \"{image}\" already present on machine"),
        );
        self.event("Normal", "Created", format!("Created container: {name}"));
        self.event("Normal", "Started", format!("Started container {name}"));
        Ok(running)
    }

    /// Follows a running process to its end.
    async fn supervise(&mut self, mut running: Running) -> Termination {
        let record = running.record();
        let started = record.started_at;
        let mut probes = JoinSet::new();
        let (sender, mut verdicts) = mpsc::channel(8);
        let gated = self.container.startup_probe.is_some();
        let readies = self.container.readiness_probe.is_some();
        // An adopted container is what it was before, until a probe says otherwise.
        let adopted = matches!(running, Running::Adopted(_));
        self.publish(|view| {
            view.state = State::Running { since: started };
            view.started = !gated || (adopted && view.started);
            view.ready = (!gated && !readies) || (adopted && view.ready);
        });
        if let Some(hook) = self.container.lifecycle.as_ref().and_then(|l| l.post_start.clone()) {
            let mut wish = self.wish.clone();
            tokio::select! {
                () = self.hook(&hook, None) => {}
                _ = running.wait() => {}
                _ = async { wish.wait_for(|w| *w != Wish::Run).await.is_ok() } => {}
            }
        }
        self.publish(|view| view.tried = true);
        if gated {
            self.probe(Kind::Startup, &mut probes, &sender);
        } else {
            self.probe(Kind::Liveness, &mut probes, &sender);
            self.probe(Kind::Readiness, &mut probes, &sender);
        }
        let mut terminating: Option<Instant> = None;
        let exit = loop {
            let deadline = terminating;
            tokio::select! {
                exit = running.wait() => break exit,
                Some(verdict) = verdicts.recv() => {
                    if self.judge(&verdict) && terminating.is_none() {
                        terminating = Some(Instant::now() + self.grace());
                        record.process.signal(Signal::TERM);
                    }
                    if verdict == (Verdict { kind: Kind::Startup, failure: None }) {
                        probes.abort_all();
                        self.probe(Kind::Liveness, &mut probes, &sender);
                        self.probe(Kind::Readiness, &mut probes, &sender);
                    }
                }
                changed = self.wish.changed() => {
                    let by = match *self.wish.borrow_and_update() {
                        Wish::StopBy(by) => by,
                        Wish::Run => continue,
                    };
                    let by = if changed.is_err() { Instant::now() } else { by };
                    if terminating.is_none() {
                        probes.abort_all();
                        let name = &self.container.name;
                        self.event("Normal", "Killing", format!("Stopping container {name}"));
                        if by > Instant::now() {
                            self.pre_stop(&mut running, by).await;
                            record.process.signal(Signal::TERM);
                        }
                    }
                    terminating = Some(terminating.map_or(by, |t| t.min(by)));
                }
                () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                    record.process.signal_group(Signal::KILL);
                    terminating = Some(Instant::now() + Duration::from_millis(500));
                }
            }
        };
        // What the process has left in its group goes with it.
        record.process.signal_group(Signal::KILL);
        let _ = std::fs::remove_file(self.file("run"));
        self.terminated(exit, started)
    }

    fn terminated(&self, exit: Exit, started: Timestamp) -> Termination {
        Termination {
            reason: if exit.code == 0 { "Completed" } else { "Error" }.to_owned(),
            code: exit.code,
            signal: exit.signal,
            started,
            finished: Timestamp::now(),
        }
    }

    /// Takes in a probe's verdict; whether the container has to be restarted.
    fn judge(&self, verdict: &Verdict) -> bool {
        if let Some(failure) = &verdict.failure {
            self.event("Warning", "Unhealthy", failure.clone());
        }
        let good = verdict.failure.is_none();
        match verdict.kind {
            Kind::Readiness => self.publish(|view| view.ready = good),
            Kind::Startup if good => {
                let readies = self.container.readiness_probe.is_some();
                self.publish(|view| {
                    view.started = true;
                    view.ready = !readies;
                });
            }
            Kind::Startup | Kind::Liveness => {}
        }
        let restart = !good && verdict.kind != Kind::Readiness;
        if restart {
            let name = &self.container.name;
            let what = verdict.kind.to_string().to_lowercase();
            let message = format!("Container {name} failed {what} probe, will be restarted");
            self.event("Normal", "Killing", message);
        }
        restart
    }

    fn probe(&self, kind: Kind, probes: &mut JoinSet<()>, verdicts: &mpsc::Sender<Verdict>) {
        let probe = match kind {
            Kind::Startup => self.container.startup_probe.clone(),
            Kind::Liveness => self.container.liveness_probe.clone(),
            Kind::Readiness => self.container.readiness_probe.clone(),
        };
        if let (Some(probe), Ok(ip)) = (probe, self.place.pod_ip.parse()) {
            probes.spawn(probe::run(kind, probe, self.container.clone(), ip, verdicts.clone()));
        }
    }

    async fn pre_stop(&self, running: &mut Running, by: Instant) {
        let hook = self.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let Some(hook) = hook else { return };
        tokio::select! {
            () = self.hook(&hook, Some(by)) => {}
            _ = running.wait() => {}
        }
    }

    /// Runs a lifecycle hook: a pause, or a program of the container's own image.
    async fn hook(&self, hook: &LifecycleHandler, by: Option<Instant>) {
        let by = by.unwrap_or_else(|| Instant::now() + Duration::from_secs(120));
        if let Some(pause) = &hook.sleep {
            let pause = Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0));
            sleep_until((Instant::now() + pause).min(by)).await;
        }
        let Some(words) = hook.exec.as_ref().and_then(|e| e.command.as_ref()) else { return };
        let image = self.container.image.as_deref().unwrap_or_default();
        let Some((first, args)) = words.split_first() else { return };
        let Ok(program) = launch::find(&self.agent.config.programs, image, Some(first)) else {
            return;
        };
        let pod = self.pod.borrow().clone();
        let sources = PodSources::of(&self.agent, &pod);
        let Ok(mut env) = environment(&pod, &self.container, &self.place, &sources) else { return };
        let root = self.dir.join("roots").join(&self.container.name);
        for (name, value) in self.agent.context(&pod, &self.place, &root) {
            env.entry(name).or_insert(value);
        }
        let mut command = tokio::process::Command::new(&program.exe);
        command.arg0(&program.argv0).args(args).env_clear().envs(env).kill_on_drop(true);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let limit = by.saturating_duration_since(Instant::now());
        match timeout(limit, command.status()).await {
            Ok(Ok(status)) if status.success() => {}
            other => {
                let message = format!("lifecycle hook {first:?} failed: {other:?}");
                self.event("Warning", "FailedLifecycleHook", message);
            }
        }
    }

    /// Waits while a fault holds the container down; whether it may run.
    async fn hold(&mut self) -> bool {
        let marker = self.file("hold");
        while marker.exists() {
            if !self.rest(HELD).await {
                return false;
            }
        }
        !self.stopping()
    }

    /// Pauses; whether the container may still run afterwards.
    async fn rest(&mut self, pause: Duration) -> bool {
        if self.stopping() {
            return false;
        }
        tokio::select! {
            () = sleep(pause) => true,
            _ = self.wish.wait_for(|wish| *wish != Wish::Run) => false,
        }
    }

    fn stopping(&self) -> bool {
        *self.wish.borrow() != Wish::Run || self.wish.has_changed().is_err()
    }

    fn grace(&self) -> Duration {
        let pod = self.pod.borrow();
        let seconds = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        Duration::from_secs(u64::try_from(seconds.unwrap_or(30)).unwrap_or(0))
    }

    fn publish(&self, change: impl FnOnce(&mut View)) {
        self.board.send_modify(|board| {
            change(board.views.entry(self.container.name.clone()).or_default());
        });
    }

    fn event(&self, type_: &str, reason: &str, message: String) {
        let pod = self.pod.borrow().clone();
        let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
        let list = if init.into_iter().any(|c| c.name == self.container.name) {
            "initContainers"
        } else {
            "containers"
        };
        let field = format!("spec.{list}{{{}}}", self.container.name);
        self.agent.events.report(&pod, Some(field), type_, reason, message);
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.container.name))
    }
}

fn next_pause(pause: Duration) -> Duration {
    if pause.is_zero() { BACKOFF_MIN } else { (pause * 2).min(BACKOFF_MAX) }
}
