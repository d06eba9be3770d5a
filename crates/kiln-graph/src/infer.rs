//! Result types of every op from its operands' types, by the rules in [`crate::primitive`]: pure, used by the builder, the importers, the macros
//! and the verifier alike.

use crate::{DType, Dim, Error, Op, Requirement, Result, Symbols, TensorType};

/// What an op yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inference {
    /// Types of the results, in order.
    pub results: Vec<TensorType>,
    /// What must hold at run time though it is not provable now.
    pub constraints: Vec<Requirement>,
}

/// Infers the result types of `op` on operands of the given types.
///
/// Dims that are provably equal pass, dims that are provably different are an error, anything else becomes a constraint.
pub fn infer(op: &Op, inputs: &[&TensorType], symbols: &Symbols) -> Result<Inference> {
    let mut cx = Cx { op: op.name(), inputs, symbols, constraints: Vec::new() };
    if let Some(expected) = op.code().arity() {
        cx.arity(expected)?;
    }
    let results = op.types(&mut cx)?;
    Ok(Inference { results, constraints: cx.constraints })
}

/// One inference in progress.
pub(crate) struct Cx<'a> {
    op: &'static str,
    pub inputs: &'a [&'a TensorType],
    pub symbols: &'a Symbols,
    constraints: Vec<Requirement>,
}

impl Cx<'_> {
    pub fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::Infer { op: self.op.to_owned(), message })
    }

    fn arity(&self, expected: usize) -> Result<()> {
        if self.inputs.len() == expected {
            Ok(())
        } else {
            self.fail(format!("expected {expected} operands, found {}", self.inputs.len()))
        }
    }

    pub fn check_axis(&self, axis: usize, rank: usize) -> Result<()> {
        if axis < rank { Ok(()) } else { self.fail(format!("axis {axis} does not exist at rank {rank}")) }
    }

    pub fn rank(&self, ty: &TensorType, rank: usize, what: &str) -> Result<()> {
        if ty.rank() == rank { Ok(()) } else { self.fail(format!("{what} must have rank {rank}, found {ty}")) }
    }

    pub fn dtype(&self, ty: &TensorType, expected: DType, what: &str) -> Result<()> {
        if ty.dtype == expected {
            Ok(())
        } else {
            self.fail(format!("{what} must be {expected}, found {}; insert a cast", ty.dtype))
        }
    }

    /// Requires a number of entries in an attribute list.
    pub fn entries(&self, what: &str, found: usize, expected: usize) -> Result<()> {
        if found == expected { Ok(()) } else { self.fail(format!("expected {expected} {what}, found {found}")) }
    }

    /// Requires dims that can be extents: not provably negative.
    pub fn extents(&self, shape: &[Dim]) -> Result<()> {
        for d in shape {
            if d.bounds(self.symbols).1 < 0 {
                return self.fail(format!("extent `{d}` is negative"));
            }
        }
        Ok(())
    }

    /// Requires `found == expected`: an error if impossible, a constraint if unknown.
    pub fn same(&mut self, expected: &Dim, found: &Dim, what: impl FnOnce() -> String) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        if expected.differs(found, self.symbols) {
            return self.fail(format!("{}: expected {expected}, found {found}", what()));
        }
        self.need(Requirement::equal(expected.clone(), found.clone()));
        Ok(())
    }

    /// Requires that `from` is 1 or `to`: an error if impossible, a constraint if unknown.
    pub fn broadcasts(&mut self, from: &Dim, to: &Dim, what: impl FnOnce() -> String) -> Result<()> {
        if from.is(1) || from == to {
            return Ok(());
        }
        if from.differs(&Dim::from(1), self.symbols) {
            return self.same(to, from, what);
        }
        if to.is(1) {
            return self.same(from, to, what);
        }
        self.need(Requirement::broadcasts(from.clone(), to.clone()));
        Ok(())
    }

    pub fn need(&mut self, requirement: Requirement) {
        if !self.constraints.contains(&requirement) {
            self.constraints.push(requirement);
        }
    }

    /// Requires equal shapes.
    pub fn same_shape(&mut self, expected: &TensorType, found: &TensorType, what: &str) -> Result<()> {
        if expected.rank() != found.rank() {
            return self.fail(format!(
                "{what} must have equal shapes, expected rank {} of {expected}, found {found}",
                expected.rank()
            ));
        }
        for (axis, (e, f)) in expected.shape.iter().zip(&found.shape).enumerate() {
            self.same(e, f, || format!("{what} must have equal shapes, {expected} and {found} differ on axis {axis}"))?;
        }
        Ok(())
    }

    /// Requires `small <= large`: an error if impossible, a constraint if unknown.
    pub fn at_most(&mut self, small: &Dim, large: &Dim, what: impl FnOnce() -> String) -> Result<()> {
        let (low, high) = (small.clone() - large.clone()).bounds(self.symbols);
        let (s, l) = (small.bounds(self.symbols), large.bounds(self.symbols));
        if low > 0 || s.0 > l.1 {
            return self.fail(format!("{}: {small} exceeds {large}", what()));
        }
        if high > 0 && s.1 > l.0 {
            self.need(Requirement::at_most(small.clone(), large.clone()));
        }
        Ok(())
    }
}
