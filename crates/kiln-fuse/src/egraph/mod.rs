//! The e-graph: its terms, what is known of each class, and how a graph becomes one.

mod build;
mod dag;
#[cfg(test)]
mod extract;
mod facts;
mod term;

pub(crate) use build::{Put, build};
pub(crate) use dag::{ClassIx, Dag, DagNode};
#[cfg(test)]
pub(crate) use extract::extract;
pub(crate) use facts::{Attributes, EGraph, Facts, Knowledge, commutes, op_of};
pub(crate) use term::{Head, Term};
