//! Splits text into tokens.

use crate::error::{Result, TileError};

/// A token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'s> {
    /// A word or a name, with its number behind a point.
    Word(&'s str),
    /// A tile's name, with its `%`.
    Tile(&'s str),
    /// A literal and what is behind it.
    Number { digits: &'s str, suffix: &'s str },
    /// What is between quotes, as it is written.
    Text(&'s str),
    /// A sign.
    Sign(&'static str),
    /// The end of the text.
    End,
}

/// Signs; longer ones first.
const SIGNS: [&str; 27] = [
    "..=", "..", "<<", ">>", "<=", ">=", "==", "!=", "(", ")", "[", "]", "{", "}", ",", ":", "=", "<", ">", "+", "-",
    "*", "/", "%", "&", "|", "^",
];
const AT: &str = "@";

/// The tokens and where each begins; the last is [`Token::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<(Token<'_>, usize)>> {
    let mut out = vec![];
    let mut at = 0;
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        if c == ';' {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let (token, length) = token(rest).ok_or_else(|| {
            let expected = if c == '"' { "a quote that ends the text" } else { "a word, a number or a sign" };
            error(source, at, expected, &format!("`{c}`"))
        })?;
        out.push((token, at));
        at += length;
    }
    out.push((Token::End, source.len()));
    Ok(out)
}

/// The token that the text begins with, and its bytes.
fn token(text: &str) -> Option<(Token<'_>, usize)> {
    let first = text.chars().next()?;
    if first.is_ascii_digit() {
        let length = number(text);
        let suffix = text[length..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let token = Token::Number { digits: &text[..length], suffix: &text[length..length + suffix] };
        return Some((token, length + suffix));
    }
    if let Some(length) = name(text) {
        return Some((Token::Word(&text[..length]), length));
    }
    if let Some(length) = text.strip_prefix('%').and_then(name) {
        return Some((Token::Tile(&text[..=length]), length + 1));
    }
    if let Some(inside) = text.strip_prefix('"') {
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        return Some((Token::Text(&inside[..end]), end + 2));
    }
    let sign = SIGNS.into_iter().chain([AT]).find(|sign| text.starts_with(sign))?;
    Some((Token::Sign(sign), sign.len()))
}

/// Bytes of the name that the text begins with.
fn name(text: &str) -> Option<usize> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    text.bytes().next().filter(|c| word(*c) && !c.is_ascii_digit())?;
    let mut length = text.bytes().take_while(|c| word(*c)).count();
    if let Some(rest) = text[length..].strip_prefix('.') {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        length += if digits > 0 { digits + 1 } else { 0 };
    }
    Some(length)
}

/// Bytes of the digits, fraction and exponent that the text begins with.
fn number(text: &str) -> usize {
    let digits = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(0);
    if text[length..].starts_with('.') && digits(length + 1) > 0 {
        length += 1 + digits(length + 1);
    }
    if text[length..].starts_with('e') {
        let sign = usize::from(text[length + 1..].starts_with(['-', '+']));
        let exponent = digits(length + 1 + sign);
        length += if exponent > 0 { 1 + sign + exponent } else { 0 };
    }
    length
}

/// What is wrong at byte `at`.
pub(super) fn error(source: &str, at: usize, expected: &str, found: &str) -> TileError {
    let before = &source[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    TileError::Text { line, column, expected: expected.to_owned(), found: found.to_owned() }
}

/// A token as messages show it.
pub(super) fn shown(token: Token<'_>) -> String {
    match token {
        Token::Word(text) | Token::Tile(text) | Token::Sign(text) => format!("`{text}`"),
        Token::Number { digits, suffix } => format!("`{digits}{suffix}`"),
        Token::Text(text) => format!("\"{text}\""),
        Token::End => "the end".to_owned(),
    }
}
