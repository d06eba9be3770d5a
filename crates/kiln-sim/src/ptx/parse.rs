//! Recursive-descent parser ("PTX ISA", chapters "Syntax" and "Directives").

use std::collections::HashMap;

use super::ast::{Arg, Body, Func, PtxFile, RegKind, Space, Stmt};
use super::lex::{Tok, Token, lex};
use crate::error::{Error, Result};

/// More registers than any real kernel declares; stops `.reg .b32 %r<4000000000>`.
const MAX_REGS: usize = 1 << 20;
/// Nesting of blocks and operands.
const MAX_DEPTH: usize = 64;

pub(super) struct Parser {
    toks: Vec<Token>,
    pos: usize,
    loc: (u32, u32),
}

/// What a name means inside a function.
#[derive(Clone, Copy)]
enum Name {
    Reg(u32),
    Var(u32),
    Label(u32),
}

/// Name tables of one function; scopes form a tree by `parents`.
struct Scopes {
    tables: Vec<HashMap<String, Name>>,
    parents: Vec<usize>,
    current: usize,
}

impl Scopes {
    fn find(&self, mut scope: usize, name: &str) -> Option<Name> {
        loop {
            if let Some(found) = self.tables[scope].get(name) {
                return Some(*found);
            }
            if scope == 0 {
                return None;
            }
            scope = self.parents[scope];
        }
    }

    fn push(&mut self) {
        self.tables.push(HashMap::new());
        self.parents.push(self.current);
        self.current = self.tables.len() - 1;
    }

    fn define(&mut self, name: &str, what: Name) {
        let scope = self.current;
        self.tables[scope].insert(name.to_string(), what);
    }
}

pub(crate) fn parse(text: &str) -> Result<PtxFile> {
    let mut p = Parser { toks: lex(text)?, pos: 0, loc: (0, 0) };
    let mut file = PtxFile::default();
    loop {
        match p.peek().clone() {
            Tok::End => return Ok(file),
            Tok::Punct(b';') => p.pos += 1,
            Tok::Word(word) => p.module_item(&word, &mut file)?,
            other => return Err(p.error(format!("expected a directive, found {}", show(&other)))),
        }
    }
}

fn show(tok: &Tok) -> String {
    match tok {
        Tok::Word(w) => format!("`{w}`"),
        Tok::Int(v) => format!("`{v}`"),
        Tok::F32(_) | Tok::F64(_) => "a floating-point number".into(),
        Tok::Str(_) => "a string".into(),
        Tok::Punct(c) => format!("`{}`", char::from(*c)),
        Tok::End => "the end of the text".into(),
    }
}

impl Parser {
    pub(super) fn peek(&self) -> &Tok {
        &self.toks[self.pos.min(self.toks.len() - 1)].tok
    }

    pub(super) fn line(&self) -> u32 {
        self.toks[self.pos.min(self.toks.len() - 1)].line
    }

    pub(super) fn next(&mut self) -> Tok {
        let tok = self.peek().clone();
        self.pos += 1;
        tok
    }

    pub(super) fn error(&self, message: String) -> Error {
        Error::Syntax { line: self.line(), message }
    }

    pub(super) fn eat(&mut self, c: u8) -> bool {
        let hit = *self.peek() == Tok::Punct(c);
        self.pos += usize::from(hit);
        hit
    }

    pub(super) fn expect(&mut self, c: u8) -> Result<()> {
        if self.eat(c) {
            return Ok(());
        }
        Err(self.error(format!("expected `{}`, found {}", char::from(c), show(self.peek()))))
    }

    pub(super) fn word(&mut self) -> Result<String> {
        match self.next() {
            Tok::Word(w) => Ok(w),
            other => {
                self.pos -= 1;
                Err(self.error(format!("expected a name, found {}", show(&other))))
            }
        }
    }

