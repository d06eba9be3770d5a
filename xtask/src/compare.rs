//! Comparing tensors with a tolerance.

use kiln_graph::Tensor;

/// numpy's `assert_allclose`: `|found - expected| <= atol + rtol * |expected|`, NaN equal to NaN, and equal dtypes and shapes.
pub fn close(found: &Tensor, expected: &Tensor, rtol: f64, atol: f64) -> Result<(), String> {
    if found.dtype() != expected.dtype() || found.shape() != expected.shape() {
        return Err(format!(
            "{}{:?}, expected {}{:?}",
            found.dtype(),
            found.shape(),
            expected.dtype(),
            expected.shape()
        ));
    }
    let (a, b) = (found.to_f64_vec(), expected.to_f64_vec());
    let wrong = |(a, b): (&f64, &f64)| {
        let equal = a == b || (a.is_nan() && b.is_nan());
        let near = a.is_finite() && b.is_finite() && (a - b).abs() <= atol + rtol * b.abs();
        !(equal || near)
    };
    let count = a.iter().zip(&b).filter(|&p| wrong(p)).count();
    match a.iter().zip(&b).position(wrong) {
        Some(i) => Err(format!("{count} of {} elements differ, the first at {i}: {} expected {}", a.len(), a[i], b[i])),
        None => Ok(()),
    }
}
