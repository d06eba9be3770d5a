//! A place in the text, and the small things that can be read there.

use crate::{DType, Dim, Error, Result, TensorType};
use std::str::FromStr;

pub(super) struct Cursor<'a> {
    pub text: &'a str,
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        let line = 1 + self.text.as_bytes()[..self.at.min(self.text.len())].iter().filter(|b| **b == b'\n').count();
        Err(Error::Parse { line, message: message.into() })
    }

    pub fn expected<T>(&mut self, what: &str) -> Result<T> {
        self.space();
        let found: String = self.rest().chars().take_while(|c| *c != '\n').take(20).collect();
        let found = if found.is_empty() { "the end".to_owned() } else { format!("`{found}`") };
        self.fail(format!("expected {what}, found {found}"))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips white space and comments.
    pub fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    pub fn peek(&mut self) -> Option<char> {
        self.space();
        self.rest().chars().next()
    }

    pub fn eat(&mut self, token: &str) -> bool {
        self.space();
        let hit = self.rest().starts_with(token);
        if hit {
            self.at += token.len();
        }
        hit
    }

    pub fn need(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { self.expected(&format!("`{token}`")) }
    }

    fn while_(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// The next word without taking it.
    pub fn peek_word(&mut self) -> &'a str {
        let at = self.at;
        let word = self.while_(|c| c.is_ascii_alphanumeric() || c == '_');
        self.at = at;
        word
    }

    pub fn word(&mut self) -> Result<&'a str> {
        match self.while_(|c| c.is_ascii_alphanumeric() || c == '_') {
            "" => self.expected("a word"),
            word => Ok(word),
        }
    }

    /// Takes a whole word if it comes next.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let hit = self.peek_word() == word;
        if hit {
            self.space();
            self.at += word.len();
        }
        hit
    }

    /// A number as text: digits, sign, point, exponent, `inf`, `NaN`.
    pub fn number_text(&mut self) -> Result<&'a str> {
        match self.while_(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
            "" => self.expected("a number"),
            text => Ok(text),
        }
    }

    pub fn number<T: FromStr>(&mut self) -> Result<T> {
        self.space();
        let digits = self.while_(|c| c.is_ascii_digit() || c == '-');
        match digits.parse() {
            Ok(v) => Ok(v),
            Err(_) => self.fail(format!("expected an integer in range, found `{digits}`")),
        }
    }

    /// The name after a `%`.
    pub fn value(&mut self) -> Result<&'a str> {
        self.need("%")?;
        self.word()
    }

    pub fn string(&mut self) -> Result<String> {
        self.need("\"")?;
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some(c @ ('"' | '\\')) => out.push(c),
                    Some('n') => out.push('\n'),
                    Some('u') => {
                        let code: String = chars
                            .by_ref()
                            .map(|(_, c)| c)
                            .skip_while(|c| *c == '{')
                            .take_while(|c| *c != '}')
                            .collect();
                        match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                            Some(c) => out.push(c),
                            None => return self.fail(format!("`\\u{{{code}}}` is no character")),
                        }
                    }
                    _ => return self.fail("expected one of \\\" \\\\ \\n \\u{..} in a string"),
                },
                c => out.push(c),
            }
        }
        self.fail("a string has no end")
    }

    /// Bytes after `hex`.
    pub fn hex(&mut self) -> Result<Vec<u8>> {
        self.need("\"")?;
        let digits = self.while_(|c| c.is_ascii_hexdigit());
        let bytes = (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16));
        match bytes.collect::<std::result::Result<Vec<u8>, _>>() {
            Ok(bytes) if digits.len().is_multiple_of(2) => {
                self.need("\"")?;
                Ok(bytes)
            }
            _ => self.fail("hexadecimal bytes have two digits each"),
        }
    }

    /// `[item, ..]`.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Cursor<'a>) -> Result<T>) -> Result<Vec<T>> {
        self.need("[")?;
        let mut items = Vec::new();
        if self.eat("]") {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if !self.eat(",") {
                self.need("]")?;
                return Ok(items);
            }
        }
    }

    /// A dimension expression: up to a comma or bracket outside parentheses.
    pub fn dim(&mut self) -> Result<Dim> {
        self.space();
        let mut depth = 0usize;
        let rest = self.rest();
        let end = rest.find(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ']' || c == '\n' || (c == ',' && depth == 0)
        });
        let text = rest[..end.unwrap_or(rest.len())].trim();
        match text.parse() {
            Ok(dim) => {
                self.at += end.unwrap_or(rest.len());
                Ok(dim)
            }
            Err(e) => self.fail(e.to_string()),
        }
    }

    pub fn dims(&mut self) -> Result<Vec<Dim>> {
        self.list(Cursor::dim)
    }

    pub fn dtype(&mut self) -> Result<DType> {
        let word = self.word()?;
        match word.parse() {
            Ok(dtype) => Ok(dtype),
            Err(e) => self.fail(e.to_string()),
        }
    }

    pub fn ty(&mut self) -> Result<TensorType> {
        Ok(TensorType { dtype: self.dtype()?, shape: self.dims()? })
    }
}
