//! # Charts
//!
//! Job: render the Helm charts of `deploy/charts`, which are embedded, without helm: a small closed subset
//! of Go templates, Helm's rules for values, YAML in and out.
//! May touch: text. Must not touch: files, the network, clusters. Callers: CLI, injector.

mod chart;
mod embedded;
pub mod template;
pub mod values;
pub mod yaml;

pub use chart::{Chart, Release, RenderError, partial};
pub use embedded::{CNI, CONTROL_PLANE, CRDS, MULTICLUSTER};
pub use template::Certificate;
