//! Activation functions and softmax.

use super::super::lower::{Lower, OpResult, invalid, unsupported};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{ArgOp, BinaryOp, Builder, CompareOp, DType, Result, ValueId};

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
        _ => l.widened(x, |b, x| {
            let magnitude = b.abs(x)?;
            let d = b.plus_scalar(magnitude, 1.0)?;
            b.div(x, d)
        })?,
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
            l.widened(x, |b, x| {
                let scaled = b.mul_scalar(x, 1.0 / alpha)?;
                let e = b.expm1(scaled)?;
                let e = b.mul_scalar(e, alpha)?;
                let negative = b.binary_scalar(BinaryOp::Min, e, 0.0)?;
                let positive = b.relu(x)?;
                b.plus(positive, negative)
            })?
        }
        "HardSigmoid" => l.hard_sigmoid(x, n.float("alpha", 0.2)?, n.float("beta", 0.5)?)?,
        "ThresholdedRelu" => {
            let alpha = n.float("alpha", 1.0)?;
            l.widened(x, |b, x| {
                let above = b.compare_scalar(CompareOp::Gt, x, alpha)?;
                let zero = b.scalar(b.dtype(x), 0.0)?;
                b.select(above, x, zero)
            })?
        }
        "Swish" => {
            let alpha = n.float("alpha", 1.0)?;
            l.widened(x, |b, x| swish(b, x, alpha))?
        }
        _ => {
            let (lambda, bias) = (n.float("lambd", 0.5)?, n.float("bias", 0.0)?);
            l.widened(x, |b, x| shrink(b, x, lambda, bias))?
        }
    };
    l.done(y)
}

/// `x < -lambda ? x + bias : x > lambda ? x - bias : 0`.
fn shrink(b: &mut Builder, x: ValueId, lambda: f64, bias: f64) -> Result<ValueId> {
    let low = b.compare_scalar(CompareOp::Lt, x, -lambda)?;
    let high = b.compare_scalar(CompareOp::Gt, x, lambda)?;
    let up = b.plus_scalar(x, bias)?;
    let down = b.binary_scalar(BinaryOp::Sub, x, bias)?;
    let zero = b.scalar(b.dtype(x), 0.0)?;
    let inner = b.select(high, down, zero)?;
    b.select(low, up, inner)
}

/// `x * sigmoid(alpha * x)`.
fn swish(b: &mut Builder, x: ValueId, alpha: f64) -> Result<ValueId> {
    let scaled = b.mul_scalar(x, alpha)?;
    let s = b.sigmoid(scaled)?;
    b.mul(x, s)
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
    let (gate, x) = (l.arg(n, 0)?, l.arg(n, 1)?);
    let alpha = n.float("alpha", 1.0)?;
    let y = l.widened(gate, |b, gate| {
        let gate = swish(b, gate, alpha)?;
        let x = b.widen(x)?;
        b.mul(gate, x)
    })?;
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
