//! # Routing by service profile
//!
//! Job: one request under a profile: its route, the route's timeout, retries within the profile's budget,
//! the `route_*` metrics. Where it goes is the split's matter.
//! May touch: requests, responses. Must not touch: backends (its caller sends). Callers: `target`
//! (builds), `http`.

use http::{HeaderMap, Request, Response, StatusCode};
use mesh_http::{
    Body, Error,
    classify::{self, Classify, Kind},
    respond::{self, GrpcCode, Problem},
    retry::{Event, Next, Policy, Retries, Spent, Verdict},
};
use mesh_model::{
    authority::NameAddr,
    endpoint::Labels,
    profile::{Profile, ProfileRoute, RetryBudget},
    response::GrpcCodes,
};
use mesh_observe::{Metrics, ProfileRouteSeries, Retryable, StreamError};
use mesh_stack::{budget::Budget, tried::Tried};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The routes of a profile, with their series and the budget that they share.
pub(crate) struct ProfileRoutes {
    routes: Vec<Route>,
    /// For what no route matches.
    fallback: Route,
    budget: Option<(RetryBudget, Arc<Budget>)>,
}

struct Route {
    /// `None`: the usual rules.
    rules: Option<ProfileRoute>,
    series: ProfileRouteSeries,
    budget: Option<Arc<Budget>>,
}

/// Longest body of a request that can be sent again, as Linkerd has it.
const MAX_BODY: usize = 64 * 1024;

impl ProfileRoutes {
    /// The routes of `profile`, whose name is `dst`. An equal budget is kept as it stands.
    pub(crate) fn new(
        profile: &Profile,
        dst: &NameAddr,
        metrics: &Metrics,
        before: Option<&Self>,
    ) -> Self {
        let budget = profile.budget.map(|rules| {
            let kept = before.and_then(|b| b.budget.clone()).filter(|(r, _)| *r == rules);
            kept.unwrap_or_else(|| (rules, Arc::new(Budget::new(&rules, Instant::now()))))
        });
        let shared = budget.as_ref().map(|(_, budget)| budget);
        let dst = dst.to_string();
        let series = |labels: &Labels| metrics.profile_routes.series(&dst, labels);
        let route = |rules: &ProfileRoute| Route {
            series: series(&rules.labels),
            budget: shared.filter(|_| rules.retryable).cloned(),
            rules: Some(rules.clone()),
        };
        let fallback = Route { rules: None, series: series(&Labels::default()), budget: None };
        Self { routes: profile.routes.iter().map(route).collect(), fallback, budget }
    }

    /// Sends a request by its route. `send` sends one attempt, heeding where others have been; `available`
    /// tells whether there is somewhere to send to.
    pub(crate) async fn send<F>(
        &self,
        request: Request<Body>,
        send: impl Fn(Request<Body>, Tried) -> F + Send + Sync,
        available: impl Fn() -> bool + Send + Sync,
    ) -> Result<Response<Body>, Error>
    where
        F: Future<Output = (Result<Response<Body>, Error>, Tried)> + Send,
    {
        let route = self.route(&request);
        let classify = route.classify(&request);
        let exchange = route.series.logical.begin_judged(classify.clone());
        let attempts = route.attempts(&classify, request, send, available);
        let result = match route.timeout() {
            None => attempts.await,
            Some(limit) => match tokio::time::timeout(limit, attempts).await {
                Ok(result) => result,
                Err(_) => {
                    exchange.fail(StatusCode::GATEWAY_TIMEOUT, StreamError::Timeout);
                    return Err(timed_out(limit));
                }
            },
        };
        match result {
            Ok(response) => Ok(exchange.respond(response)),
            Err(error) => {
                exchange.fail(respond::status_of(&error), StreamError::of(&error));
                Err(error)
            }
        }
    }

