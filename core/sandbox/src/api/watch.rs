//! # Watches
//!
//! Job: streams a table's changes from a revision on, as the selector sees them, without delay; bookmarks; "Expired"
//! when the revision is no longer known.
//! May touch: the store, reading. Must not touch: the store, writing.
//! Callers: `serve`.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::{
    sync::watch as signal,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    options,
    read::{Selection, present, present_json},
    registry::Resource,
    request::{Accept, Call},
    serve::Reply,
    shared::{Shared, stopped},
    status::ApiError,
    table,
};
use crate::store::{Change, Event, Stored, TooOld};

/// Period of bookmarks, for watches that ask for them.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Life of a watch whose client names none.
const DEFAULT_LIFE: Duration = Duration::from_secs(1800);

struct Watch {
    shared: Arc<Shared>,
    resource: Arc<Resource>,
    selection: Selection,
    accept: Accept,
    include_object: String,
    bookmarks: bool,
    /// Changes up to this revision have been sent.
    position: u64,
    ready: VecDeque<Bytes>,
    changed: signal::Receiver<u64>,
    stopping: signal::Receiver<bool>,
    ticks: Interval,
    end: Instant,
    /// The column definitions have been sent (tables send them once).
    columns_sent: bool,
    over: bool,
}

/// Starts a watch.
pub(crate) fn stream(call: &Call) -> Result<Reply, ApiError> {
    let mut watch = Watch::new(call)?;
    watch.begin(call)?;
    let frames = stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), watch))
    });
    Ok(Reply::Stream(StreamBody::new(frames).boxed_unsync(), "application/json"))
}

impl Watch {
    fn new(call: &Call) -> Result<Self, ApiError> {
        let life = call.query.number("timeoutSeconds").map_or(DEFAULT_LIFE, Duration::from_secs);
        let now = Instant::now();
        let mut ticks = interval_at(now + BOOKMARKS, BOOKMARKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            selection: Selection::of(call)?,
            changed: call.shared.store.subscribe(&call.resource.table),
            stopping: call.shared.stopping(),
            shared: call.shared.clone(),
            resource: call.resource.clone(),
            accept: call.accept.clone(),
            include_object: call.query.get("includeObject").to_owned(),
            bookmarks: call.query.flag("allowWatchBookmarks"),
            position: 0,
            ready: VecDeque::new(),
            ticks,
            end: now + life,
            columns_sent: false,
            over: false,
        })
    }

    /// Puts the watch at its first position, with the present objects if none was named.
    fn begin(&mut self, call: &Call) -> Result<(), ApiError> {
        let asked = options::revision(call, self.shared.store.revision())?;
        let initial = call.query.flag("sendInitialEvents");
        if !initial && let Some(asked) = asked.filter(|&asked| asked > 0) {
            self.position = asked;
            return Ok(());
        }
        if call.query.get("sendInitialEvents") == "false" {
            self.position = self.shared.store.revision();
            return Ok(());
        }
        let (revision, objects) =
            self.shared.store.list(&self.resource.table, self.selection.namespace.as_deref());
        self.position = revision;
        for object in &objects {
            if self.selection.matches(&object.value) {
                self.push("ADDED", object);
            }
        }
        if initial && self.bookmarks {
            self.push_bookmark(true);
        }
        Ok(())
    }

    /// The next bytes to send: everything that is ready; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return self.take();
            }
            // Marked as seen before reading, so that a change in between wakes again.
            self.changed.borrow_and_update();
            self.collect();
            if let Some(bytes) = self.take() {
                return Some(bytes);
            }
            if self.over {
                return None;
            }
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() { self.over = true },
                _ = self.ticks.tick() => if self.bookmarks { self.push_bookmark(false) },
                () = sleep_until(self.end) => self.over = true,
                () = stopped(&mut self.stopping) => self.over = true,
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        if self.ready.len() <= 1 {
            return self.ready.pop_front();
        }
        let mut all = Vec::with_capacity(self.ready.iter().map(Bytes::len).sum());
        for bytes in self.ready.drain(..) {
            all.extend_from_slice(&bytes);
        }
        Some(all.into())
    }

    fn collect(&mut self) {
        match self.shared.store.since(&self.resource.table, self.position) {
            Ok((present, events)) => {
                self.position = present;
                for event in events {
                    self.push_event(&event);
                }
            }
            Err(TooOld { oldest }) => {
                let error = ApiError::expired(format!(
                    "too old resource version: {} ({oldest})",
                    self.position
                ));
                self.line("ERROR", error.status().to_string().as_bytes());
                self.over = true;
            }
        }
    }

    fn push_event(&mut self, event: &Event) {
        let now = self.selection.matches(&event.object.value);
        let before = event.previous.as_ref().is_some_and(|p| self.selection.matches(&p.value));
        match (event.change, before, now) {
            (Change::Deleted, true, _) | (Change::Deleted, false, true) => {
                self.push("DELETED", &event.object);
            }
            (Change::Added | Change::Modified, false, true) => self.push("ADDED", &event.object),
            (Change::Added | Change::Modified, true, true) => self.push("MODIFIED", &event.object),
            (Change::Added | Change::Modified, true, false) => self.push("DELETED", &event.object),
            (_, false, false) => {}
        }
    }

    fn push(&mut self, change: &str, object: &Stored) {
        if self.accept.table {
            let value = present(&self.resource, &object.value);
            let columns = !std::mem::replace(&mut self.columns_sent, true);
            let table = table::of_event(&self.resource, &value, columns, &self.include_object);
            self.line(change, table.to_string().as_bytes());
        } else {
            let json = present_json(&self.resource, object, &self.accept);
            self.line(change, &json);
        }
    }

    fn push_bookmark(&mut self, initial_end: bool) {
        let mut metadata =
            json!({"resourceVersion": self.position.to_string(), "creationTimestamp": Value::Null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata,
        });
        self.line("BOOKMARK", object.to_string().as_bytes());
    }

    fn line(&mut self, change: &str, object: &[u8]) {
        let mut line = Vec::with_capacity(object.len() + 40);
        line.extend_from_slice(b"{\"type\":\"");
        line.extend_from_slice(change.as_bytes());
        line.extend_from_slice(b"\",\"object\":");
        line.extend_from_slice(object);
        line.extend_from_slice(b"}\n");
        self.ready.push_back(line.into());
    }
}
