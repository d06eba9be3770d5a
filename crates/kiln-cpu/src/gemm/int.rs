//! Integer dot products, the inner loops of exact integer products.

use crate::simd::{Loop, widest};

macro_rules! dot {
    ($name:ident, $t:ident, $acc:ident, $product:expr) => {
        /// Dot products of one row of A with up to four rows of B, wrapping.
        pub(crate) fn $name(a: &[$t], b: [&[$t]; 4]) -> [$acc; 4] {
            struct Dot<'a>(&'a [$t], [&'a [$t]; 4]);
            impl Loop for Dot<'_> {
                type Output = [$acc; 4];

                #[inline(always)]
                fn run(self) -> [$acc; 4] {
                    let Dot(a, b) = self;
                    let n = a.len();
                    let [b0, b1, b2, b3] = b.map(|b| &b[..n]);
                    let mut sums = [0 as $acc; 4];
                    let product = $product;
                    for i in 0..n {
                        sums[0] = sums[0].wrapping_add(product(a[i], b0[i]));
                        sums[1] = sums[1].wrapping_add(product(a[i], b1[i]));
                        sums[2] = sums[2].wrapping_add(product(a[i], b2[i]));
                        sums[3] = sums[3].wrapping_add(product(a[i], b3[i]));
                    }
                    sums
                }
            }
            widest(Dot(a, b))
        }
    };
}

dot!(dot_i16, i16, i32, |x: i16, y: i16| i32::from(x) * i32::from(y));
dot!(dot_i32, i32, i32, |x: i32, y: i32| x.wrapping_mul(y));
dot!(dot_i64, i64, i64, |x: i64, y: i64| x.wrapping_mul(y));
