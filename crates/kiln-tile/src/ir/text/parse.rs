//! Reads programs: the parts before the statements, and what all of the reader shares.

use super::super::{
    Barrier, BarrierId, Channel, ChannelId, CopyKind, Grid, Level, Program, Schedule, Shared, SharedId, Value, ValueId,
};
use super::lex::{Token, error, shown, tokens};
use super::{ACCESSES, LEVELS};
use crate::dtype::{DType, Type};
use crate::error::{Result, TileError};
use crate::expr::Var;
use crate::program::{Axis, Buffer, Param, Scope};
use std::collections::HashMap;
use std::str::FromStr;

/// How deep blocks and expressions may be nested.
pub(super) const DEPTH: usize = 100;

impl FromStr for Program {
    type Err = TileError;

    /// Reads the text form of a program.
    ///
    /// # Errors
    /// [`TileError::Text`], with what was expected and where.
    fn from_str(source: &str) -> Result<Program> {
        let mut parser = Parser {
            source,
            tokens: tokens(source)?,
            at: 0,
            depth: 0,
            scopes: vec![HashMap::new()],
            program: Program {
                name: String::new(),
                comment: String::new(),
                level: Level::Tile,
                params: vec![],
                domain: vec![],
                grid: Grid::Points,
                schedule: Schedule::default(),
                values: vec![],
                shared: vec![],
                channels: vec![],
                barriers: vec![],
                body: vec![],
                next_id: 0,
            },
        };
        parser.program()?;
        Ok(parser.program)
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Named {
    /// A variable, and whether it may be set.
    Var(Var, bool),
    Tensor(Buffer),
    Tile(ValueId),
    Shared(SharedId),
    Channel(ChannelId),
    Barrier(BarrierId),
}

pub(super) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<(Token<'s>, usize)>,
    pub at: usize,
    depth: usize,
    /// Names by block, outermost first.
    scopes: Vec<HashMap<&'s str, Named>>,
    pub program: Program,
}

impl<'s> Parser<'s> {
    // ---- tokens -----------------------------------------------------------------------------------------------------

    pub fn peek(&self) -> Token<'s> {
        self.peek_at(0)
    }

    pub fn peek_at(&self, ahead: usize) -> Token<'s> {
        self.tokens.get(self.at + ahead).map_or(Token::End, |token| token.0)
    }

    /// An error at the next token.
    pub fn fail<T>(&self, expected: &str) -> Result<T> {
        self.fail_at(self.at, expected)
    }

    /// An error at the token `at`.
    pub fn fail_at<T>(&self, at: usize, expected: &str) -> Result<T> {
        let (token, at) = self.tokens.get(at).copied().unwrap_or((Token::End, self.source.len()));
        Err(error(self.source, at, expected, &shown(token)))
    }

