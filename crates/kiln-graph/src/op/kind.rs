//! What an op is to whoever cuts a graph into kernels.

/// How the elements of an op's results depend on its operands. Fusion, and back ends where they treat alike what is alike, ask for this and not for the
/// op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Input or weight: never inside a region's computation.
    Source,
    /// No operands, computed from the index: const, iota, dim value.
    Nullary,
    /// Each element from the elements at the same place (scales of (de)quantization are looked up).
    Elementwise,
    /// Each element is one element elsewhere, or padding.
    View,
    /// As a view, but the place is data.
    Gather,
    /// Data-dependent writes.
    Scatter,
    /// Removes axes.
    Reduce,
    /// Einsum, or a product of groups of rows.
    Contract,
    /// Convolution.
    Conv,
    /// Window reduction.
    Window,
    /// Many elements of one operand make each of its result's, in one kernel that may compute the operand elementwise, and ends with the result: running
    /// reductions.
    Sink,
    /// A kernel of its own, with nothing else in it: top-k. May have several results.
    Alone,
    /// Runs as a step of its own: control flow. May have several results.
    Opaque,
}

impl OpKind {
    /// Whether ops of this kind may have other than one result.
    pub const fn is_tuple(self) -> bool {
        matches!(self, OpKind::Alone | OpKind::Opaque)
    }
}
