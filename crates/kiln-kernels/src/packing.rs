//! Memory that a kernel is given, and weights that are laid out for it when the engine is built.

use kiln_graph::Tensor;
use serde::{Deserialize, Serialize};

/// Device memory of one launch of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pointer {
    /// The region's input of that index.
    Input(usize),
    /// The region's output of that index.
    Output(usize),
    /// The scratch.
    Scratch,
    /// The memory that is zero.
    Zeroed,
    /// The packed form of that index of a constant input: [`crate::Implementation::packed`].
    Packed(usize),
}

/// A constant input in another form: steps that are done once, when the engine is built, and again where its weights are replaced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Packing {
    /// The region's input, a weight wherever the region is used.
    pub input: usize,
    /// In order.
    pub steps: Vec<Transform>,
}

/// One step of a [`Packing`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// Axis `i` of the result is axis `axes[i]`.
    Transpose(Vec<usize>),
    /// Zero bytes behind the last axis, so that its extent is a multiple.
    PadLast(usize),
}

impl Transform {
    /// The extents of what it makes; in words, why it cannot be.
    ///
    /// # Errors
    /// Axes that are no permutation of the tensor's, a multiple of 0, a tensor without axes to pad.
    pub fn shape(&self, shape: &[usize]) -> Result<Vec<usize>, String> {
        match self {
            Transform::Transpose(axes) => {
                let mut sorted = axes.clone();
                sorted.sort_unstable();
                match sorted.into_iter().eq(0..shape.len()) {
                    true => Ok(axes.iter().map(|&axis| shape[axis]).collect()),
                    false => Err(format!("transposes axes {axes:?} of a tensor with {}", shape.len())),
                }
            }
            Transform::PadLast(multiple) => {
                let mut padded = shape.to_vec();
                let last = padded.last_mut().ok_or("pads a tensor without axes")?;
                let to = last.checked_next_multiple_of(*multiple).filter(|_| *multiple > 0);
                *last = to.ok_or_else(|| format!("pads {last} elements to a multiple of {multiple}"))?;
                Ok(padded)
            }
        }
    }

    fn apply(&self, tensor: &Tensor) -> Result<Tensor, String> {
        let shape = self.shape(tensor.shape())?;
        if !tensor.dtype().bits().is_multiple_of(8) {
            return Err(format!("moves elements of {}, which share bytes", tensor.dtype()));
        }
        let size = tensor.dtype().bits() as usize / 8;
        let data = tensor.data();
        let bytes = match self {
            Transform::Transpose(axes) => {
                let mut strides = vec![size; shape.len()];
                for axis in (1..tensor.shape().len()).rev() {
                    strides[axis - 1] = strides[axis] * tensor.shape()[axis];
                }
                let mut out = Vec::with_capacity(data.len());
                let mut index = vec![0; shape.len()];
                for _ in 0..tensor.len() {
                    let at: usize = index.iter().zip(axes).map(|(i, &axis)| i * strides[axis]).sum();
                    out.extend_from_slice(&data[at..at + size]);
                    for (i, extent) in index.iter_mut().zip(&shape).rev() {
                        *i += 1;
                        if *i < *extent {
                            break;
                        }
                        *i = 0;
                    }
                }
                out
            }
            Transform::PadLast(_) => {
                let [from, to] = [tensor.shape(), &shape].map(|shape| shape.last().map_or(0, |n| n * size));
                let rows = tensor.shape()[..shape.len() - 1].iter().product::<usize>();
                let mut out = Vec::new();
                for row in 0..rows {
                    out.extend_from_slice(&data[row * from..(row + 1) * from]);
                    out.resize((row + 1) * to, 0);
                }
                out
            }
        };
        Tensor::new(tensor.dtype(), shape, bytes.into()).map_err(|e| e.to_string())
    }
}

impl Packing {
    /// A constant in its other form; in words, why it has none.
    ///
    /// # Errors
    /// Those of the steps: see [`Transform::shape`]; elements below a byte.
    pub fn apply(&self, tensor: &Tensor) -> Result<Tensor, String> {
        self.steps.iter().try_fold(tensor.clone(), |tensor, step| step.apply(&tensor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::DType;

    #[test]
    fn elements_move_and_rows_are_padded() {
        let tensor = Tensor::random(DType::F16, &[2, 3, 5], 7).unwrap();
        let steps = vec![Transform::Transpose(vec![2, 0, 1]), Transform::PadLast(4)];
        let packed = Packing { input: 0, steps }.apply(&tensor).unwrap();
        assert_eq!(packed.shape(), [5, 2, 4]);
        let element = |t: &Tensor, at: usize| [t.data()[2 * at], t.data()[2 * at + 1]];
        for (i, j, k) in (0..40).map(|at| (at / 8, at / 4 % 2, at % 4)) {
            let expected = if k < 3 { element(&tensor, (j * 3 + k) * 5 + i) } else { [0; 2] };
            assert_eq!(element(&packed, (i * 2 + j) * 4 + k), expected, "{i} {j} {k}");
        }
        let empty = Tensor::random(DType::F32, &[0, 3], 1).unwrap();
        assert_eq!(Transform::PadLast(8).apply(&empty).unwrap().shape(), [0, 8]);
    }

    #[test]
    fn what_cannot_be_packed_is_said() {
        let refused = |step: Transform, shape: &[usize]| step.shape(shape).unwrap_err();
        assert!(refused(Transform::Transpose(vec![0, 0]), &[2, 3]).contains("axes [0, 0] of a tensor with 2"));
        assert!(refused(Transform::Transpose(vec![1, 0]), &[2]).contains("of a tensor with 1"));
        assert!(refused(Transform::PadLast(0), &[2]).contains("a multiple of 0"));
        assert!(refused(Transform::PadLast(8), &[]).contains("without axes"));
        assert!(refused(Transform::PadLast(usize::MAX - 1), &[usize::MAX]).contains("a multiple of"));
        let nibbles = Tensor::random(DType::I4, &[4, 4], 3).unwrap();
        assert!(Transform::PadLast(8).apply(&nibbles).unwrap_err().contains("share bytes"));
    }
}
