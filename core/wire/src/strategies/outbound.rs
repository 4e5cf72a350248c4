//! # Random outbound policies
//!
//! Job: proptest strategies for policies that each kind of message can express. Callers: tests here.

use super::*;
use http::{HeaderName, HeaderValue, StatusCode};
use mesh_model::{
    balance::{Accrual, AccrualKind, Algorithm, Balancing, Penalty, Probation, SuccessRate},
    filter::{Failure, FailureKind, Filter, HeaderModifier, PathModifier, Ratio, Redirect},
    outbound::{
        Backend, BackendKind, Delay, Distribution, HttpPolicy, OutboundPolicy, OutboundProtocol,
        OutboundRoute, OutboundRule, PeakEwma, QueuePolicy, Refusal, Retry, RetryBackoff,
        RouteBackend, Timeouts,
    },
    response::GrpcCodes,
};
use proptest::strategy::BoxedStrategy;
use std::num::NonZeroU32;

fn some_time() -> impl Strategy<Value = Duration> {
    duration().prop_filter("zero is none", |d| !d.is_zero())
}

// === backends ===

fn backend() -> impl Strategy<Value = Backend> {
    let penalty = (duration(), duration())
        .prop_map(|(delay, max_retry_after)| Penalty { delay, max_retry_after });
    let algorithm = prop_oneof![
        Just(Algorithm::PeakEwma),
        Just(Algorithm::LeastLoaded),
        Just(Algorithm::RoundRobin)
    ];
    // Whole microseconds: what lies below says how to balance.
    let micros = || (0_u64..1 << 40).prop_map(Duration::from_micros);
    let slow_start = (0_u64..1000).prop_map(Duration::from_secs);
    let balancing = (algorithm, slow_start, micros(), micros(), option::of(penalty)).prop_map(
        |(algorithm, slow_start, default_rtt, decay, penalty)| {
            let ewma = PeakEwma { default_rtt, decay };
            Balancing { algorithm, ewma, penalty, slow_start }
        },
    );
    let balance = (name_addr(), balancing)
        .prop_map(|(addr, balancing)| BackendKind::Balance { addr, balancing });
    // A forward with an identity cannot be taken for a bare address.
    let forward = (endpoint(), identity(), dns()).prop_map(|(mut endpoint, id, server_name)| {
        let tls = Some(TlsTarget { id, server_name });
        Arc::make_mut(&mut endpoint.metadata).tls = tls;
        BackendKind::Forward(endpoint)
    });
    let kind = prop_oneof![
        balance,
        forward,
        socket().prop_map(BackendKind::OriginalDst),
        Just(BackendKind::Unknown)
    ];
    // The usual queue says nothing.
    let queue = (101_u32..200, duration())
        .prop_map(|(capacity, failfast)| QueuePolicy { capacity, failfast });
    (meta(true), kind, option::of(queue)).prop_map(|(meta, kind, queue)| Backend {
        meta,
        kind,
        queue,
    })
}

fn distribution(requests: Option<Form>) -> impl Strategy<Value = Distribution> {
    let part = move || {
        let (filters, refusal, timeout) = match requests {
            Some(form) => (
                vec(filter(form), 0..2).boxed(),
                Just(None).boxed(),
                option::of(some_time()).boxed(),
            ),
            None => (Just(Vec::new()).boxed(), option::of(refusal()).boxed(), Just(None).boxed()),
        };
        (backend(), filters, refusal, timeout).prop_map(|(backend, filters, refusal, timeout)| {
            RouteBackend { backend, filters, refusal, timeout }
        })
    };
    prop_oneof![
        Just(Distribution::Empty),
        vec(part(), 0..3).prop_map(Distribution::First),
        vec((any::<u32>(), part()), 0..3).prop_map(Distribution::Random),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![Just(Refusal::Forbidden), word().prop_map(Refusal::Invalid)]
}

// === rules of requests ===

/// Which message a rule of requests must fit.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Http,
    Grpc,
}

fn ratio() -> impl Strategy<Value = Ratio> {
    (any::<u32>(), 1_u32..).prop_map(|(numerator, denominator)| Ratio {
        numerator,
        denominator: NonZeroU32::new(denominator).expect("not zero"),
    })
}

fn modifier() -> impl Strategy<Value = HeaderModifier> {
    let name = || word().prop_map(|w| w.parse::<HeaderName>().expect("a word is a name"));
    let pair = move || {
        (name(), word())
            .prop_map(|(n, v)| (n, HeaderValue::try_from(v).expect("a word is a value")))
    };
    (vec(pair(), 0..2), vec(pair(), 0..2), vec(name(), 0..2))
        .prop_map(|(add, set, remove)| HeaderModifier { add, set, remove })
}

fn filter(form: Form) -> BoxedStrategy<Filter> {
    let failure = (any::<bool>(), 100_u16..600, word(), ratio()).prop_map(
        move |(_, code, message, ratio)| {
            let kind = match form {
                Form::Http => FailureKind::Http(StatusCode::from_u16(code).expect("in range")),
                Form::Grpc => FailureKind::Grpc(code),
            };
            Filter::Fail(Failure { kind, message, ratio })
        },
    );
    let headers = modifier().prop_map(Filter::RequestHeaders);
    if form == Form::Grpc {
        return prop_oneof![failure, headers].boxed();
    }
    let path =
        prop_oneof![word().prop_map(PathModifier::Full), word().prop_map(PathModifier::Prefix)];
    let redirect = (option::of(word()), option::of(port()), option::of(path), any::<bool>())
        .prop_map(|(host, port, path, https)| {
            Filter::Redirect(Redirect {
                scheme: https.then_some(http::uri::Scheme::HTTPS),
                host,
                port,
                path,
                status: StatusCode::TEMPORARY_REDIRECT,
            })
        });
    prop_oneof![failure, headers, modifier().prop_map(Filter::ResponseHeaders), redirect].boxed()
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let limit = || option::of(some_time());
    (limit(), limit(), limit()).prop_map(|(request, response, idle)| Timeouts {
        request,
        response,
        idle,
    })
}

