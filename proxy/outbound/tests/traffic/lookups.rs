//! # Look-ups
//!
//! Job: a question to discovery ends, however it ends, also when nobody waits for it any more.
//! Must not touch: anything but memory.

use crate::{faults::NAME, harness::*};
use mesh_discover::State;
use mesh_model::{authority::Authority, profile::Profile};
use tokio::sync::watch;

#[tokio::test(start_paused = true)]
async fn a_look_up_that_nobody_waits_for_ends_and_leaves_nothing_behind() {
    let profile = Profile { fqn: NAME.trim_end_matches(":80").parse().ok(), ..Profile::default() };
    // Silence, an answer and a refusal, each after everybody left.
    for answer in [None, Some(State::Known(profile)), Some(State::Refused(missing()))] {
        let rig = Rig::new();
        let asked = watch::channel(State::Pending).0;
        rig.known.profiles.lock().unwrap().insert(NAME.into(), asked.clone());
        let target = Authority::Name(NAME.parse().unwrap());
        let askers = [(); 2].map(|()| {
            let (outbound, target) = (rig.outbound.clone(), target.clone());
            tokio::spawn(async move { outbound.target(&target).await.map(drop) })
        });
        until("the question", || asked.receiver_count() > 0).await;
        assert_eq!(asked.receiver_count(), 1, "one question for all");
        for asker in askers {
            asker.abort();
            assert!(asker.await.unwrap_err().is_cancelled());
        }
        let case = format!("{answer:?}");
        answer.map(|answer| asked.send_replace(answer));
        until(&format!("nobody listens any more: {case}"), || asked.receiver_count() == 0).await;
        rig.known.service(NAME, false, plain(([127, 0, 0, 1], 1).into()));
        assert!(rig.outbound.target(&target).await.is_ok(), "asked anew: {case}");
    }
}
