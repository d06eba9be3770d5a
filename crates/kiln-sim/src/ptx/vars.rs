//! Variable and formal-parameter declarations.

use super::ast::{Space, Var};
use super::lex::Tok;
use super::parse::Parser;
use crate::error::Result;

/// Module data above this is refused rather than allocated.
const MAX_BYTES: u64 = 1 << 32;

/// Constant memory of a module ("Constant State Space").
const MAX_CONST: u64 = 1 << 16;

/// Size in bytes of a PTX fundamental type.
fn type_size(ty: &str) -> Option<u64> {
    Some(match ty {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

impl Parser {
    /// `(.param .align 8 .b8 name[16], ...)`; the opening parenthesis is next.
    pub(super) fn formals(&mut self, out: &mut Vec<Var>) -> Result<()> {
        self.expect(b'(')?;
        while !self.eat(b')') {
            if self.eat(b',') {
                continue;
            }
            let word = self.word()?;
            if word != ".param" {
                return Err(self.error(format!("expected `.param`, found `{word}`")));
            }
            self.declarator(Space::Param, false, out)?;
        }
        Ok(())
    }

    /// The rest of a variable declaration, up to and with its semicolon.
    pub(super) fn variables(&mut self, space: Space, external: bool, out: &mut Vec<Var>) -> Result<()> {
        self.declarator(space, external, out)?;
        if self.eat(b',') {
            return Err(self.error("several variables in one declaration are not supported".into()));
        }
        self.expect(b';')
    }

    fn declarator(&mut self, space: Space, mut external: bool, out: &mut Vec<Var>) -> Result<()> {
        let (mut align, mut elem) = (0u32, 0u64);
        let name = loop {
            let word = self.word()?;
            match word.as_str() {
                ".align" => {
                    let value = self.int()?;
                    if !value.is_power_of_two() || value > 4096 {
                        return Err(self.error(format!("alignment {value} is not a power of two up to 4096")));
                    }
                    // `.ptr .align n` speaks of the pointed-to memory, after the type.
                    if elem == 0 {
                        align = value as u32;
                    }
                }
                ".ptr" | ".global" | ".const" | ".shared" | ".local" | ".managed" | ".unified" => {}
                ".attribute" => {
                    while *self.peek() != Tok::End && !self.eat(b')') {
                        self.next();
                    }
                }
                w if w.starts_with('.') => {
                    elem = type_size(w).ok_or_else(|| self.error(format!("unknown type `{w}`")))?;
                }
                _ => break word,
            }
        };
        if elem == 0 {
            return Err(self.error(format!("variable `{name}` has no type")));
        }
        let mut size = elem;
        while self.eat(b'[') {
            if self.eat(b']') {
                external = true;
                continue;
            }
            size = size.saturating_mul(self.int()?);
            self.expect(b']')?;
        }
        let taken: u64 = out.iter().filter(|v| v.space == Space::Const).map(|v| v.size).sum();
        if space == Space::Const && size.saturating_add(taken) > MAX_CONST {
            return Err(self.error(format!("`{name}` of {size} bytes: constant memory has {MAX_CONST} bytes")));
        }
        if size > MAX_BYTES {
            return Err(self.error(format!("variable `{name}` of {size} bytes is too large")));
        }
        if external && self.peek() != &Tok::Punct(b'=') {
            size = if space == Space::Shared { 0 } else { size };
        }
        let mut var = Var {
            name,
            space,
            align: if align == 0 { elem as u32 } else { align },
            size,
            init: Vec::new(),
            relocs: Vec::new(),
            external,
        };
        if self.eat(b'=') {
            self.initializer(elem as usize, &mut var, 0)?;
            if external {
                var.size = var.init.len() as u64;
                var.external = false;
            }
            if var.init.len() as u64 > var.size {
                return Err(self.error(format!("initializer of `{}` is longer than the variable", var.name)));
            }
        }
        out.push(var);
        Ok(())
    }

    fn initializer(&mut self, elem: usize, var: &mut Var, depth: usize) -> Result<()> {
        if depth > 8 {
            return Err(self.error("initializer nested too deeply".into()));
        }
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.initializer(elem, var, depth + 1)?;
                if !self.eat(b',') {
                    self.expect(b'}')?;
                    break;
                }
            }
            return Ok(());
        }
        let negative = self.eat(b'-');
        let bits = match self.next() {
            Tok::Int(v) => {
                if negative {
                    v.wrapping_neg()
                } else {
                    v
                }
            }
            Tok::F32(v) if elem == 8 => f64::from(f32::from_bits(v)).to_bits(),
            Tok::F32(v) => u64::from(v),
            Tok::F64(v) if elem == 4 => u64::from((f64::from_bits(v) as f32).to_bits()),
            Tok::F64(v) => v,
            Tok::Word(mut name) if elem == 8 => {
                if name == "generic" && self.eat(b'(') {
                    name = self.word()?;
                    self.expect(b')')?;
                }
                let addend = if self.eat(b'+') { self.int()? as i64 } else { 0 };
                var.relocs.push((var.init.len(), name, addend));
                0
            }
            _ => return Err(self.error(format!("unsupported initializer of `{}`", var.name))),
        };
        var.init.extend_from_slice(&bits.to_le_bytes()[..elem.min(8)]);
        var.init.resize(var.init.len() + elem.saturating_sub(8), 0);
        Ok(())
    }
}
