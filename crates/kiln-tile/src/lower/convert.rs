//! Tiles in other layouts.

use super::Lower;
use super::shared::{Place, scratch_layout};
use crate::dtype::DType;
use crate::error::Result;
use crate::expr::Expr;
use crate::ir::ValueId;
use crate::threads::{self as t, Function, Stmt};
use kiln_layout::{Conversion, Digit, RegisterLayout, Shuffle, Source, conversion};

/// Shuffles for each register above which shared memory is cheaper: a store, a load and a part of two barriers.
const SHUFFLES: u32 = 4;

/// How a tile gets from layout to layout.
enum Route {
    /// From register to register of the same thread.
    Registers,
    /// From lane to lane.
    Shuffle(Shuffle),
    /// Through shared memory.
    Shared,
}

fn route(from: &RegisterLayout, to: &RegisterLayout) -> Option<Route> {
    Some(match conversion(from, to).ok()? {
        Conversion::None | Conversion::Registers(_) => Route::Registers,
        Conversion::Shuffle(shuffle) if shuffle.shuffles() <= SHUFFLES * to.registers() => Route::Shuffle(shuffle),
        Conversion::Shuffle(_) | Conversion::Shared => Route::Shared,
    })
}

/// Bytes of scratch that a conversion takes.
pub(super) fn scratch(from: &RegisterLayout, to: &RegisterLayout, dtype: DType) -> u32 {
    match route(from, to) {
        Some(Route::Shared) => scratch_layout(to, dtype).map_or(0, |layout| layout.bytes()),
        _ => 0,
    }
}

impl Lower<'_> {
    /// The same tile in another layout.
    pub(super) fn convert(&mut self, result: ValueId, value: ValueId) -> Result<()> {
        if self.storage.class(result) == self.storage.class(value) {
            return Ok(());
        }
        let (from, to) = (self.layout(value)?, self.layout(result)?);
        let (source, target) = (self.array(value)?, self.array(result)?);
        self.convert_registers((from, &source), (to, &target), self.program.value(value).dtype)
    }

    /// The same elements with other axes: what is register `r` of the operand is register `r` of the result, or else it is converted.
    pub(super) fn transpose(&mut self, result: ValueId, value: ValueId, perm: &[usize]) -> Result<()> {
        if self.storage.class(result) == self.storage.class(value) {
            return Ok(());
        }
        let relabelled = self.layout(value)?.transpose(perm).map_err(|e| self.internal(e.to_string()))?;
        let (source, target) = (self.array(value)?, self.array(result)?);
        self.convert_registers((&relabelled, &source), (self.layout(result)?, &target), self.program.value(value).dtype)
    }

    /// Brings an array from layout to layout.
    pub(super) fn convert_registers(
        &mut self,
        (from, source): (&RegisterLayout, &t::Var),
        (to, target): (&RegisterLayout, &t::Var),
        dtype: DType,
    ) -> Result<()> {
        match route(from, to) {
            Some(Route::Registers) => {
                let digits = self.digits(to, &[from])?;
                let nest = self.nest(to, &digits, 1, None)?;
                self.copy_nest(&nest, source, target)
            }
            Some(Route::Shuffle(shuffle)) => self.shuffle(&shuffle, source, target),
            Some(Route::Shared) => {
                let layout = scratch_layout(to, dtype).ok_or_else(|| self.internal("no scratch for a conversion"))?;
                let place = Place { layout: &layout, start: self.scratch()? };
                self.write_shared(from, source, &place)?;
                self.sync()?;
                self.read_shared(to, target, &place)?;
                self.sync()
            }
            None => Err(self.internal(format!("a tile of {from} cannot become one of {to}"))),
        }
    }

    /// Moves values between the lanes of each warp. A lane may need another register than the next one: then all that may be needed are
    /// moved, and each lane takes its own.
    fn shuffle(&mut self, shuffle: &Shuffle, source: &t::Var, target: &t::Var) -> Result<()> {
        let thread = self.thread()?;
        let mut moved = Expr::index(0);
        let mut choices = vec![(0, Expr::bool(true))];
        for Digit { divide, extent, step } in &shuffle.digits {
            let digit = self.thread_digit(&thread, i64::from(*divide), *extent)?;
            moved = moved + &digit * i64::from(step.lane);
            if step.register > 0 && *extent > 1 {
                let chosen = |value: u32| digit.eq(i64::from(value));
                choices = choices
                    .into_iter()
                    .flat_map(|(register, cond)| {
                        (0..*extent).map(move |value| (register + value * step.register, value, cond.clone()))
                    })
                    .map(|(register, value, cond)| (register, cond.and(chosen(value))))
                    .collect();
            }
        }
        let still = shuffle.shuffles() == 0;
        let lane = self.of_thread("lane", moved)?;
        let mut conds = vec![];
        for (register, cond) in choices {
            conds.push((register, self.of_thread("chosen", cond)?));
        }
        for (to, Source { register: first, lane: more }) in shuffle.registers.iter().enumerate() {
            let from = self.expr(&(&lane + i64::from(*more)))?;
            let mut value: Option<t::Expr> = None;
            for (register, cond) in &conds {
                let mut other = source.at(t::Expr::int(first + register));
                if !still {
                    // Every lane takes part, whatever it takes.
                    let shuffled = self.var(target.name(), t::Ty::Scalar(source.ty().element()));
                    self.push(Stmt::constant(&shuffled, t::Expr::call(Function::Shuffle, [other, from.clone()])));
                    other = t::Expr::from(&shuffled);
                }
                let cond = self.expr(cond)?;
                value = Some(match value {
                    Some(value) => cond.select(other, value),
                    None => other,
                });
            }
            let value = value.ok_or_else(|| self.internal("a shuffle of nothing"))?;
            self.push(Stmt::Assign(target.place(t::Expr::int(to as u32)), value));
        }
        Ok(())
    }
}