    pub(super) fn int(&mut self) -> Result<u64> {
        match self.next() {
            Tok::Int(v) => Ok(v),
            other => {
                self.pos -= 1;
                Err(self.error(format!("expected an integer, found {}", show(&other))))
            }
        }
    }

    /// Up to three comma-separated integers, the rest being 1.
    fn dims(&mut self) -> Result<[u32; 3]> {
        let mut out = [1; 3];
        for (i, slot) in out.iter_mut().enumerate() {
            if i > 0 && !self.eat(b',') {
                break;
            }
            *slot = u32::try_from(self.int()?).map_err(|_| self.error("dimension above 2^32".into()))?;
        }
        Ok(out)
    }

    fn skip_line(&mut self) {
        let line = self.toks[self.pos - 1].line;
        while *self.peek() != Tok::End && self.line() == line {
            self.pos += 1;
        }
    }

    fn skip_past(&mut self, end: u8) {
        while *self.peek() != Tok::End && !self.eat(end) {
            self.pos += 1;
        }
    }

    fn module_item(&mut self, word: &str, file: &mut PtxFile) -> Result<()> {
        match word {
            ".version" => {
                self.pos += 1;
                file.version = match self.next() {
                    Tok::F64(bits) => format!("{:.1}", f64::from_bits(bits)),
                    Tok::Int(v) => v.to_string(),
                    other => return Err(self.error(format!("expected a version, found {}", show(&other)))),
                };
            }
            ".target" => {
                self.pos += 1;
                file.target = self.word()?;
                while self.eat(b',') {
                    self.word()?;
                }
            }
            ".address_size" => {
                self.pos += 1;
                let bits = self.int()?;
                if bits != 64 {
                    return Err(self.error(format!("expected .address_size 64, found {bits}")));
                }
            }
            ".file" => {
                self.pos += 1;
                let number = self.int()? as u32;
                if let Tok::Str(name) = self.next() {
                    file.files.push((number, name));
                }
                while self.eat(b',') {
                    self.next();
                }
            }
            ".section" => self.skip_past(b'}'),
            ".pragma" | ".alias" => self.skip_past(b';'),
            ".loc" => self.location()?,
            ".visible" | ".extern" | ".weak" | ".common" | ".func" | ".entry" | ".global" | ".const" | ".shared" => {
                let mut external = false;
                loop {
                    match self.word()?.as_str() {
                        ".visible" | ".weak" | ".common" => {}
                        ".extern" => external = true,
                        ".attribute" => self.skip_past(b')'),
                        ".func" => return self.function(false, file),
                        ".entry" => return self.function(true, file),
                        ".global" => return self.variables(Space::Global, external, &mut file.vars),
                        ".const" => return self.variables(Space::Const, external, &mut file.vars),
                        ".shared" => return self.variables(Space::Shared, external, &mut file.vars),
                        other => return Err(self.error(format!("unexpected `{other}` after a linkage directive"))),
                    }
                }
            }
            other => return Err(self.error(format!("unknown directive `{other}`"))),
        }
        Ok(())
    }

    /// `.loc file line column [, function_name label [+ n]] [, inlined_at file line column]`.
    fn location(&mut self) -> Result<()> {
        self.pos += 1;
        let file = self.int()? as u32;
        let line = self.int()? as u32;
        self.skip_line();
        // Line 0 marks code without a source line; keep the last real one.
        if line != 0 {
            self.loc = (file, line);
        }
        Ok(())
    }

