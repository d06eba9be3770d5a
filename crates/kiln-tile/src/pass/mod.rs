//! The compiler's passes, in order: [`layout`], [`sync`], [`lower`], [`dce`]; [`facts`] is the analysis they share, and [`simplify`] the one simplification of addresses.

pub mod dce;
pub mod facts;
pub mod layout;
pub mod lower;
pub mod simplify;
pub mod sync;
