//! Reads statements.

use super::super::{
    BarrierId, Block, Op, Operand, Part, Place, Role, Scalar, Slot, Stage, Stmt, Value, ValueId, View, Walk,
};
use super::lex::Token;
use super::parse::{Named, Parser, base};
use super::{ATOMICS, FENCES, GROUPS, REDUCTIONS, ROUNDINGS};
use crate::dtype::Type;
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::program::Buffer;

/// What stands before the `=` of a statement: where the name is, the name, and the tile.
type Defined<'s> = (usize, &'s str, Value);

impl<'s> Parser<'s> {
    /// Statements in braces.
    pub fn block(&mut self) -> Result<Block> {
        let at = self.at;
        let (block, yields) = self.yielding()?;
        if yields.is_empty() { Ok(block) } else { self.fail_at(at, "a block that yields nothing") }
    }

    /// Statements in braces and what they yield.
    fn yielding(&mut self) -> Result<(Block, Vec<ValueId>)> {
        self.deeper(|p| p.scoped(Parser::statements))
    }

    fn statements(&mut self) -> Result<(Block, Vec<ValueId>)> {
        self.expect("{")?;
        let mut block = vec![];
        let mut yields = vec![];
        while !self.eat("}") {
            if self.eat_word("yield") {
                yields.push(self.tile()?);
                while self.eat(",") {
                    yields.push(self.tile()?);
                }
                self.expect("}")?;
                break;
            }
            block.push(self.stmt()?);
        }
        Ok((block, yields))
    }

    fn stmt(&mut self) -> Result<Stmt> {
        let mut defined: Vec<Defined<'s>> = vec![];
        while let Token::Tile(name) = self.peek() {
            let at = self.at;
            self.at += 1;
            self.expect(":")?;
            defined.push((at, name, self.tile_type(name)?));
            if !self.eat(",") {
                break;
            }
        }
        if !defined.is_empty() {
            self.expect("=")?;
        }
        let first = defined.first().map(|(_, _, value)| value.shape.clone());
        let op = self.op(first.as_deref())?;
        let define = |(at, name, value)| self.new_tile(at, name, value);
        let results = defined.into_iter().map(define).collect::<Result<_>>()?;
        Ok(Stmt { results, op })
    }