    pub fn eat(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if found == sign);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, sign: &str) -> Result<()> {
        if self.eat(sign) { Ok(()) } else { self.fail(&format!("`{sign}`")) }
    }

    pub fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Token::Word(word);
        self.at += usize::from(found);
        found
    }

    pub fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { self.fail(&format!("`{word}`")) }
    }

    pub fn word(&mut self, what: &str) -> Result<&'s str> {
        let Token::Word(word) = self.peek() else { return self.fail(what) };
        self.at += 1;
        Ok(word)
    }

    /// One of the words of a table.
    pub fn one_of<T: Copy>(&mut self, words: &[(T, &'static str)]) -> Result<T> {
        let found = words.iter().find(|row| self.peek() == Token::Word(row.1));
        let Some((value, _)) = found else {
            let words: Vec<&str> = words.iter().map(|row| row.1).collect();
            return self.fail(&format!("one of {}", words.join(", ")));
        };
        self.at += 1;
        Ok(*value)
    }

    pub fn number<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let start = self.at;
        let sign = if self.eat("-") { "-" } else { "" };
        if let Token::Number { digits, suffix: "" } = self.peek()
            && let Ok(value) = format!("{sign}{digits}").parse()
        {
            self.at += 1;
            return Ok(value);
        }
        self.at = start;
        self.fail(what)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.number(what)
    }

    pub fn text(&mut self, what: &str) -> Result<String> {
        let Token::Text(text) = self.peek() else { return self.fail(what) };
        self.at += 1;
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, if c == '\\' { chars.next() } else { None }) {
                (_, Some('n')) => out.push('\n'),
                (_, Some(c)) | (c, None) => out.push(c),
            }
        }
        Ok(out)
    }

    /// What quotes hold, read by its own reader.
    fn quoted<T: FromStr>(&mut self, what: &str) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        let at = self.at;
        self.text(what)?.parse().or_else(|err| self.fail_at(at, &format!("{what} ({err})")))
    }

    /// Items with commas between, in brackets.
    pub fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Parser<'s>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.expect(open)?;
        let mut out = vec![];
        while !self.eat(close) {
            if !out.is_empty() && !self.eat(",") {
                return self.fail(&format!("`,` or `{close}`"));
            }
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// Reads what is one level deeper.
    pub fn deeper<T>(&mut self, read: impl FnOnce(&mut Parser<'s>) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH {
            return self.fail("less nesting");
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    // ---- names ------------------------------------------------------------------------------------------------------

    /// Reads what has names of its own.
    pub fn scoped<T>(&mut self, read: impl FnOnce(&mut Parser<'s>) -> Result<T>) -> Result<T> {
        self.scopes.push(HashMap::new());
        let result = read(self);
        self.scopes.pop();
        result
    }

    pub fn lookup(&self, name: &str) -> Option<&Named> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    /// Gives the name at token `at` a meaning.
    pub fn declare(&mut self, at: usize, name: &'s str, named: Named) -> Result<()> {
        if self.lookup(name).is_some() {
            return self.fail_at(at, "a name that is not in use");
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, named);
        }
        Ok(())
    }

    /// A new variable, of the type that follows its name or of that which is expected.
    pub fn variable(&mut self, expected: Option<Type>, mutable: bool) -> Result<Var> {
        let at = self.at;
        let name = self.word("a name")?;
        let ty = if self.eat(":") { self.ty()? } else { expected.map_or_else(|| self.fail("`:` and a type"), Ok)? };
        self.new_variable(at, name, ty, mutable)
    }

    pub fn new_variable(&mut self, at: usize, name: &'s str, ty: Type, mutable: bool) -> Result<Var> {
        let var = self.program.add_var(base(name), ty);
        self.declare(at, name, Named::Var(var.clone(), mutable))?;
        Ok(var)
    }

    /// What the next name stands for, if that is what is expected.
    pub fn named<T>(&mut self, expected: &str, pick: impl Fn(&Named) -> Option<T>) -> Result<T> {
        if let Token::Word(name) | Token::Tile(name) = self.peek()
            && let Some(found) = self.lookup(name).and_then(pick)
        {
            self.at += 1;
            return Ok(found);
        }
        self.fail(expected)
    }

    pub fn tile(&mut self) -> Result<ValueId> {
        self.named("a tile that is defined here", |named| if let Named::Tile(id) = named { Some(*id) } else { None })
    }

    pub fn tensor(&mut self) -> Result<Buffer> {
        self.named("a tensor", |named| if let Named::Tensor(buffer) = named { Some(buffer.clone()) } else { None })
    }

    pub fn shared(&mut self) -> Result<SharedId> {
        self.named("a shared buffer", |named| if let Named::Shared(id) = named { Some(*id) } else { None })
    }

    pub fn channel(&mut self) -> Result<ChannelId> {
        self.named("a channel", |named| if let Named::Channel(id) = named { Some(*id) } else { None })
    }

    pub fn barrier(&mut self) -> Result<BarrierId> {
        self.named("a barrier", |named| if let Named::Barrier(id) = named { Some(*id) } else { None })
    }

    pub fn new_tile(&mut self, at: usize, name: &'s str, value: Value) -> Result<ValueId> {
        self.program.values.push(value);
        let id = ValueId(self.program.values.len() as u32 - 1);
        self.declare(at, name, Named::Tile(id))?;
        Ok(id)
    }

    // ---- types ------------------------------------------------------------------------------------------------------

    pub fn ty(&mut self) -> Result<Type> {
        if self.eat_word("index") { Ok(Type::Index) } else { self.dtype().map(Type::Element) }
    }

    pub fn dtype(&mut self) -> Result<DType> {
        if let Token::Word(name) = self.peek()
            && let Ok(dtype) = name.parse()
        {
            self.at += 1;
            return Ok(dtype);
        }
        self.fail("a type")
    }

    pub fn extents(&mut self) -> Result<Vec<u32>> {
        self.list("[", "]", |p| p.u32("an extent"))
    }

    /// `f32[128, 64] layout ".."`
    pub fn tile_type(&mut self, name: &str) -> Result<Value> {
        let dtype = self.dtype()?;
        let shape = self.extents()?;
        let layout = if self.eat_word("layout") { Some(self.quoted("a layout of registers")?) } else { None };
        let name = base(name.trim_start_matches('%')).into();
        Ok(Value { name, dtype, shape, layout })
    }

    // ---- the program ------------------------------------------------------------------------------------------------

    fn program(&mut self) -> Result<()> {
        self.expect_word("kernel")?;
        self.program.name = self.word("the kernel's name")?.to_owned();
        self.program.comment = self.text("what it computes, in quotes")?;
        self.expect_word("level")?;
        self.program.level = self.one_of(&LEVELS)?;
        self.params()?;
        self.expect_word("schedule")?;
        self.schedule()?;
        if self.eat_word("persistent") {
            let per_sm = self.u32("how many CTAs an SM has")?;
            self.expect_word("count")?;
            let count = self.variable(Some(Type::Index), false)?;
            self.expect_word("points")?;
            self.program.grid = Grid::Persistent { per_sm, count, points: self.expr()? };
        }
        self.expect_word("grid")?;
        self.grid()?;
        while self.eat_word("shared") {
            self.shared_buffer()?;
        }
        while self.eat_word("channel") {
            let at = self.at;
            let name = self.word("a name")?;
            let buffers = self.list("(", ")", Parser::shared)?;
            self.expect_word("stages")?;
            let stages = self.u32("a number of stages")?;
            self.expect_word("by")?;
            let kind = self.copy_kind()?;
            let id = ChannelId(self.program.channels.len() as u32);
            self.program.channels.push(Channel { name: base(name).into(), buffers, stages, kind });
            self.declare(at, name, Named::Channel(id))?;
        }
        while self.eat_word("barrier") {
            let at = self.at;
            let name = self.word("a name")?;
            self.expect_word("stages")?;
            let stages = self.u32("a number of stages")?;
            self.expect_word("count")?;
            let count = self.u32("a number of arrivals")?;
            self.expect_word("by")?;
            let by = self.one_of(&super::ARRIVERS)?;
            let id = BarrierId(self.program.barriers.len() as u32);
            self.program.barriers.push(Barrier { name: base(name).into(), stages, count, by });
            self.declare(at, name, Named::Barrier(id))?;
        }
        self.program.body = self.block()?;
        if self.peek() == Token::End { Ok(()) } else { self.fail("the end") }
    }

    fn params(&mut self) -> Result<()> {
        // An extent may be a parameter that comes later: scalars are declared first.
        let start = self.at;
        let mut scalars = vec![];
        while !matches!(self.peek(), Token::End | Token::Sign("{")) {
            if self.eat_word("param")
                && let (Token::Word(name), Token::Sign(":"), Token::Word(ty)) =
                    (self.peek(), self.peek_at(1), self.peek_at(2))
                && self.peek_at(3) != Token::Sign("[")
            {
                let ty = if ty == "index" { Some(Type::Index) } else { ty.parse().ok().map(Type::Element) };
                if let Some(ty) = ty {
                    scalars.push(self.new_variable(self.at, name, ty, false)?);
                }
            }
            self.at += 1;
        }
        self.at = start;
        let mut scalars = scalars.into_iter();
        while self.eat_word("param") {
            let at = self.at;
            let name = self.word("a name")?;
            self.expect(":")?;
            let ty = self.ty()?;
            let param = match ty {
                Type::Element(dtype) if self.peek() == Token::Sign("[") => self.tensor_param(at, name, dtype)?,
                _ => {
                    let range = if self.eat_word("in") {
                        let low = self.number("a bound")?;
                        self.expect("..=")?;
                        (low, self.number("a bound")?)
                    } else {
                        (i64::MIN, i64::MAX)
                    };
                    let multiple_of = if self.eat_word("multiple") { self.number("a divisor")? } else { 1 };
                    let Some(var) = scalars.next() else { return self.fail_at(at, "a parameter") };
                    Param::Scalar { var, range, multiple_of }
                }
            };
            self.program.params.push(param);
        }
        Ok(())
    }

    fn tensor_param(&mut self, at: usize, name: &'s str, dtype: DType) -> Result<Param> {
        let shape = self.list("[", "]", Parser::expr)?;
        self.expect_word("strides")?;
        let strides = self.list("[", "]", Parser::expr)?;
        let access = self.one_of(&ACCESSES)?;
        let id = self.program.next_id;
        self.program.next_id += 1;
        let buffer = Buffer::strided(id, base(name), dtype, Scope::Global, shape, strides);
        self.declare(at, name, Named::Tensor(buffer.clone()))?;
        Ok(Param::Buffer { buffer, access })
    }

    fn schedule(&mut self) -> Result<()> {
        let mut schedule = Schedule::default();
        self.expect_word("warps")?;
        schedule.warps = self.u32("a number of warps")?;
        schedule.specialise = self.eat_word("specialise");
        if self.eat_word("registers") {
            schedule.registers = Some((self.u32("a number of registers")?, self.u32("a number of registers")?));
        }
        // `persistent 1 ..` is the grid's line.
        if self.peek() == Token::Word("persistent") && !matches!(self.peek_at(1), Token::Number { .. }) {
            schedule.persistent = self.eat_word("persistent");
        }
        if self.eat_word("raster") {
            schedule.raster = self.u32("a number of tiles")?;
        }
        if self.eat_word("row_threads") {
            schedule.row_threads = self.u32("a number of threads")?;
        }
        schedule.staged_epilogue = self.eat_word("staged_epilogue");
        schedule.overlap = self.eat_word("overlap");
        schedule.ping_pong = self.eat_word("ping_pong");
        if self.eat_word("cluster") {
            schedule.cluster = self.u32("a number of CTAs")?;
        }
        schedule.across = self.eat_word("across");
        self.program.schedule = schedule;
        Ok(())
    }

    fn grid(&mut self) -> Result<()> {
        let mut axes = vec![];
        while matches!((self.peek(), self.peek_at(1)), (Token::Word(_), Token::Sign("=" | ":"))) {
            let at = self.at;
            let name = self.word("a name")?;
            let ty = if self.eat(":") { self.ty()? } else { Type::Index };
            self.expect("=")?;
            axes.push((at, name, ty, self.expr()?));
            if !self.eat(",") {
                break;
            }
        }
        for (at, name, ty, extent) in axes {
            let var = self.new_variable(at, name, ty, false)?;
            self.program.domain.push(Axis { var, extent });
        }
        Ok(())
    }

    fn shared_buffer(&mut self) -> Result<()> {
        let at = self.at;
        let name = self.word("a name")?;
        self.expect(":")?;
        let dtype = self.dtype()?;
        let shape = self.extents()?;
        self.expect_word("stages")?;
        let stages = self.u32("a number of stages")?;
        let layout = if self.eat_word("layout") { Some(self.quoted("a layout of shared memory")?) } else { None };
        let offset = if self.eat_word("offset") { Some(self.u32("an offset in bytes")?) } else { None };
        let id = SharedId(self.program.shared.len() as u32);
        self.program.shared.push(Shared { name: base(name).into(), dtype, shape, stages, layout, offset });
        self.declare(at, name, Named::Shared(id))
    }

    pub fn copy_kind(&mut self) -> Result<CopyKind> {
        match self.peek() {
            Token::Word("registers") => self.at += 1,
            Token::Word("tma") => {
                self.at += 1;
                return Ok(CopyKind::Tma);
            }
            Token::Word("multicast") => {
                self.at += 1;
                return Ok(CopyKind::Multicast);
            }
            Token::Word("cp_async") => {
                self.at += 1;
                return Ok(CopyKind::CpAsync(self.u32("bytes a thread")?));
            }
            _ => return self.fail("one of registers, cp_async, tma, multicast"),
        }
        Ok(CopyKind::Registers)
    }
}

/// A name without the number that makes it unique.
pub(super) fn base(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}
