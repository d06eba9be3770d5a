//! Declared types.

use super::Builder;
use crate::{Constraint, Error, Result, TensorType, ValueId};

impl Builder {
    /// Requires a value to have a declared type; `what` says whose declaration it is. Dims that are neither provably equal nor provably
    /// different become a constraint.
    pub fn expect(&mut self, v: ValueId, ty: &TensorType, what: &str) -> Result<()> {
        let found = self.ty(v).clone();
        let fail = |detail: String| {
            let message = format!("expected {ty}, found {found}{detail}");
            Err(Error::Infer { op: what.to_owned(), message })
        };
        if found.dtype != ty.dtype {
            return fail("; insert a cast".into());
        }
        if found.rank() != ty.rank() {
            return fail(format!("; rank {} is not rank {}", found.rank(), ty.rank()));
        }
        for (axis, (e, f)) in ty.shape.iter().zip(&found.shape).enumerate() {
            let (low, high) = (e.clone() - f.clone()).bounds(&self.graph.symbols);
            if low > 0 || high < 0 {
                return fail(format!("; axis {axis} differs: {e} and {f}"));
            }
            let known = |c: &Constraint| c.left == *e && c.right == *f;
            if e != f && !self.graph.constraints.iter().any(known) {
                self.graph.constraints.push(Constraint { left: e.clone(), right: f.clone(), why: what.to_owned() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{Builder, DType, Dim, TensorType};

    #[test]
    fn a_declared_type_is_proved_refuted_or_left_to_a_constraint() {
        let mut b = Builder::new("t");
        let n = b.symbol("N", 1, 64);
        let x = b.input("x", DType::F32, &[n.clone(), Dim::from(3)]).unwrap();
        let ty = |dtype, first: Dim, second: i64| TensorType { dtype, shape: vec![first, Dim::from(second)] };
        b.expect(x, &ty(DType::F32, n.clone(), 3), "y").unwrap();
        assert!(b.graph().constraints.is_empty());
        for (bad, says) in [
            (ty(DType::F16, n.clone(), 3), "insert a cast"),
            (ty(DType::F32, n.clone(), 4), "axis 1 differs: 4 and 3"),
            (ty(DType::F32, Dim::from(65), 3), "axis 0 differs"),
            (TensorType::new(DType::F32, [3]), "rank 2 is not rank 1"),
        ] {
            let error = b.expect(x, &bad, "y").unwrap_err().to_string();
            assert!(error.starts_with("y: expected") && error.contains(says), "{error}");
        }
        b.expect(x, &ty(DType::F32, Dim::from(8), 3), "y").unwrap();
        assert_eq!(b.graph().constraints.len(), 1);
    }
}
