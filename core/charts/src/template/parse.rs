//! # Parser
//!
//! Job: a template's text to a tree. White-space trimming happens here.
//! May touch: text. Callers: `template`.

use std::sync::Arc;

use serde_json::Value;

use super::{
    TemplateError,
    functions::NAMES,
    scan::{Token, scan},
};

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Emit(Pipeline),
    /// `$name := pipeline`, or `=` if not declaring.
    Set {
        name: String,
        declare: bool,
        value: Pipeline,
    },
    If {
        test: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        name: Option<String>,
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        key: Option<String>,
        item: Option<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Template {
        name: String,
        dot: Option<Pipeline>,
        line: usize,
    },
}

/// Commands whose results feed the next one's last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) line: usize,
    pub(super) commands: Vec<Command>,
}

/// A function call, or a value.
#[derive(Debug)]
pub(super) enum Command {
    Call { function: String, arguments: Vec<Operand> },
    Value(Operand),
}

/// An argument.
#[derive(Debug)]
pub(super) enum Operand {
    Literal(Value),
    /// `.a.b`
    Dot(Vec<String>),
    /// `$x.a.b`
    Variable(String, Vec<String>),
    /// `(pipeline).a.b`
    Group(Pipeline, Vec<String>),
}

/// A parsed file.
pub(super) struct Parsed {
    pub(super) nodes: Vec<Node>,
    pub(super) defined: Vec<(String, Vec<Node>)>,
}

/// Parses a file.
pub(super) fn parse(file: &Arc<str>, text: &str) -> Result<Parsed, TemplateError> {
    let mut parser = Parser { pieces: pieces(file, text)?, at: 0, file, defined: Vec::new() };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(Parsed { nodes, defined: parser.defined }),
        Some(end) => Err(parser.error(end.line, format!("`{}` without a beginning", end.word))),
    }
}

enum Piece {
    Text(String),
    Action { line: usize, tokens: Vec<Token> },
}

