//! What is known about index expressions: their range, a divisor, and how they vary over the lanes of a wide access.

use crate::dtype::{Scalar, Type};
use crate::expr::{BinaryOp, CompareOp, Expr, ExprKind, Var};
use crate::program::{Param, Program, Scope};
use std::collections::HashMap;

/// An inclusive interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Least possible value.
    pub lo: i128,
    /// Greatest possible value.
    pub hi: i128,
}

impl Range {
    /// The interval `lo..=hi`.
    pub fn new(lo: i128, hi: i128) -> Range {
        Range { lo, hi }
    }

    /// Whether every value fits a C `int`.
    pub fn fits_int(self) -> bool {
        self.lo >= i128::from(i32::MIN) && self.hi <= i128::from(i32::MAX)
    }

    fn hull(self, other: Range) -> Range {
        Range::new(self.lo.min(other.lo), self.hi.max(other.hi))
    }

    fn corners(self, other: Range, f: impl Fn(i128, i128) -> i128) -> Range {
        let values = [f(self.lo, other.lo), f(self.lo, other.hi), f(self.hi, other.lo), f(self.hi, other.hi)];
        let (lo, hi) = values.iter().fold((values[0], values[0]), |(lo, hi), &v| (lo.min(v), hi.max(v)));
        Range::new(lo, hi)
    }
}

/// What is known about one variable.
#[derive(Clone, Copy, Debug)]
pub struct VarFacts {
    /// Its possible values.
    pub range: Range,
    /// A divisor of its value in lane 0.
    pub multiple: i128,
    /// How much it grows from one lane to the next; `None` if that is not constant.
    pub lane_step: Option<i128>,
}

/// What is known about the variables in scope.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    vars: HashMap<u32, VarFacts>,
    /// What named indices stand for.
    definitions: HashMap<u32, Expr>,
}

/// Values of any integer that fits in memory.
const ANY: Range = Range { lo: i64::MIN as i128, hi: u64::MAX as i128 };

impl Facts {
    /// The facts that the parameters of `program` declare.
    pub fn of_params(program: &Program) -> Facts {
        Facts::of(&program.params)
    }

    /// The facts that parameters declare.
    pub fn of(params: &[Param]) -> Facts {
        let mut facts = Facts::default();
        for param in params {
            if let Param::Scalar { var, range, multiple_of } = param {
                let range = Range::new(range.0.into(), range.1.into());
                let multiple = (*multiple_of).into();
                facts.vars.insert(var.id, VarFacts { range, multiple, lane_step: Some(0) });
            }
        }
        facts
    }

    /// Records what is known about `var`.
    pub fn set(&mut self, var: &Var, facts: VarFacts) {
        self.vars.insert(var.id, facts);
    }

    /// Records a variable that may take any value of its type, the same in all lanes.
    pub fn set_unknown(&mut self, var: &Var) {
        let range = var.ty.int_range().map_or(ANY, |(lo, hi)| Range::new(lo, hi));
        self.set(var, VarFacts { range, multiple: 1, lane_step: Some(0) });
    }

    /// Records a variable that may take any value of its type, another in each lane.
    pub fn set_varied(&mut self, var: &Var) {
        self.set_unknown(var);
        if let Some(facts) = self.vars.get_mut(&var.id) {
            facts.lane_step = None;
        }
    }

    /// Records a loop variable over `0..extent`, the same in all lanes.
    pub fn set_axis(&mut self, var: &Var, extent: &Expr) {
        let hi = (self.range(extent).hi - 1).max(0);
        self.set(var, VarFacts { range: Range::new(0, hi), multiple: 1, lane_step: Some(0) });
    }

    /// Records a loop variable from `start` to `end`, excluded, by `step`; the same in all lanes.
    pub fn set_loop(&mut self, var: &Var, start: &Expr, end: &Expr, step: &Expr) {
        let lo = self.range(start).lo;
        let hi = (self.range(end).hi - 1).max(lo);
        let multiple = gcd(self.multiple(start), self.multiple(step));
        self.set(var, VarFacts { range: Range::new(lo, hi), multiple, lane_step: Some(0) });
    }

    /// Records a loop variable over `0..extent` that takes `width` neighbouring values in as many lanes.
    pub fn set_lane_axis(&mut self, var: &Var, extent: &Expr, width: u32) {
        let hi = (self.range(extent).hi - 1).max(0);
        let facts = VarFacts { range: Range::new(0, hi), multiple: width.into(), lane_step: Some(1) };
        self.set(var, facts);
    }

    /// Records a name for `value` in code that handles `width` lanes.
    pub fn bind(&mut self, var: &Var, value: &Expr, width: u32) {
        let facts = VarFacts {
            range: self.range(value),
            multiple: self.multiple(value),
            lane_step: self.lane_step(value, width),
        };
        self.set(var, facts);
        if var.ty == Type::Index {
            self.definitions.insert(var.id, value.clone());
        }
    }

