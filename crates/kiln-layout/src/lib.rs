//! Where the elements of a tile live: which register of which thread holds one ([`RegisterLayout`]), at which byte of shared memory one
//! lies ([`SharedLayout`]), and what follows: vector widths, conversions, TMA boxes, matrix descriptors, bank conflicts.
//!
//! Must not know: element types (only their bytes), instructions (an instruction's fragment is a value of [`RegisterLayout`]), programs.
#![forbid(unsafe_code)]

mod banks;
mod convert;
mod error;
mod matrix;
mod registers;
mod shared;
mod swizzle;
mod text;
mod tma;
mod wgmma;

pub use banks::{Conflicts, wavefronts};
pub use convert::{Conversion, Digit, Shuffle, Source, conversion};
pub use error::LayoutError;
pub use matrix::MatrixAccess;
pub use registers::{Deal, Mode, RegisterLayout};
pub use shared::{SharedLayout, Step};
pub use swizzle::{Swizzle, SwizzleMode};
pub use tma::{Cut, Placement, TmaBox};
pub use wgmma::{Major, WgmmaDescriptor};