    /// A statement behind its results, of which the first has the extents `shape`.
    fn op(&mut self, shape: Option<&[u32]>) -> Result<Op> {
        let Token::Word(word) = self.peek() else { return self.fail("a statement") };
        self.at += 1;
        Ok(match word {
            "let" => {
                let (at, name, ty) = self.typed()?;
                let value = self.expr()?;
                let below = if self.eat_word("below") { Some(self.expr()?) } else { None };
                Op::Bind { var: self.new_variable(at, name, ty, false)?, value, below }
            }
            "var" => {
                let (at, name, ty) = self.typed()?;
                let value = self.expr()?;
                self.expect_word("below")?;
                let below = self.u32("a bound")?;
                Op::Assign { var: self.new_variable(at, name, ty, true)?, value, below }
            }
            "set" => {
                let var = self.named("a variable that `var` declares", |named| match named {
                    Named::Var(var, true) => Some(var.clone()),
                    _ => None,
                })?;
                self.expect("=")?;
                let value = self.expr()?;
                self.expect_word("below")?;
                Op::Assign { var, value, below: self.u32("a bound")? }
            }
            "full" => Op::Full { value: self.expr()? },
            "load" => {
                let Some(shape) = shape else {
                    return self.fail_at(self.at - 1, "a tile that is defined before `load`");
                };
                let (from, _) = self.place(shape)?;
                self.expect_word("fill")?;
                Op::Load { from, fill: self.expr()? }
            }
            "map" => self.map()?,
            "reduce" => {
                let op = self.one_of(&REDUCTIONS)?;
                let value = self.tile()?;
                self.expect_word("axis")?;
                Op::Reduce { op, value, axis: self.number("an axis")? }
            }
            "cluster_reduce" => {
                let mut of = vec![(self.one_of(&REDUCTIONS)?, self.tile()?)];
                while self.eat(",") {
                    of.push((self.one_of(&REDUCTIONS)?, self.tile()?));
                }
                Op::ClusterReduce { of }
            }
            "transpose" => {
                let value = self.tile()?;
                Op::Transpose { value, perm: self.list("[", "]", |p| p.number("an axis"))? }
            }
            "dot" => {
                let a = self.dot_operand()?;
                self.expect(",")?;
                let b = self.dot_operand()?;
                self.expect(",")?;
                let acc = self.tile()?;
                let tf32 = if self.eat_word("tf32") { Some(self.one_of(&ROUNDINGS)?) } else { None };
                let atom =
                    if self.eat_word("by") { Some(self.text("an instruction, in quotes")?.into()) } else { None };
                Op::Dot { a, b, acc, tf32, atom }
            }
            "store" => {
                let (to, value) = self.stored()?;
                Op::Store { to, value }
            }
            "atomic" => {
                let op = self.one_of(&ATOMICS)?;
                let (to, value) = self.stored()?;
                Op::Atomic { op, to, value }
            }
            "await" => {
                let (counter, index, value) = self.counter()?;
                Op::Await { counter, index, value }
            }
            "signal" => {
                let (counter, index, value) = self.counter()?;
                Op::Signal { counter, index, value }
            }
            "for" => self.loop_()?,
            "if" => {
                let cond = self.expr()?;
                let then = self.yielding()?;
                let otherwise = if self.eat_word("else") { self.yielding()? } else { (vec![], vec![]) };
                Op::If { cond, then, otherwise }
            }
            "roles" => {
                self.expect("{")?;
                let mut roles = vec![];
                while !self.eat("}") {
                    let name = base(self.word("a role's name")?).into();
                    self.expect_word("warps")?;
                    let warps = self.u32("a number of warps")?;
                    roles.push(self.scoped(|p| {
                        let groups = if p.eat_word("groups") { Some(p.groups()?) } else { None };
                        let registers =
                            if p.eat_word("registers") { Some(p.u32("a number of registers")?) } else { None };
                        Ok(Role { name, warps, groups, registers, body: p.block()? })
                    })?);
                }
                Op::Roles(roles)
            }
            "acquire" => Op::Acquire(self.channel()?),
            "publish" => Op::Publish(self.channel()?),
            "receive" => Op::Receive(self.channel()?),
            "release" => Op::Release(self.channel()?),
            "skip" => {
                let channel = self.channel()?;
                self.expect_word("slots")?;
                Op::Skip { channel, slots: self.expr()? }
            }
            "copy" => {
                let to = self.slot()?;
                self.expect("=")?;
                let shape = self.slot_shape(&to);
                let (from, _) = self.boxed(&shape)?;
                self.expect_word("by")?;
                let kind = self.copy_kind()?;
                let barrier = if self.eat_word("on") { Some(self.phase()?) } else { None };
                Op::Copy { from, to, kind, barrier }
            }
            "shared_load" => Op::SharedLoad { from: self.slot()? },
            "shared_store" => {
                let to = self.slot()?;
                self.expect("=")?;
                Op::SharedStore { to, value: self.tile()? }
            }
            "copy_out" => {
                // The extents are the slot's, which comes after.
                let (mut to, said) = self.boxed(&[])?;
                self.expect("=")?;
                let from = self.slot()?;
                if !said {
                    to.shape = self.slot_shape(&from);
                }
                Op::CopyOut { from, to }
            }
            "sync" => Op::Sync,
            "convert" => Op::Convert { value: self.tile()? },
            "elected" => Op::Elected(self.block()?),
            "expect" => {
                let (barrier, index) = self.phase()?;
                self.expect_word("bytes")?;
                Op::Expect { barrier, index, bytes: self.u32("a number of bytes")? }
            }
            "arrive" => {
                let (barrier, index) = self.phase()?;
                Op::Arrive { barrier, index, everywhere: self.eat_word("everywhere") }
            }
            "wait" => {
                let (barrier, index) = self.phase()?;
                self.expect_word("parity")?;
                Op::Wait { barrier, index, parity: self.expr()? }
            }
            "commit" => Op::Commit(self.one_of(&GROUPS)?),
            "wait_group" => {
                let group = self.one_of(&GROUPS)?;
                self.expect_word("pending")?;
                Op::WaitGroup { group, pending: self.u32("a number of groups")? }
            }
            "fence" => Op::Fence(self.one_of(&FENCES)?),
            "named_barrier" => {
                let id = self.expr()?;
                self.expect_word("threads")?;
                let threads = self.u32("a number of threads")?;
                Op::NamedBarrier { id, threads, wait: self.one_of(&[(true, "wait"), (false, "arrive")])? }
            }
            "set_registers" => {
                let count = self.u32("a number of registers")?;
                Op::SetRegisters { count, increase: self.one_of(&[(true, "increase"), (false, "decrease")])? }
            }
            "turn" => Op::Turn(self.one_of(&super::TURNS)?),
            "cluster_sync" => Op::ClusterSync,
            "cluster_arrive" => Op::ClusterArrive,
            "cluster_wait" => Op::ClusterWait,
            "cluster_load" => Op::ClusterLoad { op: self.one_of(&REDUCTIONS)?, from: self.slot()? },
            _ => return self.fail_at(self.at - 1, "a statement"),
        })
    }

