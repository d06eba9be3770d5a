//! Engines built from small graphs: results, files, damage.
#![allow(missing_docs)]

mod attention;
mod bound;
mod control;
mod exact;
mod file;
mod hostile;
mod launch;
mod models;
mod own;
mod range;
mod run;
mod scratch;
mod sim;
mod symbols;
mod tf32;
