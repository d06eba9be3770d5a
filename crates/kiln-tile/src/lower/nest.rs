//! Loops over the registers of a layout.

use super::Lower;
use crate::error::Result;
use crate::expr::{Expr, Var};
use kiln_layout::{Mode, RegisterLayout};

/// A digit of the register index, and what it adds to the register index of operands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Digit {
    /// Values.
    pub extent: u32,
    /// Registers from one value to the next.
    pub weight: u32,
    /// Axis along which it goes, and how far from one value to the next; no distance between copies.
    pub axis: usize,
    pub stride: u32,
    /// Registers of each operand from one value to the next.
    pub others: Vec<u32>,
}

/// A loop nest over registers.
#[derive(Clone, Debug)]
pub(super) struct Nest {
    /// Counters and their extents, outermost first.
    pub loops: Vec<(Var, u32)>,
    /// The innermost loop, if its body handles neighbours together.
    pub lane: Option<(Var, u32)>,
    /// Coordinate of the element along each axis.
    pub at: Vec<Expr>,
    /// Its register.
    pub register: Expr,
    /// Registers of the operands' elements.
    pub others: Vec<Expr>,
}

impl Nest {
    /// Numbers of the counters.
    pub fn counters(&self) -> Vec<u32> {
        self.loops.iter().chain(&self.lane).map(|(var, _)| var.id).collect()
    }

    /// Neighbours handled together.
    pub fn width(&self) -> u32 {
        self.lane.as_ref().map_or(1, |(_, width)| *width)
    }

    /// An expression in the first lane.
    pub fn first_lane(&self, e: &Expr) -> Expr {
        e.substitute(&|var| self.lane.as_ref().filter(|(lane, _)| lane == var).map(|_| Expr::index(0)))
    }
}

