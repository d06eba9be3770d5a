//! What values are written into.

use kiln_tile::{Access, Buffer, Builder, DType, Expr, ir};
use std::ops::RangeInclusive;

/// Scalar code of one kernel that is being written: where values get names and checks stand, and the kernel's parameters.
pub trait Writer {
    /// Names a value, so that it is computed once.
    fn bind(&mut self, name: &str, value: Expr) -> Expr;
    /// Raises `code` in `fault` where `violated` holds.
    fn check(&mut self, violated: Expr, fault: &Buffer, code: Expr);
    /// A parameter: an index within `range`, a multiple of `multiple_of`.
    fn dim(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr;
    /// A parameter: a number.
    fn scalar(&mut self, name: &str, dtype: DType) -> Expr;
    /// A parameter: a row-major tensor.
    fn tensor(&mut self, name: &str, dtype: DType, shape: &[Expr], access: Access) -> Buffer;
}

impl Writer for Builder {
    fn bind(&mut self, name: &str, value: Expr) -> Expr {
        Builder::bind(self, name, value)
    }

    fn check(&mut self, violated: Expr, fault: &Buffer, code: Expr) {
        Builder::check(self, violated, fault, code);
    }

    fn dim(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr {
        self.dim_multiple_of(name, range, multiple_of)
    }

    fn scalar(&mut self, name: &str, dtype: DType) -> Expr {
        Builder::scalar(self, name, dtype)
    }

    fn tensor(&mut self, name: &str, dtype: DType, shape: &[Expr], access: Access) -> Buffer {
        match access {
            Access::Read => self.input(name, dtype, shape),
            Access::Write => self.output(name, dtype, shape),
            Access::ReadWrite => self.in_out(name, dtype, shape),
        }
    }
}

/// Uniform scalars, between statements on tiles.
impl Writer for ir::Builder {
    fn bind(&mut self, name: &str, value: Expr) -> Expr {
        ir::Builder::bind(self, name, value)
    }

    fn check(&mut self, violated: Expr, fault: &Buffer, code: Expr) {
        self.map("checked", &[1], &[], |map, _, _| {
            map.check(violated, fault, code);
            Expr::bool(true)
        });
    }

    fn dim(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr {
        ir::Builder::dim(self, name, range, multiple_of)
    }

    fn scalar(&mut self, name: &str, dtype: DType) -> Expr {
        ir::Builder::scalar(self, name, dtype)
    }

    fn tensor(&mut self, name: &str, dtype: DType, shape: &[Expr], access: Access) -> Buffer {
        ir::Builder::tensor(self, name, dtype, shape, access)
    }
}

/// The elements of a tile, inside of a map.
impl Writer for ir::MapBuilder<'_> {
    fn bind(&mut self, name: &str, value: Expr) -> Expr {
        ir::MapBuilder::bind(self, name, value)
    }

    fn check(&mut self, violated: Expr, fault: &Buffer, code: Expr) {
        ir::MapBuilder::check(self, violated, fault, code);
    }

    fn dim(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr {
        ir::MapBuilder::dim(self, name, range, multiple_of)
    }

    fn scalar(&mut self, name: &str, dtype: DType) -> Expr {
        ir::MapBuilder::scalar(self, name, dtype)
    }

    fn tensor(&mut self, name: &str, dtype: DType, shape: &[Expr], access: Access) -> Buffer {
        ir::MapBuilder::tensor(self, name, dtype, shape, access)
    }
}
