//! # Discovery with a memory
//!
//! Job: stand between discovery and its users: what was good last stands in while the control plane does
//! not answer, and only an answer that says no takes it away.
//! May touch: watched values, the view. Must not touch: the network. Callers: the wiring.

use crate::view::View;
use mesh_discover::{RefusalCode, State};
use mesh_inbound::PolicySource;
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::EndpointSet,
    inbound::ServerPolicy,
    outbound::OutboundPolicy,
    profile::Profile,
};
use mesh_outbound::Discover;
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch};

/// How long a fresh answer is waited for before the remembered one is used: long enough that a control
/// plane that is there always comes first, also with a no.
const FRESH_FIRST: Duration = Duration::from_millis(200);

/// Discovery that remembers profiles, policies and endpoints of names.
pub struct RememberingDiscovery {
    inner: Arc<dyn Discover>,
    view: View,
}

impl RememberingDiscovery {
    /// Remembers in `view` what `inner` tells.
    pub fn new(inner: Arc<dyn Discover>, view: View) -> Self {
        Self { inner, view }
    }
}

impl Discover for RememberingDiscovery {
    fn profile(&self, target: &Authority) -> watch::Receiver<State<Profile>> {
        let Authority::Name(_) = target else { return self.inner.profile(target) };
        let (view, name) = (self.view.clone(), target.to_string());
        let last = view.profile(&name);
        remember(self.inner.profile(target), last, move |value| view.set_profile(&name, value))
    }

    fn policy(&self, target: &Authority) -> watch::Receiver<State<OutboundPolicy>> {
        let Authority::Name(_) = target else { return self.inner.policy(target) };
        let (view, name) = (self.view.clone(), target.to_string());
        let last = view.routes(&name);
        remember(self.inner.policy(target), last, move |value| view.set_routes(&name, value))
    }

    fn endpoints(&self, addr: &NameAddr) -> watch::Receiver<State<EndpointSet>> {
        let (view, name) = (self.view.clone(), addr.to_string());
        let last = view.endpoints(&name);
        remember(self.inner.endpoints(addr), last, move |value| view.set_endpoints(&name, value))
    }
}

/// Passes on what `fresh` says, kept by `keep`; while it says nothing, `last`.
fn remember<T: Clone + Send + Sync + 'static>(
    fresh: watch::Receiver<State<T>>,
    last: Option<T>,
    keep: impl Fn(Option<T>) + Send + Sync + 'static,
) -> watch::Receiver<State<T>> {
    let (out, receiver) = watch::channel(State::Pending);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(fresh, &out, Memory { last, keep }) => {}
            () = out.closed() => {}
        }
    });
    receiver
}

async fn follow<T: Clone, K: Fn(Option<T>)>(
    mut fresh: watch::Receiver<State<T>>,
    out: &watch::Sender<State<T>>,
    mut memory: Memory<T, K>,
) {
    if let Some(last) = memory.last.clone() {
        let answered = fresh.wait_for(|state| !matches!(state, State::Pending));
        if tokio::time::timeout(FRESH_FIRST, answered).await.is_err() {
            out.send_replace(State::Known(last));
        }
    }
    loop {
        let state = fresh.borrow_and_update().clone();
        match memory.judge(state) {
            State::Pending => {}
            settled => {
                out.send_replace(settled);
            }
        }
        if fresh.changed().await.is_err() {
            return;
        }
    }
}

struct Memory<T, K> {
    last: Option<T>,
    keep: K,
}

impl<T: Clone, K: Fn(Option<T>)> Memory<T, K> {
    /// What is to be believed, given an answer.
    fn judge(&mut self, state: State<T>) -> State<T> {
        match state {
            State::Pending => State::Pending,
            State::Known(value) => {
                (self.keep)(Some(value.clone()));
                self.last = Some(value.clone());
                State::Known(value)
            }
            State::Refused(no) if no.code == RefusalCode::FailedPrecondition => {
                (self.keep)(None);
                self.last = None;
                State::Refused(no)
            }
            // Not what a control plane that knows of exports answers: what was good stays.
            State::Refused(no) => match &self.last {
                Some(value) => State::Known(value.clone()),
                None => State::Refused(no),
            },
        }
    }
}

/// Inbound policies that are remembered.
pub struct RememberingPolicies {
    inner: Arc<dyn PolicySource>,
    view: View,
    runtime: Handle,
}

impl RememberingPolicies {
    /// Remembers in `view` what `inner` tells; its tasks run on `runtime`.
    pub fn new(inner: Arc<dyn PolicySource>, view: View, runtime: Handle) -> Self {
        Self { inner, view, runtime }
    }
}

