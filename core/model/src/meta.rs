//! # Metadata of policy objects
//!
//! Job: which object (or built-in default) a route, server or backend came from, for labels and logs.
//! May touch: strings. Must not touch: Kubernetes objects. Callers: policies, metrics.

use std::sync::Arc;

/// The origin of a policy, route, backend or authorization.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Meta {
    /// Built in, known by name alone; labels are group "", kind "default".
    Default(Arc<str>),
    /// A cluster resource.
    Resource(Arc<Resource>),
}

/// A named cluster resource as the mesh API describes it (`meta.Resource`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// API group; `core` for the core group.
    pub group: String,
    /// Kind, in the case the API gave.
    pub kind: String,
    /// Namespace; empty in inbound metadata.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Section name, or empty.
    pub section: String,
    /// Port, 0 if none.
    pub port: u16,
}

impl Meta {
    /// A built-in origin.
    pub fn built_in(name: &str) -> Self {
        Self::Default(name.into())
    }

    /// API group; empty for built-ins.
    pub fn group(&self) -> &str {
        match self {
            Self::Default(_) => "",
            Self::Resource(r) => &r.group,
        }
    }

    /// Kind; `default` for built-ins.
    pub fn kind(&self) -> &str {
        match self {
            Self::Default(_) => "default",
            Self::Resource(r) => &r.kind,
        }
    }

    /// Name.
    pub fn name(&self) -> &str {
        match self {
            Self::Default(n) => n,
            Self::Resource(r) => &r.name,
        }
    }

    /// Namespace, or empty.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Default(_) => "",
            Self::Resource(r) => &r.namespace,
        }
    }
}