    /// `name: type =`
    fn typed(&mut self) -> Result<(usize, &'s str, Type)> {
        let at = self.at;
        let name = self.word("a name")?;
        self.expect(":")?;
        let ty = self.ty()?;
        self.expect("=")?;
        Ok((at, name, ty))
    }

    /// `counter[index] = value`
    fn counter(&mut self) -> Result<(Buffer, Vec<Expr>, Expr)> {
        let counter = self.tensor()?;
        let index = self.list("[", "]", Parser::expr)?;
        self.expect("=")?;
        Ok((counter, index, self.expr()?))
    }

    /// `barrier[index]`
    fn phase(&mut self) -> Result<(BarrierId, Expr)> {
        let barrier = self.barrier()?;
        self.expect("[")?;
        let index = self.expr()?;
        self.expect("]")?;
        Ok((barrier, index))
    }

    fn slot(&mut self) -> Result<Slot> {
        let buffer = self.shared()?;
        let stage = if self.eat("@") {
            Stage::Cursor(self.channel()?)
        } else {
            self.expect("[")?;
            let index = self.expr()?;
            self.expect("]")?;
            Stage::Index(index)
        };
        Ok(Slot { buffer, stage })
    }

    fn slot_shape(&self, slot: &Slot) -> Vec<u32> {
        self.program.shared(slot.buffer).shape.clone()
    }

    fn dot_operand(&mut self) -> Result<Operand> {
        if let Token::Tile(_) = self.peek() {
            Ok(Operand::Tile(self.tile()?))
        } else {
            Ok(Operand::Shared(self.slot()?))
        }
    }

    /// A box of the extents that are said, or else of `shape`; and whether they were said.
    fn boxed(&mut self, shape: &[u32]) -> Result<(View, bool)> {
        let tensor = self.tensor()?;
        let mut walking = 0;
        let along = self.list("[", "]", |p| {
            let origin = p.expr()?;
            if !p.eat("..") {
                return Ok((origin, None));
            }
            walking += 1;
            let axis = if p.eat("@") { p.number("an axis")? } else { walking - 1 };
            Ok((origin, Some(axis)))
        })?;
        let (origin, axes): (Vec<Expr>, Vec<Option<usize>>) = along.into_iter().unzip();
        let said = if self.eat_word("box") { Some(self.extents()?) } else { None };
        let mut masked = vec![false; origin.len()];
        if self.eat_word("masked") {
            self.list("[", "]", |p| {
                let axis: usize = p.number("an axis of the tensor")?;
                match masked.get_mut(axis) {
                    Some(masked) => *masked = true,
                    None => return p.fail_at(p.at - 1, "an axis of the tensor"),
                }
                Ok(())
            })?;
        }
        let mut walks = vec![];
        while self.eat_word("walk") {
            self.expect("@")?;
            let axis = self.number("an axis of the tile")?;
            self.expect_word("from")?;
            let first = self.expr()?;
            self.expect_word("until")?;
            let end = self.expr()?;
            self.expect_word("along")?;
            let parts = self.list("[", "]", Parser::part)?;
            walks.push(Walk { axis, first, end, parts });
        }
        let is_said = said.is_some();
        let shape = said.unwrap_or_else(|| shape.to_vec());
        Ok((View { tensor, origin, axes, shape, masked, walks }, is_said))
    }

    /// `1 of %n base -1 step 2 last 0`
    fn part(&mut self) -> Result<Part> {
        let axis = self.number("an axis of the tensor")?;
        self.expect_word("of")?;
        let extent = self.expr()?;
        let mut number = |word: &str, what: &str| {
            self.expect_word(word)?;
            self.number(what)
        };
        let (base, step) =
            (number("base", "how far the first value moves")?, number("step", "how far values are apart")?);
        Ok(Part { axis, extent, base, step, last: number("last", "how far the last value may be")? })
    }

