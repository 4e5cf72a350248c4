//! # Deployment rollouts, step by step
//!
//! Job: drives the planner over a small model of ReplicaSets until nothing is left to do.
//! May touch: values. Must not touch: the API. Callers: the test harness.

use super::*;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "echo", "namespace": "demo", "uid": "d1", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "echo"}},
            "template": {
                "metadata": {"labels": {"app": "echo"}},
                "spec": {"containers": [{"name": "app", "image": image}]},
            },
        },
    }))
    .unwrap()
}

/// A cluster of one Deployment, in which every Pod is ready as soon as it is wanted.
struct Model {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    least_serving: i32,
    most_pods: i32,
}

impl Model {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), least_serving: i32::MAX, most_pods: 0 }
    }

    fn settle(&mut self) -> usize {
        for step in 0..100 {
            let plan = plan(&self.deployment, &self.sets, Timestamp::UNIX_EPOCH);
            if plan == Plan::default() {
                return step;
            }
            self.apply(plan);
            self.run_pods();
            self.least_serving =
                self.least_serving.min(self.sets.iter().map(|r| available(r)).sum());
            self.most_pods = self.most_pods.max(self.sets.iter().map(|r| size(r)).sum());
        }
        panic!("the rollout does not settle");
    }

    fn apply(&mut self, plan: Plan) {
        if let Some(mut rs) = plan.create {
            rs.metadata.uid = rs.metadata.name.clone();
            self.sets.push(Arc::new(*rs));
        }
        for (name, size) in plan.scale {
            self.edit(&name, |rs| rs.spec.as_mut().unwrap().replicas = Some(size));
        }
        if let Some((name, annotations)) = plan.annotate {
            self.edit(&name, |rs| rs.metadata.annotations = Some(annotations));
        }
        self.sets.retain(|rs| !plan.delete.contains(&rs.name_any()));
        if let Some(revision) = plan.revision {
            self.deployment.annotations_mut().insert(REVISION.into(), revision);
        }
        if let Some(status) = plan.status {
            self.deployment.status = Some(status);
        }
    }

    fn edit(&mut self, name: &str, change: impl FnOnce(&mut ReplicaSet)) {
        let rs = self.sets.iter_mut().find(|rs| rs.name_any() == name).unwrap();
        change(Arc::make_mut(rs));
    }

    fn run_pods(&mut self) {
        for rs in &mut self.sets {
            let n = size(rs);
            let rs = Arc::make_mut(rs);
            rs.status = Some(ReplicaSetStatus {
                replicas: n,
                ready_replicas: Some(n),
                available_replicas: Some(n),
                ..Default::default()
            });
        }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }
}

#[test]
fn a_first_rollout_creates_one_replica_set() {
    let mut model = Model::new(deployment(3, "a"));
    model.settle();
    assert_eq!(model.sets.len(), 1);
    let rs = &model.sets[0];
    let hash = &rs.metadata.labels.as_ref().unwrap()[HASH];
    assert_eq!(rs.name_any(), format!("echo-{hash}"));
    assert_eq!(rs.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()[HASH], *hash);
    assert_eq!(model.deployment.annotations()[REVISION], "1");
    let status = model.deployment.status.as_ref().unwrap();
    assert_eq!((status.updated_replicas, status.available_replicas), (Some(3), Some(3)));
    let progressing =
        status.conditions.iter().flatten().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable"));
}

#[test]
fn a_rolling_update_stays_within_its_bounds() {
    let mut model = Model::new(deployment(4, "a"));
    model.settle();
    model.least_serving = i32::MAX;
    model.most_pods = 0;
    model.set_image("b");
    model.settle();
    assert_eq!(model.deployment.annotations()[REVISION], "2");
    assert!(model.least_serving >= 3, "{}", model.least_serving);
    assert!(model.most_pods <= 5, "{}", model.most_pods);
    assert_eq!(model.sets.iter().map(|rs| size(rs)).collect::<Vec<_>>(), [0, 4]);
}

#[test]
fn going_back_reuses_the_old_set_with_a_new_revision() {
    let mut model = Model::new(deployment(1, "a"));
    model.settle();
    model.set_image("b");
    model.settle();
    model.set_image("a");
    model.settle();
    assert_eq!(model.sets.len(), 2);
    assert_eq!(model.deployment.annotations()[REVISION], "3");
    assert_eq!(size(&model.sets[0]), 1);
}

#[test]
fn recreate_waits_for_the_old_pods_to_end() {
    let mut d = deployment(2, "a");
    d.spec.as_mut().unwrap().strategy =
        Some(serde_json::from_value(serde_json::json!({"type": "Recreate"})).unwrap());
    let mut model = Model::new(d);
    model.settle();
    model.set_image("b");
    model.most_pods = 0;
    model.settle();
    assert_eq!(model.most_pods, 2);
    assert_eq!(size(&model.sets[1]), 2);
}

#[test]
fn history_beyond_the_limit_is_deleted() {
    let mut d = deployment(1, "a");
    d.spec.as_mut().unwrap().revision_history_limit = Some(1);
    let mut model = Model::new(d);
    for image in ["b", "c", "d", "e"] {
        model.settle();
        model.set_image(image);
    }
    model.settle();
    assert_eq!(model.sets.len(), 2, "the current one and one old one");
}

#[test]
fn scaling_touches_only_the_current_set() {
    let mut model = Model::new(deployment(1, "a"));
    model.settle();
    model.deployment.spec.as_mut().unwrap().replicas = Some(0);
    model.settle();
    assert_eq!(size(&model.sets[0]), 0);
    assert_eq!(model.deployment.annotations()[REVISION], "1");
}
