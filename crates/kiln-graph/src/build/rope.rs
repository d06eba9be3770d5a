//! Rotary position embedding.

use super::Builder;
use crate::{Dim, Result, ValueId};

impl Builder {
    /// Turns pairs of `x[.., D]` by angles whose `cos` and `sin`, `[.., R / 2]`, broadcast to the pairs. A pair is `(x[2 i], x[2 i + 1])` if
    /// `interleaved`, else `(x[i], x[i + R / 2])`. The first `R` elements are turned, `D` unless `turned` is given; the rest stays.
    pub fn rope(
        &mut self,
        x: ValueId,
        cos: ValueId,
        sin: ValueId,
        interleaved: bool,
        turned: Option<&Dim>,
    ) -> Result<ValueId> {
        let Some(last) = self.rank(x).checked_sub(1) else {
            return self.fail("rope", format!("needs an axis of pairs, found {}", self.ty(x)));
        };
        let size = self.shape(x)[last].clone();
        let turned = turned.unwrap_or(&size).clone();
        let two = Dim::from(2);
        let half = turned.floor_div(&two);
        self.agree(&turned, &(half.clone() * two), || "the elements that are turned, and twice the pairs,".into())?;
        self.scoped("rope", |b| {
            let (zero, one, a) = (Dim::from(0), Dim::from(1), last as i64);
            let dtype = b.dtype(x);
            let (cos, sin) = (b.widen(cos)?, b.widen(sin)?);
            let (first, second) = if interleaved {
                (b.slice_axis(x, a, &zero, &half, 2)?, b.slice_axis(x, a, &one, &half, 2)?)
            } else {
                (b.slice_axis(x, a, &zero, &half, 1)?, b.slice_axis(x, a, &half, &half, 1)?)
            };
            let (first, second) = (b.widen(first)?, b.widen(second)?);
            let (ca, sb) = (b.mul(cos, first)?, b.mul(sin, second)?);
            let real = b.sub(ca, sb)?;
            let (sa, cb) = (b.mul(sin, first)?, b.mul(cos, second)?);
            let imaginary = b.plus(sa, cb)?;
            let (real, imaginary) = (b.cast(real, dtype)?, b.cast(imaginary, dtype)?);
            let mut y = if interleaved {
                let pairs = b.stack(&[real, imaginary], a + 1)?;
                let mut shape = b.shape(x).to_vec();
                shape[last] = turned.clone();
                b.reshape(pairs, &shape)?
            } else {
                b.concat(&[real, imaginary], a)?
            };
            if turned != size {
                let rest = b.slice_axis(x, a, &turned, &(size - turned.clone()), 1)?;
                y = b.concat(&[y, rest], a)?;
            }
            Ok(y)
        })
    }
}
