//! The text form of dims: what is printed parses back.

use super::{Atom, Dim, Symbols};
use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Sym(s) => f.write_str(s),
            Atom::FloorDiv(a, b) => write!(f, "floor({a}, {b})"),
            Atom::Min(a, b) => write!(f, "min({a}, {b})"),
            Atom::Max(a, b) => write!(f, "max({a}, {b})"),
            Atom::Broadcast(a, b) => write!(f, "broadcast({a}, {b})"),
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        // Symbols first, the constant last, as people write them.
        let ordered = self.terms.iter().filter(|t| !t.0.is_empty()).chain(self.terms.iter().filter(|t| t.0.is_empty()));
        for (i, (m, c)) in ordered.enumerate() {
            match (i, *c < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let magnitude = c.unsigned_abs();
            if m.is_empty() || magnitude != 1 {
                write!(f, "{magnitude}")?;
            }
            for (j, atom) in m.iter().enumerate() {
                if j > 0 || magnitude != 1 {
                    f.write_str("*")?;
                }
                write!(f, "{atom}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Dim {
    type Err = Error;

    fn from_str(s: &str) -> Result<Dim> {
        let mut p = Parser { text: s, at: 0, depth: 0, work: 0 };
        let d = p.sum()?;
        p.space();
        if p.at < s.len() { Err(p.error("an operator or the end")) } else { Ok(d) }
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        match self.as_const() {
            Some(v) => s.serialize_i64(v),
            None => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Dim, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Dim;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer or a dimension expression")
            }
            fn visit_i64<E>(self, v: i64) -> std::result::Result<Dim, E> {
                Ok(Dim::from(v))
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> std::result::Result<Dim, E> {
                i64::try_from(v).map(Dim::from).map_err(|_| E::custom("dimension overflows i64"))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> std::result::Result<Dim, E> {
                v.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}

/// Deepest nesting of parentheses and functions that the parser follows.
const MAX_DEPTH: usize = 64;
/// Factors that the parser may write for a byte of text. What is printed takes less than one; products of sums, which multiply, take more and more.
const WORK_PER_BYTE: usize = 8;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Factors written so far.
    work: usize,
}

impl Parser<'_> {
    fn error(&self, wanted: &str) -> Error {
        let found = self.text[self.at..].chars().next().map_or("the end".to_owned(), |c| format!("`{c}`"));
        Error::Dim {
            dim: self.text.chars().take(80).collect(),
            message: format!("expected {wanted} at byte {}, found {found}", self.at),
        }
    }

    fn space(&mut self) {
        self.at += self.text[self.at..].len() - self.text[self.at..].trim_start().len();
    }

    fn eat(&mut self, c: char) -> bool {
        self.space();
        let hit = self.text[self.at..].starts_with(c);
        if hit {
            self.at += c.len_utf8();
        }
        hit
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(self.error(&format!("`{c}`"))) }
    }

    /// Accounts for an expression of `size` before it is made.
    fn spend(&mut self, size: usize) -> Result<()> {
        self.work = self.work.saturating_add(size);
        if self.work > 64 + WORK_PER_BYTE * self.text.len() {
            return Err(self.error("an expression that is not far longer once multiplied out"));
        }
        Ok(())
    }

    fn sum(&mut self) -> Result<Dim> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("shallower nesting"));
        }
        let mut terms = if self.eat('-') { -self.product()? } else { self.product()? }.terms;
        loop {
            if self.eat('+') {
                terms.extend(self.product()?.terms);
            } else if self.eat('-') {
                terms.extend((-self.product()?).terms);
            } else {
                self.depth -= 1;
                return Ok(Dim::collect(terms));
            }
        }
    }

    fn product(&mut self) -> Result<Dim> {
        let mut d = self.factor()?;
        while self.eat('*') {
            let by = self.factor()?;
            self.spend(d.product_size(&by))?;
            d = d * by;
        }
        Ok(d)
    }

    fn factor(&mut self) -> Result<Dim> {
        self.space();
        if self.eat('(') {
            let d = self.sum()?;
            self.expect(')')?;
            return Ok(d);
        }
        let rest = &self.text[self.at..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            let v: i64 = rest[..digits].parse().map_err(|_| self.error("a number below 2^63"))?;
            self.at += digits;
            return Ok(Dim::from(v));
        }
        let word = rest.len() - rest.trim_start_matches(|c: char| c.is_alphanumeric() || "_.$".contains(c)).len();
        if word == 0 {
            return Err(self.error("a number, a symbol or `(`"));
        }
        let name = rest[..word].to_owned();
        self.at += word;
        if !self.eat('(') {
            return Ok(Dim::sym(name));
        }
        let a = self.sum()?;
        self.expect(',')?;
        let b = self.sum()?;
        self.expect(')')?;
        self.spend(a.size().saturating_add(b.size()))?;
        match name.as_str() {
            "floor" => Ok(a.floor_div(&b)),
            "min" => Ok(a.minimum(&b)),
            "max" => Ok(a.maximum(&b)),
            "broadcast" => Ok(a.broadcast(&b, &Symbols::default())),
            _ => Err(self.error("`floor`, `min`, `max` or `broadcast` before `(`")),
        }
    }
}
