//! # Profiles of what clients ask for
//!
//! Job: the name that a request is for, and the route that the profile of this name has for it, for metrics
//! and judgement alone: inbound, a profile neither limits nor repeats anything.
//! May touch: discovery, heads of requests. Must not touch: where requests go, policy. Callers: `http`.

use http::Request;
use mesh_discover::State;
use mesh_http::{classify::Classify, headers};
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::Labels,
    profile::{Profile, ProfileRoute},
};
use mesh_observe::{HttpSeries, Metrics};
use mesh_stack::cache::{Cache, Handle};
use parking_lot::Mutex;
use std::{fmt, num::NonZeroU16, sync::Arc, time::Duration};
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
}

/// Clients choose the names: more than this are not asked for at a time.
const MOST: usize = 1000;

/// What is known of a name.
struct Known {
    name: NameAddr,
    metrics: Metrics,
    told: Mutex<Told>,
}

/// What discovery has told of a name.
struct Told {
    receiver: watch::Receiver<State<Profile>>,
    /// As they follow from what was received last; `None` without a profile of a name.
    routes: Option<Arc<Routes>>,
}

/// The routes of a profile.
pub(crate) struct Routes {
    profile: Arc<[ProfileRoute]>,
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
pub(crate) struct OnRoute<'r> {
    pub(crate) series: &'r HttpSeries,
    pub(crate) classify: Classify,
}

// === impl Profiles ===

impl Profiles {
    /// Nothing waits for a profile: requests before it is known have no route. Names unused for `idle` are
    /// forgotten.
    pub fn new(source: Arc<dyn ProfileSource>, metrics: Metrics, idle: Duration) -> Self {
        Self(Arc::new(Inner { cache: Cache::new(idle), source, metrics }))
    }

    /// `None` if there is no room for another name, or while another thread asks for it.
    fn get(&self, name: &NameAddr) -> Option<Handle<Known>> {
        let Inner { cache, source, metrics } = &*self.0;
        if let Some(known) = cache.get(name) {
            return Some(known);
        }
        if cache.len() >= MOST {
            return None;
        }
        cache.get_or_make(name, || {
            let mut receiver = source.watch(name);
            // What is there already counts as news.
            receiver.mark_changed();
            let told = Mutex::new(Told { receiver, routes: None });
            Known { name: name.clone(), metrics: metrics.clone(), told }
        })
    }
}

impl fmt::Debug for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiles").field("names", &self.0.cache.len()).finish_non_exhaustive()
    }
}

// === impl Known ===

impl Known {
    /// The routes as the profile has them now. Without news this compares one number.
    fn now(&self) -> Option<Arc<Routes>> {
        let mut told = self.told.lock();
        let Told { receiver, routes } = &mut *told;
        let state = receiver.borrow_and_update();
        if state.has_changed() {
            *routes = self.routes(&state);
        }
        routes.clone()
    }

    fn routes(&self, state: &State<Profile>) -> Option<Arc<Routes>> {
        let profile = state.known()?;
        let dst = NameAddr { name: profile.fqn.clone()?, port: self.name.port };
        Some(Arc::new(Routes::new(profile.routes.clone(), &dst, &self.metrics)))
    }
}

// === impl Routes ===

impl Routes {
    fn new(profile: Arc<[ProfileRoute]>, dst: &NameAddr, metrics: &Metrics) -> Self {
        let name = dst.to_string();
        let series = |labels: &Labels| metrics.profile_routes.inbound(&name, labels);
        let fallback = series(&Labels::default());
        let series = profile.iter().map(|route| series(&route.labels)).collect();
        Self { profile, series, fallback }
    }

    /// The route of a request.
    pub(crate) fn of<B>(&self, request: &Request<B>) -> OnRoute<'_> {
        let (method, path) = (request.method().as_str(), request.uri().path());
        let usual = Classify::request(request.headers());
        let mut routes = self.profile.iter().zip(&self.series);
        match routes.find(|(route, _)| route.condition.matches(method, path)) {
            None => OnRoute { series: &self.fallback, classify: usual },
            Some((route, series)) => {
                OnRoute { series, classify: usual.with_classes(&route.responses) }
            }
        }
    }
}

// === impl Names ===

impl Names {
    pub(crate) fn new(profiles: Option<Profiles>) -> Self {
        Self { profiles, last: Mutex::default() }
    }

    /// What a request asks for; `None` if it does not say.
    pub(crate) fn of<B>(&self, request: &Request<B>) -> Option<Arc<Asked>> {
        let mut last = self.last.lock();
        if let Some(last) = &*last
            && *last.text == *said(request).next()?
        {
            return Some(last.clone());
        }
        let asked = Arc::new(self.ask(request)?);
        // What is not known may be so for the next request.
        if asked.known.is_some() || asked.name.is_none() || self.profiles.is_none() {
            *last = Some(asked.clone());
        }
        Some(asked)
    }

    /// The name is what a peer's profile has called it, else the authority.
    fn ask<B>(&self, request: &Request<B>) -> Option<Asked> {
        let mut text = None;
        for said in said(request) {
            text = Some(said);
            if let Ok(Authority::Name(name)) = Authority::parse(said, HTTP) {
                let known = self.profiles.as_ref().and_then(|profiles| profiles.get(&name));
                return Some(Asked { text: said.into(), name: Some(name), known });
            }
        }
        Some(Asked { text: text?.into(), name: None, known: None })
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

    /// The routes of the name, if its profile is known.
    pub(crate) fn routes(&self) -> Option<Arc<Routes>> {
        self.known.as_ref()?.now()
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
    #[tokio::test]
    async fn clients_cannot_make_us_ask_for_any_number_of_names() {
        let hour = Duration::from_secs(3600);
        let metrics = Metrics::new(hour);
        let profiles = Profiles::new(Arc::new(Silent), metrics, hour);
        for number in 0..=MOST {
            let name = NameAddr { name: format!("n{number}.shop").parse().unwrap(), port: HTTP };
            let known = profiles.get(&name);
            assert_eq!(known.is_some(), number < MOST, "{number}");
        }
        let first = NameAddr { name: "n0.shop".parse().unwrap(), port: HTTP };
        assert!(profiles.get(&first).is_some(), "it is still known");
    }
}