/// Cuts the text at its actions, trims what `{{-` and `-}}` ask for, drops comments.
fn pieces(file: &Arc<str>, text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let mut trim_next = false;
    let error = |line, message: String| TemplateError { file: file.clone(), line, message };
    while let Some(open) = rest.find("{{") {
        let (before, action) = rest.split_at(open);
        line += before.matches('\n').count();
        let action = &action[2..];
        let trim_before = action.starts_with("- ") || action.starts_with("-\n");
        let inner = if trim_before { &action[1..] } else { action };
        let end = end_of_action(inner)
            .ok_or_else(|| error(line, "this action is not closed with `}}`".to_owned()))?;
        let after = &inner[end + 2..];
        let body = &inner[..end];
        let trim_after = body.ends_with(" -") || body.ends_with("\n-") || body.ends_with("*/-");
        let body = if trim_after { &body[..body.len() - 1] } else { body };
        push_text(&mut pieces, before, trim_next, trim_before);
        trim_next = trim_after;
        let body_trimmed = body.trim();
        if !(body_trimmed.starts_with("/*") && body_trimmed.ends_with("*/")) {
            let tokens = scan(body).map_err(|message| error(line, message))?;
            pieces.push(Piece::Action { line, tokens });
        }
        line += body.matches('\n').count();
        rest = after;
    }
    push_text(&mut pieces, rest, trim_next, false);
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str, start: bool, end: bool) {
    let text = if start { text.trim_start() } else { text };
    let text = if end { text.trim_end() } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// Where `}}` stands outside of strings and comments.
fn end_of_action(text: &str) -> Option<usize> {
    if text.trim_start().starts_with("/*") {
        let comment = text.find("*/")?;
        return text[comment..].find("}}").map(|at| comment + at);
    }
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// The keyword that closes a block.
struct End {
    line: usize,
    word: String,
    /// What follows `else`.
    tail: Vec<Token>,
}

struct Parser<'a> {
    pieces: Vec<Piece>,
    at: usize,
    file: &'a Arc<str>,
    defined: Vec<(String, Vec<Node>)>,
}

impl Parser<'_> {
    fn error(&self, line: usize, message: impl Into<String>) -> TemplateError {
        TemplateError { file: self.file.clone(), line, message: message.into() }
    }

    /// Nodes up to `end` or `else`, which is returned, or to the end of the file.
    fn block(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while self.at < self.pieces.len() {
            let piece = std::mem::replace(&mut self.pieces[self.at], Piece::Text(String::new()));
            self.at += 1;
            let (line, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { line, tokens } => (line, tokens),
            };
            match tokens.first() {
                Some(Token::Word(word)) if word == "end" || word == "else" => {
                    let end = End { line, word: word.clone(), tail: tokens[1..].to_vec() };
                    return Ok((nodes, Some(end)));
                }
                Some(Token::Word(word)) if word == "define" => self.define(line, &tokens)?,
                Some(_) => nodes.push(self.node(line, &tokens)?),
                None => return Err(self.error(line, "an empty action")),
            }
        }
        Ok((nodes, None))
    }

    fn define(&mut self, line: usize, tokens: &[Token]) -> Result<(), TemplateError> {
        let [_, Token::Literal(Value::String(name))] = tokens else {
            return Err(self.error(line, "`define` takes one name in quotes"));
        };
        let body = self.closed(line)?;
        self.defined.push((name.clone(), body));
        Ok(())
    }

    /// A block that ends with `end`.
    fn closed(&mut self, line: usize) -> Result<Vec<Node>, TemplateError> {
        match self.block()? {
            (nodes, Some(end)) if end.word == "end" => Ok(nodes),
            (_, Some(end)) => Err(self.error(end.line, "`else` does not belong here")),
            (_, None) => Err(self.error(line, "this block has no `end`")),
        }
    }

    /// A block with its `else` part.
    fn branches(&mut self, line: usize) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        match self.block()? {
            (then, Some(end)) if end.word == "end" => Ok((then, Vec::new())),
            (then, Some(end)) if end.tail.is_empty() => Ok((then, self.closed(line)?)),
            (then, Some(end)) => Ok((then, vec![self.node(end.line, &end.tail)?])),
            (_, None) => Err(self.error(line, "this block has no `end`")),
        }
    }

    fn node(&mut self, line: usize, tokens: &[Token]) -> Result<Node, TemplateError> {
        match tokens {
            [Token::Word(word), rest @ ..] if word == "if" => {
                let test = self.pipeline(line, rest)?;
                let (then, otherwise) = self.branches(line)?;
                Ok(Node::If { test, then, otherwise })
            }
            [Token::Word(word), rest @ ..] if word == "with" => {
                let (name, rest) = match rest {
                    [Token::Variable(name), Token::Declare, rest @ ..] => {
                        (Some(name.clone()), rest)
                    }
                    _ => (None, rest),
                };
                let value = self.pipeline(line, rest)?;
                let (then, otherwise) = self.branches(line)?;
                Ok(Node::With { name, value, then, otherwise })
            }
            [Token::Word(word), rest @ ..] if word == "range" => self.range(line, rest),
            [Token::Word(word), rest @ ..] if word == "template" => {
                let [Token::Literal(Value::String(name)), rest @ ..] = rest else {
                    return Err(self.error(line, "`template` takes a name in quotes"));
                };
                let dot = match rest {
                    [] => None,
                    rest => Some(self.pipeline(line, rest)?),
                };
                Ok(Node::Template { name: name.clone(), dot, line })
            }
            [Token::Variable(name), sign @ (Token::Declare | Token::Assign), rest @ ..] => {
                let declare = *sign == Token::Declare;
                Ok(Node::Set { name: name.clone(), declare, value: self.pipeline(line, rest)? })
            }
            _ => Ok(Node::Emit(self.pipeline(line, tokens)?)),
        }
    }

    fn range(&mut self, line: usize, tokens: &[Token]) -> Result<Node, TemplateError> {
        let (key, item, rest) = match tokens {
            [Token::Variable(k), Token::Comma, Token::Variable(v), Token::Declare, rest @ ..] => {
                (Some(k.clone()), Some(v.clone()), rest)
            }
            [Token::Variable(v), Token::Declare, rest @ ..] => (None, Some(v.clone()), rest),
            rest => (None, None, rest),
        };
        let over = self.pipeline(line, rest)?;
        let (body, otherwise) = self.branches(line)?;
        Ok(Node::Range { key, item, over, body, otherwise })
    }

    fn pipeline(&self, line: usize, tokens: &[Token]) -> Result<Pipeline, TemplateError> {
        let mut at = 0;
        let pipeline = self.commands(line, tokens, &mut at)?;
        if at < tokens.len() {
            return Err(self.error(line, "`)` without `(`"));
        }
        Ok(pipeline)
    }

    /// Commands up to a closing parenthesis or the end.
    fn commands(
        &self,
        line: usize,
        tokens: &[Token],
        at: &mut usize,
    ) -> Result<Pipeline, TemplateError> {
        let mut commands = vec![self.command(line, tokens, at)?];
        while tokens.get(*at) == Some(&Token::Pipe) {
            *at += 1;
            commands.push(self.command(line, tokens, at)?);
        }
        Ok(Pipeline { line, commands })
    }

    fn command(
        &self,
        line: usize,
        tokens: &[Token],
        at: &mut usize,
    ) -> Result<Command, TemplateError> {
        if let Some(Token::Word(function)) = tokens.get(*at) {
            if !NAMES.contains(&function.as_str()) {
                let known = NAMES.join(", ");
                return Err(self.error(
                    line,
                    format!("`{function}` is not among the allowed functions; use one of {known}"),
                ));
            }
            *at += 1;
            let mut arguments = Vec::new();
            while !matches!(tokens.get(*at), None | Some(Token::Pipe | Token::Close)) {
                arguments.push(self.operand(line, tokens, at)?);
            }
            return Ok(Command::Call { function: function.clone(), arguments });
        }
        let operand = self.operand(line, tokens, at)?;
        match tokens.get(*at) {
            None | Some(Token::Pipe | Token::Close) => Ok(Command::Value(operand)),
            Some(_) => Err(self.error(line, "a value takes no arguments; is a function missing?")),
        }
    }

    fn operand(
        &self,
        line: usize,
        tokens: &[Token],
        at: &mut usize,
    ) -> Result<Operand, TemplateError> {
        let token = tokens.get(*at).ok_or_else(|| self.error(line, "a value is missing"))?;
        *at += 1;
        let fields = |at: &mut usize| {
            let mut fields = Vec::new();
            while let Some(Token::Field(name, true)) = tokens.get(*at) {
                fields.push(name.clone());
                *at += 1;
            }
            fields
        };
        match token {
            Token::Literal(value) => Ok(Operand::Literal(value.clone())),
            Token::Variable(name) => Ok(Operand::Variable(name.clone(), fields(at))),
            Token::Field(name, _) => {
                let mut path = if name.is_empty() { vec![] } else { vec![name.clone()] };
                path.extend(fields(at));
                Ok(Operand::Dot(path))
            }
            Token::Open => {
                let inner = self.commands(line, tokens, at)?;
                if tokens.get(*at) != Some(&Token::Close) {
                    return Err(self.error(line, "`(` is not closed"));
                }
                *at += 1;
                Ok(Operand::Group(inner, fields(at)))
            }
            Token::Word(word) if NAMES.contains(&word.as_str()) => Ok(Operand::Group(
                Pipeline {
                    line,
                    commands: vec![Command::Call { function: word.clone(), arguments: vec![] }],
                },
                vec![],
            )),
            other => Err(self.error(line, format!("{other:?} cannot stand here"))),
        }
    }
}
