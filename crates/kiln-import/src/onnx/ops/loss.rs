//! Classification losses.

use super::super::lower::{Lower, OpResult, invalid};
use super::super::node::Node;
use super::super::value::Val;
use super::Handler;
use kiln_graph::{CompareOp, DType, ValueId};

pub(super) fn lookup(op: &str) -> Option<Handler> {
    let handler: Handler = match op {
        "NegativeLogLikelihoodLoss" => negative_log_likelihood,
        "SoftmaxCrossEntropyLoss" => softmax_cross_entropy,
        _ => return None,
    };
    Some(handler)
}

fn negative_log_likelihood<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let dtype = l.dtype(x);
    let wide = l.widen(x)?;
    let y = loss(l, n, wide)?;
    let y = l.cast(y, dtype)?;
    l.done(y)
}

fn softmax_cross_entropy<'m>(l: &mut Lower<'m>, n: &Node<'m>) -> OpResult<Vec<Val>> {
    let x = l.arg(n, 0)?;
    let dtype = l.dtype(x);
    let wide = l.widen(x)?;
    let log = l.log_softmax(wide, 1)?;
    let y = loss(l, n, log)?;
    let (y, log) = (l.cast(y, dtype)?, l.cast(log, dtype)?);
    Ok(vec![l.run(y), l.run(log)])
}

/// `-weight[t] * log_p[t]` for the target class `t` of every place, then the reduction; in the dtype of `log_p`, which is a wide one.
fn loss<'m>(l: &mut Lower<'m>, n: &Node<'m>, log_p: ValueId) -> OpResult<ValueId> {
    let (target, weight) = (l.arg(n, 1)?, l.maybe_arg(n, 2)?);
    let dtype = l.dtype(log_p);
    if l.rank(log_p) < 2 || l.rank(target) + 1 != l.rank(log_p) {
        return invalid(format!(
            "needs scores[N, C, ..] and targets[N, ..], found {} and {}",
            l.ty(log_p),
            l.ty(target)
        ));
    }
    let mut target = l.cast(target, DType::I64)?;
    let one = l.scalar(dtype, 1.0)?;
    let zero = l.scalar(dtype, 0.0)?;
    // Places that are ignored look at class 0 with weight 0.
    let ignored = match n.maybe_int("ignore_index")? {
        Some(class) => {
            let class = l.scalar_int(DType::I64, i128::from(class))?;
            let ignored = l.compare(CompareOp::Eq, target, class)?;
            let first = l.scalar_int(DType::I64, 0)?;
            target = l.select(ignored, first, target)?;
            Some(ignored)
        }
        None => None,
    };
    let mut weights = match weight {
        Some(weight) => {
            let weight = l.cast(weight, dtype)?;
            Some(l.gather(weight, target, 0)?)
        }
        None => None,
    };
    if let Some(ignored) = ignored {
        let kept = weights.unwrap_or(one);
        weights = Some(l.select(ignored, zero, kept)?);
    }
    let at = l.unsqueeze(target, &[1])?;
    let picked = l.gather_elements(log_p, at, 1)?;
    let picked = l.squeeze(picked, &[1])?;
    let mut losses = l.neg(picked)?;
    if let Some(weights) = weights {
        losses = l.mul(losses, weights)?;
    }
    let all: Vec<i64> = (0..l.rank(losses) as i64).collect();
    Ok(match n.string("reduction", "mean")? {
        "none" => losses,
        "sum" => l.sum(losses, &all, false)?,
        "mean" => match weights {
            Some(weights) => {
                let (sum, total) = (l.sum(losses, &all, false)?, l.sum(weights, &all, false)?);
                l.div(sum, total)?
            }
            None => l.mean(losses, &all, false)?,
        },
        other => return invalid(format!("reduction is `{other}`, expected none, sum or mean")),
    })
}
