//! Contractions as a loop nest: a thread a result element. It takes every einsum and dtype; matrix-multiply families take the ones
//! that matter.

use super::fold::nest;
use super::{anchor, anchor_index, axes, names, op};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use crate::value::dtype::round;
use kiln_fuse::Region;
use kiln_graph::{Dim, Op, Symbols};
use kiln_tile::expr::{Expr, Var};
use kiln_tile::{Builder, Worker};

pub fn program(region: &Region, symbols: &Symbols) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    let shape = values.shape(values.output(0));
    let names = names(shape.len(), "ijklmn");
    let domain = axes(&mut values, &mut k, shape, &names);
    let mut result = Ok(());
    k.for_each(Worker::Thread, &domain, |k, index| result = body(&mut values, k, &index[..shape.len()]));
    result?;
    values.finish(k, numel(shape))
}

fn body(values: &mut Values, k: &mut Builder, index: &[Expr]) -> Result<()> {
    let anchor = anchor(values)?;
    let Op::Contract { spec, acc, out } = op(values, anchor) else {
        return values.malformed("its anchor is not a contraction");
    };
    let node = values.graph.node(anchor);
    let (lhs, rhs, y) = (node.inputs[0], node.inputs[1], node.outputs[0]);
    let at = anchor_index(values, k, anchor, index)?;
    let summed: Vec<char> = spec.lhs.iter().copied().filter(|l| !spec.out.contains(l)).collect();
    let extents: Vec<Dim> =
        summed.iter().filter_map(|l| Some(values.shape(lhs)[spec.lhs.iter().position(|o| o == l)?].clone())).collect();
    let names: Vec<String> = summed.iter().map(char::to_string).collect();
    let loops: Vec<(&str, Expr)> = names.iter().map(String::as_str).zip(values.dims(k, &extents)).collect();
    let total = k.declare("total", Expr::int(acc.compute(), 0));
    let mut result = Ok(());
    nest(k, &loops, &mut |k, place| {
        let visit = values.scoped(|values| {
            let of = |labels: &[char]| -> Vec<Expr> {
                let find = |l: &char| {
                    let among =
                        |labels: &[char], at: &[Expr]| labels.iter().position(|o| o == l).map(|i| at[i].clone());
                    among(&summed, place).or_else(|| among(&spec.out, &at))
                };
                labels.iter().filter_map(find).collect()
            };
            let a = values.number(k, lhs, &of(&spec.lhs))?;
            let b = values.number(k, rhs, &of(&spec.rhs))?;
            multiply_add(k, &total, &a, &b);
            Ok(())
        });
        if result.is_ok() {
            result = visit;
        }
    });
    result?;
    let total = values.name(k, "contracted", round(&round(&Expr::var(&total), *acc).cast(acc.compute()), *out));
    values.bind(y, total);
    (0..values.region.graph.outputs.len()).try_for_each(|i| values.store(k, i, index))
}

/// `total += a * b` in the type of `total`.
fn multiply_add(k: &mut Builder, total: &Var, a: &Expr, b: &Expr) {
    let (a, b) = (a.cast(total.ty), b.cast(total.ty));
    let sum = Expr::var(total);
    let next = if total.ty.is_float() { a.fma(b, sum) } else { sum + a * b };
    k.assign(total, next);
}
