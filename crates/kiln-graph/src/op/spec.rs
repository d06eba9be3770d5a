//! Geometry and labels: what an op's attributes are made of.

use serde::{Deserialize, Serialize};

/// Labels of a two-operand einsum, for instance `bmk,bkn->bmn`. A label occurs at most once an operand. In both operands and the result:
/// batch. In both operands only: contracted. In one operand and the result: free. A label of one operand alone is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EinsumSpec {
    /// Labels of the left operand's axes.
    pub lhs: Vec<char>,
    /// Labels of the right operand's axes.
    pub rhs: Vec<char>,
    /// Labels of the result's axes.
    pub out: Vec<char>,
}

/// Geometry of [`Op::Conv`](crate::Op::Conv), one entry a spatial axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConvSpec {
    /// Step of the window.
    pub strides: Vec<usize>,
    /// Zero padding `(before, after)`.
    pub pads: Vec<(usize, usize)>,
    /// Distance between taps.
    pub dilations: Vec<usize>,
    /// Channel groups.
    pub groups: usize,
}

/// Geometry of [`Op::WindowReduce`](crate::Op::WindowReduce), one entry a trailing axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WindowSpec {
    /// Taps.
    pub window: Vec<usize>,
    /// Step of the window.
    pub strides: Vec<usize>,
    /// Padding `(before, after)`, which counts as the identity.
    pub pads: Vec<(usize, usize)>,
    /// Distance between taps.
    pub dilations: Vec<usize>,
}

/// How scales and zero points map onto a quantized tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QuantAxes {
    /// One scale (rank 0).
    Tensor,
    /// A scale for each index of the axis (rank 1).
    Axis(usize),
    /// A scale for each run of `block` elements along the axis (shape of `x` with that axis divided, rounding up).
    Block {
        /// Axis.
        axis: usize,
        /// Elements a scale.
        block: usize,
    },
}
