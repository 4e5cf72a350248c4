//! # Templates
//!
//! Job: the subset of Go's template language that the charts use: what Helm does for each construct here is
//! what happens, everything else is an error that says so.
//! May touch: text and values. Must not touch: files, clusters. Callers: `chart`, the injector by way of it.

mod eval;
pub(crate) mod functions;
mod parse;
mod scan;

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

pub use functions::{Certificate, NAMES as FUNCTIONS};
use parse::Node;

/// A template that cannot be parsed or rendered. Shown as `file:line: what, and what to do`.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct TemplateError {
    /// The template's file.
    pub file: Arc<str>,
    /// The line in it, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// Makes a self-signed certificate: (common name, DNS names, days) to PEM.
pub type SelfSign<'a> = &'a (dyn Fn(&str, &[String], u32) -> Result<Certificate, String> + Sync);

/// Templates by name: files under their path, and what they define.
#[derive(Debug, Default)]
pub struct Templates {
    named: HashMap<String, Arc<Body>>,
}

/// A parsed template.
#[derive(Debug)]
struct Body {
    file: Arc<str>,
    nodes: Vec<Node>,
}

impl Templates {
    /// Adds a file under its name, with all that it defines.
    ///
    /// # Errors
    /// When the text is not a template of the subset.
    pub fn add(&mut self, file: &str, text: &str) -> Result<(), TemplateError> {
        let name: Arc<str> = file.into();
        let parsed = parse::parse(&name, text)?;
        for (defined, nodes) in parsed.defined {
            self.named.insert(defined, Arc::new(Body { file: name.clone(), nodes }));
        }
        self.named.insert(file.to_owned(), Arc::new(Body { file: name, nodes: parsed.nodes }));
        Ok(())
    }

    /// Renders the named template with `dot` as its `.` and `$`.
    ///
    /// # Errors
    /// When there is no such template or it fails; names the file and line of the cause.
    pub fn render(
        &self,
        name: &str,
        dot: &Value,
        sign: SelfSign<'_>,
    ) -> Result<String, TemplateError> {
        eval::render(self, name, dot, sign)
    }
}

#[cfg(test)]
mod tests;