    fn route(&self, request: &Request<Body>) -> &Route {
        let (method, path) = (request.method().as_str(), request.uri().path());
        let matches = |route: &&Route| {
            route.rules.as_ref().is_some_and(|rules| rules.condition.matches(method, path))
        };
        self.routes.iter().find(matches).unwrap_or(&self.fallback)
    }
}

impl Route {
    fn classify(&self, request: &Request<Body>) -> Classify {
        let usual = Classify::request(request.headers());
        match &self.rules {
            None => usual,
            Some(rules) => usual.with_classes(&rules.responses),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        self.rules.as_ref()?.timeout
    }

    async fn attempts<F>(
        &self,
        classify: &Classify,
        request: Request<Body>,
        send: impl Fn(Request<Body>, Tried) -> F + Send + Sync,
        available: impl Fn() -> bool + Send + Sync,
    ) -> Result<Response<Body>, Error>
    where
        F: Future<Output = (Result<Response<Body>, Error>, Tried)> + Send,
    {
        let Some(budget) = &self.budget else {
            return self.attempt(classify, send(request, Tried::default())).await.0;
        };
        let policy = Within { route: self, budget, classify };
        let mut retries = match Retries::new(&policy, request) {
            Ok(retries) => retries,
            Err(request) => {
                return self.attempt(classify, send(*request, Tried::default())).await.0;
            }
        };
        budget.deposit(Instant::now());
        loop {
            let tried = std::mem::take(&mut retries.tried);
            let (result, tried) = self.attempt(classify, send(retries.attempt(), tried)).await;
            retries.tried = tried;
            match retries.next(result, None, &available).await {
                Next::Again => {}
                Next::Done(result) => return result,
            }
        }
    }

    /// Counts one attempt.
    async fn attempt<F>(
        &self,
        classify: &Classify,
        sending: F,
    ) -> (Result<Response<Body>, Error>, Tried)
    where
        F: Future<Output = (Result<Response<Body>, Error>, Tried)> + Send,
    {
        let exchange = self.series.actual.begin_judged(classify.clone());
        match sending.await {
            (Ok(response), tried) => (Ok(exchange.respond(response)), tried),
            (Err(error), tried) => {
                exchange.fail(respond::status_of(&error), StreamError::of(&error));
                (Err(error), tried)
            }
        }
    }
}

/// Failures are tried again while the budget pays for it.
struct Within<'r> {
    route: &'r Route,
    budget: &'r Budget,
    classify: &'r Classify,
}

impl Policy for Within<'_> {
    fn max_body(&self) -> usize {
        MAX_BODY
    }

    fn head(&self, response: &Response<Body>) -> Verdict {
        match self.classify.head(response).early() {
            Some(class) if class.failure => Verdict::Retry,
            Some(_) => Verdict::Keep,
            None => Verdict::Trailers,
        }
    }

    fn trailers(&self, trailers: &HeaderMap) -> bool {
        let code = classify::grpc_status(trailers).filter(|_| self.classify.kind() == Kind::Grpc);
        code.is_some_and(|code| GrpcCodes::FAILURES.contains(code))
    }

    /// A request that was sent and got no answer may have had its effect.
    fn error(&self, _: &Error) -> bool {
        false
    }

    fn permit(&self, _: u32, _: Option<&Response<Body>>) -> Result<Duration, Spent> {
        if self.budget.withdraw(Instant::now()) { Ok(Duration::ZERO) } else { Err(Spent) }
    }

    fn note(&self, event: Event) {
        match event {
            Event::Sent => self.route.series.retryable(Retryable::Retried),
            Event::LimitExceeded => self.route.series.retryable(Retryable::NoBudget),
            Event::Success | Event::Overflow => {}
        }
    }
}

fn timed_out(limit: Duration) -> Error {
    let message = format!("HTTP response timeout after {limit:?}");
    Problem::new(StatusCode::GATEWAY_TIMEOUT, GrpcCode::DeadlineExceeded, message)
        .closing()
        .kind("response timeout")
        .into()
}
