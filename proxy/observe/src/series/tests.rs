//! # Series as a scraper sees them

use super::*;

const RETAIN: Duration = Duration::from_secs(600);

fn labels(value: &str) -> LabelSet {
    LabelSet::default().with("l", value)
}

fn text(registrar: &Registrar, at: Instant) -> String {
    String::from_utf8(registrar.text_at(at)).unwrap()
}

// proves: OBS-1
#[test]
fn idle_series_leave_and_held_or_busy_ones_stay() {
    let registrar = Registrar::new(RETAIN);
    let family = registrar.counters("a_total", "help");
    let held = family.get(&labels("held"));
    family.get(&labels("idle")).incr();
    family.get(&labels("busy")).incr();
    let start = Instant::now();
    let count = |at| text(&registrar, at).lines().filter(|l| !l.starts_with('#')).count();
    assert_eq!(count(start), 3);
    family.get(&labels("busy")).incr();
    assert_eq!(count(start + RETAIN - Duration::from_secs(1)), 3);
    assert_eq!(count(start + RETAIN + Duration::from_secs(1)), 2, "idle is gone");
    drop(held);
    assert_eq!(text(&registrar, start + RETAIN * 3), "# EOF\n");
}

// proves: OBS-1
#[test]
fn a_flood_of_label_sets_is_bounded_and_still_counted() {
    let registrar = Registrar::new(RETAIN);
    let family = registrar.counters("a_total", "help");
    for i in 0..MAX_SERIES + 50 {
        family.get(&labels(&i.to_string())).incr();
    }
    assert_eq!(family.len(), MAX_SERIES);
    let shown = text(&registrar, Instant::now());
    assert!(shown.contains("\na_total 50\n"), "the rest in one series without labels");
    assert_eq!(shown.lines().count(), MAX_SERIES + 4);
}

#[test]
fn the_text_is_that_of_the_format() {
    let registrar = Registrar::new(RETAIN);
    let histogram = registrar.histograms("a_seconds", "Time", &[0.05, 1.0]);
    let histogram = histogram.get(&labels("x"));
    for value in [0.01, 0.05, 0.5, 9.0] {
        histogram.observe(value);
    }
    registrar.histograms("b_ms", "Time", &[1.0]).single().observe(0.25);
    registrar.gauges("c", "Number").single().set(-1);
    registrar.readings("d_seconds", "When").single().set(1.5);
    registrar.counters("never_total", "Not shown");
    let expected = r#"# HELP a_seconds Time
# TYPE a_seconds histogram
a_seconds_bucket{l="x",le="0.05"} 2
a_seconds_bucket{l="x",le="1.0"} 3
a_seconds_bucket{l="x",le="+Inf"} 4
a_seconds_sum{l="x"} 9.56
a_seconds_count{l="x"} 4
# HELP b_ms Time
# TYPE b_ms histogram
b_ms_bucket{le="1"} 1
b_ms_bucket{le="+Inf"} 1
b_ms_sum 0.25
b_ms_count 1
# HELP c Number
# TYPE c gauge
c -1
# HELP d_seconds When
# TYPE d_seconds gauge
d_seconds 1.5
# EOF
"#;
    assert_eq!(text(&registrar, Instant::now()), expected);
}

#[test]
fn labels_cannot_break_the_format() {
    let hostile = labels("a\\b\"c\nd").with("app.kubernetes.io/name", "x".repeat(5000));
    let expected = r#"l="a\\b\"c\nd",app_kubernetes_io_name="xxx"#;
    assert!(hostile.as_str().starts_with(expected), "{hostile:?}");
    assert!(hostile.as_str().len() < 1200);
    let cut = labels(&"\u{20ac}".repeat(1000));
    assert!(cut.as_str().ends_with("\u{20ac}\""), "cut between characters");
}
