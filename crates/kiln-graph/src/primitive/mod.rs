//! What each primitive means, a file a family: the rule of its result types (`.._type`) and its reference.

pub(crate) mod contract;
pub(crate) mod control;
pub(crate) mod elementwise;
pub(crate) mod index;
pub(crate) mod quant;
pub(crate) mod reduce;
pub(crate) mod source;
pub(crate) mod view;
pub(crate) mod window;

use crate::TensorType;
use crate::interp::array::Array;

/// What a rule or reference gives: one result or several.
pub(crate) trait Several {
    /// What a result is.
    type One;
    /// All of them.
    fn several(self) -> Vec<Self::One>;
}

impl Several for TensorType {
    type One = TensorType;
    fn several(self) -> Vec<TensorType> {
        vec![self]
    }
}

impl Several for Array {
    type One = Array;
    fn several(self) -> Vec<Array> {
        vec![self]
    }
}

impl<T> Several for Vec<T> {
    type One = T;
    fn several(self) -> Vec<T> {
        self
    }
}
