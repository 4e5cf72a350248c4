//! # Pod logs
//!
//! Job: the log subresource: reads what the node agent wrote for a container, its end only if asked, and follows it.
//! May touch: the folder of Pod logs, reading. Must not touch: processes.
//! Callers: `serve`.

use std::{
    convert::Infallible,
    io::SeekFrom,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::watch,
    time::sleep,
};

use super::{
    object::{list, meta, text},
    read::find,
    request::Call,
    serve::Reply,
    shared::Shared,
    status::ApiError,
};
use crate::store::Key;

/// How often a followed file is looked at.
const PERIOD: Duration = Duration::from_millis(100);
const CHUNK: usize = 32 * 1024;
const TEXT: &str = "text/plain";

/// The folder of a Pod's logs.
pub(crate) fn folder(root: &Path, pod: &Value) -> PathBuf {
    root.join(format!("{}_{}_{}", meta(pod, "namespace"), meta(pod, "name"), meta(pod, "uid")))
}

pub(crate) async fn read(call: &Call) -> Result<Reply, ApiError> {
    let pod = find(call)?;
    let container = container(call, &pod.value)?;
    let suffix = if call.query.flag("previous") { ".previous.log" } else { ".log" };
    let path =
        folder(&call.shared.config.pod_logs, &pod.value).join(format!("{container}{suffix}"));
    let mut file =
        File::open(&path).await.map_err(|_| not_started(call, &pod.value, &container))?;
    let failed = |e: std::io::Error| ApiError::internal(format!("the log cannot be read: {e}"));
    if let Some(lines) = call.query.number("tailLines") {
        let start = tail(&mut file, lines).await.map_err(failed)?;
        file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
    }
    let follow = call.query.flag("follow").then(|| Follow {
        key: call.key(),
        uid: meta(&pod.value, "uid").to_owned(),
        container,
    });
    let state = Reader {
        file,
        limit: call.query.number("limitBytes"),
        follow,
        stopping: call.shared.stopping(),
        shared: call.shared.clone(),
        last_look: false,
    };
    let frames = stream::unfold(state, |mut reader| async move {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), reader))
    });
    Ok(Reply::Stream(StreamBody::new(frames).boxed_unsync(), TEXT))
}

/// The container asked for, or the only one, or the one that an annotation names.
fn container(call: &Call, pod: &Value) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<&str> {
        list(pod, &["spec", field]).iter().map(|c| text(c, &["name"])).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let asked = call.query.get("container");
    let default =
        text(pod, &["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
    let chosen = match (asked, containers.as_slice()) {
        ("", [only]) => only,
        ("", _) if containers.contains(&default) => default,
        ("", _) => {
            let mut list = format!("[{}]", containers.join(" "));
            if !init.is_empty() {
                list = format!("{list} or one of the init containers: [{}]", init.join(" "));
            }
            return Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {}, choose one of: {list}",
                call.name
            )));
        }
        (asked, _) => asked,
    };
    if !containers.contains(&chosen) && !init.contains(&chosen) {
        return Err(ApiError::bad_request(format!(
            "container {chosen} is not valid for pod {}",
            call.name
        )));
    }
    Ok(chosen.to_owned())
}

fn not_started(call: &Call, pod: &Value, container: &str) -> ApiError {
    if call.query.flag("previous") {
        return ApiError::bad_request(format!(
            "previous terminated container {container:?} in pod {:?} not found",
            call.name
        ));
    }
    let waiting = ["containerStatuses", "initContainerStatuses"]
        .iter()
        .flat_map(|field| list(pod, &["status", field]))
        .find(|status| text(status, &["name"]) == container)
        .map_or("ContainerCreating", |status| text(status, &["state", "waiting", "reason"]));
    ApiError::bad_request(format!(
        "container {container:?} in pod {:?} is waiting to start: {waiting}",
        call.name
    ))
}

/// Where the last `lines` lines begin.
async fn tail(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0)).await?;
    let (mut found, mut buffer) = (0, vec![0; CHUNK]);
    let mut last = true;
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let chunk = &mut buffer[..usize::try_from(end - start).unwrap_or(CHUNK)];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(chunk).await?;
        for (index, byte) in chunk.iter().enumerate().rev() {
            // The newline that ends the last line begins no further one.
            if *byte == b'\n' && !std::mem::replace(&mut last, false) {
                found += 1;
                if found == lines {
                    return Ok(start + index as u64 + 1);
                }
            }
            last = false;
        }
        end = start;
    }
    Ok(0)
}

struct Reader {
    file: File,
    limit: Option<u64>,
    follow: Option<Follow>,
    stopping: watch::Receiver<bool>,
    shared: std::sync::Arc<Shared>,
    /// The container has ended: read what is left, then stop.
    last_look: bool,
}

struct Follow {
    key: Key,
    uid: String,
    container: String,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.limit == Some(0) {
                return None;
            }
            let mut buffer = vec![0; CHUNK];
            let read = self.file.read(&mut buffer).await.ok()?;
            if read > 0 {
                buffer.truncate(self.limit.map_or(read, |limit| read.min(limit as usize)));
                if let Some(limit) = &mut self.limit {
                    *limit -= buffer.len() as u64;
                }
                return Some(buffer.into());
            }
            let follow = self.follow.as_ref()?;
            if self.last_look || *self.stopping.borrow() {
                return None;
            }
            if ended(&self.shared, follow) {
                self.last_look = true;
                continue;
            }
            tokio::select! {
                () = sleep(PERIOD) => {}
                _ = self.stopping.changed() => {}
            }
        }
    }
}

/// Whether a followed container will write no more.
fn ended(shared: &Shared, follow: &Follow) -> bool {
    let Some(pod) = shared.store.get("/pods", &follow.key) else { return true };
    if meta(&pod.value, "uid") != follow.uid {
        return true;
    }
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .flat_map(|field| list(&pod.value, &["status", field]))
        .any(|status| {
            text(status, &["name"]) == follow.container
                && status["state"].get("terminated").is_some()
        })
}
