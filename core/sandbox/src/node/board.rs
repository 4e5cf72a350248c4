//! # Board
//!
//! Job: what is known of each container of a Pod, and the Pod status which follows from it, with the
//! conditions, phases and container states that the kubelet would show.
//! May touch: values. Must not touch: the API, processes. Callers: the Pod's task.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::env::Place;

/// A container's state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Waiting { reason: String, message: Option<String> },
    Running { since: Timestamp },
    Terminated(Termination),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Termination {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) started: Timestamp,
    pub(crate) finished: Timestamp,
}

/// What is known of one container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) last: Option<Termination>,
    pub(crate) restarts: i32,
    /// Its startup probe, if any, has passed.
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// Its first start, with its hook, has been tried: the next container may follow.
    pub(crate) tried: bool,
    /// It will not run again.
    pub(crate) over: bool,
}

impl Default for View {
    fn default() -> Self {
        Self {
            state: State::Waiting { reason: "PodInitializing".to_owned(), message: None },
            last: None,
            restarts: 0,
            started: false,
            ready: false,
            tried: false,
            over: false,
        }
    }
}

impl View {
    fn resumed(status: &ContainerStatus, runs: bool, now: Timestamp) -> Self {
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let mut view = Self {
            restarts: status.restart_count,
            last: last.map(|end| Termination {
                code: end.exit_code,
                signal: end.signal,
                reason: end.reason.clone().unwrap_or_default(),
                started: end.started_at.as_ref().map_or(now, |t| t.0),
                finished: end.finished_at.as_ref().map_or(now, |t| t.0),
            }),
            ..Self::default()
        };
        let Some(running) = status.state.as_ref().and_then(|s| s.running.as_ref()) else {
            return view;
        };
        view.state = State::Running { since: running.started_at.as_ref().map_or(now, |t| t.0) };
        view.ready = status.ready;
        view.started = status.started == Some(true);
        if !runs {
            view.end_unseen(now);
        }
        view
    }

    /// What was thought to run has ended while nobody looked: that is a restart, too.
    pub(crate) fn end_unseen(&mut self, now: Timestamp) {
        let State::Running { since } = self.state else { return };
        self.restarts += 1;
        self.ready = false;
        self.started = false;
        self.state = Self::default().state;
        self.last = Some(Termination {
            code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            started: since,
            finished: now,
        });
    }
}

/// All containers of a Pod by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Board {
    pub(crate) views: BTreeMap<String, View>,
    /// All init steps are done.
    pub(crate) initialized: bool,
    /// A verdict about the whole Pod which outlives its containers.
    pub(crate) phase: Option<Phase>,
    /// The Pod's address, once it has one.
    pub(crate) ip: Option<String>,
}

/// The end of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Succeeded,
    Failed,
}

/// Whether an init container is a native sidecar.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

impl Board {
    /// A board on which every container is as an earlier agent has published it, if it still runs (`runs`), and
    /// waits otherwise. A container that ended while nobody looked counts as restarted.
    pub(crate) fn resume(pod: &Pod, runs: impl Fn(&str) -> bool, now: Timestamp) -> Self {
        let mut board = Self::default();
        let published = pod.status.as_ref();
        for container in super::volumes::all_containers(pod) {
            let mut statuses = published.into_iter().flat_map(|s| {
                s.container_statuses.iter().chain(&s.init_container_statuses).flatten()
            });
            let status = statuses.find(|s| s.name == container.name);
            let view = status.map(|s| View::resumed(s, runs(&container.name), now));
            board.views.insert(container.name.clone(), view.unwrap_or_default());
        }
        let conditions = published.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let was = conditions.into_iter().any(|c| c.type_ == "Initialized" && c.status == "True");
        let containers = pod.spec.iter().flat_map(|s| &s.containers);
        board.initialized = was && containers.into_iter().any(|c| runs(&c.name));
        board
    }

