//! # One request on one rule
//!
//! Job: what a rule does to a request, from outside in: count, limits and headers that change them, delay,
//! filters, retries, the choice of a backend, its filters, the balancer.
//! May touch: one request and its responses. Must not touch: which rule it is. Callers: `http`.

use crate::{
    backend::Backend,
    http::{Hop, filters},
    routes::{Part, Rule},
};
use futures::TryFutureExt;
use http::{HeaderMap, Request, Response};
use mesh_http::{
    Body, Error, classify,
    retry::{Event, Next, Policy, Retries, Spent, Verdict},
    timeouts::{Deadline, Limits, TimeoutKind},
};
use mesh_model::{
    filter::{self, Filter},
    outbound::{Overrides, Refusal, Retry, Timeouts},
    route::{RequestView, RouteMatch},
};
use mesh_observe::{
    BackendExchange, Direction, OutboundBackendSeries, OutboundExchange, OutboundRouteExchange,
    OutboundRouteSeries, trace::SpanKind,
};
use mesh_stack::{backoff::Backoff, tried::Tried};
use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

pub(crate) type HttpRule = Rule<OutboundRouteSeries>;
type HttpPart = Part<OutboundBackendSeries>;

/// What an attempt brings: a response that is still to be counted for its backend.
type Attempt = Result<(Response<Body>, BackendExchange), Error>;

/// What holds for one request.
struct Bounds<'r> {
    timeouts: Timeouts,
    deadline: Option<Deadline>,
    retry: Option<Cow<'r, Retry>>,
}

impl HttpRule {
    /// Sends a request by this rule, and counts it.
    pub(super) async fn send(
        &self,
        hop: &Hop,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, Error> {
        let (series, route) = self.begin(request);
        match self.send_uncounted(hop, &series, request).await {
            Ok((response, backend)) => {
                Ok(OutboundExchange { route: Some(route), backend }.respond(response))
            }
            Err(error) => {
                OutboundExchange { route: Some(route), backend: None }.failed(&error);
                Err(error.at(format_args!("route {}", self.route.name())))
            }
        }
    }

    /// Counts a request that comes.
    fn begin(
        &self,
        request: &mut Request<Body>,
    ) -> (Cow<'_, OutboundRouteSeries>, OutboundRouteExchange) {
        let named = self.series.of_host(|| RequestView::of(request).host);
        let series = named.map_or(Cow::Borrowed(&self.series), Cow::Owned);
        let route = series.begin(request);
        (series, route)
    }

    async fn send_uncounted(
        &self,
        hop: &Hop,
        series: &OutboundRouteSeries,
        request: &mut Request<Body>,
    ) -> Result<(Response<Body>, Option<BackendExchange>), Error> {
        let rule = &self.rule;
        refuse(rule.refusal.as_ref(), || self.describe())?;
        let bounds = self.bounds(request);
        if let Some(delay) = rule.delay.filter(|delay| delay.ratio.strikes(rand::random)) {
            let resume = Instant::now() + delay.time;
            let end = bounds.deadline.map_or(resume, |deadline| deadline.at.min(resume));
            tokio::time::sleep_until(end).await;
        }
        filtered(&rule.filters, &rule.matches, request)?;
        let (mut response, backend) = match &bounds.retry {
            Some(retry) if retry.max > 0 => {
                // Boxed: other requests shall not make room for it.
                Box::pin(self.attempts(hop, series, &bounds, retry, request)).await?
            }
            _ => {
                let limits = bounds.limits(None);
                let (sent, _) = self.attempt(hop, request, limits, Tried::default()).await;
                let (response, backend) = sent?;
                (response, Some(backend))
            }
        };
        if !rule.filters.is_empty() {
            filter::apply_to_response(&rule.filters, response.headers_mut());
        }
        Ok((response, backend))
    }

    /// The rule's limits and retries, changed by the application where the rule allows it.
    fn bounds(&self, request: &mut Request<Body>) -> Bounds<'_> {
        let rule = &self.rule;
        let asked = match rule.allow_overrides {
            true => Overrides::take(request.headers_mut()),
            false => None,
        };
        let (timeouts, retry) = match asked {
            None => (rule.timeouts, rule.retry.as_ref().map(Cow::Borrowed)),
            Some(asked) => {
                let retry = asked.retry(rule.retry.as_ref()).map(Cow::Owned);
                (asked.timeouts(&rule.timeouts), retry)
            }
        };
        Bounds { timeouts, deadline: timeouts.request.map(Deadline::after), retry }
    }

