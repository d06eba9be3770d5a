//! Classes of element types, which bound the dtype of a generic model.

use crate::Element;

/// A floating-point [`Element`].
pub trait Float: Element {}

/// An integer [`Element`].
pub trait Int: Element {}

macro_rules! class {
    ($class:ident: $($ty:ty),*) => {
        $(impl $class for $ty {})*
    };
}

class!(Float: f64, f32, half::f16, half::bf16);
class!(Int: i64, i32, i16, i8, u64, u32, u16, u8);
