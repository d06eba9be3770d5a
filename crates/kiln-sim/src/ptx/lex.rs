//! Tokens of PTX text.

use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    /// Identifiers, directives, opcodes with their dotted modifiers, special registers.
    Word(String),
    Int(u64),
    F32(u32),
    F64(u64),
    Str(String),
    Punct(u8),
    End,
}

pub(super) struct Token {
    pub tok: Tok,
    pub line: u32,
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

pub(super) fn lex(text: &str) -> Result<Vec<Token>> {
    let s = text.as_bytes();
    let at = |i: usize| s.get(i).copied().unwrap_or(0);
    let mut out = Vec::new();
    let (mut i, mut line) = (0usize, 1u32);
    while i < s.len() {
        let c = s[i];
        let start = line;
        let tok = match c {
            b'\n' => {
                line += 1;
                i += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0 => {
                i += 1;
                continue;
            }
            b'/' if at(i + 1) == b'/' => {
                while i < s.len() && s[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            b'/' if at(i + 1) == b'*' => {
                i += 2;
                while i < s.len() && !(s[i] == b'*' && at(i + 1) == b'/') {
                    line += u32::from(s[i] == b'\n');
                    i += 1;
                }
                i = (i + 2).min(s.len());
                continue;
            }
            b'"' => {
                let begin = i + 1;
                i += 1;
                while i < s.len() && s[i] != b'"' {
                    line += u32::from(s[i] == b'\n');
                    i += if s[i] == b'\\' { 2 } else { 1 };
                }
                let end = i.min(s.len());
                i = end + 1;
                Tok::Str(String::from_utf8_lossy(&s[begin..end]).into_owned())
            }
            b'0'..=b'9' => {
                let begin = i;
                // A dot belongs to a number only before a digit; `1.0` is the only decimal float form used.
                while i < s.len() && (s[i].is_ascii_alphanumeric() || (s[i] == b'.' && at(i + 1).is_ascii_digit())) {
                    i += 1;
                }
                number(&s[begin..i], line)?
            }
            _ if is_word(c) => {
                let begin = i;
                while i < s.len() {
                    if is_word(s[i]) {
                        i += 1;
                    } else if s[i] == b':' && at(i + 1) == b':' {
                        i += 2;
                    } else {
                        break;
                    }
                }
                Tok::Word(String::from_utf8_lossy(&s[begin..i]).into_owned())
            }
            _ => {
                i += 1;
                Tok::Punct(c)
            }
        };
        out.push(Token { tok, line: start });
    }
    out.push(Token { tok: Tok::End, line });
    Ok(out)
}

fn number(word: &[u8], line: u32) -> Result<Tok> {
    let text = String::from_utf8_lossy(word);
    let bad = || Error::Syntax { line, message: format!("`{text}` is not a number") };
    let radix = |from: usize, radix: u32| u64::from_str_radix(text.get(from..).unwrap_or(""), radix).map_err(|_| bad());
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("0f") {
        return Ok(Tok::F32(u32::try_from(radix(2, 16)?).map_err(|_| bad())?));
    }
    if lower.starts_with("0d") {
        return Ok(Tok::F64(radix(2, 16)?));
    }
    if text.contains('.') || (!lower.starts_with("0x") && lower.contains('e')) {
        return text.parse::<f64>().map(|v| Tok::F64(v.to_bits())).map_err(|_| bad());
    }
    let trimmed = lower.trim_end_matches('u');
    let value = if let Some(hex) = trimmed.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(bin) = trimmed.strip_prefix("0b") {
        u64::from_str_radix(bin, 2)
    } else if trimmed.len() > 1 && trimmed.starts_with('0') {
        u64::from_str_radix(&trimmed[1..], 8)
    } else {
        trimmed.parse()
    };
    value.map(Tok::Int).map_err(|_| bad())
}
