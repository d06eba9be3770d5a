//! All integration tests of the crate as one program: the libraries are linked once.

mod confined;
mod filetests;
mod golden;
mod interp;
mod programs;
mod text;
mod tile_interp;
mod tile_passes;
#[path = "../../kiln-kernels/tests/programs/mod.rs"]
mod tile_programs;
mod tile_roles;
mod tile_values;
mod tile_verify;
mod tiles;
mod validate;
mod verify;
