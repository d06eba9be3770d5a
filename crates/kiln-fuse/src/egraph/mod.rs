//! The e-graph: its terms, what is known of each class, and how a graph becomes one.

mod build;
mod dag;
mod effort;
#[cfg(test)]
mod extract;
mod facts;
mod kernels;
mod term;
mod trace;

pub(crate) use build::{Put, build};
pub(crate) use dag::{ClassIx, Dag, DagNode};
pub(crate) use effort::Effort;
#[cfg(test)]
pub(crate) use extract::extract;
pub(crate) use facts::{Attributes, EGraph, Facts, Knowledge, commutes, op_of};
pub(crate) use kernels::KernelPlace;
pub(crate) use term::{Head, Term};
pub(crate) use trace::{LeftHandSide, settle};
