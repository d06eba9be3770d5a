//! Declared types.

use super::Builder;
use crate::{Dim, Error, Requirement, Result, TensorType, ValueId};

impl Builder {
    /// Requires two extents to be equal: an error if they cannot be, a constraint if that is unknown.
    pub fn agree(&mut self, expected: &Dim, found: &Dim, what: impl FnOnce() -> String) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        if expected.differs(found, &self.graph.symbols) {
            let what = what();
            return self.fail("shape", format!("{what} must be equal: expected {expected}, found {found}"));
        }
        let scope = self.scope();
        let requirement = Requirement::equal(expected.clone(), found.clone());
        self.graph.require(requirement, || if scope.is_empty() { what() } else { format!("{} of `{scope}`", what()) });
        Ok(())
    }

    /// Requires `dim` to be a multiple of `of`: an error if it is not, known from here on and checked when shapes are bound if that is open.
    pub fn multiple(&mut self, dim: &Dim, of: &Dim, what: &str) -> Result<()> {
        match (dim.as_const(), of.as_const()) {
            (_, Some(n)) if n < 1 => self.fail("multiple", format!("{what}: nothing is a multiple of {n}")),
            (Some(v), Some(n)) if v % n != 0 => {
                self.fail("multiple", format!("{what}: needs a multiple of {n}, found {v}"))
            }
            _ if dim.exact_div(of).is_some() => Ok(()),
            _ => {
                self.graph.require(Requirement::multiple(dim.clone(), of.clone()), || what.to_owned());
                Ok(())
            }
        }
    }

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
            if e.differs(f, &self.graph.symbols) {
                return fail(format!("; axis {axis} differs: {e} and {f}"));
            }
            if e != f {
                self.graph.require(Requirement::equal(e.clone(), f.clone()), || what.to_owned());
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
