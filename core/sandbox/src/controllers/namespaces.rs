//! # Namespaces
//!
//! Job: gives each namespace its default ServiceAccount and the ConfigMap with the certificate authority, and
//! empties a namespace that is being deleted.
//! May touch: the API. Must not touch: what the contents mean. Callers: the controllers' workers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    core::ObjectMeta,
    discovery::{Discovery, Scope, verbs},
};

use super::{Controllers, Key, settled, wiring::ROOT_CA};

/// Pause between two looks at a namespace whose contents take their time (Pods with a grace period).
const EMPTYING: Duration = Duration::from_millis(50);

impl Controllers {
    /// Brings a namespace to what its phase asks for.
    pub(crate) async fn namespace(self: &Arc<Self>, name: &str) -> Result<(), kube::Error> {
        let (namespace, account, root_ca) = {
            let world = self.world.lock();
            (
                world.namespaces.get("", name).cloned(),
                world.accounts.get(name, "default").is_some(),
                world.config_maps.get(name, ROOT_CA).is_some(),
            )
        };
        let Some(namespace) = namespace else { return Ok(()) };
        if namespace.metadata.deletion_timestamp.is_some() {
            return self.empty(name).await;
        }
        let meta = |object: &str| ObjectMeta {
            name: Some(object.to_owned()),
            namespace: Some(name.to_owned()),
            ..Default::default()
        };
        if !account {
            let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), name);
            let account = ServiceAccount { metadata: meta("default"), ..Default::default() };
            settled(api.create(&PostParams::default(), &account).await, &[403, 404, 409])?;
        }
        if !root_ca {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), name);
            let data = BTreeMap::from([("ca.crt".to_owned(), self.config.ca_pem.clone())]);
            let map = ConfigMap { metadata: meta(ROOT_CA), data: Some(data), ..Default::default() };
            settled(api.create(&PostParams::default(), &map).await, &[403, 404, 409])?;
        }
        Ok(())
    }

    async fn empty(self: &Arc<Self>, name: &str) -> Result<(), kube::Error> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        let mut left = 0;
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                let fits = capabilities.scope == Scope::Namespaced
                    && capabilities.supports_operation(verbs::LIST)
                    && capabilities.supports_operation(verbs::DELETE);
                // Events expire by themselves, but they, too, belong to the namespace.
                if !fits {
                    continue;
                }
                let api: Api<DynamicObject> =
                    Api::namespaced_with(self.client.clone(), name, &resource);
                left += self.empty_of(&api).await?;
            }
        }
        if left > 0 {
            self.queue.touch_after(Key::Namespace(name.to_owned()), EMPTYING);
            return Ok(());
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let Some(mut namespace) = settled(api.get(name).await, &[404])? else { return Ok(()) };
        let spec = namespace.spec.get_or_insert_default();
        spec.finalizers.get_or_insert_default().retain(|f| f != "kubernetes");
        let params = PostParams::default();
        settled(api.replace_subresource("finalize", name, &params, &namespace).await, &[404])?;
        Ok(())
    }

    /// Deletes all objects of one kind; gives how many were there.
    async fn empty_of(&self, api: &Api<DynamicObject>) -> Result<usize, kube::Error> {
        let Some(list) = settled(api.list(&ListParams::default()).await, &[404, 405])? else {
            return Ok(0);
        };
        for object in &list.items {
            if object.metadata.deletion_timestamp.is_none()
                && let Some(name) = &object.metadata.name
            {
                settled(api.delete(name, &DeleteParams::background()).await, &[404, 409])?;
            }
        }
        Ok(list.items.len())
    }
}
