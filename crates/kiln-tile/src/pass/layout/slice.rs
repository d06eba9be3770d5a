//! Finds the fragments that have an element a row: a row's maximum, its sum.

use super::vectorize::accesses;
use crate::program::{Buffer, Scope, Stmt};
use std::collections::HashSet;

/// Which fragments have an element for each row of an accumulator, and which accumulators keep their rows within a warp.
#[derive(Default)]
pub struct RowUses {
    /// Fragments with an element a row.
    pub rows: Vec<Buffer>,
    /// The accumulators, by id.
    pub whole: HashSet<u32>,
}

impl RowUses {
    /// Those of a kernel.
    pub fn of(body: &[Stmt]) -> RowUses {
        let mut uses = RowUses::default();
        loop {
            let known = (uses.rows.len(), uses.whole.len());
            body.iter().for_each(|stmt| stmt.walk(&mut |s| uses.learn(s)));
            if known == (uses.rows.len(), uses.whole.len()) {
                return uses;
            }
        }
    }

    fn learn(&mut self, stmt: &Stmt) {
        let (axes, (loaded, stored)) = match stmt {
            Stmt::Parallel { axes, body } => (&axes[..], accesses(body, &[])),
            Stmt::ReduceRows { axes, body, value, into, .. } => {
                self.add(into);
                (&axes[..], accesses(body, std::slice::from_ref(value)))
            }
            Stmt::Gemm { acc, a, .. } if a.scope == Scope::Fragment => {
                self.whole.extend([acc.id, a.id]);
                return;
            }
            _ => return,
        };
        let fragments = || loaded.iter().chain(&stored).map(|(b, _)| b).filter(|b| b.scope == Scope::Fragment);
        let (rows, accumulators): (Vec<&Buffer>, Vec<&Buffer>) = fragments().partition(|b| b.shape.len() < 2);
        let by_row = matches!(stmt, Stmt::ReduceRows { .. }) || axes.len() == 2 && !rows.is_empty();
        if by_row {
            self.whole.extend(accumulators.iter().map(|b| b.id));
        }
        if by_row || rows.iter().any(|b| self.rows.iter().any(|known| known.id == b.id)) {
            rows.into_iter().for_each(|b| self.add(b));
        }
    }

    fn add(&mut self, buffer: &Buffer) {
        if !self.rows.iter().any(|known| known.id == buffer.id) {
            self.rows.push(buffer.clone());
        }
    }
}