/// Ratios that the wire's number holds exactly.
fn backoff() -> impl Strategy<Value = Probation> {
    (some_time(), duration(), 0_u32..800, any::<bool>()).prop_map(
        |(min, more, eighths, respect_retry_after)| Probation {
            min,
            max: min + more,
            jitter: eighths * 125_000,
            respect_retry_after,
        },
    )
}

fn retry(form: Form) -> impl Strategy<Value = Retry> {
    let ranges = vec((100_u16..600, 100_u16..600), 0..3);
    let codes = vec(proptest::sample::select(vec![1_u16, 4, 8, 13, 14]), 0..3);
    (any::<u32>(), 1_u32.., ranges, codes, option::of(some_time()), option::of(backoff())).prop_map(
        move |(max, bytes, ranges, codes, timeout, backoff)| {
            let backoff = backoff.map(|Probation { min, max, jitter, respect_retry_after }| {
                RetryBackoff { min, max, jitter, respect_retry_after }
            });
            let mut retry =
                Retry { max, max_body: bytes as usize, timeout, backoff, ..Retry::default() };
            match form {
                Form::Http => retry.statuses = ranges.into_iter().map(|(a, b)| a..=b).collect(),
                Form::Grpc => retry.codes = codes.into_iter().collect::<GrpcCodes>(),
            }
            retry
        },
    )
}

fn requests(form: Form) -> impl Strategy<Value = HttpPolicy> {
    let matches = match form {
        Form::Http => http_match().boxed(),
        Form::Grpc => rpc_match().boxed(),
    };
    // Whole milliseconds, as the header has them.
    let delay = (any::<u32>(), ratio())
        .prop_map(|(ms, ratio)| Delay { time: Duration::from_millis(ms.into()), ratio });
    let limits = (timeouts(), option::of(retry(form)), any::<bool>());
    let filters = (vec(filter(form), 0..3), option::of(delay));
    let rule = (vec(matches, 0..3), filters, distribution(Some(form)), limits).prop_map(
        |(matches, (filters, delay), backends, (timeouts, retry, allow_overrides))| OutboundRule {
            matches,
            refusal: None,
            filters,
            delay,
            backends,
            timeouts,
            retry,
            allow_overrides,
        },
    );
    let route = (meta(true), vec(host(), 0..2), vec(rule, 0..3))
        .prop_map(|(meta, hosts, rules)| OutboundRoute { meta, hosts, rules });
    (vec(route, 0..3), option::of(accrual()))
        .prop_map(|(routes, accrual)| HttpPolicy { routes: routes.into(), accrual })
}

fn accrual() -> impl Strategy<Value = Accrual> {
    let rate = (1_u32..=8, 10_u64..100_000, 0_u32..=1_000_000).prop_map(
        |(eighths, window, min_requests)| SuccessRate {
            threshold: eighths * 125_000,
            window: Duration::from_millis(window),
            min_requests,
        },
    );
    let kind = prop_oneof![
        Just(AccrualKind::Consecutive),
        option::of(rate).prop_map(AccrualKind::Unified)
    ];
    (kind, any::<u32>(), backoff(), any::<u32>()).prop_map(
        |(kind, max_failures, backoff, min_ready)| Accrual {
            kind,
            max_failures,
            backoff,
            min_ready,
        },
    )
}

// === policies ===

fn host() -> impl Strategy<Value = HostMatch> {
    prop_oneof![word().prop_map(HostMatch::Exact), vec(word(), 1..3).prop_map(HostMatch::Suffix)]
}

fn connections(names: bool) -> impl Strategy<Value = Arc<[OutboundRoute]>> {
    let most = if names { 3 } else { 1 };
    let rule = (distribution(None), option::of(refusal())).prop_map(|(backends, refusal)| {
        OutboundRule { backends, refusal, ..OutboundRule::default() }
    });
    let route = (meta(true), vec(host(), 0..most), rule)
        .prop_map(|(meta, hosts, rule)| OutboundRoute { meta, hosts, rules: vec![rule] });
    vec(route, 0..=most).prop_map(Arc::from)
}

pub(crate) fn outbound_policy() -> impl Strategy<Value = OutboundPolicy> {
    let detect = (duration(), requests(Form::Http), requests(Form::Http), connections(false));
    let protocol = prop_oneof![
        detect.prop_map(|(timeout, http1, http2, opaque)| {
            OutboundProtocol::Detect { timeout, http1, http2, opaque }
        }),
        requests(Form::Http).prop_map(OutboundProtocol::Http1),
        requests(Form::Http).prop_map(OutboundProtocol::Http2),
        requests(Form::Grpc).prop_map(OutboundProtocol::Grpc),
        connections(false).prop_map(OutboundProtocol::Opaque),
        connections(true).prop_map(OutboundProtocol::Tls),
    ];
    (meta(true), protocol).prop_map(|(parent, protocol)| OutboundPolicy { parent, protocol })
}
