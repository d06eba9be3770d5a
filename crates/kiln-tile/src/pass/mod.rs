//! The compiler's passes, in order: [`layout`], [`sync`], [`lower`], [`tidy`]; [`facts`] is the analysis they share, and [`recombine`] the one simplification of addresses.

pub mod facts;
pub mod layout;
pub mod lower;
pub mod recombine;
pub mod sync;
pub mod tidy;
