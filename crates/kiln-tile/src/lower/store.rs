//! Tiles to global memory.

use super::Lower;
use super::nest::Nest;
use crate::dtype::DType;
use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::ir::{Place, ValueId};
use crate::program::AtomicOp;
use crate::threads::{self as t, Effect, Stmt, Ty};

impl Lower<'_> {
    /// Stores a tile; of threads that hold the same element, the first does.
    pub(super) fn store(&mut self, to: &Place, value: ValueId) -> Result<()> {
        let (layout, array) = (self.layout(value)?, self.array(value)?);
        let buffer = to.tensor().clone();
        if matches!(buffer.dtype, DType::I4 | DType::U4) {
            return Err(TileError::Unsupported {
                kernel: self.program.name.clone(),
                arch: self.arch,
                what: format!("a store of {}", buffer.dtype),
                help: "pack two values into a u8".to_owned(),
            });
        }
        let owner = self.owner(layout)?;
        let (nest, at) = self.memory_nest(layout, to, false)?;
        let access = self.access(&nest, &buffer, at)?;
        let owner = owner.as_ref().map(|owner| self.expr(owner)).transpose()?;
        let block = self.nested(|lower| {
            lower.masked(&nest, &access, false, &mut |lower, _| {
                let index = lower.expr(&access.inner)?;
                let value = lower.gather(&nest, &array, &buffer.name)?;
                lower.push(Stmt::Store { pointer: access.pointer.clone(), index, value });
                Ok(())
            })
        })?;
        self.owned(owner, block);
        Ok(())
    }

    /// The element of an array that a nest is at, or a vector of those in its lanes.
    pub(super) fn gather(&mut self, nest: &Nest, array: &t::Var, name: &str) -> Result<t::Expr> {
        let Some((lane, width)) = &nest.lane else { return Ok(array.at(self.expr(&nest.register)?)) };
        let vector = self.var(&format!("{name}_v"), Ty::Vector(array.ty().element(), *width));
        self.push(Stmt::declare(&vector));
        self.in_lanes(nest, &mut |lower| {
            let (lane, register) = (lower.expr(&Expr::var(lane))?, lower.expr(&nest.register)?);
            lower.push(Stmt::Assign(vector.place(lane), array.at(register)));
            Ok(())
        })?;
        Ok(t::Expr::from(&vector))
    }

    /// Writes a block for the threads that own what it stores.
    pub(super) fn owned(&mut self, owner: Option<t::Expr>, block: t::Block) {
        match owner {
            Some(owner) => Stmt::when(owner, block).into_iter().for_each(|stmt| self.push(stmt)),
            None => block.into_iter().for_each(|stmt| self.push(stmt)),
        }
    }

    /// Updates elements of global memory; of threads that hold the same operand, the first does.
    pub(super) fn atomic(&mut self, op: AtomicOp, to: &Place, value: ValueId) -> Result<()> {
        let (layout, array) = (self.layout(value)?, self.array(value)?);
        let buffer = to.tensor().clone();
        let owner = self.owner(layout)?;
        let mut digits = self.digits(layout, &[])?;
        digits.retain(|digit| digit.stride > 0);
        let nest = self.nest(layout, &digits, 0, None)?;
        let at = self.position(to, &nest.at)?;
        let access = self.access(&nest, &buffer, at)?;
        let owner = owner.as_ref().map(|owner| self.expr(owner)).transpose()?;
        let block = self.nested(|lower| {
            lower.masked(&nest, &access, false, &mut |lower, _| {
                let index = lower.expr(&access.inner)?;
                let value = array.at(lower.expr(&nest.register)?);
                lower.push(Stmt::Effect(Effect::Atomic { op, pointer: access.pointer.clone(), index, value }));
                Ok(())
            })
        })?;
        self.owned(owner, block);
        Ok(())
    }
}
