//! Direct convolution: a thread a result element, loops over the taps and the channels of its group.

use super::contract::{finished, multiply_add};
use super::fold::nest;
use super::window::Sliding;
use super::{anchor, anchor_index, axes, names, op};
use crate::Result;
use crate::program::TileProgram;
use crate::value::Values;
use crate::value::dims::numel;
use kiln_fuse::Region;
use kiln_graph::{Dim, Op, Symbols};
use kiln_tile::expr::Expr;
use kiln_tile::{Builder, Worker};

pub fn program(region: &Region, symbols: &Symbols) -> Result<TileProgram> {
    let (mut values, mut k) = Values::start(region, symbols, &region.name)?;
    let shape = values.shape(values.output(0));
    let names = names(shape.len(), "nopqij");
    let domain = axes(&mut values, &mut k, shape, &names);
    let mut result = Ok(());
    k.for_each(Worker::Thread, &domain, |k, index| result = body(&mut values, k, &index[..shape.len()]));
    result?;
    values.finish(k, numel(shape))
}

fn body(values: &mut Values, k: &mut Builder, index: &[Expr]) -> Result<()> {
    let anchor = anchor(values)?;
    let Op::Conv { spec, acc, out } = op(values, anchor) else {
        return values.malformed("its anchor is not a convolution");
    };
    let node = values.graph.node(anchor);
    let (x, w, y) = (node.inputs[0], node.inputs[1], node.outputs[0]);
    let at = anchor_index(values, k, anchor, index)?;
    let (image, channel) = (&at[0], &at[1]);
    let (from, filter) = (values.shape(x), values.shape(w));
    let channels = values.dim(k, &filter[1]);
    // The first input channel of this output channel's group.
    let first = if spec.groups == 1 {
        Expr::index(0)
    } else {
        let group_size = values.dim(k, &filter[0].floor_div(&Dim::from(spec.groups)));
        let group = channel / group_size;
        values.name(k, "first_channel", group * &channels)
    };
    let total = k.declare("total", Expr::int(acc.compute(), 0));
    let names = names(spec.strides.len(), "rst");
    let extents = values.dims(k, &filter[2..]);
    let taps: Vec<(&str, Expr)> = names.iter().map(String::as_str).zip(extents).collect();
    let mut result = Ok(());
    nest(k, &taps, &mut |k, tap| {
        let visit = values.scoped(|values| {
            let mut places = vec![];
            let mut inside = Expr::bool(true);
            for (a, tap) in tap.iter().enumerate() {
                let axis = Sliding { stride: spec.strides[a], dilation: spec.dilations[a], pads: spec.pads[a] };
                let extent = values.dim(k, &from[2 + a]);
                let place = axis.place(&at[2 + a], tap);
                let place = values.name(k, ["y", "x", "z"].get(a).unwrap_or(&"place"), place);
                inside = inside.and(axis.inside(&place, &extent));
                places.push(place);
            }
            let mut sum = Ok(());
            let mut channels_loop = |k: &mut Builder| {
                k.for_range("c", 0, &channels, |k, c| {
                    sum = values.scoped(|values| {
                        let mut at_x = vec![image.clone(), &first + c];
                        at_x.extend(places.iter().cloned());
                        let mut at_w = vec![channel.clone(), c.clone()];
                        at_w.extend(tap.iter().cloned());
                        let a = values.number(k, x, &at_x)?;
                        let b = values.number(k, w, &at_w)?;
                        multiply_add(k, &total, &a, &b);
                        Ok(())
                    });
                });
            };
            if inside.as_const() == Some(1) {
                channels_loop(k);
            } else {
                k.if_(inside, channels_loop);
            }
            sum
        });
        if result.is_ok() {
            result = visit;
        }
    });
    result?;
    let total = values.name(k, "convolved", finished(&total, *acc, *out));
    values.bind(y, total);
    (0..values.region.graph.outputs.len()).try_for_each(|i| values.store(k, i, index))
}
