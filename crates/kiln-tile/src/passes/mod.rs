//! The passes of the tile compiler, in order.

mod asynchronous;
mod bounds;
mod canonicalise;
mod feeds;
mod machine;
mod overlap;
mod pipeline;
mod raster;
mod specialise;

pub use machine::Machine;
