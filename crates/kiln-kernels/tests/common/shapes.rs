//! Maps and rows of random shapes: odd, of extent 1, and around the edges of tiles.

use super::{Case, case, random};
use kiln_fuse::Anchor;
use kiln_graph::{ArgOp, DType, Dim, ReduceOp, Rng};

/// Extents at which tiles, warps and accesses end, and their neighbours.
const EDGES: [i64; 26] =
    [1, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128, 129, 256, 257, 384, 1025];
/// Most elements that the simulator is asked for.
const MOST: usize = 6000;

/// A seed that was not seen before.
pub fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_nanos() as u64
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.range(0, of.len() as i64 - 1) as usize]
}

/// Extents, and dims that give them: numbers, or symbols.
fn shape(rng: &mut Rng) -> (Vec<usize>, Vec<Dim>) {
    let rank = rng.range(1, 3) as usize;
    let mut extents: Vec<usize> = (0..rank).map(|_| pick(rng, &EDGES) as usize).collect();
    while extents.iter().product::<usize>() > MOST {
        let longest = (0..rank).max_by_key(|&i| extents[i]).unwrap_or(0);
        extents[longest] = (extents[longest] / 2).max(1);
    }
    let dim = |(i, &extent): (usize, &usize)| {
        if rng.range(0, 2) == 0 { Dim::sym(format!("D{i}")) } else { Dim::from(extent) }
    };
    let dims = extents.iter().enumerate().map(dim).collect();
    (extents, dims)
}

/// A map of two operands of a random shape, one along its last axis, with one or two results.
pub fn map(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let dtype = pick(&mut rng, &[DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::I8]);
    let (extents, dims) = shape(&mut rng);
    let last = extents.len() - 1;
    let (turned, two) = (rng.range(0, 2) == 0, rng.range(0, 1) == 0);
    let inputs = vec![random(dtype, &extents, seed), random(dtype, &extents[last..], seed + 1)];
    case(&format!("map_{seed}"), Anchor::Map, 40.0, inputs, |b| {
        let x = b.input("x", dtype, &dims)?;
        let along = b.input("along", dtype, &dims[last..])?;
        let x = if turned { b.neg(x)? } else { x };
        let y = b.plus(x, along)?;
        let y = if dtype.is_float() { b.tanh(y)? } else { b.max(y, x)? };
        let mut results = vec![y];
        if two {
            results.push(b.mul_scalar(y, 2.0)?);
        }
        if turned {
            let order: Vec<usize> = (0..extents.len()).rev().collect();
            return results.into_iter().map(|y| b.transpose(y, &order)).collect();
        }
        Ok(results)
    })
}

/// Reductions of a random kind along random axes of a random shape.
pub fn rows(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let (extents, dims) = shape(&mut rng);
    let axis = rng.range(0, extents.len() as i64 - 1);
    let kind = rng.range(0, 6);
    let types: &[DType] = match kind {
        0 | 1 => &[DType::F32, DType::F16, DType::BF16, DType::F64],
        2 | 3 => &[DType::F32, DType::F16],
        _ => &[DType::F32, DType::I32, DType::I8, DType::F64],
    };
    let dtype = pick(&mut rng, types);
    let operands = if kind == 1 || kind == 2 { 2 } else { 1 };
    let mut inputs = vec![random(dtype, &extents, seed)];
    if operands == 2 {
        inputs.push(random(dtype, &extents, seed + 1));
    }
    case(&format!("rows_{seed}_{kind}"), Anchor::Reduce, 60.0, inputs, |b| {
        let x = b.input("x", dtype, &dims)?;
        let y = if operands == 2 { Some(b.input("y", dtype, &dims)?) } else { None };
        Ok(match (kind, y) {
            (0, _) => vec![b.softmax(x, axis)?],
            // A residual and its softmax.
            (1, Some(y)) => {
                let sum = b.plus(x, y)?;
                vec![b.softmax(sum, axis)?, sum]
            }
            // A normalization: two levels, and what both need.
            (2, Some(y)) => {
                let sum = b.plus(x, y)?;
                vec![b.layer_norm(sum, -1, None, None, 1e-5)?]
            }
            (3, _) => vec![b.logsumexp(x, &[axis], false)?],
            (4, _) => {
                vec![b.arg_reduce(ArgOp::Max, x, axis, false, false)?, b.arg_reduce(ArgOp::Min, x, axis, true, false)?]
            }
            (5, _) => {
                let all: Vec<i64> = (0..extents.len() as i64).collect();
                vec![b.reduce(ReduceOp::Max, x, &all, false)?, b.reduce(ReduceOp::Min, x, &all, true)?]
            }
            _ => vec![b.reduce(ReduceOp::Max, x, &[axis], false)?, b.reduce(ReduceOp::Sum, x, &[axis], false)?],
        })
    })
}

/// Maps and rows of aligned shapes, large enough that what a few threads read twice does not count.
pub fn aligned() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in [DType::F16, DType::F32] {
        let inputs = vec![random(dtype, &[64, 1024], 1), random(dtype, &[64, 1024], 2)];
        cases.push(case(&format!("add_{dtype}"), Anchor::Map, 4.0, inputs, |b| {
            let (x, y) =
                (b.input("x", dtype, &super::d(&["N", "1024"]))?, b.input("y", dtype, &super::d(&["N", "1024"]))?);
            let sum = b.plus(x, y)?;
            Ok(vec![b.tanh(sum)?])
        }));
        for length in [1024, 768, 4096] {
            let rows = if length == 4096 { 16 } else { 64 };
            let name = format!("softmax_{length}_{dtype}");
            cases.push(case(&name, Anchor::Reduce, 8.0, vec![random(dtype, &[rows, length], 3)], |b| {
                let x = b.input("x", dtype, &[Dim::sym("N"), Dim::from(length)])?;
                Ok(vec![b.softmax(x, 1)?])
            }));
        }
        let inputs = vec![random(dtype, &[128, 1024], 5), random(dtype, &[128, 1024], 6)];
        cases.push(case(&format!("norm_{dtype}"), Anchor::Reduce, 8.0, inputs, |b| {
            let x = b.input("x", dtype, &super::d(&["N", "1024"]))?;
            let residual = b.input("residual", dtype, &super::d(&["N", "1024"]))?;
            let sum = b.plus(x, residual)?;
            Ok(vec![b.layer_norm(sum, -1, None, None, 1e-5)?, sum])
        }));
        cases.push(case(
            &format!("columns_{dtype}"),
            Anchor::Reduce,
            400.0,
            vec![random(dtype, &[512, 512], 7)],
            |b| {
                let x = b.input("x", dtype, &super::d(&["512", "512"]))?;
                Ok(vec![b.reduce(ReduceOp::Max, x, &[0], false)?])
            },
        ));
    }
    cases
}
