//! # What two proxies tell of real traffic
//!
//! Two proxies as child processes, a client's and a server's, with mutual TLS between them; requests, gRPC
//! calls and bytes go through both; then `/metrics` of both is held against the table.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "binary/plane.rs"]
mod plane;
#[path = "metrics/table.rs"]
mod table;
#[path = "metrics/traffic.rs"]
mod traffic;

use std::{collections::BTreeSet, time::Duration};

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

// proves: OBS-4
#[tokio::test]
async fn families_types_and_labels_are_those_of_the_table() {
    let pair = traffic::Pair::start().await;
    let meshed = pair.all_kinds_of_traffic().await;
    let (client, server) = pair.scrape().await;
    let mut wrong = table::mistakes(&client, table::FAMILIES);
    wrong.extend(table::mistakes(&server, table::FAMILIES));
    let seen = [table::names(&client), table::names(&server)];
    let seen: BTreeSet<_> = seen.into_iter().flatten().collect();
    let all = table::FAMILIES.iter().flat_map(|section| section.iter());
    let unseen = |name: &str| table::UNSEEN.iter().any(|begin| name.starts_with(begin));
    for family in all.filter(|family| family.seen && !unseen(family.name)) {
        if !seen.contains(family.name) {
            wrong.push(format!("{} is not shown", family.name));
        }
    }
    for (name, _) in table::ABSENT {
        if seen.iter().any(|shown| shown.starts_with(name.trim_end_matches('*'))) {
            wrong.push(format!("{name} is shown, though it is listed as absent"));
        }
    }
    assert!(wrong.is_empty(), "{}\n\n{client}\n\n{server}", wrong.join("\n"));
    // Both sides count the same requests.
    let count = |text: &str, direction: &str| -> u64 {
        let of = |line: &&str| {
            line.starts_with(&format!("response_total{{direction=\"{direction}\""))
                && line.contains("tls=\"true\"")
        };
        let value = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
        text.lines().filter(of).map(value).sum()
    };
    assert_eq!(count(&client, "outbound"), meshed, "{client}");
    assert_eq!(count(&server, "inbound"), meshed, "{server}");
    pair.end().await;
}

// proves: OBS-5
#[tokio::test]
async fn a_scrape_is_zipped_for_those_who_can_read_it() {
    let pair = traffic::Pair::start().await;
    let plain = pair.scraped(None).await;
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    assert!(plain.body.ends_with(b"# EOF\n"));
    let zipped = pair.scraped(Some("deflate, gzip;q=1.0")).await;
    assert!(zipped.head.contains("content-encoding: gzip"), "{}", zipped.head);
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(&zipped.body[..]);
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert!(text.contains("\nprocess_start_time_seconds "), "{text}");
    assert!(zipped.body.len() * 4 < text.len(), "{} of {}", zipped.body.len(), text.len());
    pair.end().await;
}

// proves: TRACE-1 TRACE-5
#[tokio::test]
async fn a_trace_crosses_both_proxies_unbroken_and_reaches_the_collector() {
    let pair = traffic::Pair::start().await;
    let seen = pair.traced_request().await;
    let spans = pair.collector.spans(4).await;
    assert_eq!(spans.len(), 4, "two a hop");
    // Each span is the child of the one before, and the application is the child of the last.
    let mut parent = traffic::PARENT_SPAN.to_vec();
    for (direction, kind) in [("outbound", 2), ("outbound", 3), ("inbound", 2), ("inbound", 3)] {
        let of = |span: &&traffic::SeenSpan| {
            span.kind == kind && span.direction == direction && span.parent == parent
        };
        let next = spans.iter().find(of);
        let next = next.unwrap_or_else(|| panic!("no {direction} {kind} in {spans:?}"));
        assert_eq!((next.trace.as_slice(), next.name.as_str()), (&traffic::TRACE[..], "/traced"));
        parent = next.id.clone();
    }
    assert_eq!(seen, traffic::traceparent(&parent), "what the application was told");
    pair.end().await;
}

// proves: TRACE-6
#[tokio::test]
async fn the_last_spans_are_sent_before_the_end() {
    let pair = traffic::Pair::start().await;
    pair.traced_request().await;
    let start = std::time::Instant::now();
    let collector = pair.end().await;
    assert_eq!(collector.spans(4).await.len(), 4, "two a hop");
    // Spans wait for others for 10 s.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}
