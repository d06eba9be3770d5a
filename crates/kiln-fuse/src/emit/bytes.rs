//! Views of data by moving bytes. The interpreter would convert every element to f64 and back, and what merged and split products multiply is large.

use crate::Result;
use kiln_graph::{Op, Tensor};

/// What an op makes of data whose elements are whole bytes, if it only moves them; `None` of any other.
pub(super) fn moved(op: &Op, operands: &[&Tensor], shape: &[usize]) -> Result<Option<Tensor>> {
    let [first, ..] = operands else { return Ok(None) };
    if !first.dtype().bits().is_multiple_of(8) {
        return Ok(None);
    }
    match op {
        Op::Concat { axis } => side_by_side(*axis, operands, shape).map(Some),
        Op::Reshape { .. } => Ok(Some(first.reshaped(shape.to_vec())?)),
        _ => walk(op, first.shape(), shape).map(|walk| walk.copy(first, shape)).transpose(),
    }
}

fn side_by_side(axis: usize, parts: &[&Tensor], shape: &[usize]) -> Result<Tensor> {
    let rows: usize = shape[..axis].iter().product();
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.data().len()).sum());
    for row in 0..rows {
        for part in parts {
            let run = part.data().len() / rows;
            bytes.extend_from_slice(&part.data()[row * run..][..run]);
        }
    }
    Ok(Tensor::new(parts[0].dtype(), shape.to_vec(), bytes.into())?)
}

/// How a view goes through the elements of what it is a view of: where it begins, and the step along each of its axes.
struct Walk {
    start: usize,
    steps: Vec<usize>,
}

/// `None` of an op that is no such view, or whose places are not known.
fn walk(op: &Op, from: &[usize], to: &[usize]) -> Option<Walk> {
    let mut strides = vec![1; from.len()];
    for axis in (1..from.len()).rev() {
        strides[axis - 1] = strides[axis] * from[axis];
    }
    Some(match op {
        Op::Permute { perm } => Walk { start: 0, steps: perm.iter().map(|&axis| strides[axis]).collect() },
        Op::Broadcast { .. } => {
            let lead = to.len().checked_sub(from.len())?;
            let own = (0..from.len()).map(|axis| if from[axis] == to[lead + axis] { strides[axis] } else { 0 });
            Walk { start: 0, steps: std::iter::repeat_n(0, lead).chain(own).collect() }
        }
        Op::Slice { starts, steps, .. } => {
            let mut walk = Walk { start: 0, steps: Vec::with_capacity(to.len()) };
            for (axis, stride) in strides.iter().enumerate() {
                let (start, step) =
                    (usize::try_from(starts[axis].as_const()?).ok()?, usize::try_from(steps[axis]).ok()?);
                let last = to[axis].saturating_sub(1).checked_mul(step)?.checked_add(start)?;
                if to[axis] > 0 && last >= from[axis] {
                    return None;
                }
                walk.start += start.checked_mul(*stride)?;
                walk.steps.push(step.checked_mul(*stride)?);
            }
            walk
        }
        _ => return None,
    })
}

