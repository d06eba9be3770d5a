//! Products of tiles by the instructions of the atom table.

use super::Lower;
use crate::error::Result;
use crate::ir::{Operand, ValueId};

impl Lower<'_> {
    /// Writes `result = acc + a * b`; the result has the registers of `acc`.
    pub(super) fn dot(
        &mut self,
        _result: ValueId,
        _a: &Operand,
        _b: &Operand,
        _acc: ValueId,
        _atom: Option<&str>,
    ) -> Result<()> {
        Err(self.internal("products are not lowered yet"))
    }
}
