//! Window reductions (pooling): a thread a result element, a loop over the taps.

use super::fold::{nest, reduction, step, within};
use super::{anchor, anchor_index, axes, names, op};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::{Op, Symbols};
use kiln_tile::expr::Expr;
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
    let Op::WindowReduce { op: combine, spec } = op(values, anchor) else {
        return values.malformed("its anchor is not a window reduction");
    };
    let combine = reduction(*combine);
    let node = values.graph.node(anchor);
    let (x, y) = (node.inputs[0], node.outputs[0]);
    let dtype = values.graph.ty(x).dtype;
    let at = anchor_index(values, k, anchor, index)?;
    let total = k.declare("total", combine.identity(dtype.compute()));
    let outer = at.len() - spec.window.len();
    let names = names(spec.window.len(), "rst");
    let taps: Vec<(&str, Expr)> =
        names.iter().map(String::as_str).zip(spec.window.iter().map(|&n| Expr::index(n as i64))).collect();
    let mut result = Ok(());
    nest(k, &taps, &mut |k, tap| {
        let visit = values.scoped(|values| {
            let mut place = at[..outer].to_vec();
            let mut inside = Expr::bool(true);
            for (a, tap) in tap.iter().enumerate() {
                let axis = Sliding { stride: spec.strides[a], dilation: spec.dilations[a], pads: spec.pads[a] };
                let extent = values.dim(k, &values.shape(x)[outer + a]);
                let i = values.name(k, "i", axis.place(&at[outer + a], tap));
                inside = inside.and(axis.inside(&i, &extent));
                place.push(i);
            }
            let element = values.guarded(inside.clone(), |values| values.number(k, x, &place))?;
            if inside.as_const() == Some(1) {
                step(k, &total, combine, &element);
            } else {
                k.if_(inside, |k| step(k, &total, combine, &element));
            }
            Ok(())
        });
        if result.is_ok() {
            result = visit;
        }
    });
    result?;
    let total = values.rounded(k, &within(&Expr::var(&total), combine, dtype), dtype)?;
    let total = values.name(k, "window", total);
    values.bind(y, total);
    (0..values.region.graph.outputs.len()).try_for_each(|i| values.store(k, i, index))
}

/// Geometry of a window along one axis.
pub struct Sliding {
    pub stride: usize,
    pub dilation: usize,
    pub pads: (usize, usize),
}

impl Sliding {
    /// Where tap number `tap` of the window at `position` is.
    pub fn place(&self, position: &Expr, tap: &Expr) -> Expr {
        let whole = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        position * whole(self.stride) + tap * whole(self.dilation) - whole(self.pads.0)
    }

    /// Whether a place is not in the padding. Windows fit the padded axis, so only padding can lie past an end.
    pub fn inside(&self, place: &Expr, extent: &Expr) -> Expr {
        let mut inside = Expr::bool(true);
        if self.pads.0 > 0 {
            inside = inside.and(place.ge(0));
        }
        if self.pads.1 > 0 {
            inside = inside.and(place.lt(extent));
        }
        inside
    }
}
