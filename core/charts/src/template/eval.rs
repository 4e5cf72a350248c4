//! # Evaluator
//!
//! Job: a parsed template and a value to text.
//! May touch: values. Must not touch: files, clusters. Callers: `template`.

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;

use super::{
    SelfSign, TemplateError, Templates,
    functions::{self, truth},
    parse::{Command, Node, Operand, Pipeline},
};

/// Deeper than any chart nests its templates; a template that includes itself ends here.
const DEPTH: usize = 40;

type Result<T> = std::result::Result<T, TemplateError>;

/// Renders a named template.
pub(super) fn render(
    templates: &Templates,
    name: &str,
    dot: &Value,
    sign: SelfSign<'_>,
) -> Result<String> {
    let at = Place { file: name.into(), line: 0 };
    invoke(templates, sign, name, dot, 0, &at)
}

/// Where an error is reported.
struct Place {
    file: Arc<str>,
    line: usize,
}

impl Place {
    fn error(&self, message: impl Into<String>) -> TemplateError {
        TemplateError { file: self.file.clone(), line: self.line, message: message.into() }
    }
}

fn invoke(
    templates: &Templates,
    sign: SelfSign<'_>,
    name: &str,
    dot: &Value,
    depth: usize,
    caller: &Place,
) -> Result<String> {
    let body = templates
        .named
        .get(name)
        .ok_or_else(|| caller.error(format!("there is no template `{name}`")))?;
    if depth > DEPTH {
        return Err(caller.error(format!("template `{name}` is nested more than {DEPTH} deep")));
    }
    let mut run = Run {
        templates,
        sign,
        file: &body.file,
        depth,
        root: dot,
        variables: Vec::new(),
        out: String::new(),
    };
    run.nodes(&body.nodes, dot)?;
    Ok(run.out)
}

struct Run<'a> {
    templates: &'a Templates,
    sign: SelfSign<'a>,
    file: &'a Arc<str>,
    depth: usize,
    root: &'a Value,
    /// Innermost last. A block cuts the list back to where it began.
    variables: Vec<(String, Value)>,
    out: String,
}

impl<'a> Run<'a> {
    fn place(&self, line: usize) -> Place {
        Place { file: self.file.clone(), line }
    }

