//! # Mounts
//!
//! Job: fills a Pod's volumes before its containers start and keeps them up to date: ConfigMaps, Secrets, the
//! downward API, tokens that are renewed in time.
//! May touch: the Pod's folder, token requests. Must not touch: containers. Callers: the Pod's task.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Pod, ServiceAccount, Volume},
    },
    jiff::Timestamp,
};
use kube::{Api, ResourceExt, api::PostParams};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    PodSources,
    env::account,
    pod::{PodTask, RETRY},
    volumes::{self, Rendering, TokenWish, token_wishes},
};

/// A token and when to get the next one.
pub(crate) type Tokens = BTreeMap<TokenWish, (String, Instant)>;

impl PodTask {
    /// Fills the volumes; waits for what is missing.
    pub(crate) async fn mount(&self, tokens: &mut Tokens) {
        let mut told = String::new();
        loop {
            let mut changes = self.agent.changes.subscribe();
            let problem = match self.render(tokens).await {
                Ok(()) => return,
                Err(problem) => problem,
            };
            if problem != told {
                let pod = self.current();
                self.agent.events.report(&pod, None, "Warning", "FailedMount", problem.clone());
                told = problem;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    /// Keeps the volumes up to date. Never ends.
    pub(crate) async fn refresh(&self, mut tokens: Tokens) {
        let mut pods = self.pod.clone();
        let mut changes = self.agent.changes.subscribe();
        loop {
            let next = tokens.values().map(|(_, at)| *at).min();
            let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                _ = changes.changed() => {}
                changed = pods.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
            if let Err(problem) = self.render(&mut tokens).await {
                // What was mounted stays until its successor is complete.
                tracing::debug!(problem, "volumes are not refreshed");
                sleep(RETRY).await;
            }
        }
    }

    async fn render(&self, tokens: &mut Tokens) -> Result<(), String> {
        let pod = self.current();
        let volumes = volumes::volumes(&pod, self.agent.automounts(&pod));
        self.issue(&pod, &volumes, tokens).await?;
        let plain: BTreeMap<_, _> =
            tokens.iter().map(|(wish, (token, _))| (wish.clone(), token.clone())).collect();
        let sources = PodSources::of(&self.agent, &pod);
        let rendering =
            Rendering { pod: &pod, place: &self.place, sources: &sources, tokens: &plain };
        for volume in &volumes {
            let dir = self.dir.join("volumes").join(&volume.name);
            let failed = |e: std::io::Error| format!("volume {:?}: {e}", volume.name);
            match rendering.files(volume) {
                Ok(Some(files)) => volumes::write(&dir, &files).map_err(failed)?,
                Ok(None) => std::fs::create_dir_all(&dir).map_err(failed)?,
                Err(missing) => {
                    return Err(format!(
                        "MountVolume.SetUp failed for volume {:?}: {missing}",
                        volume.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Requests the tokens that are missing or have lived through four fifths of their time.
    async fn issue(
        &self,
        pod: &Pod,
        volumes: &[Volume],
        tokens: &mut Tokens,
    ) -> Result<(), String> {
        let api: Api<ServiceAccount> =
            Api::namespaced(self.agent.client.clone(), &pod.namespace().unwrap_or_default());
        for wish in token_wishes(volumes) {
            if tokens.get(&wish).is_some_and(|(_, next)| *next > Instant::now()) {
                continue;
            }
            let request = TokenRequest {
                spec: TokenRequestSpec {
                    audiences: wish.audience.clone().into_iter().collect(),
                    expiration_seconds: Some(wish.expiration_seconds),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".to_owned()),
                        kind: Some("Pod".to_owned()),
                        name: pod.metadata.name.clone(),
                        uid: pod.metadata.uid.clone(),
                    }),
                },
                ..Default::default()
            };
            let issued =
                api.create_token_request(&account(pod), &PostParams::default(), &request).await;
            let issued = issued.map_err(|e| format!("failed to fetch token: {e}"))?;
            let status = issued.status.ok_or("the token request has no answer")?;
            let life = status.expiration_timestamp.0.duration_since(Timestamp::now());
            let life = Duration::try_from(life).unwrap_or(Duration::from_secs(60));
            tokens.insert(wish, (status.token, Instant::now() + life.mul_f64(0.8)));
        }
        Ok(())
    }
}
