//! The text form of a graph: what `Display` prints parses back (`FromStr`) to the same graph, but for the data of weights.
//!
//! ```text
//! graph "head" {
//!   symbol "B" 1..=64
//!   %0 = input "x" : f32[B, 128]
//!   %1 = weight "head.w" : f32[10, 128]
//!   %2 = contract "ak,nk->an" (%0, %1) acc=f32 out=f32 : f32[B, 10] @"head"
//!   %3 = reduce_max (%2) axes=[1] : f32[B]
//!   output "y" = %3
//! }
//! ```
//!
//! One statement a node: results, the mnemonic ([`crate::Op::name`]), operands, attributes, result types, and the node's name after
//! `@`. Types may be left out where they follow from the operands. Symbols and constraints come before the nodes that rely on them. `//`
//! starts a comment.

mod attribute;
mod cursor;
mod parse;
mod print;

pub(crate) use attribute::{Attribute, Reader, Text};
pub(crate) use print::attributes;
