//! # Profiles of what clients ask for
//!
//! Job: the name that a request is for, and the route that the profile of this name has for it, for metrics
//! and judgement alone: inbound, a profile neither limits nor repeats anything.
//! May touch: discovery, heads of requests. Must not touch: where requests go, policy. Callers: `http`.

use http::Request;
use mesh_discover::{State, settled};
use mesh_http::{classify::Classify, headers};
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::Labels,
    profile::{Profile, ProfileRoute},
};
use mesh_observe::{HttpSeries, Metrics};
use mesh_stack::cache::{Cache, Handle};
use parking_lot::Mutex;
use std::{convert::Infallible, fmt, num::NonZeroU16, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Where profiles come from.
pub trait ProfileSource: Send + Sync + 'static {
    /// The profile of a name. The watch lasts as long as the receiver.
    fn watch(&self, name: &NameAddr) -> watch::Receiver<State<Profile>>;
}

/// The profiles of all names. Clones, on any thread, share them.
#[derive(Clone)]
pub struct Profiles(Arc<Inner>);

struct Inner {
    cache: Cache<NameAddr, Known>,
    source: Arc<dyn ProfileSource>,
    metrics: Metrics,
    patience: Duration,
}

/// Clients choose the names: more than this are not asked for at a time.
const MOST: usize = 1000;

/// What is known of a name.
struct Known {
    name: NameAddr,
    metrics: Metrics,
    receiver: watch::Receiver<State<Profile>>,
    routes: Mutex<Option<Arc<Routes>>>,
}

/// The routes of a profile.
struct Routes {
    profile: Arc<[ProfileRoute]>,
    dst: NameAddr,
    series: Vec<HttpSeries>,
    /// For what no route matches.
    fallback: HttpSeries,
}

/// Names as one connection asks for them: usually the same again and again.
pub(crate) struct Names {
    profiles: Option<Profiles>,
    last: Mutex<Option<Arc<Asked>>>,
}

/// A name that was asked for.
pub(crate) struct Asked {
    /// As the request had it.
    text: Box<str>,
    /// `None` if it is an address.
    name: Option<NameAddr>,
    known: Option<Handle<Known>>,
}

/// Where a request is counted and how it is judged.
pub(crate) struct OnRoute {
    pub(crate) series: HttpSeries,
    pub(crate) classify: Classify,
}

// === impl Profiles ===

impl Profiles {
    /// The first request for a name waits for its profile, for `patience` at most. Names unused for `idle`
    /// are forgotten.
    pub fn new(
        source: Arc<dyn ProfileSource>,
        metrics: Metrics,
        patience: Duration,
        idle: Duration,
    ) -> Self {
        Self(Arc::new(Inner { cache: Cache::new(idle), source, metrics, patience }))
    }

    async fn get(&self, name: &NameAddr) -> Option<Handle<Known>> {
        let Inner { cache, source, metrics, patience } = &*self.0;
        if let Some(known) = cache.get(name) {
            return Some(known);
        }
        if cache.len() >= MOST {
            return None;
        }
        let build = || async {
            let mut receiver = source.watch(name);
            // Without an answer in time the request goes on without; later ones may have it.
            let _ = settled(&mut receiver, *patience).await;
            let (name, metrics) = (name.clone(), metrics.clone());
            Ok::<_, Infallible>(Known { name, metrics, receiver, routes: Mutex::default() })
        };
        let Ok(known) = cache.get_or_build(name, build).await;
        Some(known)
    }
}

impl fmt::Debug for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiles").field("names", &self.0.cache.len()).finish_non_exhaustive()
    }
}

// === impl Known ===

impl Known {
    /// The routes as the profile has them now; `None` without a profile of a name.
    fn now(&self) -> Option<Arc<Routes>> {
        let state = self.receiver.borrow();
        let profile = state.known()?;
        let dst = profile.fqn.as_ref()?;
        let mut routes = self.routes.lock();
        let kept = routes
            .as_ref()
            .filter(|kept| Arc::ptr_eq(&kept.profile, &profile.routes) && kept.dst.name == *dst);
        if let Some(kept) = kept {
            return Some(kept.clone());
        }
        let dst = NameAddr { name: dst.clone(), port: self.name.port };
        let made = Arc::new(Routes::new(profile.routes.clone(), dst, &self.metrics));
        *routes = Some(made.clone());
        Some(made)
    }
}

