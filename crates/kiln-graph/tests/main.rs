//! All integration tests of the crate as one program: the libraries are linked once.

mod checks;
mod composites;
mod generate;
mod methods;
mod numbers;
mod ops;
mod random_graphs;
mod views;
mod windows;
