//! Engines built from small graphs: results, files, damage.
#![allow(missing_docs)]

mod attention;
mod bound;
mod control;
mod exact;
mod file;
mod fork;
mod hostile;
mod launch;
mod models;
mod own;
mod preflight;
mod queue;
mod range;
mod refit;
mod run;
mod scratch;
mod sign;
mod sim;
mod stream;
mod symbols;
mod tf32;
mod user;