// === impl Routes ===

impl Routes {
    fn new(profile: Arc<[ProfileRoute]>, dst: NameAddr, metrics: &Metrics) -> Self {
        let name = dst.to_string();
        let series = |labels: &Labels| metrics.profile_routes.inbound(&name, labels);
        let fallback = series(&Labels::default());
        let series = profile.iter().map(|route| series(&route.labels)).collect();
        Self { profile, dst, series, fallback }
    }

    fn of<B>(&self, request: &Request<B>) -> OnRoute {
        let (method, path) = (request.method().as_str(), request.uri().path());
        let usual = Classify::request(request.headers());
        let mut routes = self.profile.iter().zip(&self.series);
        match routes.find(|(route, _)| route.condition.matches(method, path)) {
            None => OnRoute { series: self.fallback.clone(), classify: usual },
            Some((route, series)) => {
                let classify = usual.with_classes(&route.responses);
                OnRoute { series: series.clone(), classify }
            }
        }
    }
}

// === impl Names ===

impl Names {
    pub(crate) fn new(profiles: Option<Profiles>) -> Self {
        Self { profiles, last: Mutex::default() }
    }

    /// The name of a request if it is the one of the request before.
    pub(crate) fn same<B>(&self, request: &Request<B>) -> Option<Arc<Asked>> {
        let last = self.last.lock();
        let last = last.as_ref()?;
        (*last.text == *said(request).next()?).then(|| last.clone())
    }

    /// The name of any request: what a peer's profile has called it, else its authority.
    pub(crate) fn said<B>(request: &Request<B>) -> Option<(Box<str>, Option<NameAddr>)> {
        let mut text = None;
        for said in said(request) {
            text = Some(said);
            if let Ok(Authority::Name(name)) = Authority::parse(said, HTTP) {
                return Some((said.into(), Some(name)));
            }
        }
        Some((text?.into(), None))
    }

    /// Looks a name up.
    pub(crate) async fn ask(&self, text: Box<str>, name: Option<NameAddr>) -> Arc<Asked> {
        let known = match (&self.profiles, &name) {
            (Some(profiles), Some(name)) => profiles.get(name).await,
            _ => None,
        };
        let asked = Arc::new(Asked { text, name, known });
        *self.last.lock() = Some(asked.clone());
        asked
    }
}

const HTTP: NonZeroU16 = NonZeroU16::new(80).unwrap();

/// What may be the name of a request, in order.
fn said<B>(request: &Request<B>) -> impl Iterator<Item = &str> {
    let canonical = request.headers().get(headers::DST_CANONICAL);
    let canonical = canonical.and_then(|value| value.to_str().ok());
    canonical.into_iter().chain(request.uri().authority().map(|authority| authority.as_str()))
}

// === impl Asked ===

impl Asked {
    /// The name, as metrics show it.
    pub(crate) fn name(&self) -> Option<&NameAddr> {
        self.name.as_ref()
    }

    /// The route of a request, if its name has a profile.
    pub(crate) fn route<B>(&self, request: &Request<B>) -> Option<OnRoute> {
        Some(self.known.as_ref()?.now()?.of(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl ProfileSource for Silent {
        fn watch(&self, _: &NameAddr) -> watch::Receiver<State<Profile>> {
            watch::channel(State::Pending).1
        }
    }

    // proves: PROF-9
    #[tokio::test(start_paused = true)]
    async fn clients_cannot_make_us_ask_for_any_number_of_names() {
        let hour = Duration::from_secs(3600);
        let metrics = Metrics::new(hour);
        let profiles = Profiles::new(Arc::new(Silent), metrics, Duration::ZERO, hour);
        for number in 0..=MOST {
            let name = NameAddr { name: format!("n{number}.shop").parse().unwrap(), port: HTTP };
            let known = profiles.get(&name).await;
            assert_eq!(known.is_some(), number < MOST, "{number}");
        }
        let first = NameAddr { name: "n0.shop".parse().unwrap(), port: HTTP };
        assert!(profiles.get(&first).await.is_some(), "it is still known");
    }
}
