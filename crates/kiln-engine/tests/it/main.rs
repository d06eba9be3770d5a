//! Engines built from small graphs: results, files, damage.
#![allow(missing_docs)]

mod bound;
mod control;
mod exact;
mod file;
mod hostile;
mod models;
mod range;
mod run;
mod scratch;
mod sim;
mod symbols;
