//! Tiles from global memory, and tiles of one value.

use super::Lower;
use super::access::Position;
use super::nest::Nest;
use crate::error::Result;
use crate::expr::Expr;
use crate::ir::{Place, Scalar as Named, ValueId};
use crate::threads::{self as t, Stmt};

/// Bytes of the widest access.
pub(super) const WIDEST: u32 = 16;

impl Lower<'_> {
    /// A tile of one value.
    pub(super) fn full(&mut self, result: ValueId, value: &Expr) -> Result<()> {
        let (layout, array) = (self.layout(result)?, self.array(result)?);
        let value = value.cast(self.program.value(result).dtype);
        let value = self.name("value", &value)?;
        let counter = self.counter("i", layout.registers(), false);
        self.unrolled(&counter, layout.registers(), |lower| {
            let (at, value) = (lower.expr(&Expr::var(&counter))?, lower.expr(&value)?);
            lower.push(Stmt::Assign(array.place(at), value));
            Ok(())
        })
    }

    /// A nest over a tile whose lanes access neighbours of `place` that all exist or all do not.
    pub(super) fn memory_nest(
        &mut self,
        layout: &kiln_layout::RegisterLayout,
        place: &Place,
        copies: bool,
    ) -> Result<(Nest, Position)> {
        let mut digits = self.digits(layout, &[])?;
        digits.retain(|digit| copies || digit.stride > 0);
        let buffer = place.tensor().clone();
        let nest = self.widest(layout, &digits, 0, |lower, nest| {
            let width = nest.width();
            let at = lower.position(place, &nest.at)?;
            lower.note(&at.body, width);
            let fits = width * buffer.dtype.bits() <= WIDEST * 8
                && at.body.iter().all(|scalar| match scalar {
                    Named::Bind { .. } => true,
                    Named::Check { violated, .. } => lower.is_uniform(violated, width),
                })
                && lower.is_wide(&buffer, &at.index, width)
                && lower.is_uniform(&at.mask, width);
            Ok(if fits { width.into() } else { 0 })
        })?;
        let at = self.position(place, &nest.at)?;
        Ok((nest, at))
    }

    /// Notes what is known about scalars that are to be named in code for so many lanes.
    pub(super) fn note(&mut self, body: &[Named], width: u32) {
        for scalar in body {
            if let Named::Bind { var, value } = scalar {
                self.facts.bind(var, value, width);
            }
        }
    }

    /// A tile from global memory.
    pub(super) fn load(&mut self, result: ValueId, from: &Place, fill: &Expr) -> Result<()> {
        let (layout, array) = (self.layout(result)?, self.array(result)?);
        let buffer = from.tensor().clone();
        let (nest, at) = self.memory_nest(layout, from, true)?;
        let fill = self.name("fill", &fill.cast(buffer.dtype))?;
        let access = self.access(&nest, &buffer, at)?;
        self.masked(&nest, &access, true, &mut |lower, exists| {
            if !exists {
                let fill = lower.expr(&fill)?;
                return lower.spread(&nest, &array, |_| fill.clone());
            }
            let place = lower.expr(&access.inner)?;
            if nest.width() == 1 {
                let element = lower.load_one(&buffer, access.pointer.clone(), place);
                return lower.spread(&nest, &array, |_| element.clone());
            }
            let loaded = t::Expr::load_lanes(access.pointer.clone(), place, nest.width());
            let vector = lower.var(&format!("{}_v", buffer.name), loaded.ty());
            lower.push(Stmt::constant(&vector, loaded));
            lower.spread(&nest, &array, |lane| vector.at(lane))
        })
    }

    /// Gives each lane of the nest its register of an array.
    pub(super) fn spread(&mut self, nest: &Nest, array: &t::Var, value: impl Fn(t::Expr) -> t::Expr) -> Result<()> {
        self.in_lanes(nest, &mut |lower| {
            let lane = match &nest.lane {
                Some((lane, _)) => lower.expr(&Expr::var(lane))?,
                None => t::Expr::int(0),
            };
            let register = lower.expr(&nest.register)?;
            lower.push(Stmt::Assign(array.place(register), value(lane)));
            Ok(())
        })
    }
}
