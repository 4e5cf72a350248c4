//! # Bytes toward a target
//!
//! Job: carry one connection whose bytes are not looked at to an endpoint.
//! May touch: two streams. Must not touch: what flows. Callers: `sidecar`, `explicit`, the gateway.

mod balance;

pub(crate) use balance::TcpBalancer;

use crate::{
    error::TcpError,
    sidecar::Outbound,
    target::{Backend, Choice, Target},
};
use mesh_stack::io::{self, Io};
use std::sync::Arc;

impl Outbound {
    /// Connects to an endpoint of `target` and carries bytes both ways until both have ended.
    ///
    /// # Errors
    /// When no endpoint can be reached, the policy forbids it, or a side breaks.
    pub async fn tcp(&self, target: &Target, io: impl Io) -> Result<(), TcpError> {
        let backend = pick(&target.active().opaque)?;
        let endpoint = backend.tcp().connect().await?;
        // The balancer is needed no more, and an eviction of the target shall not wait for this.
        drop(backend);
        io::copy(io, endpoint).await.map_err(TcpError::Io)
    }
}

fn pick(choice: &Choice) -> Result<Arc<Backend>, TcpError> {
    match choice {
        Choice::None => Err(TcpError::NoRoute),
        Choice::Forbidden(by) => Err(TcpError::Forbidden(by.clone())),
        Choice::Invalid(reason) => Err(TcpError::InvalidPolicy(reason.clone())),
        Choice::First(_) | Choice::Split(_) => {
            choice.pick(Backend::takes_tcp).cloned().ok_or(TcpError::NoRoute)
        }
    }
}