impl Lower<'_> {
    /// The digits of a layout's registers, least significant first, such that each adds a fixed number to the register index of every
    /// operand. An operand has the layout's axes; where its extent is less, it repeats.
    pub(super) fn digits(&self, layout: &RegisterLayout, operands: &[&RegisterLayout]) -> Result<Vec<Digit>> {
        let mut digits = vec![];
        let mut weight = 1;
        for mode in layout.register_modes() {
            let mut mode = *mode;
            for extent in factors(mode.extent) {
                let others = operands.iter().map(|operand| register_of(operand, mode)).collect();
                digits.push(Digit { extent, weight, axis: mode.axis, stride: mode.stride, others });
                weight *= extent;
                mode.stride *= extent;
            }
        }
        operands.iter().enumerate().try_for_each(|(i, operand)| self.agrees(layout, operand, &digits, i))?;
        let mut merged: Vec<Digit> = vec![];
        for digit in digits {
            match merged.last_mut() {
                Some(last) if continues(last, &digit) => last.extent *= digit.extent,
                _ => merged.push(digit),
            }
        }
        Ok(merged)
    }

    /// Checks that the operand's element is in the same thread, in the register that the digits say.
    fn agrees(&self, layout: &RegisterLayout, operand: &RegisterLayout, digits: &[Digit], i: usize) -> Result<()> {
        let expected = |mut at: Vec<u32>| {
            at.iter_mut().zip(operand.shape()).for_each(|(x, extent)| *x %= extent);
            at
        };
        let register = |index: u32| -> u32 {
            digits.iter().map(|digit| index / digit.weight % digit.extent * digit.others[i]).sum()
        };
        let same = operand.rank() == layout.rank()
            && operand.threads() == layout.threads()
            && (0..layout.threads()).all(|t| operand.coordinate(0, t) == expected(layout.coordinate(0, t)))
            && (0..layout.registers()).all(|r| {
                register(r) < operand.registers()
                    && operand.coordinate(register(r), 0) == expected(layout.coordinate(r, 0))
            });
        if same {
            return Ok(());
        }
        Err(self
            .internal(format!("an operand in the layout {operand} is used for a result in {layout}: convert it first")))
    }

    /// Part of the coordinates that the thread adds, by name.
    pub(super) fn thread_at(&mut self, layout: &RegisterLayout) -> Result<Vec<Expr>> {
        if layout.threads() != self.threads()?.count {
            let what = format!("a tile of {} threads among {}", layout.threads(), self.threads()?.count);
            return Err(self.internal(what));
        }
        let thread = self.thread()?;
        let mut at = vec![Expr::index(0); layout.rank()];
        let mut weight = 1i64;
        for mode in layout.thread_modes() {
            if !mode.is_copies() {
                at[mode.axis] =
                    &at[mode.axis] + self.thread_digit(&thread, weight, mode.extent)? * i64::from(mode.stride);
            }
            weight *= i64::from(mode.extent);
        }
        at.into_iter().enumerate().map(|(axis, e)| self.of_thread(&format!("at{axis}"), e)).collect()
    }

    /// A digit of the number of the thread.
    pub(super) fn thread_digit(&self, thread: &Expr, weight: i64, extent: u32) -> Result<Expr> {
        let digit = thread / weight;
        let last = weight * i64::from(extent) >= i64::from(self.threads()?.count);
        Ok(if last { digit } else { digit % i64::from(extent) })
    }

    /// Whether this thread is the first of those that hold its elements; `None` if all are.
    pub(super) fn owner(&mut self, layout: &RegisterLayout) -> Result<Option<Expr>> {
        let thread = self.thread()?;
        let mut weight = 1i64;
        let mut cond = Expr::bool(true);
        for mode in layout.thread_modes() {
            if mode.is_copies() {
                cond = cond.and(self.thread_digit(&thread, weight, mode.extent)?.eq(0));
            }
            weight *= i64::from(mode.extent);
        }
        match cond.as_const() {
            Some(_) => Ok(None),
            None => self.of_thread("owner", cond).map(Some),
        }
    }

    /// A loop nest over these digits, least significant last; `lanes` of the first values of a digit are handled together.
    pub(super) fn nest(
        &mut self,
        layout: &RegisterLayout,
        digits: &[Digit],
        operands: usize,
        lanes: Option<(usize, u32)>,
    ) -> Result<Nest> {
        let at = self.thread_at(layout)?;
        let zero = Expr::index(0);
        let mut nest = Nest { loops: vec![], lane: None, at, register: zero.clone(), others: vec![zero; operands] };
        for (place, digit) in digits.iter().enumerate().rev() {
            let width = lanes.filter(|(at, _)| *at == place).map_or(1, |(_, width)| width);
            let mut count = Expr::index(0);
            if digit.extent > width {
                let extent = digit.extent / width;
                let var = self.counter("i", extent, false);
                count = Expr::var(&var) * i64::from(width);
                nest.loops.push((var, extent));
            }
            if width > 1 {
                let lane = self.counter("v", width, true);
                count = count + Expr::var(&lane);
                nest.lane = Some((lane, width));
            }
            let add = |to: &mut Expr, weight: u32| *to = &*to + &count * i64::from(weight);
            if digit.stride > 0 {
                add(&mut nest.at[digit.axis], digit.stride);
            }
            add(&mut nest.register, digit.weight);
            nest.others.iter_mut().zip(&digit.others).for_each(|(other, weight)| add(other, *weight));
        }
        Ok(nest)
    }

    /// The nest whose lanes are worth most by `worth`, or one without lanes where none are worth anything. Candidates are neighbours along
    /// an axis.
    pub(super) fn widest(
        &mut self,
        layout: &RegisterLayout,
        digits: &[Digit],
        operands: usize,
        mut worth: impl FnMut(&mut Self, &Nest) -> Result<u64>,
    ) -> Result<Nest> {
        let mut best = (0, self.nest(layout, digits, operands, None)?);
        for (place, digit) in digits.iter().enumerate().filter(|(_, digit)| digit.stride == 1) {
            for width in [16, 8, 4, 2].into_iter().filter(|width| digit.extent.is_multiple_of(*width)) {
                let nest = self.nest(layout, digits, operands, Some((place, width)))?;
                let found = worth(self, &nest)?;
                if found > best.0 {
                    best = (found, nest);
                }
            }
        }
        Ok(best.1)
    }

    /// Writes loops around what `write` emits.
    pub(super) fn in_loops(
        &mut self,
        loops: &[(Var, u32)],
        write: &mut dyn FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        match loops {
            [] => write(self),
            [(var, extent), rest @ ..] => self.unrolled(var, *extent, |lower| lower.in_loops(rest, write)),
        }
    }

    /// Writes the loop over the lanes, if there is one, around what `write` emits.
    pub(super) fn in_lanes(&mut self, nest: &Nest, write: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.in_loops(nest.lane.as_slice(), write)
    }
}

/// The register that holds the element one stride along the axis of `mode`.
fn register_of(layout: &RegisterLayout, mode: Mode) -> u32 {
    if mode.is_copies() || layout.shape().get(mode.axis).is_some_and(|extent| mode.stride >= *extent) {
        return 0;
    }
    let mut at = vec![0; layout.rank()];
    if let Some(x) = at.get_mut(mode.axis) {
        *x = mode.stride;
    }
    layout.holders(&at).into_iter().find(|(_, thread)| *thread == 0).map_or(0, |(register, _)| register)
}

fn continues(last: &Digit, next: &Digit) -> bool {
    let same = last.stride == 0 && next.stride == 0
        || last.stride > 0 && last.axis == next.axis && last.stride * last.extent == next.stride;
    same && last.weight * last.extent == next.weight
        && last
            .others
            .iter()
            .zip(&next.others)
            .all(|(last_weight, next_weight)| last_weight * last.extent == *next_weight)
}

/// Prime factors, ascending.
fn factors(mut n: u32) -> Vec<u32> {
    let mut found = vec![];
    let mut factor = 2;
    while n > 1 {
        if n.is_multiple_of(factor) {
            found.push(factor);
            n /= factor;
        } else {
            factor += 1;
        }
    }
    found
}
