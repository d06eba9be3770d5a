//! Convolutions: to products of filters and windows, to depthwise filters, or to exact integer taps.

use super::Lowering;
use crate::error::Result;
use crate::program::Class;
use crate::stage::{Arithmetic, Depthwise, Form, Image, IntConv, LayOut, MatMul, Spatial, Stage, Strided};
use kiln_graph::{ConvSpec, DType, ValueId};
use std::sync::OnceLock;

/// Filters of one channel above which a product is faster.
const FEW: usize = 4;

impl Lowering<'_> {
    pub(super) fn conv(&mut self, v: ValueId, spec: &ConvSpec, acc: DType, out: DType) -> Result<()> {
        let node = self.graph.producer(v);
        let (xv, wv) = (node.inputs[0], node.inputs[1]);
        let (xs, ws, os) = (self.shape(xv).to_vec(), self.shape(wv).to_vec(), self.shape(v).to_vec());
        if xs[1] != ws[1] * spec.groups || !ws[0].is_multiple_of(spec.groups) {
            let message = format!("channels of {xs:?} and {ws:?} do not fit {} groups", spec.groups);
            return Err(self.unsupported(node, message));
        }
        let Some(spatial) = Spatial::new(&xs[2..], &os[2..], &ws[2..], &spec.strides, &spec.pads, &spec.dilations)
        else {
            return Err(self.unsupported(node, "more than three spatial axes".into()));
        };
        let class = Class::of(acc);
        let (x, w) = (self.dense_as(xv, class.dtype())?, self.dense_as(wv, class.dtype())?);
        let direct = out == class.dtype() && acc == out;
        let to = if direct { self.assign(v) } else { self.temp(class.dtype(), self.len(v)) };
        let (images, groups, threads) = (xs[0], spec.groups, self.threads);
        let (channels, outputs) = (ws[1], ws[0] / groups);
        match class {
            Class::I32 | Class::I64 => {
                let wide = class == Class::I64;
                let conv = IntConv { wide, x, w, out: to, images, groups, channels, outputs, spatial, threads };
                self.stages.push(Stage::IntConv(conv));
            }
            Class::F32 if channels == 1 && outputs <= FEW => {
                let image = Image::new(spatial);
                let conv = Depthwise { x, w, out: to, images, groups, outputs, spatial, image, threads };
                self.stages.push(Stage::Depthwise(Box::new(conv)));
            }
            _ => {
                let image = Image::new(spatial);
                let plane = image.plane();
                let b = if image.plain { x } else { self.lay_out(x, image.clone(), images * xs[1], class) };
                // Where there is one window a pixel, the planes are the rows of B.
                let windows = spatial.taps() > 1 || spatial.positions() != plane;
                let (depth, positions) = (channels * spatial.taps(), spatial.positions());
                let strided = |slot, row, col| Strided { slot, offset: 0, row: row as isize, col: col as isize };
                let steps = |a: usize, b: usize, out: usize| [a as isize, b as isize, out as isize];
                let product = MatMul {
                    arithmetic: if class == Class::F64 { Arithmetic::F64 } else { Arithmetic::F32 },
                    m: outputs,
                    n: positions,
                    k: depth,
                    a: strided(w, depth, 1),
                    b: strided(b, plane, usize::from(!windows)),
                    form: if windows { Form::Windows(image) } else { Form::Strided },
                    out: strided(to, positions, 1),
                    batch: vec![
                        (images, steps(0, groups * channels * plane, groups * outputs * positions)),
                        (groups, steps(outputs * depth, channels * plane, outputs * positions)),
                    ],
                    tail: None,
                    threads,
                    tasks: OnceLock::new(),
                };
                self.stages.push(Stage::MatMul(Box::new(product)));
            }
        }
        if !direct {
            self.convert(to, class.dtype(), v, acc, out);
        }
        Ok(())
    }

    /// Lays the planes of slot `x` out for their windows.
    fn lay_out(&mut self, x: usize, image: Image, planes: usize, class: Class) -> usize {
        let out = self.temp(class.dtype(), planes * image.plane());
        let (element, threads) = (class.bytes(), self.threads);
        self.stages.push(Stage::LayOut(LayOut { image, x, out, planes, element, threads }));
        out
    }
}