    fn function(&mut self, entry: bool, file: &mut PtxFile) -> Result<()> {
        let line = self.line();
        let mut formals = Vec::new();
        let mut name = String::new();
        if *self.peek() == Tok::Punct(b'(') {
            self.formals(&mut formals)?;
        }
        if let Tok::Word(_) = self.peek() {
            name = self.word()?;
        }
        if *self.peek() == Tok::Punct(b'(') {
            self.formals(&mut formals)?;
        }
        let mut f = Func {
            name,
            entry,
            formals,
            body: None,
            max_threads: None,
            req_threads: None,
            req_cluster: None,
            max_registers: None,
            min_ctas: None,
            line,
        };
        loop {
            match self.next() {
                Tok::Punct(b'{') => {
                    f.body = Some(self.body(&f)?);
                    break;
                }
                Tok::Punct(b';') => break,
                Tok::Word(w) => match w.as_str() {
                    ".maxntid" => f.max_threads = Some(self.dims()?),
                    ".reqntid" => f.req_threads = Some(self.dims()?),
                    ".reqnctapercluster" => f.req_cluster = Some(self.dims()?),
                    ".maxnreg" => f.max_registers = Some(u32::try_from(self.int()?).unwrap_or(u32::MAX)),
                    ".minnctapersm" => f.min_ctas = Some(u32::try_from(self.int()?).unwrap_or(u32::MAX)),
                    ".maxclusterrank" | ".maxnctapersm" => {
                        self.int()?;
                    }
                    ".explicitcluster" | ".noreturn" | ".blocksareclusters" => {}
                    ".pragma" => self.skip_past(b';'),
                    ".loc" => {
                        self.pos -= 1;
                        self.location()?;
                    }
                    other => return Err(self.error(format!("unknown performance directive `{other}`"))),
                },
                other => return Err(self.error(format!("expected a function body, found {}", show(&other)))),
            }
        }
        // A definition replaces its earlier declaration.
        file.funcs.retain(|g| g.name != f.name || g.body.is_some());
        if !file.funcs.iter().any(|g| g.name == f.name) {
            file.funcs.push(f);
        }
        Ok(())
    }

