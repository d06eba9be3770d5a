//! Kernel families: a [`kiln_fuse::Region`] becomes tile programs with Config spaces, and CUDA C.
//!
//! Knows: regions and tile programs. Must not know: how anything is compiled, launched or timed.
//!
//! [`lower`] asks the [`families`] on the tile IR first, then picks one of the older by the region's anchor. A family spreads the anchor's iteration
//! space over a GPU; what surrounds the anchor is written by `value`, which gives the value of any graph node at any index as a tile expression. A result never needs
//! agreement between families: each is compared with the reference interpreter on its own.
#![forbid(unsafe_code)]

mod error;
pub mod families;
mod family;
mod guard;
mod kernel;
mod lower;
pub mod own;
mod packing;
mod program;
mod tensor_map;
mod value;

pub use error::{Error, Result};
pub use guard::{Condition, Guard};
pub use kernel::{Grid, Implementation, Kernel, Launch, MAX_CLUSTER, Param};
pub use kiln_tile::pass::Pass;
pub use lower::{Variants, Watch, Way, candidates, lower, lower_watched, tile_programs};
pub use packing::{Packing, Pointer, Transform};
pub use program::{Argument, TileProgram};
pub use tensor_map::{Element, Promotion, Swizzle, TENSOR_MAP_BYTES, TensorMap, TensorMapParam, Window};
