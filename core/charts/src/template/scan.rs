//! # Scanner of actions
//!
//! Job: the text between `{{` and `}}` to tokens.
//! May touch: text. Callers: `parse`.

use serde_json::{Number, Value};

/// A piece of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A string, number, boolean or nil.
    Literal(Value),
    /// `$name`, or `$` as the empty name.
    Variable(String),
    /// `.name`; a lone `.` as the empty name. True if it follows the previous token without a space.
    Field(String, bool),
    /// A keyword or function name.
    Word(String),
    /// `(`
    Open,
    /// `)`
    Close,
    /// `|`
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

/// Splits an action's text into tokens.
pub(super) fn scan(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        let glued = trimmed.len() == rest.len() && !tokens.is_empty();
        let Some(first) = trimmed.chars().next() else { return Ok(tokens) };
        let (token, after) = next(trimmed, first, glued)?;
        tokens.push(token);
        rest = after;
    }
}

fn next(text: &str, first: char, glued: bool) -> Result<(Token, &str), String> {
    let simple = |token, n: usize| Ok((token, &text[n..]));
    match first {
        '(' => simple(Token::Open, 1),
        ')' => simple(Token::Close, 1),
        '|' => simple(Token::Pipe, 1),
        ',' => simple(Token::Comma, 1),
        ':' if text.starts_with(":=") => simple(Token::Declare, 2),
        '=' => simple(Token::Assign, 1),
        '"' => quoted(text),
        '`' => match text[1..].find('`') {
            Some(end) => Ok((Token::Literal(text[1..=end].into()), &text[end + 2..])),
            None => Err("a raw string is not closed".to_owned()),
        },
        '$' => {
            let (name, after) = word(&text[1..]);
            Ok((Token::Variable(name.to_owned()), after))
        }
        '.' => {
            let (name, after) = word(&text[1..]);
            Ok((Token::Field(name.to_owned(), glued), after))
        }
        c if c.is_ascii_digit() || c == '-' => number(text),
        c if c.is_alphabetic() || c == '_' => {
            let (name, after) = word(text);
            let token = match name {
                "true" => Token::Literal(true.into()),
                "false" => Token::Literal(false.into()),
                "nil" => Token::Literal(Value::Null),
                _ => Token::Word(name.to_owned()),
            };
            Ok((token, after))
        }
        c => Err(format!("`{c}` is not understood here")),
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let end =
        text[1..].find(|c: char| !c.is_ascii_digit() && c != '.').map_or(text.len(), |e| e + 1);
    let (digits, after) = text.split_at(end);
    let value = match digits.parse::<i64>() {
        Ok(n) => Some(Number::from(n)),
        Err(_) => digits.parse::<f64>().ok().and_then(Number::from_f64),
    };
    match value {
        Some(n) => Ok((Token::Literal(Value::Number(n)), after)),
        None => Err(format!("`{digits}` is not a number")),
    }
}

/// A double-quoted string; the escapes are those that JSON shares with Go.
fn quoted(text: &str) -> Result<(Token, &str), String> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let literal: String = serde_json::from_str(&text[..=at])
                    .map_err(|_| format!("{} is not a string", &text[..=at]))?;
                return Ok((Token::Literal(literal.into()), &text[at + 1..]));
            }
            _ => {}
        }
    }
    Err("a string is not closed".to_owned())
}