    fn body(&mut self, f: &Func) -> Result<Body> {
        let mut body = Body { vars: f.formals.clone(), ..Body::default() };
        let mut scopes = Scopes { tables: vec![HashMap::new()], parents: vec![0], current: 0 };
        for (i, v) in f.formals.iter().enumerate() {
            scopes.define(&v.name, Name::Var(i as u32));
        }
        let mut stmt_scope = Vec::new();
        let mut depth = 1usize;
        while depth > 0 {
            match self.peek().clone() {
                Tok::Punct(b'{') => {
                    self.pos += 1;
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(self.error("blocks nested too deeply".into()));
                    }
                    scopes.push();
                }
                Tok::Punct(b'}') => {
                    self.pos += 1;
                    depth -= 1;
                    scopes.current = scopes.parents[scopes.current];
                }
                Tok::Punct(b';') => self.pos += 1,
                Tok::Punct(b'@') => self.statement(&mut body, &scopes, &mut stmt_scope)?,
                Tok::Word(w) => match w.as_str() {
                    ".reg" => self.registers(&mut body, &mut scopes)?,
                    ".local" | ".shared" | ".param" | ".const" | ".global" => {
                        self.pos += 1;
                        let space = match w.as_str() {
                            ".local" => Space::Local,
                            ".shared" => Space::Shared,
                            ".param" => Space::Param,
                            ".const" => Space::Const,
                            _ => Space::Global,
                        };
                        let from = body.vars.len();
                        self.variables(space, false, &mut body.vars)?;
                        for (i, v) in body.vars.iter().enumerate().skip(from) {
                            scopes.define(&v.name, Name::Var(i as u32));
                        }
                    }
                    ".loc" => self.location()?,
                    ".pragma" => self.skip_past(b';'),
                    ".branchtargets" | ".calltargets" | ".callprototype" => {
                        return Err(self.error(format!("`{w}` without a label")));
                    }
                    _ if matches!(self.toks.get(self.pos + 1).map(|t| &t.tok), Some(Tok::Punct(b':'))) => {
                        self.pos += 2;
                        self.label(&w, &mut body, &mut scopes)?;
                    }
                    _ if w.starts_with('.') => return Err(self.error(format!("unknown directive `{w}` in a function"))),
                    _ => self.statement(&mut body, &scopes, &mut stmt_scope)?,
                },
                other => return Err(self.error(format!("expected an instruction, found {}", show(&other)))),
            }
        }
        // Labels may be used before they appear, so they are resolved last.
        for (stmt, scope) in body.stmts.iter_mut().zip(&stmt_scope) {
            for arg in &mut stmt.args {
                resolve_label(arg, &scopes, *scope);
            }
        }
        for (_, list) in &mut body.targets {
            list.retain(|l| (*l as usize) < body.labels.len());
        }
        Ok(body)
    }

    fn label(&mut self, name: &str, body: &mut Body, scopes: &mut Scopes) -> Result<()> {
        if *self.peek() == Tok::Word(".branchtargets".into()) {
            self.pos += 1;
            let mut list = Vec::new();
            loop {
                let target = self.word()?;
                // The targets of a jump table are function-level labels; reserve a number on first sight.
                let number = match scopes.find(scopes.current, &target) {
                    Some(Name::Label(l)) => l,
                    _ => {
                        body.labels.push(u32::MAX);
                        let l = (body.labels.len() - 1) as u32;
                        scopes.define(&target, Name::Label(l));
                        l
                    }
                };
                list.push(number);
                if !self.eat(b',') {
                    break;
                }
            }
            self.expect(b';')?;
            body.targets.push((name.to_string(), list));
            return Ok(());
        }
        if *self.peek() == Tok::Word(".callprototype".into()) {
            self.skip_past(b';');
            return Ok(());
        }
        let at = body.stmts.len() as u32;
        match scopes.tables[scopes.current].get(name) {
            Some(Name::Label(l)) if body.labels[*l as usize] == u32::MAX => body.labels[*l as usize] = at,
            Some(_) => return Err(self.error(format!("`{name}` is defined twice"))),
            None => {
                body.labels.push(at);
                scopes.define(name, Name::Label((body.labels.len() - 1) as u32));
            }
        }
        Ok(())
    }

    fn registers(&mut self, body: &mut Body, scopes: &mut Scopes) -> Result<()> {
        self.pos += 1;
        let ty = self.word()?;
        let kind = match ty.as_str() {
            ".pred" => RegKind::Pred,
            ".b8" | ".u8" | ".s8" => RegKind::R32(8),
            ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => RegKind::R32(16),
            ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" | ".tf32" => RegKind::R32(32),
            ".b64" | ".u64" | ".s64" | ".f64" => RegKind::R64,
            ".b128" => RegKind::R128,
            other => return Err(self.error(format!("registers of type `{other}` are not supported"))),
        };
        loop {
            let name = self.word()?;
            let count = if self.eat(b'<') {
                let n = self.int()?;
                self.expect(b'>')?;
                Some(n)
            } else {
                None
            };
            let wanted = usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX);
            if wanted.saturating_add(body.regs.len()) > MAX_REGS {
                return Err(self.error(format!("more than {MAX_REGS} registers in one function")));
            }
            for i in 0..wanted {
                let id = body.regs.len() as u32;
                body.regs.push(kind);
                match count {
                    Some(_) => scopes.define(&format!("{name}{i}"), Name::Reg(id)),
                    None => scopes.define(&name, Name::Reg(id)),
                }
            }
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    fn statement(&mut self, body: &mut Body, scopes: &Scopes, stmt_scope: &mut Vec<usize>) -> Result<()> {
        let line = self.line();
        let mut guard = None;
        if self.eat(b'@') {
            let negated = self.eat(b'!');
            let name = self.word()?;
            guard = match scopes.find(scopes.current, &name) {
                Some(Name::Reg(r)) if body.regs[r as usize] == RegKind::Pred => Some((r, negated)),
                _ => return Err(self.error(format!("guard `{name}` is not a predicate register"))),
            };
        }
        let op = self.word()?;
        let mut args = Vec::new();
        while !self.eat(b';') {
            if !args.is_empty() {
                self.expect(b',')?;
            }
            let first = self.operand(scopes, 0)?;
            args.push(if self.eat(b'|') {
                Arg::Pair(Box::new(first), Box::new(self.operand(scopes, 0)?))
            } else {
                first
            });
            if args.len() > 512 {
                return Err(self.error("more than 512 operands".into()));
            }
        }
        body.stmts.push(Stmt { guard, op, args, loc: self.loc, line });
        stmt_scope.push(scopes.current);
        Ok(())
    }

    fn operand(&mut self, scopes: &Scopes, depth: usize) -> Result<Arg> {
        if depth > MAX_DEPTH {
            return Err(self.error("operand nested too deeply".into()));
        }
        let arg = match self.next() {
            Tok::Word(w) => {
                let base = match scopes.find(scopes.current, &w) {
                    Some(Name::Reg(r)) => return Ok(Arg::Reg(r)),
                    Some(Name::Var(v)) => Arg::Var(v, 0),
                    Some(Name::Label(l)) => Arg::Label(l),
                    None if w == "_" => Arg::Sink,
                    None if w.starts_with('%') || w == "WARP_SZ" => Arg::Special(w),
                    None => Arg::Sym(w, 0),
                };
                match (base, self.offset()?) {
                    (Arg::Var(v, _), off) => Arg::Var(v, off),
                    (Arg::Sym(s, _), off) => Arg::Sym(s, off),
                    (other, _) => other,
                }
            }
            Tok::Int(v) => Arg::Int(v),
            Tok::F32(v) => Arg::F32(v),
            Tok::F64(v) => Arg::F64(v),
            Tok::Punct(b'-') => match self.next() {
                Tok::Int(v) => Arg::Int(v.wrapping_neg()),
                Tok::F32(v) => Arg::F32(v ^ 1 << 31),
                Tok::F64(v) => Arg::F64(v ^ 1 << 63),
                other => return Err(self.error(format!("expected a number after `-`, found {}", show(&other)))),
            },
            Tok::Punct(b'!') => Arg::Not(Box::new(self.operand(scopes, depth + 1)?)),
            Tok::Punct(b'[') => {
                let base = self.operand(scopes, depth + 1)?;
                let off = self.offset()?;
                let arg = if self.eat(b',') {
                    let mut rest = vec![self.operand(scopes, depth + 1)?];
                    while self.eat(b',') {
                        rest.push(self.operand(scopes, depth + 1)?);
                    }
                    Arg::Tensor(Box::new(base), rest)
                } else {
                    Arg::Addr(Box::new(base), off)
                };
                self.expect(b']')?;
                arg
            }
            Tok::Punct(b'{') => Arg::Vec(self.list(b'}', scopes, depth)?),
            Tok::Punct(b'(') => Arg::List(self.list(b')', scopes, depth)?),
            other => {
                self.pos -= 1;
                return Err(self.error(format!("expected an operand, found {}", show(&other))));
            }
        };
        Ok(arg)
    }

    fn list(&mut self, end: u8, scopes: &Scopes, depth: usize) -> Result<Vec<Arg>> {
        let mut items = Vec::new();
        while !self.eat(end) {
            if !items.is_empty() {
                self.expect(b',')?;
            }
            items.push(self.operand(scopes, depth + 1)?);
        }
        Ok(items)
    }

    /// An optional `+n` or `-n`; `+-n` also occurs.
    fn offset(&mut self) -> Result<i64> {
        let negative = if self.eat(b'+') {
            self.eat(b'-')
        } else if self.eat(b'-') {
            true
        } else {
            return Ok(0);
        };
        let v = self.int()? as i64;
        Ok(if negative { v.wrapping_neg() } else { v })
    }
}

fn resolve_label(arg: &mut Arg, scopes: &Scopes, scope: usize) {
    if let Arg::Sym(name, _) = arg
        && let Some(Name::Label(l)) = scopes.find(scope, name)
    {
        *arg = Arg::Label(l);
    }
}
