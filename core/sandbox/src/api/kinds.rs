//! # Rules of kinds
//!
//! Job: what a kind adds to the common path of every object: defaults, validation, admission at creation. One row a kind.
//! May touch: objects; admission may read the store. Must not touch: requests.
//! Callers: `registry`, `decode`, `write`.

pub(crate) mod account;
pub(crate) mod definition;
pub(crate) mod events;
mod names;
mod plain;
pub(crate) mod pod;
pub(crate) mod scale;
pub(crate) mod service;
mod workload;

use serde_json::{Map, Value};

pub(crate) use self::names::{dns_label, dns_subdomain, generate_name};
use super::{
    shared::Shared,
    status::{ApiError, FieldError},
};

/// The rules of one kind.
#[derive(Debug)]
pub(crate) struct Strategy {
    /// Fills what a client sees although it did not say it.
    pub(crate) default: fn(&mut Map<String, Value>),
    /// Breaches of the kind's rules by a new version, given the old.
    pub(crate) validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
    /// Breaches of the kind's rules by a new status.
    pub(crate) validate_status: fn(&Value) -> Vec<FieldError>,
    /// Built-in admission of a new object, before webhooks.
    pub(crate) admit: fn(&Shared, &mut Value) -> Result<(), ApiError>,
    /// Writes of the object leave its status, and the other way round.
    pub(crate) status: bool,
    /// `metadata.generation` counts changes of what is asked for.
    pub(crate) generation: bool,
    /// Names must be DNS labels, DNS subdomains, or anything that fits a path.
    pub(crate) name: fn(&str) -> Option<&'static str>,
}

const BASE: Strategy = Strategy {
    default: |_| {},
    validate: |_, _| Vec::new(),
    validate_status: |_| Vec::new(),
    admit: |_, _| Ok(()),
    status: false,
    generation: false,
    name: dns_subdomain,
};

pub(crate) static PLAIN: Strategy = BASE;
pub(crate) static STATUSFUL: Strategy = Strategy { status: true, ..BASE };
pub(crate) static CUSTOM: Strategy = Strategy { generation: true, ..BASE };
pub(crate) static CUSTOM_STATUS: Strategy = Strategy { status: true, generation: true, ..BASE };
pub(crate) static NAMESPACE: Strategy = Strategy {
    default: plain::namespace,
    admit: plain::hold_namespace,
    status: true,
    name: dns_label,
    ..BASE
};
pub(crate) static SECRET: Strategy = Strategy {
    default: plain::secret,
    validate: plain::validate_secret,
    admit: account::fill_token,
    ..BASE
};
pub(crate) static ENDPOINT_SLICE: Strategy = Strategy {
    default: plain::endpoint_slice,
    validate: plain::validate_endpoint_slice,
    generation: true,
    ..BASE
};
pub(crate) static ROLE: Strategy =
    Strategy { default: plain::role, name: names::path_segment, ..BASE };
pub(crate) static ROLE_BINDING: Strategy = Strategy {
    default: plain::role_binding,
    validate: plain::validate_role_binding,
    name: names::path_segment,
    ..BASE
};
pub(crate) static WEBHOOK: Strategy = Strategy {
    default: plain::webhook,
    validate: plain::validate_webhook,
    generation: true,
    ..BASE
};
pub(crate) static SERVICE: Strategy = Strategy {
    default: service::default,
    validate: service::validate,
    validate_status: service::validate_status,
    status: true,
    name: names::dns_label_1035,
    ..BASE
};
pub(crate) static POD: Strategy = Strategy {
    default: pod::default,
    validate: pod::validate,
    admit: pod::admit,
    status: true,
    generation: true,
    ..BASE
};
pub(crate) static DEPLOYMENT: Strategy = Strategy {
    default: workload::deployment,
    validate: workload::validate,
    status: true,
    generation: true,
    ..BASE
};
pub(crate) static REPLICA_SET: Strategy = Strategy {
    default: workload::replica_set,
    validate: workload::validate,
    status: true,
    generation: true,
    ..BASE
};
pub(crate) static WORKLOAD: Strategy =
    Strategy { default: workload::template, status: true, generation: true, ..BASE };
pub(crate) static DEFINITION: Strategy = Strategy {
    default: definition::default,
    validate: definition::validate,
    status: true,
    generation: true,
    ..BASE
};

/// A random (version 4) UUID.
pub(crate) fn new_uid() -> String {
    let bits: u128 = rand::random();
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
