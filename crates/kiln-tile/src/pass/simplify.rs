//! Simplifies quotients and remainders: undoes what splitting a position into indices did, where an address puts them together again:
//! `(x / c) * (c * p) + (x % c) * p` is `x * p`. Divisions by runtime extents are the dearest thing an address can hold.

use super::facts::Facts;
use crate::dtype::Type;
use crate::expr::{BinaryOp, Expr, ExprKind};

/// A product: a literal and other factors.
#[derive(Clone)]
struct Term {
    literal: i128,
    factors: Vec<Expr>,
}

/// The sum with quotients and remainders put together where that is exact. `x` must not be negative, as positions are not.
pub fn simplify_div_mod(facts: &Facts, sum: &Expr) -> Expr {
    let mut terms = vec![];
    collect_sum(sum, &mut terms);
    let mut changed = false;
    while let Some((quotient, remainder, whole)) = find(facts, &terms) {
        terms.remove(quotient.max(remainder));
        terms.remove(quotient.min(remainder));
        terms.push(whole);
        changed = true;
    }
    if !changed {
        return sum.clone();
    }
    terms.iter().fold(Expr::index(0), |sum, term| sum + term.expr())
}

/// Two terms that are one, and that one.
fn find(facts: &Facts, terms: &[Term]) -> Option<(usize, usize, Term)> {
    for (r, remainder) in terms.iter().enumerate() {
        for (at, factor) in remainder.factors.iter().enumerate() {
            let Some((y, modulus)) = split(facts, factor, BinaryOp::Rem) else { continue };
            if facts.range(&y).lo < 0 {
                continue;
            }
            // y is x itself, or a quotient of it already.
            let (x, inner) = split(facts, &y, BinaryOp::Div).unwrap_or((y.clone(), Expr::index(1)));
            let mut scale = remainder.clone();
            scale.factors.remove(at);
            let expected = scale.times(&Term::of(&modulus));
            for (q, quotient) in terms.iter().enumerate() {
                let matches = |(i, factor): (usize, &Expr)| {
                    let (dividend, divisor) = split(facts, factor, BinaryOp::Div)?;
                    let mut rest = quotient.clone();
                    rest.factors.remove(i);
                    let direct = same(&dividend, &y) && same(&divisor, &modulus);
                    let through =
                        same(&dividend, &x) && Term::of(&divisor).same(&Term::of(&modulus).times(&Term::of(&inner)));
                    ((direct || through) && rest.same(&expected)).then_some(())
                };
                if q != r && quotient.factors.iter().enumerate().find_map(matches).is_some() {
                    return Some((q, r, scale.times(&Term::of(&y))));
                }
            }
        }
    }
    None
}

/// Operands of a quotient or remainder, also of one that has been named.
fn split(facts: &Facts, e: &Expr, op: BinaryOp) -> Option<(Expr, Expr)> {
    match e.kind() {
        ExprKind::Binary(found, a, b) if *found == op && e.ty() == Type::Index => Some((a.clone(), b.clone())),
        ExprKind::Var(var) => split(facts, facts.definition(var)?, op),
        _ => None,
    }
}

fn collect_sum(e: &Expr, terms: &mut Vec<Term>) {
    match e.kind() {
        ExprKind::Binary(BinaryOp::Add, a, b) => {
            collect_sum(a, terms);
            collect_sum(b, terms);
        }
        _ => terms.push(Term::of(e)),
    }
}

impl Term {
    fn of(e: &Expr) -> Term {
        match (e.kind(), e.as_const()) {
            (_, Some(literal)) => Term { literal, factors: vec![] },
            (ExprKind::Binary(BinaryOp::Mul, a, b), _) => Term::of(a).times(&Term::of(b)),
            _ => Term { literal: 1, factors: vec![e.clone()] },
        }
    }

    fn times(&self, other: &Term) -> Term {
        let factors = self.factors.iter().chain(&other.factors).cloned().collect();
        Term { literal: self.literal.saturating_mul(other.literal), factors }
    }

    fn same(&self, other: &Term) -> bool {
        let mut left = other.factors.clone();
        let paired = self.factors.iter().all(|factor| match left.iter().position(|o| same(o, factor)) {
            Some(at) => {
                left.remove(at);
                true
            }
            None => false,
        });
        paired && left.is_empty() && self.literal == other.literal
    }

    fn expr(&self) -> Expr {
        let product = self.factors.iter().fold(Expr::index(1), |product, factor| product * factor);
        product * Expr::wide_int(Type::Index, self.literal)
    }
}

/// Whether two index expressions are written alike.
fn same(a: &Expr, b: &Expr) -> bool {
    let alike = match (a.kind(), b.kind()) {
        (ExprKind::Const(x), ExprKind::Const(y)) => x == y,
        (ExprKind::Var(x), ExprKind::Var(y)) => x == y,
        (ExprKind::Binary(x, ..), ExprKind::Binary(y, ..)) => x == y,
        _ => false,
    };
    let (x, y) = (a.operands(), b.operands());
    alike && x.len() == y.len() && x.into_iter().zip(y).all(|(x, y)| same(x, y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Var;
    use crate::pass::facts::{Range, VarFacts};

    /// Recombined sums have the value they had, and those that can be lose their divisions.
    #[test]
    fn sums_keep_their_value() {
        let var = |id: u32, name: &str| Var { id, name: name.into(), ty: Type::Index };
        let (x, s, named) = (var(0, "x"), var(1, "s"), var(2, "named"));
        let mut facts = Facts::default();
        for v in [&x, &s] {
            let range = Range::new(1, 1000);
            facts.set(v, VarFacts { range, multiple: 1, lane_step: Some(0) });
        }
        let (x, s) = (Expr::var(&x), Expr::var(&s));
        facts.bind(&named, &(&x / &s), 1);
        let n = Expr::var(&named);
        let cases = [
            (&x / &s * (&s * 384) + &x % &s * 384 + 7, true),
            (&n * (&s * 384) + &x % &s * 384, true),
            (&x / (&s * 8) * (&s * 8) + &x / &s % 8 * &s + &x % &s, true),
            (&x / 32 * 32 + &x % 32, true),
            (&x / 32 * 64 + &x % 32, false),
            (&x / &s * 5 + &x % &s * 5, false),
        ];
        for (number, (sum, divisionless)) in cases.into_iter().enumerate() {
            let found = simplify_div_mod(&facts, &sum);
            let divides =
                |e: &Expr| e.any(&mut |e| matches!(e.kind(), ExprKind::Binary(BinaryOp::Div | BinaryOp::Rem, ..)));
            assert_eq!(!divides(&found), divisionless, "case {number}");
            for (x_at, s_at) in [(1, 1), (17, 5), (999, 31), (1000, 64), (640, 320)] {
                let eval = |e: &Expr| {
                    e.substitute(&|v| Some(Expr::index([x_at, s_at, x_at / s_at][v.id as usize]))).as_const()
                };
                assert_eq!(eval(&found), eval(&sum), "case {number} at {x_at}, {s_at}");
            }
        }
    }
}
