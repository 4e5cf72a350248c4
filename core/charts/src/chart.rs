//! # A chart
//!
//! Job: a chart with values to objects, as `helm template` would make them.
//! May touch: text. Must not touch: files, clusters. Callers: the CLI's installs, the injector (parts).

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::{
    embedded::{File, PARTIALS},
    template::{Certificate, SelfSign, TemplateError, Templates},
    values, yaml,
};

/// A chart that is part of the program.
pub struct Chart {
    /// Its name.
    pub name: &'static str,
    pub(crate) files: &'static [File],
    pub(crate) values: &'static str,
    pub(crate) ha: &'static str,
}

/// What is installed where.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The namespace of the objects.
    pub namespace: &'a str,
    /// Who renders: `CLI`, or as helm has it.
    pub service: &'a str,
}

impl<'a> Release<'a> {
    /// A release by the command line.
    pub fn cli(namespace: &'a str) -> Self {
        Self { namespace, service: "CLI" }
    }
}

/// A chart that cannot be rendered with the values given.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A template fails, mostly because it refuses a value.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// What a template gives is not YAML: a value breaks it.
    #[error(
        "{file} does not give YAML with these values: {source}; look for a value with odd quotes or lines"
    )]
    Output {
        /// The template.
        file: String,
        /// Why.
        source: yaml::InvalidYaml,
    },
    /// A file of values that is part of the program is malformed; a test holds that it is not.
    #[error("the values of {chart} are malformed: {source}")]
    Values {
        /// The chart.
        chart: &'static str,
        /// Why.
        source: yaml::InvalidYaml,
    },
}

impl Chart {
    /// The chart's default values.
    ///
    /// # Errors
    /// When the embedded file is malformed.
    pub fn defaults(&self) -> Result<Value, RenderError> {
        self.read(self.values)
    }

    /// What `--ha` lays on the defaults.
    ///
    /// # Errors
    /// When the embedded file is malformed.
    pub fn high_availability(&self) -> Result<Value, RenderError> {
        self.read(self.ha)
    }

    /// The objects, in the chart's order. `values` are complete: the defaults with all that lies on them.
    /// `sign` makes certificates where the values bring none.
    ///
    /// # Errors
    /// When a template refuses a value or does not give YAML.
    pub fn render(
        &self,
        release: Release<'_>,
        values: &Value,
        sign: SelfSign<'_>,
    ) -> Result<Vec<Value>, RenderError> {
        let mut templates = Templates::default();
        for file in PARTIALS.iter().chain(self.files) {
            templates.add(file.path, file.text)?;
        }
        let mut objects = Vec::new();
        for file in self.files.iter().filter(|f| f.path.ends_with(".yaml")) {
            let dot = json!({
                "Values": values,
                "Release": {
                    "Name": self.name,
                    "Namespace": release.namespace,
                    "Service": release.service,
                },
                "Chart": { "Name": self.name, "Version": env!("CARGO_PKG_VERSION") },
                "Template": {
                    "Name": file.path,
                    "BasePath": format!("{}/templates", self.name),
                },
            });
            let text = templates.render(file.path, &dot, sign)?;
            let documents = yaml::parse_all(&text)
                .map_err(|source| RenderError::Output { file: file.path.to_owned(), source })?;
            objects.extend(documents);
        }
        Ok(objects)
    }

    fn read(&self, text: &str) -> Result<Value, RenderError> {
        let mut read = json!({});
        let parsed =
            yaml::parse(text).map_err(|source| RenderError::Values { chart: self.name, source })?;
        if !parsed.is_null() {
            values::merge(&mut read, &parsed);
        }
        Ok(read)
    }
}

/// Renders one of the shared parts (`partials.proxy`, `partials.proxy-init`, ...) to a value.
///
/// # Errors
/// When the part refuses a value or does not give YAML.
pub fn partial(name: &str, dot: &Value) -> Result<Value, RenderError> {
    static PARTS: OnceLock<Result<Templates, String>> = OnceLock::new();
    let parts = PARTS.get_or_init(|| {
        let mut templates = Templates::default();
        for file in PARTIALS {
            templates.add(file.path, file.text).map_err(|e| e.to_string())?;
        }
        Ok(templates)
    });
    let failed = |message: String| TemplateError { file: "partials".into(), line: 0, message };
    let parts = parts.as_ref().map_err(|message| failed(message.clone()))?;
    let text = parts.render(name, dot, &no_certificates)?;
    yaml::parse(&text).map_err(|source| RenderError::Output { file: name.to_owned(), source })
}

fn no_certificates(_: &str, _: &[String], _: u32) -> Result<Certificate, String> {
    Err("the shared parts make no certificates".to_owned())
}
