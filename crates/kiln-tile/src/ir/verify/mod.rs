//! Checks the rules of the tile IR: definitions, types, shapes, and what belongs to which level.

mod channels;
mod declarations;
mod stmt;

use super::{Block, Level, Op, Program, Stmt, Value, ValueId};
use crate::dtype::Type;
use crate::error::Result;
use crate::expr::{Expr, ExprKind, Var};
use crate::program::Access;
use crate::verify::Scalars;
use std::collections::{HashMap, HashSet};

/// Checks `program` by the rules of its level.
///
/// # Errors
/// The first broken rule.
pub fn verify(program: &Program) -> Result<()> {
    let mut verifier = Verifier {
        program,
        place: String::new(),
        access: HashMap::new(),
        scope: HashSet::new(),
        declared: HashSet::new(),
        mutable: HashSet::new(),
        tiles: HashSet::new(),
        defined: HashSet::new(),
        spent: HashSet::new(),
        around: HashSet::new(),
        elected: false,
        nested: 0,
        threads: 0,
    };
    verifier.declarations()?;
    verifier.block(&program.body, &[])?;
    verifier.channels()
}

struct Verifier<'a> {
    program: &'a Program,
    /// The statement at hand.
    place: String,
    access: HashMap<u32, Access>,
    /// Variables that are visible, those that are declared anywhere, and those of the declared that may be set.
    scope: HashSet<u32>,
    declared: HashSet<u32>,
    mutable: HashSet<u32>,
    /// Tiles that are visible, that are defined anywhere, and that a dot has accumulated in.
    tiles: HashSet<ValueId>,
    defined: HashSet<ValueId>,
    spent: HashSet<ValueId>,
    /// Tiles from outside of the innermost loop.
    around: HashSet<ValueId>,
    /// Whether one thread runs this.
    elected: bool,
    /// Statements around the one at hand.
    nested: usize,
    /// Threads that run this.
    threads: u32,
}

impl<'a> Verifier<'a> {
    fn scalars(&self) -> Scalars<'_> {
        Scalars { kernel: &self.program.name, scope: &self.scope, access: &self.access }
    }

    fn fail<T>(&self, what: impl Into<String>, help: &str) -> Result<T> {
        self.scalars().invalid(what.into(), &self.place, help)
    }

    /// Fails unless `ok`.
    fn rule(&self, ok: bool, what: impl FnOnce() -> String, help: &str) -> Result<()> {
        if ok { Ok(()) } else { self.fail(what(), help) }
    }

    fn types(&self, ok: bool, found: impl Into<Type>, what: &str, expected: &str) -> Result<()> {
        self.scalars().types(ok, found, &format!("{what} ({})", self.place), expected)
    }

    /// Checks a scalar and its type.
    fn scalar(&self, e: &Expr, what: &str, expected: impl Into<Type>) -> Result<()> {
        let expected = expected.into();
        self.any_scalar(e, what)?;
        self.types(e.ty() == expected, e.ty(), what, expected.name())
    }

    /// Checks a scalar of any type.
    fn any_scalar(&self, e: &Expr, what: &str) -> Result<()> {
        self.scalars().require(e, &format!("{what} ({})", self.place), e.ty())?;
        let foreign = |e: &Expr| matches!(e.kind(), ExprKind::Load(b, _) if !self.access.contains_key(&b.id));
        self.rule(
            !e.any(&mut |e| foreign(e)),
            || format!("{what} loads from a tensor that is no parameter"),
            "declare it as a parameter",
        )
    }

    /// Declares a variable; it is declared once.
    fn variable(&mut self, var: &Var) -> Result<()> {
        let (name, id) = (&var.name, var.id);
        self.rule(
            id < self.program.next_id,
            || format!("`{name}` has the number {id}, which is not given yet"),
            "make variables with Program::add_var",
        )?;
        let fresh = self.declared.insert(id);
        self.rule(fresh, || format!("`{name}` is declared twice"), "make a variable of its own")?;
        self.scope.insert(id);
        Ok(())
    }

    fn index_variable(&mut self, var: &Var) -> Result<()> {
        self.types(var.ty == Type::Index, var.ty, &format!("`{}`", var.name), "index")?;
        self.variable(var)
    }

    /// The declaration of a tile.
    fn value(&self, id: ValueId) -> Result<&'a Value> {
        match self.program.values.get(id.0 as usize) {
            Some(value) => Ok(value),
            None => self.fail(format!("tile {} is not declared", id.0), "make tiles with Program::add_value"),
        }
    }

    /// Checks that a tile may be used here.
    fn uses(&self, id: ValueId) -> Result<&'a Value> {
        let value = self.value(id)?;
        self.rule(
            self.tiles.contains(&id),
            || format!("`%{}` is used where it is not defined", value.name),
            "define it before, in this block or in one around it; yield it from the block that defines it",
        )?;
        self.rule(
            !self.spent.contains(&id),
            || format!("`%{}` is used after a dot has accumulated in it", value.name),
            "use the dot's result",
        )?;
        Ok(value)
    }

    /// Makes a tile visible; it is defined once.
    fn define(&mut self, id: ValueId) -> Result<()> {
        let value = self.value(id)?;
        let name = &value.name;
        let fresh = self.defined.insert(id);
        self.rule(fresh, || format!("`%{name}` is defined twice"), "make a tile of its own")?;
        self.rule(
            !value.shape.contains(&0) && size(&value.shape).is_some(),
            || format!("`%{name}` has the extents {:?}", value.shape),
            "make extents positive, and no more than 2^24 elements",
        )?;
        let level = self.program.level;
        match &value.layout {
            None => self.rule(
                level < Level::LaidOut,
                || format!("`%{name}` has no layout"),
                "from level laid_out on every tile has one",
            )?,
            Some(layout) => {
                self.rule(
                    level >= Level::LaidOut,
                    || format!("`%{name}` has a layout at level {}", level.name()),
                    "the layouts pass gives them",
                )?;
                self.rule(
                    layout.shape() == value.shape && layout.threads() == self.threads,
                    || {
                        let (shape, threads) = (layout.shape(), layout.threads());
                        format!(
                            "`%{name}` of extents {:?} held by {} threads has a layout of {shape:?} for {threads}",
                            value.shape, self.threads
                        )
                    },
                    "lay it out for the threads of its role",
                )?;
            }
        }
        self.tiles.insert(id);
        Ok(())
    }

    /// Two tiles of one type.
    fn alike(&self, found: &Value, expected: &Value, what: &str) -> Result<()> {
        self.rule(
            (found.dtype, &found.shape) == (expected.dtype, &expected.shape),
            || format!("{what} is {}{:?}, not {}{:?}", found.dtype, found.shape, expected.dtype, expected.shape),
            "make the types and extents equal",
        )
    }

    /// Checks a block that yields tiles like `results`; what is declared inside ends with it.
    fn block(&mut self, block: &'a Block, yields: &[(ValueId, ValueId)]) -> Result<()> {
        let (scope, tiles) = (self.scope.clone(), self.tiles.clone());
        let place = self.place.clone();
        self.nested += 1;
        for stmt in block {
            self.stmt(stmt)?;
        }
        self.nested -= 1;
        self.place = place;
        for (found, expected) in yields {
            let found = self.uses(*found)?;
            self.alike(found, self.value(*expected)?, &format!("`%{}`, which is yielded,", found.name))?;
        }
        (self.scope, self.tiles) = (scope, tiles);
        Ok(())
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<()> {
        let name = stmt.op.name();
        self.place = match stmt.results.first().and_then(|id| self.program.values.get(id.0 as usize)) {
            Some(value) => format!("`%{} = {name}`", value.name),
            None => format!("`{name}`"),
        };
        let (least, level) = (least(&stmt.op), self.program.level);
        self.rule(
            level >= least,
            || format!("`{name}` at level {}", level.name()),
            &format!("it belongs to level {} and later ones", least.name()),
        )?;
        if let Some(last) = last(&stmt.op) {
            let help = "the async pass makes barriers, groups and exchanges of it";
            self.rule(level <= last, || format!("`{name}` at level {}", level.name()), help)?;
        }
        if self.elected {
            let alone = stmt.results.is_empty() && stmt.op.uses().is_empty() && !is_collective(&stmt.op);
            self.rule(alone, || format!("one thread alone runs `{name}`"), "move it out of `elected`")?;
        }
        for id in stmt.op.uses() {
            self.uses(id)?;
        }
        self.op(stmt)?;
        stmt.results.iter().try_for_each(|id| self.define(*id))
    }
}

