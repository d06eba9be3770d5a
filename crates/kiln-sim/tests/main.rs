//! All integration tests of the crate as one program: the libraries are linked once.

mod basic;
mod broken;
mod fixtures;
mod fuzz;
mod gemm;
mod hopper;
mod layouts;
mod schedules;
mod support;
#[path = "fixtures/table.rs"]
mod table;
mod tma;
mod triton;
mod warp_specialized;
mod warpgroups;
