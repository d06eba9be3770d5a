//! All integration tests of the crate as one program: the libraries are linked once.

mod attention;
mod blocks;
mod common;
mod explain;
mod extents;
mod golden;
mod identity;
mod launches;
mod layers;
mod layout;
mod makers;
mod pattern;
mod plans;
mod prologue;
mod random;
mod twins;