    /// The status to publish; `before` is the one published last.
    pub(crate) fn status(
        &self,
        pod: &Pod,
        place: &Place,
        before: &PodStatus,
        now: Timestamp,
    ) -> PodStatus {
        let empty = k8s_openapi::api::core::v1::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let views = |list: &[Container]| -> Vec<ContainerStatus> {
            list.iter().map(|c| self.container(c)).collect()
        };
        let phase = self.phase_of(spec);
        let mut status = PodStatus {
            phase: Some(phase.to_owned()),
            pod_ip: self.ip.clone(),
            pod_ips: self.ip.clone().map(|ip| vec![PodIP { ip }]),
            host_ip: Some(place.host_ip.clone()),
            host_ips: Some(vec![HostIP { ip: place.host_ip.clone() }]),
            qos_class: pod
                .status
                .as_ref()
                .and_then(|s| s.qos_class.clone())
                .or_else(|| Some("BestEffort".to_owned())),
            start_time: before.start_time.clone().or(Some(Time(now))),
            container_statuses: Some(views(&spec.containers)),
            init_container_statuses: (!init.is_empty()).then(|| views(init)),
            observed_generation: pod.metadata.generation,
            ..Default::default()
        };
        status.conditions = Some(self.conditions(pod, spec, phase, before, now));
        status
    }

    fn conditions(
        &self,
        pod: &Pod,
        spec: &k8s_openapi::api::core::v1::PodSpec,
        phase: &str,
        before: &PodStatus,
        now: Timestamp,
    ) -> Vec<PodCondition> {
        let over = matches!(phase, "Succeeded" | "Failed");
        let unready: Vec<&str> = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)))
            .filter(|c| !self.views.get(&c.name).is_some_and(|v| v.ready))
            .map(|c| c.name.as_str())
            .collect();
        let containers_ready = self.initialized && unready.is_empty() && !over;
        let gates = spec.readiness_gates.iter().flatten().all(|gate| {
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == gate.condition_type && c.status == "True")
        });
        let why =
            (!unready.is_empty()).then(|| format!("containers with unready status: {unready:?}"));
        let reason = match phase {
            "Succeeded" => Some("PodCompleted"),
            "Failed" => Some("PodFailed"),
            _ if !containers_ready => Some("ContainersNotReady"),
            _ if !gates => Some("ReadinessGatesNotReady"),
            _ => None,
        };
        let initialized = self.initialized || over;
        let not_initialized = (!initialized).then_some("ContainersNotInitialized");
        let mut conditions = vec![
            condition("PodReadyToStartContainers", self.ip.is_some(), None, None),
            condition("Initialized", initialized, not_initialized, None),
            condition("Ready", containers_ready && gates, reason, why.clone()),
            condition(
                "ContainersReady",
                containers_ready,
                reason.filter(|_| !containers_ready),
                why,
            ),
            condition("PodScheduled", true, None, None),
        ];
        for condition in &mut conditions {
            let old = before.conditions.iter().flatten().find(|c| c.type_ == condition.type_);
            condition.last_transition_time = match old {
                Some(old) if old.status == condition.status => old.last_transition_time.clone(),
                _ => Some(Time(now)),
            };
        }
        // Conditions of others (readiness gates) are theirs to change.
        let foreign = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let foreign: Vec<_> = foreign
            .filter(|c| !conditions.iter().any(|ours| ours.type_ == c.type_))
            .cloned()
            .collect();
        conditions.extend(foreign);
        conditions
    }

    fn phase_of(&self, spec: &k8s_openapi::api::core::v1::PodSpec) -> &'static str {
        match self.phase {
            Some(Phase::Succeeded) => return "Succeeded",
            Some(Phase::Failed) => return "Failed",
            None => {}
        }
        let begun = spec.containers.iter().all(|c| {
            self.views.get(&c.name).is_some_and(|view| match &view.state {
                State::Running { .. } | State::Terminated(_) => true,
                State::Waiting { .. } => view.last.is_some(),
            })
        });
        if self.initialized && begun { "Running" } else { "Pending" }
    }

    fn container(&self, container: &Container) -> ContainerStatus {
        let waiting = View::default();
        let view = self.views.get(&container.name).unwrap_or(&waiting);
        let image = container.image.clone().unwrap_or_default();
        ContainerStatus {
            name: container.name.clone(),
            image_id: format!("sandbox://{}", super::launch::short_name(&image)),
            image,
            ready: view.ready,
            started: Some(view.started),
            restart_count: view.restarts,
            state: Some(shown(&view.state)),
            last_state: Some(
                view.last.clone().map(|t| shown(&State::Terminated(t))).unwrap_or_default(),
            ),
            container_id: (!matches!(view.state, State::Waiting { .. }))
                .then(|| format!("sandbox://{}/{}", container.name, view.restarts)),
            ..Default::default()
        }
    }
}

