//! # Polling
//!
//! Job: asks a URL again and again and tells each change of the answer with the time at which it came, so that
//! somebody else can lay it beside what was done to the cluster.
//! May touch: [`crate::client`], the clock. Callers: `program`.

use crate::client::{Client, Target};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The status of an answer, or the kind of failure.
async fn ask(client: &mut Client) -> String {
    match client.get().await {
        Ok(answer) => answer.status.as_u16().to_string(),
        Err(error) => error.kind().to_owned(),
    }
}

/// Asks `target` every `period` and hands each change to `tell` as `<milliseconds since 1970> <answer>`. Each question
/// has a connection of its own if `fresh`.
pub async fn changes(target: Target, period: Duration, fresh: bool, mut tell: impl FnMut(String)) {
    let mut client = Client::new(target.clone());
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut last = String::new();
    loop {
        tick.tick().await;
        if fresh {
            client = Client::new(target.clone());
        }
        let answer = ask(&mut client).await;
        if answer != last {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            tell(format!("{} {answer}", now.as_millis()));
            last = answer;
        }
    }
}
