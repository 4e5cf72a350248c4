//! # Audit log
//!
//! Job: one JSON line a request (metadata level), written by a task of its own, off the path of requests.
//! May touch: the audit file. Must not touch: bodies.
//! Callers: `serve`.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use hyper::{Request, body::Incoming};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    authn::User,
    request::{ResourcePath, Verb},
};

/// Lines that may wait for the disk; more are dropped, and the log says how many.
const QUEUE: usize = 16 * 1024;
/// Size at which the log is renamed to `.1` and begun anew.
const ROTATE: u64 = 64 * 1024 * 1024;

/// The log's near end.
#[derive(Debug)]
pub(crate) struct Audit {
    lines: Mutex<Option<mpsc::Sender<Record>>>,
}

/// What is known of a request.
#[derive(Debug)]
pub(crate) struct Record {
    received: jiff::Timestamp,
    uri: String,
    verb: &'static str,
    user: Value,
    agent: String,
    object: Option<Value>,
    code: u16,
    done: jiff::Timestamp,
}

impl Record {
    pub(crate) fn begin(request: &Request<Incoming>) -> Self {
        let agent = request.headers().get(http::header::USER_AGENT);
        Self {
            received: jiff::Timestamp::now(),
            uri: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            verb: match request.method().as_str() {
                "GET" => "get",
                "POST" => "post",
                "PUT" => "put",
                "PATCH" => "patch",
                "DELETE" => "delete",
                _ => "other",
            },
            user: json!({}),
            agent: agent.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned(),
            object: None,
            code: 0,
            done: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    pub(crate) fn user(&mut self, user: &User) {
        self.user = json!({"username": user.name, "groups": user.groups});
    }

    pub(crate) fn verb(&mut self, verb: Verb) {
        self.verb = verb.name();
    }

    pub(crate) fn object(&mut self, path: &ResourcePath) {
        let mut object = serde_json::Map::new();
        for (field, value) in [
            ("resource", &path.plural),
            ("namespace", &path.namespace),
            ("name", &path.name),
            ("apiGroup", &path.group),
            ("apiVersion", &path.version),
            ("subresource", &path.subresource),
        ] {
            if !value.is_empty() {
                object.insert(field.into(), value.as_str().into());
            }
        }
        self.object = Some(Value::Object(object));
    }

    fn line(&self) -> Value {
        // A watch is logged when it starts: its end may be hours away.
        let stage = if self.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        let mut line = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "stage": stage,
            "requestURI": self.uri, "verb": self.verb, "user": self.user, "userAgent": self.agent,
        });
        if let Some(object) = &self.object {
            line["objectRef"] = object.clone();
        }
        line["responseStatus"] = json!({"code": self.code});
        line["requestReceivedTimestamp"] = micros(self.received).into();
        line["stageTimestamp"] = micros(self.done).into();
        line
    }
}

fn micros(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

impl Audit {
    pub(crate) fn new() -> Self {
        Self { lines: Mutex::new(None) }
    }

    /// Starts the task that writes to `path`.
    pub(crate) fn spawn_writer(&self, path: PathBuf) {
        let (lines, queue) = mpsc::channel(QUEUE);
        *self.lines.lock() = Some(lines);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = write_lines(&path, queue) {
                tracing::error!(%error, path = %path.display(), "the audit log cannot be written");
            }
        });
    }

    /// No further lines; what waits is written.
    pub(crate) fn close(&self) {
        self.lines.lock().take();
    }

    pub(crate) fn write(&self, mut record: Record, code: u16) {
        record.code = code;
        record.done = jiff::Timestamp::now();
        if let Some(lines) = self.lines.lock().as_ref()
            && let Err(mpsc::error::TrySendError::Full(_)) = lines.try_send(record)
        {
            tracing::warn!("an audit line was dropped: the disk is too slow");
        }
    }
}

fn write_lines(path: &Path, mut queue: mpsc::Receiver<Record>) -> std::io::Result<()> {
    let (mut file, mut size) = open(path)?;
    while let Some(record) = queue.blocking_recv() {
        let line = record.line().to_string();
        writeln!(file, "{line}")?;
        size += line.len() as u64 + 1;
        if queue.is_empty() {
            file.flush()?;
        }
        if size > ROTATE {
            file.flush()?;
            std::fs::rename(path, path.with_extension("log.1"))?;
            (file, size) = open(path)?;
        }
    }
    file.flush()
}

fn open(path: &Path) -> std::io::Result<(BufWriter<File>, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((BufWriter::new(file), size))
}