fn shown(state: &State) -> ContainerState {
    match state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..Default::default()
        },
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..Default::default()
        },
        State::Terminated(end) => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: end.code,
                signal: end.signal,
                reason: Some(end.reason.clone()),
                started_at: Some(Time(end.started)),
                finished_at: Some(Time(end.finished)),
                ..Default::default()
            }),
            ..Default::default()
        },
    }
}

fn condition(
    type_: &str,
    status: bool,
    reason: Option<&str>,
    message: Option<String>,
) -> PodCondition {
    PodCondition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.filter(|_| !status).map(str::to_owned),
        message: message.filter(|_| !status),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {
                "initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "init"}],
                "containers": [{"name": "app", "image": "x/app:1"}],
            },
        }))
        .unwrap()
    }

    fn condition_of<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
        status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == type_).unwrap()
    }

    fn running(ready: bool) -> View {
        View {
            state: State::Running { since: Timestamp::UNIX_EPOCH },
            started: true,
            ready,
            ..View::default()
        }
    }

    #[test]
    fn ready_needs_all_containers_and_sidecars() {
        let pod = pod();
        let mut board = Board::resume(&pod, |_| false, Timestamp::UNIX_EPOCH);
        let place = Place::default();
        let now = Timestamp::UNIX_EPOCH;
        let first = board.status(&pod, &place, &PodStatus::default(), now);
        assert_eq!(first.phase.as_deref(), Some("Pending"));
        assert_eq!(condition_of(&first, "Initialized").status, "False");
        board.initialized = true;
        board.views.insert("app".into(), running(true));
        board.views.insert("proxy".into(), running(false));
        let second = board.status(&pod, &place, &first, now);
        assert_eq!(second.phase.as_deref(), Some("Running"));
        assert!(condition_of(&second, "Ready").message.as_ref().unwrap().contains("proxy"));
        board.views.insert("proxy".into(), running(true));
        let later = Timestamp::from_second(9).unwrap();
        let third = board.status(&pod, &place, &second, later);
        let ready = condition_of(&third, "Ready");
        assert_eq!(
            (ready.status.as_str(), ready.last_transition_time.clone()),
            ("True", Some(Time(later)))
        );
        assert_eq!(condition_of(&third, "Initialized").last_transition_time, Some(Time(now)));
    }

    #[test]
    fn a_crashing_pod_stays_running_and_a_finished_one_does_not() {
        let pod = pod();
        let mut board = Board::resume(&pod, |_| false, Timestamp::UNIX_EPOCH);
        board.initialized = true;
        let end = Termination {
            code: 1,
            signal: None,
            reason: "Error".into(),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
        };
        board.views.insert(
            "app".into(),
            View {
                state: State::Waiting { reason: "CrashLoopBackOff".into(), message: None },
                last: Some(end),
                restarts: 3,
                ..View::default()
            },
        );
        let status = |board: &Board| {
            board.status(&pod, &Place::default(), &PodStatus::default(), Timestamp::UNIX_EPOCH)
        };
        let crashing = status(&board);
        assert_eq!(crashing.phase.as_deref(), Some("Running"));
        let app = &crashing.container_statuses.unwrap()[0];
        assert_eq!((app.restart_count, app.ready), (3, false));
        board.phase = Some(Phase::Succeeded);
        let done = status(&board);
        assert_eq!(done.phase.as_deref(), Some("Succeeded"));
        assert_eq!(condition_of(&done, "Ready").reason.as_deref(), Some("PodCompleted"));
    }

    #[test]
    fn a_new_agent_goes_on_where_the_old_one_stopped() {
        let mut pod = pod();
        let mut board = Board { initialized: true, ..Board::default() };
        for name in ["app", "proxy"] {
            board.views.insert(name.into(), running(true));
        }
        let place = Place::default();
        let now = Timestamp::UNIX_EPOCH;
        pod.status = Some(board.status(&pod, &place, &PodStatus::default(), now));
        let resumed = Board::resume(&pod, |_| true, now);
        assert_eq!(resumed.views["app"], running(true));
        assert!(resumed.initialized);
        let lost = Board::resume(&pod, |name| name == "app", now);
        let proxy = &lost.views["proxy"];
        assert_eq!((proxy.restarts, proxy.ready), (1, false));
        assert_eq!(proxy.last.as_ref().map(|t| t.code), Some(137));
    }
}
