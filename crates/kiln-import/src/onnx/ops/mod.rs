//! Lowerings of ONNX operators, one family a file.

mod activation;
mod attention;
mod control;
mod conv;
mod elementwise;
mod gather;
mod loss;
mod matmul;
mod norm;
mod pool;
mod quant;
mod recurrence;
mod reduce;
mod resize;
mod rnn;
mod sample;
mod shape;
mod signal;
mod view;

use super::lower::{Lower, OpResult};
use super::node::Node;
use super::value::Val;

/// Lowers one node to its results.
pub(super) type Handler = for<'m> fn(&mut Lower<'m>, &Node<'m>) -> OpResult<Vec<Val>>;

/// The lowering of an operator.
pub(super) fn lookup(domain: &str, op: &str) -> Option<Handler> {
    match domain {
        "" => {}
        "ai.onnx.preview" => return attention::lookup_preview(op),
        _ => return None,
    }
    let families = [
        elementwise::lookup,
        activation::lookup,
        shape::lookup,
        view::lookup,
        matmul::lookup,
        conv::lookup,
        pool::lookup,
        norm::lookup,
        reduce::lookup,
        gather::lookup,
        quant::lookup,
        loss::lookup,
        attention::lookup,
        rnn::lookup,
        recurrence::lookup,
        sample::lookup,
        signal::lookup,
        resize::lookup,
        control::lookup,
    ];
    families.iter().find_map(|family| family(op))
}
