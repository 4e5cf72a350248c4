//! # Events
//!
//! Job: write a Kubernetes Event about an object, best effort.
//! May touch: the Kubernetes API (core/v1 events, which link credentials may create). Must not touch:
//! anything that depends on the Event having been written.
//! Callers: identity, injector, mirror.

use crate::{Error, apply::DEADLINE, within};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};

/// What to tell.
#[derive(Clone, Debug)]
pub struct Note {
    /// The object that it is about.
    pub about: ObjectReference,
    /// `true`: type `Warning`, else `Normal`.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// `source.component`.
    pub component: String,
}

/// Writes the Event into the object's namespace (`default` for objects without one).
///
/// # Errors
/// The API server's refusal, a transport error, or no answer in 10 s.
pub async fn record(client: &Client, note: Note) -> Result<(), Error> {
    let now = Timestamp::now();
    let namespace = note.about.namespace.clone().unwrap_or_else(|| "default".into());
    let name = note.about.name.clone().unwrap_or_default();
    let event = Event {
        metadata: ObjectMeta {
            // client-go's naming: the object and the time in hexadecimal nanoseconds.
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: note.about,
        reason: Some(note.reason),
        message: Some(note.message),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(note.component), host: None }),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    within(DEADLINE, api.create(&PostParams::default(), &event)).await.map(|_| ())
}

/// Writes the Event; a failure is logged alone. A role that lacks the right is for the operator to mend and
/// is a warning; anything else passes.
pub async fn tell(client: &Client, note: Note) {
    if let Err(error) = record(client, note).await {
        match error.is_denied() {
            true => tracing::warn!(%error, "Event not written"),
            false => tracing::debug!(%error, "Event not written"),
        }
    }
}
