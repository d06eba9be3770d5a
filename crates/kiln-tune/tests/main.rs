//! All integration tests of the crate as one program: the libraries are linked once.

mod measured;
mod plans;
mod prices;
mod search;
mod times;
mod tune;
