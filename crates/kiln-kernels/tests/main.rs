//! All integration tests of the crate as one program: the libraries are linked once.

mod built;
mod cells;
mod clusters;
mod common;
mod compiled;
mod conv;
mod counters;
mod families;
mod grouped;
mod in_place;
mod made;
mod mutants;
mod own;
mod places;
mod prices;
mod products;
mod programs;
#[path = "programs/run.rs"]
mod run;
mod sass;
mod table;
mod tf32;
mod threads;
mod tiles;
mod twins;
mod without_atoms;
