//! Casts between element types.

use super::dtype::{float_to_int, register, round};
use super::{Values, Writer};
use crate::Result;
use kiln_graph::DType;
use kiln_tile::Expr;

impl Values<'_> {
    /// `x`, a value of type `from`, as a value of type `to`.
    pub fn convert(&mut self, k: &mut dyn Writer, x: Expr, from: DType, to: DType, saturate: bool) -> Result<Expr> {
        if from == to {
            return Ok(x);
        }
        let x = x.cast(from.compute());
        match to {
            DType::Bool => Ok(x.cast(DType::Bool)),
            _ if to.is_f8() && !saturate => self.f8(k, &x, to),
            _ if to.is_float() => Ok(x.cast(register(to))),
            _ if from.is_float() => {
                let x = self.name(k, "unrounded", x);
                Ok(float_to_int(&x, to))
            }
            _ => Ok(round(&x, to)),
        }
    }

    /// The result of arithmetic, `x` in the compute type, as a value of `dtype`.
    pub fn rounded(&mut self, k: &mut dyn Writer, x: &Expr, dtype: DType) -> Result<Expr> {
        if dtype.is_f8() { self.f8(k, x, dtype) } else { Ok(round(x, dtype)) }
    }

    /// Rounding to an 8-bit float that overflows as IEEE formats do. The hardware's conversion saturates instead.
    fn f8(&mut self, k: &mut dyn Writer, x: &Expr, to: DType) -> Result<Expr> {
        if to == DType::F8E5M2 {
            let what = "a rounding to f8e5m2 that may overflow to infinity";
            return self.unsupported(what, "cast with `saturate`, or compute in f16 and store that");
        }
        let x = self.name(k, "unrounded", x.cast(DType::F32));
        // 464 lies between the greatest value, 448, and what would be the next one; the tie rounds down.
        let nan = Expr::float(DType::F8E4M3, f64::NAN);
        Ok(x.abs().gt(464.0).select(&nan, x.cast(DType::F8E4M3)))
    }
}