impl Walk {
    fn copy(&self, of: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let size = of.dtype().bits() as usize / 8;
        let count: usize = shape.iter().product();
        let mut bytes = Vec::with_capacity(count * size);
        // The last axes that lie as they did are copied at once.
        let (mut outer, mut run) = (shape.len(), 1);
        while outer > 0 && (self.steps[outer - 1] == run || shape[outer - 1] == 1) {
            outer -= 1;
            run *= shape[outer];
        }
        let mut place = vec![0; outer];
        let mut at = self.start;
        for _ in 0..count.checked_div(run).unwrap_or(0) {
            bytes.extend_from_slice(&of.data()[at * size..][..run * size]);
            for axis in (0..outer).rev() {
                place[axis] += 1;
                at += self.steps[axis];
                if place[axis] < shape[axis] {
                    break;
                }
                at -= self.steps[axis] * shape[axis];
                place[axis] = 0;
            }
        }
        Ok(Tensor::new(of.dtype(), shape.to_vec(), bytes.into())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::{DType, Dim, Graph, Rng, TensorType, ValueId, infer};

    /// What the interpreter makes of an op.
    fn interpreted(op: &Op, operands: &[Tensor]) -> Tensor {
        let mut graph = Graph::new("moved");
        let ty = |t: &Tensor| TensorType::new(t.dtype(), t.shape().iter().copied());
        let input = |(i, t): (usize, &Tensor)| (Op::Input { name: i.to_string(), ty: ty(t) }, ty(t));
        let inputs: Vec<ValueId> =
            operands.iter().enumerate().map(input).map(|(op, ty)| graph.push_node(op, &[], vec![ty], "")[0]).collect();
        let types: Vec<TensorType> = operands.iter().map(ty).collect();
        let found = infer(op, &types.iter().collect::<Vec<_>>(), &graph.symbols).unwrap();
        let y = graph.push_node(op.clone(), &inputs, found.results, "")[0];
        graph.inputs = inputs;
        graph.outputs.push(("y".to_owned(), y));
        kiln_graph::interpret(&graph, operands).unwrap().remove(0)
    }

    #[test]
    fn moving_bytes_is_what_the_interpreter_does() {
        let mut rng = Rng::new(5);
        for round in 0..300 {
            let rank = rng.range(1, 4) as usize;
            let shape: Vec<usize> = (0..rank).map(|_| rng.range(1, 6) as usize).collect();
            let dtype = [DType::F16, DType::F32, DType::I8, DType::BF16, DType::I64][round % 5];
            let mut tensors = vec![Tensor::random(dtype, &shape, rng.next_u64()).unwrap()];
            let op = match round % 4 {
                0 => {
                    let axis = rng.range(0, rank as i64 - 1) as usize;
                    for _ in 0..rng.range(0, 3) {
                        let mut shape = shape.clone();
                        shape[axis] = rng.range(1, 5) as usize;
                        tensors.push(Tensor::random(dtype, &shape, rng.next_u64()).unwrap());
                    }
                    Op::Concat { axis }
                }
                1 => {
                    let mut perm: Vec<usize> = (0..rank).collect();
                    (1..rank).for_each(|i| perm.swap(i, rng.range(0, i as i64) as usize));
                    Op::Permute { perm }
                }
                2 => {
                    let step = |_: &usize| rng.range(1, 3);
                    let steps: Vec<i64> = shape.iter().map(step).collect();
                    let starts: Vec<usize> = shape.iter().map(|n| rng.range(0, *n as i64 - 1) as usize).collect();
                    let most = |axis: usize| (shape[axis] - starts[axis]).div_ceil(steps[axis] as usize);
                    let sizes = (0..rank).map(|axis| rng.range(1, most(axis) as i64).into()).collect();
                    Op::Slice { starts: starts.iter().map(|n| Dim::from(*n)).collect(), sizes, steps }
                }
                _ => {
                    let mut narrow = shape.clone();
                    let wide = [&[2][..], &shape].concat();
                    narrow.iter_mut().for_each(|n| *n = if rng.unit() < 0.5 { 1 } else { *n });
                    tensors = vec![Tensor::random(dtype, &narrow, rng.next_u64()).unwrap()];
                    Op::Broadcast { shape: wide.into_iter().map(Dim::from).collect() }
                }
            };
            let expected = interpreted(&op, &tensors);
            let operands: Vec<&Tensor> = tensors.iter().collect();
            let found = moved(&op, &operands, expected.shape()).unwrap();
            assert_eq!(found, Some(expected), "{op} of {shape:?}");
        }
    }

    #[test]
    fn what_computes_or_shares_bytes_is_left_to_the_interpreter() {
        let x = Tensor::random(DType::I4, &[4, 6], 1).unwrap();
        assert_eq!(moved(&Op::Permute { perm: vec![1, 0] }, &[&x], &[6, 4]).unwrap(), None);
        let x = Tensor::random(DType::F32, &[4, 6], 1).unwrap();
        assert_eq!(moved(&Op::Unary(kiln_graph::UnaryOp::Neg), &[&x], &[4, 6]).unwrap(), None);
        let start = |n: &str| vec![n.parse::<Dim>().unwrap(), Dim::from(0)];
        let slice = |n| Op::Slice { starts: start(n), sizes: vec![2.into(), 6.into()], steps: vec![1, 1] };
        assert_eq!(moved(&slice("S"), &[&x], &[2, 6]).unwrap(), None);
        assert_eq!(moved(&slice("3"), &[&x], &[2, 6]).unwrap(), None);
    }
}
