//! Random arguments, poisoned results and comparison of values.

use kiln_tile::interp::Arg;
use kiln_tile::{Array, DType, Scalar};

pub struct Random(pub fastrand::Rng);

/// Seeds differ from run to run; a failure prints the one to set here.
pub fn random() -> Random {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    Random(fastrand::Rng::with_seed(seed))
}

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    /// Values within 4 of 0; integers for an integer type.
    pub fn array(&mut self, dtype: DType, len: usize) -> Array {
        let values: Vec<f64> = (0..len).map(|_| self.0.f64() * 8.0 - 4.0).collect();
        Array::from_f64(dtype, values)
    }

    /// [`Random::array`], of which about one element in eight is an infinity or NaN.
    pub fn wild(&mut self, dtype: DType, len: usize) -> Array {
        let mut array = self.array(dtype, len);
        for i in 0..len {
            let value = match self.below(24) {
                0 => f64::NAN,
                1 => f64::INFINITY,
                2 => f64::NEG_INFINITY,
                _ => continue,
            };
            array.set(i, Scalar::Float(value));
        }
        array
    }
}

/// What no kernel computes.
pub fn poison(dtype: DType, len: usize) -> Arg {
    let value = if dtype.is_float() { Scalar::Float(-12345.0) } else { Scalar::Int(-77) };
    Arg::Array(Array::from_values(dtype, std::iter::repeat_n(value, len)))
}

pub fn dims<const N: usize>(sizes: [usize; N]) -> Vec<Arg> {
    sizes.iter().map(|&n| Arg::dim(n as i64)).collect()
}

/// Each element within `tolerance` of the expected, relative where that is above 1; infinities and NaN where they are expected.
#[track_caller]
pub fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let same = f == e || (f.is_nan() && e.is_nan());
        assert!(same || (f - e).abs() <= tolerance * e.abs().max(1.0), "element {i}: {f}, expected {e}");
    }
}

/// A product in f64: `a` of `[m, k]` (or `[k, m]`), `b` of `[k, n]` (or `[n, k]`), and for each element the sum of magnitudes.
pub fn product(a: &[f64], b: &[f64], [m, n, k]: [usize; 3], transposed: [bool; 2]) -> (Vec<f64>, Vec<f64>) {
    let at_a = |i: usize, p: usize| a[if transposed[0] { p * m + i } else { i * k + p }];
    let at_b = |p: usize, j: usize| b[if transposed[1] { j * k + p } else { p * n + j }];
    let sum = |of: fn(f64) -> f64| {
        (0..m * n).map(|t| (0..k).map(|p| of(at_a(t / n, p) * at_b(p, t % n))).sum()).collect::<Vec<f64>>()
    };
    (sum(|x| x), sum(f64::abs))
}