    /// A block: what it declares ends with it.
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        let known = self.variables.len();
        let done = nodes.iter().try_for_each(|node| self.node(node, dot));
        self.variables.truncate(known);
        done
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<()> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Emit(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                let text = functions::display(&value)
                    .map_err(|message| self.place(pipeline.line).error(message))?;
                self.out.push_str(&text);
            }
            Node::Set { name, declare, value } => self.set(name, *declare, value, dot)?,
            Node::If { test, then, otherwise } => {
                let branch = if truth(&*self.pipeline(test, dot)?) { then } else { otherwise };
                self.nodes(branch, dot)?;
            }
            Node::With { name, value, then, otherwise } => {
                let inner = self.pipeline(value, dot)?.into_owned();
                if !truth(&inner) {
                    return self.nodes(otherwise, dot);
                }
                let known = self.variables.len();
                if let Some(name) = name {
                    self.variables.push((name.clone(), inner.clone()));
                }
                let done = self.nodes(then, &inner);
                self.variables.truncate(known);
                done?;
            }
            Node::Range { key, item, over, body, otherwise } => {
                self.range(key.as_deref(), item.as_deref(), over, (body, otherwise), dot)?;
            }
            Node::Template { name, dot: given, line } => {
                let value = match given {
                    Some(pipeline) => self.pipeline(pipeline, dot)?.into_owned(),
                    None => Value::Null,
                };
                let at = self.place(*line);
                let text = invoke(self.templates, self.sign, name, &value, self.depth + 1, &at)?;
                self.out.push_str(&text);
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, declare: bool, value: &Pipeline, dot: &Value) -> Result<()> {
        let computed = self.pipeline(value, dot)?.into_owned();
        if declare {
            self.variables.push((name.to_owned(), computed));
            return Ok(());
        }
        match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            Some((_, slot)) => *slot = computed,
            None => {
                let message = format!("${name} is assigned but not declared; write :=");
                return Err(self.place(value.line).error(message));
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        key: Option<&str>,
        item: Option<&str>,
        over: &Pipeline,
        (body, otherwise): (&[Node], &[Node]),
        dot: &Value,
    ) -> Result<()> {
        let entries: Vec<(Value, Value)> = match self.pipeline(over, dot)?.into_owned() {
            Value::Null => Vec::new(),
            Value::Array(items) => {
                items.into_iter().enumerate().map(|(n, v)| (Value::from(n), v)).collect()
            }
            Value::Object(map) => {
                let mut pairs: Vec<_> = map.into_iter().collect();
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                pairs.into_iter().map(|(k, v)| (Value::from(k), v)).collect()
            }
            other => {
                let message = format!("`range` needs a list or a map, not `{other}`");
                return Err(self.place(over.line).error(message));
            }
        };
        if entries.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (k, v) in entries {
            let known = self.variables.len();
            if let Some(name) = key {
                self.variables.push((name.to_owned(), k));
            }
            if let Some(name) = item {
                self.variables.push((name.to_owned(), v.clone()));
            }
            let done = self.nodes(body, &v);
            self.variables.truncate(known);
            done?;
        }
        Ok(())
    }

    fn pipeline<'v>(&'v self, pipeline: &'v Pipeline, dot: &'v Value) -> Result<Cow<'v, Value>> {
        let mut last: Option<Cow<'v, Value>> = None;
        for command in &pipeline.commands {
            last = Some(match command {
                Command::Value(operand) => self.operand(operand, pipeline.line, dot)?,
                Command::Call { function, arguments } => {
                    self.call(function, arguments, last.take(), pipeline.line, dot)?
                }
            });
        }
        last.ok_or_else(|| self.place(pipeline.line).error("an empty pipeline"))
    }

    fn call<'v>(
        &'v self,
        function: &str,
        arguments: &'v [Operand],
        piped: Option<Cow<'v, Value>>,
        line: usize,
        dot: &'v Value,
    ) -> Result<Cow<'v, Value>> {
        let mut values: Vec<Cow<'v, Value>> = Vec::with_capacity(arguments.len() + 1);
        // `and` and `or` stop at the value that decides, as Go's do.
        let decides = |value: &Value| match function {
            "and" => !truth(value),
            "or" => truth(value),
            _ => false,
        };
        for argument in arguments {
            let value = self.operand(argument, line, dot)?;
            if decides(&value) {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(piped);
        if matches!(function, "and" | "or") {
            return values
                .into_iter()
                .last()
                .ok_or_else(|| self.place(line).error(format!("`{function}` needs a value")));
        }
        let at = self.place(line);
        if function == "include" {
            let [name, inner] = values.as_slice() else {
                return Err(at.error("`include` takes a name and a value"));
            };
            let name = name.as_str().ok_or_else(|| at.error("`include` needs a name first"))?;
            let text = invoke(self.templates, self.sign, name, inner, self.depth + 1, &at)?;
            return Ok(Cow::Owned(text.into()));
        }
        functions::call(function, &values, self.sign)
            .map(Cow::Owned)
            .map_err(|message| at.error(format!("{function}: {message}")))
    }

    fn operand<'v>(
        &'v self,
        operand: &'v Operand,
        line: usize,
        dot: &'v Value,
    ) -> Result<Cow<'v, Value>> {
        match operand {
            Operand::Literal(value) => Ok(Cow::Borrowed(value)),
            Operand::Dot(path) => self.fields(dot, path, line, false).map(Cow::Borrowed),
            Operand::Variable(name, path) if name.is_empty() => {
                self.fields(self.root, path, line, false).map(Cow::Borrowed)
            }
            Operand::Variable(name, path) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = found
                    .ok_or_else(|| self.place(line).error(format!("there is no ${name} here")))?;
                self.fields(value, path, line, false).map(Cow::Borrowed)
            }
            Operand::Group(pipeline, path) => match self.pipeline(pipeline, dot)? {
                Cow::Borrowed(value) => self.fields(value, path, line, true).map(Cow::Borrowed),
                Cow::Owned(value) if path.is_empty() => Ok(Cow::Owned(value)),
                Cow::Owned(value) => {
                    self.fields(&value, path, line, true).map(|v| Cow::Owned(v.clone()))
                }
            },
        }
    }

    /// Follows a path. A missing last name is null; a name of null is an error unless `lenient`, as in Go.
    fn fields<'v>(
        &self,
        from: &'v Value,
        path: &[String],
        line: usize,
        lenient: bool,
    ) -> Result<&'v Value> {
        let mut value = from;
        for (n, name) in path.iter().enumerate() {
            value = match value {
                Value::Object(map) => map.get(name).unwrap_or(&Value::Null),
                Value::Null if lenient => &Value::Null,
                other => {
                    let kind = if other.is_null() { "not set" } else { "not a map" };
                    let before = path[..n].join(".");
                    return Err(self.place(line).error(format!(
                        ".{before} is {kind}, so it has no .{name}; set it in the values"
                    )));
                }
            };
        }
        Ok(value)
    }
}
