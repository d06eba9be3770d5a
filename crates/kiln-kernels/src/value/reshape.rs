//! Where an element of a reshaped value is: axes that merge or split, with as few divisions as that takes.

use super::dims::numel;
use super::{Values, Writer};
use kiln_graph::Dim;
use kiln_tile::Expr;
use std::ops::Range;

impl Values<'_> {
    /// The index in shape `from` of the element that stands at `index` of shape `to`, in row-major order.
    pub fn reshaped(&mut self, k: &mut dyn Writer, to: &[Dim], from: &[Dim], index: &[Expr]) -> Vec<Expr> {
        let mut result = vec![Expr::index(0); from.len()];
        for (new, old) in groups(to, from) {
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

/// Runs of axes of both shapes with equal products, as short as can be proved. Axes of extent 1 that end a shape are in none.
fn groups(to: &[Dim], from: &[Dim]) -> Vec<(Range<usize>, Range<usize>)> {
    let mut groups = vec![];
    let (mut i, mut j) = (0, 0);
    while i < to.len() && j < from.len() {
        let ends = (2..=to.len() - i + from.len() - j)
            .flat_map(|total| (1..total).map(move |a| (a, total - a)))
            .filter(|&(a, b)| i + a <= to.len() && j + b <= from.len())
            .find(|&(a, b)| numel(&to[i..i + a]) == numel(&from[j..j + b]));
        // Products that cannot be proved equal are equal when nothing is left out.
        let (a, b) = ends.unwrap_or((to.len() - i, from.len() - j));
        groups.push((i..i + a, j..j + b));
        (i, j) = (i + a, j + b);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_as_short_as_possible() {
        let d = |text: &[&str]| text.iter().map(|s| s.parse::<Dim>().unwrap()).collect::<Vec<_>>();
        let of = |a: &[&str], b: &[&str]| groups(&d(a), &d(b));
        assert_eq!(of(&["B", "S", "384"], &["B", "S", "12", "32"]), [(0..1, 0..1), (1..2, 1..2), (2..3, 2..4)]);
        assert_eq!(of(&["B*S", "8"], &["B", "S", "8"]), [(0..1, 0..2), (1..2, 2..3)]);
        assert_eq!(of(&["6", "4"], &["8", "3"]), [(0..2, 0..2)]);
        assert_eq!(of(&["1", "5", "1"], &["5"]), [(0..2, 0..1)]);
        assert_eq!(of(&["5"], &["1", "5"]), [(0..1, 0..2)]);
    }
}
