//! Tiles to global memory.

use super::Lower;
use crate::dtype::DType;
use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::ir::{Place, ValueId};
use crate::program::AtomicOp;
use crate::threads::{self as t, Effect, Scalar, Stmt, Ty};

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
        let width = nest.width();
        let access = self.access(&nest, &buffer, at)?;
        let owner = owner.as_ref().map(|owner| self.expr(owner)).transpose()?;
        let block = self.nested(|lower| {
            lower.in_loops(&nest.loops, &mut |lower| {
                lower.scalars(&access.body, width)?;
                let (mask, place) = (lower.expr(&access.mask)?, lower.expr(&access.inner)?);
                let mut value = array.at(lower.expr(&nest.first_lane(&nest.register))?);
                if let Some((lane, _)) = &nest.lane {
                    let of = Scalar::of(buffer.dtype, false);
                    let vector = lower.var(&format!("{}_v", buffer.name), Ty::Vector(of, width));
                    lower.push(Stmt::declare(&vector));
                    lower.in_lanes(&nest, &mut |lower| {
                        let (lane, register) = (lower.expr(&Expr::var(lane))?, lower.expr(&nest.register)?);
                        lower.push(Stmt::Assign(vector.place(lane), array.at(register)));
                        Ok(())
                    })?;
                    value = t::Expr::from(&vector);
                }
                let store = Stmt::Store { pointer: access.pointer.clone(), index: place, value };
                lower.when(mask, |lower| {
                    lower.push(store);
                    Ok(())
                })
            })
        })?;
        self.owned(owner, block);
        Ok(())
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
        let nest = self.nest(layout, &digits, None)?;
        let at = self.position(to, &nest.at)?;
        let access = self.access(&nest, &buffer, at)?;
        let owner = owner.as_ref().map(|owner| self.expr(owner)).transpose()?;
        let block = self.nested(|lower| {
            lower.in_loops(&nest.loops, &mut |lower| {
                lower.scalars(&access.body, 1)?;
                let (mask, index) = (lower.expr(&access.mask)?, lower.expr(&access.inner)?);
                let value = array.at(lower.expr(&nest.register)?);
                let effect = Effect::Atomic { op, pointer: access.pointer.clone(), index, value };
                lower.when(mask, |lower| {
                    lower.push(Stmt::Effect(effect));
                    Ok(())
                })
            })
        })?;
        self.owned(owner, block);
        Ok(())
    }
}