    /// Narrows what is known of an index to `0..below`; what it is named for stays.
    pub fn bound(&mut self, var: &Var, below: &Expr) {
        let hi = (self.range(below).hi - 1).max(0);
        if let Some(facts) = self.vars.get_mut(&var.id) {
            facts.range = Range::new(facts.range.lo.max(0), facts.range.hi.min(hi));
        }
    }

    /// What a named index stands for.
    pub fn definition(&self, var: &Var) -> Option<&Expr> {
        self.definitions.get(&var.id)
    }

    /// Possible values of an integer expression.
    pub fn range(&self, e: &Expr) -> Range {
        let of_type = e.ty().int_range().map_or(ANY, |(lo, hi)| Range::new(lo, hi));
        let range = match e.kind() {
            ExprKind::Const(value) => Range::new(value.as_i128(), value.as_i128()),
            ExprKind::Var(var) => self.vars.get(&var.id).map_or(of_type, |facts| facts.range),
            ExprKind::Binary(op, a, b) => {
                let (x, y) = (self.range(a), self.range(b));
                match op {
                    BinaryOp::Add => Range::new(x.lo + y.lo, x.hi + y.hi),
                    BinaryOp::Sub => Range::new(x.lo - y.hi, x.hi - y.lo),
                    BinaryOp::Mul => x.corners(y, i128::saturating_mul),
                    BinaryOp::Div if y.lo > 0 => x.corners(y, |a, b| a / b),
                    BinaryOp::Rem if y.lo > 0 => {
                        let hi = if x.lo >= 0 { x.hi.min(y.hi - 1) } else { y.hi - 1 };
                        Range::new(if x.lo >= 0 { 0 } else { 1 - y.hi }, hi)
                    }
                    BinaryOp::Min => Range::new(x.lo.min(y.lo), x.hi.min(y.hi)),
                    BinaryOp::Max => Range::new(x.lo.max(y.lo), x.hi.max(y.hi)),
                    BinaryOp::And if x.lo >= 0 && y.lo >= 0 => Range::new(0, x.hi.min(y.hi)),
                    // No bit above the highest of either.
                    BinaryOp::Or | BinaryOp::Xor if x.lo >= 0 && y.lo >= 0 && x.hi.max(y.hi) < 1 << 62 => {
                        Range::new(0, bits(x.hi.max(y.hi)))
                    }
                    _ => of_type,
                }
            }
            ExprKind::Select(_, a, b) => self.range(a).hull(self.range(b)),
            ExprKind::Cast(a) if !a.ty().is_float() => self.range(a),
            _ => of_type,
        };
        // Index arithmetic is exact by contract; other integers wrap.
        let inside = range.lo >= of_type.lo && range.hi <= of_type.hi;
        if e.ty() == Type::Index || inside { Range::new(range.lo.max(ANY.lo), range.hi.min(ANY.hi)) } else { of_type }
    }

    /// A divisor of the expression's value in lane 0 (0 if that value is zero).
    pub fn multiple(&self, e: &Expr) -> i128 {
        match e.kind() {
            ExprKind::Const(Scalar::Int(value)) => value.saturating_abs(),
            ExprKind::Var(var) => self.vars.get(&var.id).map_or(1, |facts| facts.multiple),
            ExprKind::Binary(op, a, b) => {
                let (x, y) = (self.multiple(a), self.multiple(b));
                match op {
                    BinaryOp::Add | BinaryOp::Sub | BinaryOp::Min | BinaryOp::Max => gcd(x, y),
                    BinaryOp::Mul => x.saturating_mul(y),
                    BinaryOp::Div => match b.as_const() {
                        Some(c) if c > 0 && x % c == 0 => x / c,
                        _ => 1,
                    },
                    BinaryOp::Rem => gcd(x, y).max(1),
                    _ => 1,
                }
            }
            ExprKind::Select(_, a, b) => gcd(self.multiple(a), self.multiple(b)),
            ExprKind::Cast(a) if a.ty().is_int() && e.ty() == Type::Index => self.multiple(a),
            _ => 1,
        }
    }

