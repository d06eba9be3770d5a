//! Engines built from small graphs: results, files, damage.
#![allow(missing_docs)]

mod control;
mod file;
mod hostile;
mod models;
mod run;
mod sim;
mod symbols;
