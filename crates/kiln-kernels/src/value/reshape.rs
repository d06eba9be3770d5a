//! Where an element of a reshaped value is: axes that merge or split, with as few divisions as that takes.

use super::dims::numel;
use super::{Values, Writer};
use kiln_fuse::reshape_groups;
use kiln_graph::Dim;
use kiln_tile::Expr;

impl Values<'_> {
    /// The index in shape `from` of the element that stands at `index` of shape `to`, in row-major order.
    pub fn reshaped(&mut self, k: &mut dyn Writer, to: &[Dim], from: &[Dim], index: &[Expr]) -> Vec<Expr> {
        let mut result = vec![Expr::index(0); from.len()];
        for (new, old) in reshape_groups(to, from) {
            let linear = self.linear(k, &to[new.clone()], &index[new]);
            self.split(k, &from[old.clone()], linear, &mut result[old]);
        }
        result
    }

    /// Row-major position of `index` in `shape`.
    pub fn linear(&mut self, k: &mut dyn Writer, shape: &[Dim], index: &[Expr]) -> Expr {
        let mut sum = Expr::index(0);
        for (i, at) in index.iter().enumerate() {
            let stride = self.dim(k, &numel(&shape[i + 1..]));
            sum = sum + at * stride;
        }
        sum
    }

    /// The index of position `linear` in `shape`.
    pub fn split(&mut self, k: &mut dyn Writer, shape: &[Dim], linear: Expr, result: &mut [Expr]) {
        let wide = |d: &Dim| !d.is(1);
        if shape.iter().filter(|d| wide(d)).count() > 1 {
            let linear = self.name(k, "linear", linear);
            let first = shape.iter().position(wide);
            for i in (0..shape.len()).filter(|&i| wide(&shape[i])) {
                let stride = self.dim(k, &numel(&shape[i + 1..]));
                let mut at = &linear / stride;
                if Some(i) != first {
                    at = at % self.dim(k, &shape[i]);
                }
                result[i] = self.name(k, "i", at);
            }
        } else if let Some(i) = shape.iter().position(wide) {
            result[i] = linear;
        }
    }
}