    /// Attempts until one brings something to keep.
    async fn attempts(
        &self,
        hop: &Hop,
        series: &OutboundRouteSeries,
        bounds: &Bounds<'_>,
        retry: &Retry,
        request: &mut Request<Body>,
    ) -> Result<(Response<Body>, Option<BackendExchange>), Error> {
        let grpc = classify::Kind::of(request.headers()) == classify::Kind::Grpc;
        let policy = OnRule { retry, series, grpc };
        let mut retries = match Retries::new(&policy, std::mem::take(request)) {
            Ok(retries) => retries,
            Err(mut request) => {
                let limits = bounds.limits(None);
                let (sent, _) = self.attempt(hop, &mut request, limits, Tried::default()).await;
                return sent.map(|(response, backend)| (response, Some(backend)));
            }
        };
        let available = || self.choice.is_available(Backend::takes_http);
        loop {
            let head = retry.timeout.filter(|_| retries.retries() < retry.max);
            let tried = std::mem::take(&mut retries.tried);
            let mut request = retries.attempt();
            let (sent, tried) = self.attempt(hop, &mut request, bounds.limits(head), tried).await;
            retries.tried = tried;
            let result = sent.map(|(response, backend)| {
                OutboundExchange { route: None, backend: Some(backend) }.respond(response)
            });
            let deadline = bounds.deadline.map(|deadline| deadline.at);
            match retries.next(result, deadline, available).await {
                Next::Again => {}
                Next::Done(result) => return result.map(|response| (response, None)),
            }
        }
    }

    /// One attempt, counted for its backend.
    async fn attempt(
        &self,
        hop: &Hop,
        request: &mut Request<Body>,
        limits: Limits,
        mut tried: Tried,
    ) -> (Attempt, Tried) {
        let Some(part) = self.part() else { return (Err(Error::LoadShed), tried) };
        let exchange = part.series.begin();
        match part.send(hop, &self.rule.matches, request, limits, &mut tried).await {
            Ok(response) => (Ok((response, exchange)), tried),
            Err(error) => {
                OutboundExchange { route: None, backend: Some(exchange) }.failed(&error);
                (Err(error), tried)
            }
        }
    }

    /// One attempt, which others count.
    pub(super) async fn deliver(
        &self,
        hop: &Hop,
        mut request: Request<Body>,
        mut tried: Tried,
    ) -> (Result<Response<Body>, Error>, Tried) {
        let Some(part) = self.part() else { return (Err(Error::LoadShed), tried) };
        let (request, limits) = (&mut request, Limits::default());
        let sent = part.send(hop, &self.rule.matches, request, limits, &mut tried).await;
        (sent, tried)
    }

    fn part(&self) -> Option<&HttpPart> {
        self.choice.pick(Backend::takes_http)
    }
}

impl HttpPart {
    /// Sends to an endpoint that was not tried, if there is one. `matches`: those of the rule.
    fn send(
        &self,
        hop: &Hop,
        matches: &[RouteMatch],
        request: &mut Request<Body>,
        limits: Limits,
        tried: &mut Tried,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        self.send_plain(hop, matches, request, limits, tried)
            .map_err(|error| error.at(format_args!("backend {}", self.backend.meta().name())))
    }

    async fn send_plain(
        &self,
        hop: &Hop,
        matches: &[RouteMatch],
        request: &mut Request<Body>,
        limits: Limits,
        tried: &mut Tried,
    ) -> Result<Response<Body>, Error> {
        refuse(self.spec.refusal.as_ref(), || self.backend.meta().name().to_owned())?;
        filtered(&self.spec.filters, matches, request)?;
        let balancer = self.backend.http();
        let balancer =
            balancer.ok_or_else(|| Error::Backend("the policy names no endpoint".into()))?;
        let limits = self.within(limits);
        let span = self.backend.metrics().span(Direction::Outbound, SpanKind::Client, request);
        let request = std::mem::take(request);
        let mut response = if limits.is_none() {
            balancer.call_tried(request, tried, |endpoint, r| hop.prepare(endpoint, r)).await?
        } else {
            let within = limits.enforce(request, move |request, progress| {
                balancer.call_tried(request, tried, move |endpoint, r| {
                    progress.dispatched();
                    hop.prepare(endpoint, r)
                })
            });
            // Boxed: other requests shall not make room for it.
            Box::pin(within).await?
        };
        if let Some(span) = span {
            span.end(response.status());
        }
        hop.respect_close(&mut response, self.backend.is_forward());
        if !self.spec.filters.is_empty() {
            filter::apply_to_response(&self.spec.filters, response.headers_mut());
        }
        Ok(response)
    }
}

impl HttpPart {
    /// The limits with that of this part.
    fn within(&self, mut limits: Limits) -> Limits {
        if let Some(limit) = self.spec.timeout {
            let own = Deadline::after(limit);
            limits.request = Some(match limits.request {
                Some(outer) if outer.at <= own.at => outer,
                _ => own,
            });
        }
        limits
    }
}

