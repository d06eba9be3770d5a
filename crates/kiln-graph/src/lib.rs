//! The typed SSA tensor graph at the centre of Kiln.
//!
//! Knows: dtypes, symbolic dimensions, the primitive ops, one shape inference an op, the builder and its named
//! composites, half precision widened, the verifier, the text form, Graphviz output, and the reference interpreter (floats in f64 rounded to the
//! declared dtype at each value, integers exact).
//!
//! Must not know: GPUs, files, or how anything is scheduled.
#![forbid(unsafe_code)]

mod attached;
mod build;
mod canonical;
mod class;
mod dim;
mod dot;
mod element;
mod encode;
mod error;
mod graph;
mod infer;
mod interp;
mod op;
mod primitive;
mod random;
mod tensor;
mod text;
mod verify;
pub mod widen;

pub use attached::Attached;
pub use build::{
    Attending, Builder, Coordinates, Interpolation, PadMode, Pool, Resize, ResizeTo, Rounding, SharedHeads, method,
};
pub use class::{Float, Int};
pub use dim::{Atom, Bindings, Dim, Symbols};
pub use element::Element;
pub use encode::Encoder;
pub use error::{Error, Result};
pub use graph::{Constraint, Graph, Node, NodeId, Relation, Requirement, TensorType, Value, ValueId};
pub use infer::{Inference, infer};
pub use interp::{bind_symbols, bind_within, interpret, interpret_all, interpret_within};
pub use kiln_num::{self as number, DType};
pub use op::*;
pub use random::Rng;
pub use tensor::Tensor;
pub use verify::verify;