    /// How much the expression grows from one of `width` lanes to the next; 0 if all lanes agree, `None` if not constant.
    pub fn lane_step(&self, e: &Expr, width: u32) -> Option<i128> {
        let step = |e: &Expr| self.lane_step(e, width);
        let uniform = || e.operands().into_iter().all(|operand| step(operand) == Some(0)).then_some(0);
        match e.kind() {
            ExprKind::Const(_) => Some(0),
            ExprKind::Var(var) => self.vars.get(&var.id).map_or(Some(0), |facts| facts.lane_step),
            ExprKind::Binary(op, a, b) if e.ty() == Type::Index => match op {
                BinaryOp::Add => Some(step(a)? + step(b)?),
                BinaryOp::Sub => Some(step(a)? - step(b)?),
                BinaryOp::Mul => match b.as_const() {
                    Some(c) => Some(step(a)? * c),
                    None => uniform(),
                },
                BinaryOp::Div | BinaryOp::Rem => match step(a)? {
                    0 => uniform(),
                    s if step(b)? == 0 && self.range(a).lo >= 0 && self.range(b).lo >= 0 => {
                        // All lanes stay within one multiple of b if the first is a multiple of g | b and they span < g.
                        let g = gcd(self.multiple(a), self.multiple(b));
                        let quotient = op == &BinaryOp::Div;
                        match b.as_const() {
                            _ if s > 0 && s * i128::from(width - 1) < g => Some(if quotient { 0 } else { s }),
                            Some(c) if c > 0 && s % c == 0 => Some(if quotient { s / c } else { 0 }),
                            _ => None,
                        }
                    }
                    _ => None,
                },
                _ => uniform(),
            },
            ExprKind::Compare(op, a, b) => {
                let (low, high) = match op {
                    CompareOp::Lt | CompareOp::Ge => (a, b),
                    CompareOp::Gt | CompareOp::Le => (b, a),
                    _ => return uniform(),
                };
                match (step(low)?, step(high)?) {
                    (0, 0) => Some(0),
                    // low + lane < high for all lanes or for none when both are multiples of something wider.
                    (s, 0) if s > 0 && low.ty() == Type::Index => {
                        let g = gcd(self.multiple(low), self.multiple(high));
                        (g == 0 || s * i128::from(width - 1) < g).then_some(0)
                    }
                    _ => None,
                }
            }
            ExprKind::Select(c, a, b) => (step(c)? == 0 && step(a)? == step(b)?).then_some(step(a)?),
            ExprKind::Cast(a) if a.ty().is_int() && e.ty() == Type::Index => step(a),
            ExprKind::Load(buffer, _) if buffer.scope == Scope::Fragment => None,
            _ => uniform(),
        }
    }
}

/// The least number of all ones that is not below a non-negative one.
fn bits(x: i128) -> i128 {
    let width = i128::BITS - x.leading_zeros();
    (1i128 << width.min(126)) - 1
}

/// Greatest common divisor; `gcd(x, 0) = x`.
pub fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn var(id: u32) -> Var {
        Var { id, name: format!("v{id}").into(), ty: Type::Index }
    }

    /// Compares the analysis of an expression of `i` in `0..1024` with brute force, `width` lanes a thread.
    fn check(i: &Var, expr: &Expr, width: u32) {
        let mut facts = Facts::default();
        facts.set_lane_axis(i, &Expr::index(1024), width);
        let eval = |value: i64| expr.substitute(&|_| Some(Expr::index(value))).as_const().unwrap();
        let step = facts.lane_step(expr, width);
        let range = facts.range(expr);
        for base in (0..1024).step_by(width as usize) {
            let first = eval(base);
            assert_eq!(first % facts.multiple(expr).max(1), 0);
            for lane in 0..i64::from(width) {
                let value = eval(base + lane);
                assert!(range.lo <= value && value <= range.hi, "{value} at {base} + {lane}");
                if let Some(step) = step {
                    assert_eq!(value, first + step * i128::from(lane), "at {base} + {lane}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Chains such as `(i / c) * d`, and the sum of two.
        #[test]
        fn facts_hold_for_every_value(
            chains in prop::collection::vec(prop::collection::vec((0..4u8, prop_oneof![1..9i64, Just(16), Just(64)]), 0..4), 1..3),
            log_width in 1..4u32,
        ) {
            let i = var(0);
            let chain = |steps: &Vec<(u8, i64)>| steps.iter().fold(Expr::var(&i), |e, &(op, c)| match op {
                0 => e / c,
                1 => e % c,
                2 => e * c,
                _ => e + c,
            });
            let expr = chains.iter().map(chain).reduce(|a, b| a + b).unwrap_or_else(|| Expr::index(0));
            check(&i, &expr, 1 << log_width);
        }
    }

    #[test]
    fn lane_steps_are_found() {
        let i = var(0);
        let e = Expr::var(&i);
        let mut facts = Facts::default();
        facts.set_lane_axis(&i, &Expr::index(1024), 4);
        assert_eq!(facts.lane_step(&(&e / 64 * 128 + &e % 64), 4), Some(1));
        assert_eq!(facts.lane_step(&(&e / 12), 4), Some(0));
        assert_eq!(facts.lane_step(&e.lt(Expr::index(8)), 4), Some(0));
        assert_eq!(facts.lane_step(&e.lt(Expr::index(6)), 4), None);
        // A divisor that only a run knows, if it is a multiple of the lanes.
        let [whole, any] = [1, 2].map(var);
        for (n, multiple) in [(&whole, 8), (&any, 2)] {
            facts.set(n, VarFacts { range: Range::new(1, 1 << 20), multiple, lane_step: Some(0) });
        }
        let (whole, any) = (Expr::var(&whole), Expr::var(&any));
        assert_eq!((facts.lane_step(&(&e / &whole), 4), facts.lane_step(&(&e % &whole), 4)), (Some(0), Some(1)));
        assert_eq!((facts.lane_step(&(&e / &any), 4), facts.lane_step(&(&e % &any), 4)), (None, None));
    }
}
