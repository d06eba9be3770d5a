//! Dimensions as index expressions: constants are literals, the rest become runtime parameters.

use super::{Values, Writer};
use crate::program::Argument;
use kiln_graph::Dim;
use kiln_tile::Expr;

impl Values<'_> {
    /// The value of `dim`: a literal, or a parameter that all uses share.
    pub fn dim(&mut self, k: &mut dyn Writer, dim: &Dim) -> Expr {
        if let Some(value) = dim.as_const() {
            return Expr::index(value);
        }
        if let Some((_, known)) = self.dims.iter().find(|(d, _)| d == dim) {
            return known.clone();
        }
        let (low, mut high) = dim.bounds(self.symbols);
        let symbol = matches!(dim.terms().collect::<Vec<_>>()[..], [([kiln_graph::Atom::Sym(_)], 1)]);
        if symbol && high == i64::MAX {
            // An extent of unknown range is passed in 32 bits; the launch refuses a greater one.
            high = i32::MAX.into();
        }
        let param = k.dim(&name(dim), low..=high.max(low), multiple(dim));
        self.dims.push((dim.clone(), param.clone()));
        self.arguments.push(Argument::Dim(dim.clone()));
        param
    }

    /// The values of several dims.
    pub fn dims(&mut self, k: &mut dyn Writer, dims: &[Dim]) -> Vec<Expr> {
        dims.iter().map(|d| self.dim(k, d)).collect()
    }
}

/// What the value of `dim` is known to be a multiple of.
pub fn multiple(dim: &Dim) -> i64 {
    dim.terms().fold(0, |g, (_, coefficient)| gcd(g, coefficient.saturating_abs())).max(1)
}

/// Product of extents.
pub fn numel(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::from(1), |n, d| n * d.clone())
}

/// `2*H + 1` as `n_2xH_plus_1`: what the parameter is called.
fn name(dim: &Dim) -> String {
    let text = dim.to_string().replace(" + ", "_plus_").replace(" - ", "_minus_").replace('*', "x");
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) { text } else { format!("n_{text}") }
}

/// The greatest common divisor.
pub fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
