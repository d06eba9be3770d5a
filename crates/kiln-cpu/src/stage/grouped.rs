//! Products of groups of rows: one after another, each an ordinary product.

use super::{Context, Form, MatMul, Strided};
use crate::error::{Error, Result};
use std::sync::OnceLock;

/// Rows in groups, each by a matrix of its own.
#[derive(Debug)]
pub(crate) struct Grouped {
    /// The product of all rows by the first group's matrix.
    pub(crate) product: MatMul,
    /// From one group's matrix to the next.
    pub(crate) stride: isize,
    /// Where the i64 ends are.
    pub(crate) ends: usize,
}

impl Grouped {
    pub(crate) fn run(&self, cx: Context<'_>) -> Result<()> {
        let all = &self.product;
        let ends: &[i64] = cx.slots[self.ends].typed();
        let rows = all.m;
        let mut start = 0;
        for (group, &end) in ends.iter().enumerate() {
            let next = usize::try_from(end).ok().filter(|end| (start..=rows).contains(end));
            let wrong = || Error::Group { region: cx.region.to_owned(), group, end, start, rows };
            let next = next.ok_or_else(wrong)?;
            let from = |s: &Strided, to: isize| Strided { offset: s.offset + to, ..*s };
            let product = MatMul {
                m: next - start,
                a: from(&all.a, start as isize * all.a.row),
                b: from(&all.b, group as isize * self.stride),
                out: from(&all.out, start as isize * all.out.row),
                form: Form::Strided,
                batch: vec![],
                tail: None,
                tasks: OnceLock::from(*all.tasks()),
                ..*all
            };
            let Context { slots, region, pool, .. } = cx;
            product.run(Context { slots, scratch: &mut *cx.scratch, region, pool });
            start = next;
        }
        let (first, count) = (start * all.n, (rows - start) * all.n);
        let size = all.arithmetic.sum_bytes();
        cx.slots[all.out.slot].range_mut::<u8>(first * size, count * size).fill(0);
        Ok(())
    }
}