impl Bounds<'_> {
    /// The limits of an attempt whose response must begin within `head`.
    fn limits(&self, head: Option<Duration>) -> Limits {
        let Timeouts { response, idle, .. } = self.timeouts;
        Limits { request: self.deadline, head, response, idle }
    }
}

/// Lets the filters change the request.
fn filtered(
    filters: &[Filter],
    matches: &[RouteMatch],
    request: &mut Request<Body>,
) -> Result<(), Error> {
    if filters.is_empty() {
        return Ok(());
    }
    filters::pass(filter::apply(filters, matches, request, rand::random))
}

fn refuse(refusal: Option<&Refusal>, by: impl FnOnce() -> String) -> Result<(), Error> {
    match refusal {
        None => Ok(()),
        Some(Refusal::Forbidden) => Err(filters::forbidden(&by())),
        Some(Refusal::Invalid(reason)) => Err(Error::InvalidPolicy(reason.clone())),
    }
}

/// The retries of a rule.
struct OnRule<'r> {
    retry: &'r Retry,
    series: &'r OutboundRouteSeries,
    grpc: bool,
}

impl Policy for OnRule<'_> {
    fn max_body(&self) -> usize {
        self.retry.max_body
    }

    fn head(&self, response: &Response<Body>) -> Verdict {
        let Retry { statuses, codes, .. } = self.retry;
        if statuses.contains(response.status().as_u16()) {
            return Verdict::Retry;
        }
        if !self.grpc || codes.is_empty() {
            return Verdict::Keep;
        }
        match classify::grpc_status(response.headers()) {
            None => Verdict::Trailers,
            Some(code) if codes.contains(code) => Verdict::Retry,
            Some(_) => Verdict::Keep,
        }
    }

    fn trailers(&self, trailers: &HeaderMap) -> bool {
        classify::grpc_status(trailers).is_some_and(|code| self.retry.codes.contains(code))
    }

    /// What was not sent, or refused unseen, or got no head in its time. Other failures may have had effect.
    fn error(&self, error: &Error) -> bool {
        match error.root() {
            Error::FailFast => true,
            Error::Timeout(timeout) => timeout.kind == TimeoutKind::Head,
            Error::OrigProtoReset(reason) => *reason == h2::Reason::REFUSED_STREAM,
            _ => error.h2_reason() == Some(h2::Reason::REFUSED_STREAM),
        }
    }

    fn permit(&self, n: u32, response: Option<&Response<Body>>) -> Result<Duration, Spent> {
        if n > self.retry.max {
            return Err(Spent);
        }
        let Some(shape) = &self.retry.backoff else { return Ok(Duration::ZERO) };
        if let Some(response) = response.filter(|_| shape.respect_retry_after) {
            let (status, headers) = (response.status(), response.headers());
            if let Some(asked) = classify::retry_after(status, headers, SystemTime::now()) {
                return Ok(asked.clamp(shape.min, shape.max));
            }
        }
        let jitter = f64::from(shape.jitter) / 1e6;
        let Ok(backoff) = Backoff::new(shape.min, shape.max, jitter) else {
            return Ok(Duration::ZERO);
        };
        let mut attempts = backoff.attempts();
        Ok((0..n).fold(Duration::ZERO, |_, _| attempts.next_delay()))
    }

    fn note(&self, event: Event) {
        self.series.retry(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{meta::Meta, outbound::RetryBackoff};
    use mesh_observe::{Metrics, RequestKind};

    fn series() -> OutboundRouteSeries {
        let (parent, route) = (Meta::built_in("p"), Meta::built_in("r"));
        let metrics = Metrics::new(Duration::from_secs(60));
        metrics.outbound_routes.route(RequestKind::Http, (&parent, 0), &route, false)
    }

    // proves: RETRY-6
    #[test]
    fn pauses_double_and_a_server_may_ask_for_longer_ones() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(3));
        let backoff = Some(RetryBackoff { min, max, jitter: 0, respect_retry_after: true });
        let retry = Retry { max: 9, backoff, ..Retry::default() };
        let series = series();
        let policy = OnRule { retry: &retry, series: &series, grpc: false };
        let pause = |n, response: Option<&Response<Body>>| policy.permit(n, response).ok();
        assert_eq!(pause(1, None), Some(min));
        assert_eq!(pause(3, None), Some(min * 4));
        assert_eq!(pause(9, None), Some(max));
        assert_eq!(pause(10, None), None);
        let busy = |seconds: &str| {
            let response = Response::builder().status(503).header("retry-after", seconds);
            response.body(Body::empty()).expect("a response")
        };
        assert_eq!(pause(1, Some(&busy("2"))), Some(Duration::from_secs(2)));
        assert_eq!(pause(1, Some(&busy("20"))), Some(max));
    }
}
