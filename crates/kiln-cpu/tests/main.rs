//! All integration tests of the crate as one program: the libraries are linked once.

mod functions;
mod map;
mod products;
mod reduce;
mod support;
mod tape;
