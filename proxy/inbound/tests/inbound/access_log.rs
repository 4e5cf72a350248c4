//! # A line for each request

use crate::harness::*;
use mesh_inbound::access_log::{AccessLog, Format};
use mesh_model::inbound::DefaultPolicy;
use mesh_observe::Metrics;
use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex},
};

/// Text that a test reads, behind a door that it may shut.
#[derive(Clone, Default)]
struct Paper(Arc<(Mutex<(String, bool)>, Condvar)>);

impl Paper {
    fn shut(&self, shut: bool) {
        self.0.0.lock().unwrap().1 = shut;
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().0.clone()
    }

    async fn lines(&self, count: usize) -> Vec<String> {
        let wait = async {
            while self.text().lines().count() < count {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("lines in time");
        self.text().lines().map(str::to_owned).collect()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (state, opened) = &*self.0;
        let mut state = opened.wait_while(state.lock().unwrap(), |(_, shut)| *shut).unwrap();
        state.0.push_str(std::str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(format: Format, paper: &Paper, metrics: &Metrics) -> Option<AccessLog> {
    Some(AccessLog::start(format, paper.clone(), metrics.registrar()).unwrap())
}

const POST: &str = "POST /a?b HTTP/1.1\r\nhost: web\r\nuser-agent: test/1\r\nx-request-id: r1\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";

// proves: LOG-1
#[tokio::test]
async fn each_request_has_its_line_in_either_format() {
    let paper = Paper::default();
    let policy = default(DefaultPolicy::AllAuthenticated);
    let pod =
        Pod::with(policy, |config, metrics| config.access_log = log(Format::Json, &paper, metrics));
    let pod = pod.await;
    let answer = converse(pod.meshed().await, POST).await;
    converse(pod.redirected().await, GET).await;
    let lines = paper.lines(2).await;
    let shown: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let body = answer.rsplit("\r\n").next().unwrap().len();
    let fields: [(&str, serde_json::Value); 10] = [
        ("client.id", PEER.into()),
        ("method", "POST".into()),
        ("uri", "/a?b".into()),
        ("version", "HTTP/1.1".into()),
        ("trace_id", "r1".into()),
        ("request_bytes", 5.into()),
        ("status", 200.into()),
        ("response_bytes", body.into()),
        ("user_agent", "test/1".into()),
        ("host", "web".into()),
    ];
    for (field, value) in fields {
        assert_eq!(shown[field], value, "{field}: {shown}");
    }
    let (total, busy) = (&shown["total_ns"], &shown["processing_ns"]);
    assert!(total.as_u64() >= busy.as_u64() && busy.as_u64() > Some(0), "{shown}");
    assert!(shown["client.addr"].as_str().unwrap().starts_with("127."));
    let refused: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(refused["client.id"], "-");
    assert_eq!(refused["status"], 403);

    let paper = Paper::default();
    let policy = default(DefaultPolicy::AllUnauthenticated);
    let pod = Pod::with(policy, |config, metrics| {
        config.access_log = log(Format::Apache, &paper, metrics);
    });
    let pod = pod.await;
    converse(pod.meshed().await, POST).await;
    let line = paper.lines(1).await.remove(0);
    assert!(line.contains(&format!(" {PEER} - [")), "{line}");
    assert!(line.ends_with("Z] \"POST /a?b HTTP/1.1\" 200"), "{line}");
}

// proves: LOG-2
#[tokio::test]
async fn a_slow_reader_loses_lines_and_holds_nobody_up() {
    let paper = Paper::default();
    paper.shut(true);
    let policy = default(DefaultPolicy::AllUnauthenticated);
    let pod = Pod::with(policy, |config, metrics| {
        config.access_log = log(Format::Apache, &paper, metrics);
    });
    let pod = pod.await;
    let ask = GET.replace("connection: close\r\n", "");
    // More than wait and are in the writer's hands together.
    for _ in 0..25 {
        let answers = converse(pod.redirected().await, &(ask.repeat(99) + GET)).await;
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 100);
    }
    let shown = pod.shown();
    let dropped = shown.lines().find(|l| l.starts_with("inbound_access_log_dropped_total"));
    let dropped: f64 = dropped.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(dropped > 0.0, "{shown}");
    paper.shut(false);
    paper.lines(1).await;
}
