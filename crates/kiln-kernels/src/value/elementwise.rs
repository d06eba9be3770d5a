//! Elementwise ops.

use super::{Values, Writer};
use crate::Result;
use kiln_graph::{BinaryOp, CompareOp, DType, UnaryOp, ValueId};
use kiln_tile::Expr;
use kiln_tile::expr::{BinaryOp as TileBinary, CompareOp as TileCompare, UnaryOp as TileUnary};

impl Values<'_> {
    pub(super) fn unary(&mut self, k: &mut dyn Writer, op: UnaryOp, x: ValueId, index: &[Expr]) -> Result<Expr> {
        let dtype = self.graph.ty(x).dtype;
        let x = self.number(k, x, index)?;
        let result = match op {
            UnaryOp::IsNan => return Ok(x.unary(TileUnary::IsNan)),
            UnaryOp::IsInf => return Ok(x.unary(TileUnary::IsInf)),
            UnaryOp::Sign => {
                let x = self.name(k, "signed", x);
                let (one, minus) = (Expr::int(x.ty(), 1), Expr::int(x.ty(), -1));
                // What is neither keeps itself: zeros and NaN.
                let rest = if dtype.is_signed() { x.lt(0).select(&minus, &x) } else { x.clone() };
                x.gt(0).select(&one, rest)
            }
            UnaryOp::Recip => Expr::float(x.ty(), 1.0) / x,
            UnaryOp::Abs if !dtype.is_signed() => x,
            op => match TileUnary::from_name(op.name()) {
                Some(function) => x.unary(function),
                None => return self.unsupported(format!("`{op}` on {dtype}"), "run the model on the CPU device"),
            },
        };
        self.rounded(k, &result, dtype)
    }

    pub(super) fn binary(
        &mut self,
        k: &mut dyn Writer,
        op: BinaryOp,
        [a, b]: [ValueId; 2],
        index: &[Expr],
    ) -> Result<Expr> {
        let dtype = self.graph.ty(a).dtype;
        let (a, b) = (self.number(k, a, index)?, self.number(k, b, index)?);
        let result = self.combine(k, op, dtype, a, b)?;
        self.rounded(k, &result, dtype)
    }

    /// `a op b` in the compute type of `dtype`.
    fn combine(&mut self, k: &mut dyn Writer, op: BinaryOp, dtype: DType, a: Expr, b: Expr) -> Result<Expr> {
        let whole = dtype.is_int();
        Ok(match op {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Min => a.min(b),
            BinaryOp::Max => a.max(b),
            BinaryOp::And => a.and(b),
            BinaryOp::Or => a.or(b),
            BinaryOp::Xor => a.xor(b),
            BinaryOp::Atan2 => a.binary(TileBinary::Atan2, b),
            BinaryOp::Div if !whole => a / b,
            BinaryOp::Rem if !whole => a % b,
            BinaryOp::Div | BinaryOp::Rem => {
                let op = if op == BinaryOp::Div { TileBinary::Div } else { TileBinary::Rem };
                self.divide(k, op, a, b)
            }
            BinaryOp::Mod => {
                let (a, b) = (self.name(k, "dividend", a), self.name(k, "divisor", b));
                let rest = if whole { self.divide(k, TileBinary::Rem, a, b.clone()) } else { a % &b };
                if !dtype.is_signed() {
                    return Ok(rest);
                }
                let rest = self.name(k, "remainder", rest);
                let apart = rest.lt(0).xor(b.lt(0)).and(rest.compare(TileCompare::Ne, 0));
                apart.select(&(&rest + &b), &rest)
            }
            BinaryOp::Pow if whole => self.power(k, dtype, a, b)?,
            BinaryOp::Pow => a.pow(b),
            BinaryOp::Shl | BinaryOp::Shr => {
                let b = self.name(k, "shift", b);
                let shifted = a.binary(if op == BinaryOp::Shl { TileBinary::Shl } else { TileBinary::Shr }, &b);
                let inside = b.lt(i64::from(dtype.bits()));
                let inside = if dtype.is_signed() { b.ge(0).and(inside) } else { inside };
                inside.select(&shifted, 0)
            }
        })
    }

    /// Integer quotient or remainder; 0 where the divisor is.
    fn divide(&mut self, k: &mut dyn Writer, op: TileBinary, a: Expr, b: Expr) -> Expr {
        if b.as_const().is_some_and(|b| b != 0 && b != -1) {
            return a.binary(op, b);
        }
        let b = self.name(k, "divisor", b);
        b.compare(TileCompare::Ne, 0).select(&a.binary(op, &b), 0)
    }

    /// Integer power by squaring. Powers wrap; a negative exponent truncates toward zero.
    fn power(&mut self, k: &mut dyn Writer, dtype: DType, a: Expr, b: Expr) -> Result<Expr> {
        let one = Expr::int(a.ty(), 1);
        if let Some(exponent) = b.as_const().filter(|&e| (0..64).contains(&e)) {
            let a = self.name(k, "base", a);
            return Ok((0..exponent)
                .fold(None, |power: Option<Expr>, _| Some(power.map_or(a.clone(), |p| p * &a)))
                .unwrap_or(one));
        }
        if self.is_guarded() {
            return self.unsupported("an integer power beside padding", "compute it in a float, or before the padding");
        }
        let base = self.name(k, "base", a);
        let exponent = self.name(k, "exponent", b);
        let (mut power, mut square) = (one.clone(), base.clone());
        // The bits of a non-negative exponent, lowest first.
        let bits = i64::from(dtype.bits()) - i64::from(dtype.is_signed());
        for bit in 0..bits {
            let set = exponent.binary(TileBinary::Shr, bit).and(Expr::int(exponent.ty(), 1));
            let stepped = set.compare(TileCompare::Ne, 0).select(&(&power * &square), &power);
            power = k.bind("power", stepped);
            if bit + 1 < bits {
                square = k.bind("square", &square * &square);
            }
        }
        if !dtype.is_signed() {
            return Ok(power);
        }
        let minus = Expr::int(base.ty(), -1);
        let odd = exponent.and(Expr::int(exponent.ty(), 1)).compare(TileCompare::Ne, 0);
        let of_minus = odd.select(&minus, 1);
        let reciprocal = base.eq(1).select(&one, base.eq(-1).select(&of_minus, 0));
        Ok(exponent.lt(0).select(&reciprocal, power))
    }

    pub(super) fn compare(
        &mut self,
        k: &mut dyn Writer,
        op: CompareOp,
        [a, b]: [ValueId; 2],
        index: &[Expr],
    ) -> Result<Expr> {
        let op = match op {
            CompareOp::Eq => TileCompare::Eq,
            CompareOp::Ne => TileCompare::Ne,
            CompareOp::Lt => TileCompare::Lt,
            CompareOp::Le => TileCompare::Le,
            CompareOp::Gt => TileCompare::Gt,
            CompareOp::Ge => TileCompare::Ge,
        };
        let (a, b) = (self.number(k, a, index)?, self.number(k, b, index)?);
        Ok(a.compare(op, b))
    }

    pub(super) fn select(&mut self, k: &mut dyn Writer, [cond, a, b]: [ValueId; 3], index: &[Expr]) -> Result<Expr> {
        let cond = self.value(k, cond, index)?;
        // Named, they are loaded whatever the condition: at once, and as wide as their places allow.
        let (a, b) = (self.value(k, a, index)?, self.value(k, b, index)?);
        let (a, b) = (self.name(k, "chosen", a), self.name(k, "otherwise", b));
        Ok(cond.select(&a, b))
    }
}