/// Elements of a tile; `None` if they are more than any CTA holds.
fn size(shape: &[u32]) -> Option<u32> {
    let elements = shape.iter().try_fold(1u32, |product, extent| product.checked_mul(*extent))?;
    (elements <= 1 << 24).then_some(elements)
}

/// The first level at which a statement may stand.
fn least(op: &Op) -> Level {
    match op {
        Op::Bind { .. }
        | Op::Full { .. }
        | Op::Load { .. }
        | Op::Map { .. }
        | Op::Reduce { .. }
        | Op::ClusterReduce { .. }
        | Op::Transpose { .. }
        | Op::Dot { .. }
        | Op::Store { .. }
        | Op::Atomic { .. }
        | Op::Await { .. }
        | Op::Signal { .. }
        | Op::For { .. }
        | Op::If { .. } => Level::Tile,
        Op::Roles(_)
        | Op::Acquire(_)
        | Op::Copy { .. }
        | Op::Publish(_)
        | Op::Receive(_)
        | Op::Release(_)
        | Op::Skip { .. }
        | Op::NamedBarrier { .. }
        | Op::SharedLoad { .. }
        | Op::SharedStore { .. }
        | Op::Sync => Level::Scheduled,
        Op::CopyOut { .. } => Level::Selected,
        Op::Convert { .. } => Level::LaidOut,
        Op::Assign { .. }
        | Op::Elected(_)
        | Op::Expect { .. }
        | Op::Arrive { .. }
        | Op::Wait { .. }
        | Op::Commit(_)
        | Op::WaitGroup { .. }
        | Op::Fence(_)
        | Op::SetRegisters { .. }
        | Op::Turn(_)
        | Op::ClusterSync
        | Op::ClusterArrive
        | Op::ClusterWait
        | Op::ClusterLoad { .. } => Level::Async,
    }
}

/// The last level at which a statement may stand, if there is one.
fn last(op: &Op) -> Option<Level> {
    let channel = matches!(op, Op::Acquire(_) | Op::Publish(_) | Op::Receive(_) | Op::Release(_) | Op::Skip { .. });
    (channel || matches!(op, Op::ClusterReduce { .. })).then_some(Level::LaidOut)
}

/// Whether all threads of a role run a statement together.
fn is_collective(op: &Op) -> bool {
    matches!(
        op,
        Op::Roles(_)
            | Op::Sync
            | Op::NamedBarrier { .. }
            | Op::Turn(_)
            | Op::SetRegisters { .. }
            | Op::ClusterSync
            | Op::ClusterArrive
            | Op::ClusterWait
            | Op::Elected(_)
    )
}
