//! Activation functions and softmax.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{ArgOp, BinaryOp, CompareOp, DType, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "Relu" | "Sigmoid" | "HardSwish" | "Softplus" | "Mish" | "Softsign" => plain,
        "LeakyRelu" | "Elu" | "Selu" | "Celu" | "HardSigmoid" | "ThresholdedRelu" | "Swish" | "Shrink" => parametric,
        "Gelu" => gelu,
        "SwiGLU" => swiglu,
        "Dropout" => dropout,
        "PRelu" => prelu,
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax,
        _ => return None,
    };
    Some(handler)
}

fn plain<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let y = match n.op() {
        "Relu" => l.relu(x)?,
        "Sigmoid" => l.sigmoid(x)?,
        "HardSwish" => l.hard_swish(x)?,
        "Softplus" => l.softplus(x)?,
        "Mish" => l.mish(x)?,
        _ => {
            let magnitude = l.abs(x)?;
            let d = l.plus_scalar(magnitude, 1.0)?;
            l.div(x, d)?
        }
    };
    l.done(y)
}

fn parametric<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let y = match n.op() {
        "LeakyRelu" => l.leaky_relu(x, n.float("alpha", 0.01)?)?,
        "Elu" => l.elu(x, n.float("alpha", 1.0)?)?,
        "Selu" => {
            let (alpha, gamma) = (n.float("alpha", 1.673_263_2)?, n.float("gamma", 1.050_701)?);
            l.selu(x, alpha, gamma)?
        }
        "Celu" => {
            let alpha = n.float("alpha", 1.0)?;
            let scaled = l.mul_scalar(x, 1.0 / alpha)?;
            let e = l.expm1(scaled)?;
            let e = l.mul_scalar(e, alpha)?;
            let negative = l.binary_scalar(BinaryOp::Min, e, 0.0)?;
            let positive = l.relu(x)?;
            l.plus(positive, negative)?
        }
        "HardSigmoid" => l.hard_sigmoid(x, n.float("alpha", 0.2)?, n.float("beta", 0.5)?)?,
        "ThresholdedRelu" => {
            let above = l.compare_scalar(CompareOp::Gt, x, n.float("alpha", 1.0)?)?;
            let dtype = l.dtype(x);
            let zero = l.scalar(dtype, 0.0)?;
            l.select(above, x, zero)?
        }
        "Swish" => {
            let scaled = l.mul_scalar(x, n.float("alpha", 1.0)?)?;
            let s = l.sigmoid(scaled)?;
            l.mul(x, s)?
        }
        _ => shrink(l, x, n.float("lambd", 0.5)?, n.float("bias", 0.0)?)?,
    };
    l.done(y)
}

/// `x < -lambda ? x + bias : x > lambda ? x - bias : 0`.
fn shrink(l: &mut Lower<'_>, x: ValueId, lambda: f64, bias: f64) -> OpResult<ValueId> {
    let low = l.compare_scalar(CompareOp::Lt, x, -lambda)?;
    let high = l.compare_scalar(CompareOp::Gt, x, lambda)?;
    let up = l.plus_scalar(x, bias)?;
    let down = l.binary_scalar(BinaryOp::Sub, x, bias)?;
    let dtype = l.dtype(x);
    let zero = l.scalar(dtype, 0.0)?;
    let inner = l.select(high, down, zero)?;
    Ok(l.select(low, up, inner)?)
}

fn gelu<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let y = match n.string("approximate", "none")? {
        "none" => l.gelu(x)?,
        "tanh" => l.gelu_tanh(x)?,
        other => return invalid(format!("approximate is `{other}`, expected none or tanh")),
    };
    l.done(y)
}

/// `a * sigmoid(alpha * a) * b`.
fn swiglu<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (a, b) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let scaled = l.mul_scalar(a, n.float("alpha", 1.0)?)?;
    let s = l.sigmoid(scaled)?;
    let gate = l.mul(a, s)?;
    let y = l.mul(gate, b)?;
    l.done(y)
}

/// Dropout at inference: the identity, and a mask that keeps everything.
fn dropout<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    if let Some(training) = n.optional(2)
        && l.known_ints(training, "training_mode")?.first() != Some(&0)
    {
        let ratio = match n.optional(1) {
            Some(ratio) => l.known_floats(ratio, "the ratio")?.first().copied().unwrap_or(0.5),
            None => 0.5,
        };
        if ratio != 0.0 {
            return unsupported("dropout in training mode is random");
        }
    }
    let x = n.input(0)?.clone();
    let ty = x.ty();
    let dtype = if n.version < 10 { ty.dtype } else { DType::Bool };
    let one = l.scalar(dtype, 1.0)?;
    let mask = l.broadcast_to(one, &ty.shape)?;
    Ok(vec![x, l.run(mask)])
}

fn prelu<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let (x, mut slope) = (l.arg(n, 0)?, l.arg(n, 1)?);
    // Operator sets before 7 give one slope a channel.
    if n.version < 7 && l.rank(slope) == 1 && l.rank(x) > 2 {
        slope = l.per_channel(x, slope)?;
    }
    let y = l.prelu(x, slope)?;
    l.done(y)
}

fn softmax<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    if n.version >= 13 {
        let y = along(l, n.op(), x, n.int("axis", -1)?)?;
        return l.done(y);
    }
    // Older operator sets flatten to a matrix at `axis`.
    let axis = n.int("axis", 1)?;
    let shape = l.shape(x).to_vec();
    if axis == shape.len() as i64 - 1 || axis == -1 {
        let y = along(l, n.op(), x, -1)?;
        return l.done(y);
    }
    let flat = l.flatten(x, axis)?;
    let y = along(l, n.op(), flat, -1)?;
    let y = l.reshape(y, &shape)?;
    l.done(y)
}

fn along(l: &mut Lower<'_>, op: &str, x: ValueId, axis: i64) -> OpResult<ValueId> {
    Ok(match op {
        "Softmax" => l.softmax(x, axis)?,
        "LogSoftmax" => l.log_softmax(x, axis)?,
        "Hardmax" => {
            let at = l.axis(x, axis)?;
            let first = l.arg_reduce(ArgOp::Max, x, axis, false, true)?;
            let shape = l.shape(x).to_vec();
            let place = l.iota(DType::I64, &shape, at)?;
            let hot = l.compare(CompareOp::Eq, place, first)?;
            let dtype = l.dtype(x);
            l.cast(hot, dtype)?
        }
        _ => return unsupported("no lowering"),
    })
}
