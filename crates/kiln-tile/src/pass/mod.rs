//! The compiler's passes, in order: [`layout`], [`sync`], [`lower`], [`tidy`]; [`facts`] is the analysis they share.

pub mod facts;
pub mod layout;
pub mod lower;
pub mod sync;
pub mod tidy;
