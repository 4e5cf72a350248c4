//! # What the API has no field for
//!
//! Job: carry a balancer's algorithm and slow start in a message that knows neither. They travel as the
//! nanoseconds below the microsecond of two durations that are whole milliseconds in practice: a proxy that
//! does not look there balances as ever, by an estimate that differs by less than a thousandth of a percent;
//! ours, given a message without them, falls back to the usual balancer.
//! Callers: the parent file.

use mesh_model::{
    balance::{Algorithm, Balancing},
    outbound::PeakEwma,
};
use std::time::Duration;

/// By the nanoseconds of `decay`.
const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::PeakEwma, Algorithm::LeastLoaded, Algorithm::RoundRobin];
const MICRO: u32 = 1000;

/// The durations that tell both. Slow start goes as whole seconds, up to 999, in `default_rtt`.
pub(super) fn put(balancing: &Balancing) -> PeakEwma {
    let algorithm = ALGORITHMS.iter().position(|a| *a == balancing.algorithm).unwrap_or_default();
    let seconds = balancing.slow_start.as_secs().min(u64::from(MICRO - 1));
    PeakEwma {
        default_rtt: whole(balancing.ewma.default_rtt) + Duration::from_nanos(seconds),
        decay: whole(balancing.ewma.decay) + Duration::from_nanos(algorithm as u64),
    }
}

/// What the durations tell.
pub(super) fn take(ewma: PeakEwma) -> Balancing {
    let beyond = |duration: Duration| duration.subsec_nanos() % MICRO;
    Balancing {
        algorithm: ALGORITHMS.get(beyond(ewma.decay) as usize).copied().unwrap_or_default(),
        slow_start: Duration::from_secs(beyond(ewma.default_rtt).into()),
        ewma: PeakEwma { default_rtt: whole(ewma.default_rtt), decay: whole(ewma.decay) },
        penalty: None,
    }
}

/// Without what lies below the microsecond.
fn whole(duration: Duration) -> Duration {
    duration - Duration::from_nanos((duration.subsec_nanos() % MICRO).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: BAL-12
    #[test]
    fn a_stock_controller_asks_for_the_usual_balancer() {
        assert_eq!(take(PeakEwma::default()), Balancing::default());
        let odd = PeakEwma { decay: Duration::from_nanos(999), ..PeakEwma::default() };
        assert_eq!(take(odd).algorithm, Algorithm::PeakEwma, "a number that nobody knows");
    }

    // proves: BAL-12
    #[test]
    fn a_stock_proxy_sees_what_it_always_saw() {
        for algorithm in ALGORITHMS {
            let slow_start = Duration::from_secs(600);
            let balancing = Balancing { algorithm, slow_start, ..Balancing::default() };
            let sent = put(&balancing);
            let usual = PeakEwma::default();
            assert!(sent.decay - usual.decay < Duration::from_micros(1));
            assert!(sent.default_rtt - usual.default_rtt < Duration::from_micros(1));
            assert_eq!(take(sent), balancing);
        }
    }
}