    /// A place, of `shape` if it is a box without extents; and whether nothing of it depends on that.
    fn place(&mut self, shape: &[u32]) -> Result<(Place, bool)> {
        if self.peek_at(1) != Token::Word("at") {
            let (view, said) = self.boxed(shape)?;
            return Ok((Place::View(view), said));
        }
        let tensor = self.tensor()?;
        self.expect_word("at")?;
        self.scoped(|p| {
            let axes = p.list("[", "]", |p| p.variable(Some(Type::Index), false))?;
            let body = p.scalars()?;
            let index = p.list("[", "]", Parser::expr)?;
            p.expect_word("where")?;
            let mask = p.expr()?;
            p.expect("}")?;
            Ok((Place::Elements { tensor, axes, body, index, mask }, true))
        })
    }

    /// `place = %tile`
    fn stored(&mut self) -> Result<(Place, ValueId)> {
        // The extents are the tile's, which comes after.
        let (mut to, said) = self.place(&[])?;
        self.expect("=")?;
        let value = self.tile()?;
        if let (Place::View(view), false) = (&mut to, said) {
            view.shape.clone_from(&self.program.value(value).shape);
        }
        Ok((to, value))
    }

    fn map(&mut self) -> Result<Op> {
        self.scoped(|p| {
            let axes = p.list("[", "]", |p| p.variable(Some(Type::Index), false))?;
            let args: Vec<(Var, ValueId)> = p.list("(", ")", |p| {
                let at = p.at;
                let name = p.word("a name")?;
                let ty = if p.eat(":") { Some(p.ty()?) } else { None };
                p.expect("=")?;
                let value = p.tile()?;
                let ty = ty.unwrap_or_else(|| p.program.value(value).dtype.into());
                Ok((p.new_variable(at, name, ty, false)?, value))
            })?;
            let body = p.scalars()?;
            let mut results = vec![p.expr()?];
            while p.eat(",") {
                results.push(p.expr()?);
            }
            p.expect("}")?;
            Ok(Op::Map { axes, args, body, results })
        })
    }

    /// Scalar statements after an open brace, up to what follows `yield`.
    fn scalars(&mut self) -> Result<Vec<Scalar>> {
        self.expect("{")?;
        let mut body = vec![];
        while !self.eat_word("yield") {
            if self.eat_word("let") {
                let (at, name, ty) = self.typed()?;
                let value = self.expr()?;
                body.push(Scalar::Bind { var: self.new_variable(at, name, ty, false)?, value });
            } else if self.eat_word("check") {
                let violated = self.expr()?;
                self.expect_word("fault")?;
                let fault = self.tensor()?;
                self.expect_word("code")?;
                body.push(Scalar::Check { violated, fault, code: self.expr()? });
            } else {
                return self.fail("one of let, check, yield");
            }
        }
        Ok(body)
    }

    /// The groups that run a role: the name of their number, and how many.
    fn groups(&mut self) -> Result<(Var, u32)> {
        let (at, name) = (self.at, self.word("a name")?);
        let var = self.new_variable(at, name, Type::Index, false)?;
        self.expect_word("below")?;
        Ok((var, self.u32("a number of groups")?))
    }

    fn loop_(&mut self) -> Result<Op> {
        let at = self.at;
        let name = self.word("a name")?;
        let ty = if self.eat(":") { self.ty()? } else { Type::Index };
        self.expect_word("in")?;
        let start = self.expr()?;
        self.expect("..")?;
        let end = self.expr()?;
        let step = if self.eat_word("step") { self.expr()? } else { Expr::index(1) };
        let stages = if self.eat_word("stages") { Some(self.u32("a number of stages")?) } else { None };
        self.scoped(|p| {
            let mut inside = vec![];
            if p.eat_word("carry") {
                inside = p.list("(", ")", |p| {
                    let at = p.at;
                    let Token::Tile(name) = p.peek() else { return p.fail("a tile's name") };
                    p.at += 1;
                    let value = if p.eat(":") { Some(p.tile_type(name)?) } else { None };
                    p.expect("=")?;
                    let first = p.tile()?;
                    let like = p.program.value(first);
                    let value = value
                        .unwrap_or_else(|| Value { name: base(name.trim_start_matches('%')).into(), ..like.clone() });
                    Ok((at, name, value, first))
                })?;
            }
            let var = p.new_variable(at, name, ty, false)?;
            let define = |(at, name, value, first)| Ok((p.new_tile(at, name, value)?, first));
            let carried = inside.into_iter().map(define).collect::<Result<_>>()?;
            let (body, yields) = p.yielding()?;
            Ok(Op::For { var, start, end, step, carried, body, yields, stages })
        })
    }
}
