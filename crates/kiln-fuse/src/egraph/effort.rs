//! What it takes to evaluate a value from weights and literals when the plan is built.

use kiln_graph::{Dim, Op, TensorType};

/// The most demanding step of the least demanding way to compute a class. Infinite where there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Effort {
    /// Scalar operations of the longest step.
    pub operations: f64,
    /// Elements of the largest value.
    pub elements: f64,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { operations: f64::INFINITY, elements: f64::INFINITY }
    }
}

impl Effort {
    /// Of nothing at all.
    pub const NONE: Effort = Effort { operations: 0.0, elements: 0.0 };

    /// Of one op.
    pub fn of(op: &Op, operands: &[&TensorType], results: &[TensorType]) -> Effort {
        let made: f64 = results.iter().map(|t| count(&t.shape)).sum();
        let operations = match (op, operands) {
            (Op::Contract { spec, .. }, [a, b]) => {
                let shared = spec.lhs.iter().zip(&a.shape).filter(|(l, _)| !spec.rhs.contains(l));
                count(&b.shape) * shared.map(|(_, d)| extent(d)).product::<f64>()
            }
            (Op::GroupedMatmul { .. }, [x, ..]) => made * x.shape.last().map_or(1.0, extent),
            (Op::Conv { .. }, [_, w]) => made * count(&w.shape[1..]),
            (Op::WindowReduce { spec, .. }, _) => made * spec.window.iter().map(|&w| w as f64).product::<f64>(),
            (Op::Reduce { .. } | Op::ArgReduce { .. }, [x]) => count(&x.shape),
            _ => made,
        };
        Effort { operations, elements: made }
    }

    /// Of both, one after the other.
    pub fn and(self, other: Effort) -> Effort {
        Effort { operations: self.operations.max(other.operations), elements: self.elements.max(other.elements) }
    }

    /// The lesser of two ways.
    pub fn least(self, other: Effort) -> Effort {
        let key = |e: &Effort| (e.operations, e.elements);
        if key(&other) < key(&self) { other } else { self }
    }

    /// The numbers, to compare exactly.
    pub fn bits(self) -> (u64, u64) {
        (self.operations.to_bits(), self.elements.to_bits())
    }
}

fn count(shape: &[Dim]) -> f64 {
    shape.iter().map(extent).product()
}

fn extent(d: &Dim) -> f64 {
    d.as_const().map_or(f64::INFINITY, |v| v as f64)
}