impl PolicySource for RememberingPolicies {
    fn watch(&self, port: u16, start: Arc<ServerPolicy>) -> watch::Receiver<Arc<ServerPolicy>> {
        let start = self.view.policy(port).unwrap_or(start);
        let mut fresh = self.inner.watch(port, start.clone());
        let (out, receiver) = watch::channel(start);
        let view = self.view.clone();
        let follow = async move {
            loop {
                // What is there at first is the start itself, unless news came in between.
                let policy = fresh.borrow_and_update().clone();
                let news = out.send_if_modified(|now| {
                    let changed = *now != policy;
                    *now = policy.clone();
                    changed
                });
                if news {
                    view.set_policy(port, policy);
                }
                tokio::select! {
                    Ok(()) = fresh.changed() => {}
                    () = out.closed() => return,
                    else => return,
                }
            }
        };
        self.runtime.spawn(follow);
        receiver
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mesh_discover::Refusal;
    use mesh_model::inbound::{DETECT_TIMEOUT, DefaultPolicy};

    fn no(code: RefusalCode) -> State<u8> {
        State::Refused(Refusal { code, message: "no".into() })
    }

    async fn next(receiver: &mut watch::Receiver<State<u8>>) -> State<u8> {
        receiver.changed().await.unwrap();
        receiver.borrow_and_update().clone()
    }

    // proves: GW-6
    #[tokio::test(start_paused = true)]
    async fn an_answer_comes_first_and_silence_lets_the_last_good_one_serve() {
        let (answers, fresh) = watch::channel(State::Pending);
        let mut out = remember(fresh, Some(1), |_| {});
        let start = tokio::time::Instant::now();
        assert_eq!(next(&mut out).await, State::Known(1));
        assert_eq!(start.elapsed(), FRESH_FIRST);
        answers.send_replace(State::Known(2));
        assert_eq!(next(&mut out).await, State::Known(2));

        // A no that comes in time is never preceded by what was good once.
        let (_answers, fresh) = watch::channel(no(RefusalCode::FailedPrecondition));
        let mut out = remember(fresh, Some(1), |_| {});
        assert_eq!(next(&mut out).await, no(RefusalCode::FailedPrecondition));
    }

    // proves: GW-6
    #[tokio::test(start_paused = true)]
    async fn only_not_exported_takes_a_name_away() {
        let (answers, fresh) = watch::channel(State::Known(1));
        let (kept, mut keeping) = watch::channel(None);
        let mut out = remember(fresh, None, move |value| {
            kept.send_replace(value);
        });
        assert_eq!(next(&mut out).await, State::Known(1));
        assert_eq!(*keeping.borrow_and_update(), Some(1));
        for code in [RefusalCode::NotFound, RefusalCode::InvalidArgument] {
            answers.send_replace(no(code));
            assert_eq!(next(&mut out).await, State::Known(1));
        }
        answers.send_replace(no(RefusalCode::FailedPrecondition));
        assert_eq!(next(&mut out).await, no(RefusalCode::FailedPrecondition));
        assert_eq!(*keeping.borrow(), None);
    }

    struct Source(watch::Sender<Arc<ServerPolicy>>);

    impl PolicySource for Source {
        fn watch(&self, _: u16, _: Arc<ServerPolicy>) -> watch::Receiver<Arc<ServerPolicy>> {
            self.0.subscribe()
        }
    }

    // proves: GW-6
    #[tokio::test(start_paused = true)]
    async fn policies_start_from_the_last_good_one_and_are_watched_while_used() {
        let policy = |p: DefaultPolicy| Arc::new(p.policy(&[], DETECT_TIMEOUT));
        let view = View::default();
        let start = policy(DefaultPolicy::AllUnauthenticated);
        let source = Arc::new(Source(watch::channel(start.clone()).0));
        let policies = RememberingPolicies::new(source.clone(), view.clone(), Handle::current());
        let mut receiver = policies.watch(4143, start.clone());
        assert_eq!(view.policy(4143), None, "a default is no fact");
        source.0.send_replace(policy(DefaultPolicy::Deny));
        receiver.changed().await.unwrap();
        assert_eq!(view.policy(4143), Some(policy(DefaultPolicy::Deny)));
        drop(receiver);
        source.0.closed().await;

        let again = policies.watch(4143, start);
        assert_eq!(*again.borrow(), policy(DefaultPolicy::Deny));
    }
}
