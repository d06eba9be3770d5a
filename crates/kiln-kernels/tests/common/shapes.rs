//! Maps and rows whose shapes whole accesses, warps and tiles divide.

use super::{Case, case, random};
use kiln_fuse::Anchor;
use kiln_graph::{DType, Dim, ReduceOp};

/// [`long`] with data.
pub fn long_filled(dtype: DType, rows: usize, length: usize) -> Case {
    Case { inputs: vec![random(dtype, &[rows, length], 11)], ..long(dtype, rows, length) }
}

/// Softmax of rows that are longer than what one CTA takes at its best, without data.
pub fn long(dtype: DType, rows: usize, length: usize) -> Case {
    let name = format!("softmax_{rows}x{length}_{dtype}");
    case(&name, Anchor::Reduce, 8.0, vec![], |b| {
        let x = b.input("x", dtype, &[Dim::from(rows as i64), Dim::from(length as i64)])?;
        Ok(vec![b.softmax(x, 1)?])
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
