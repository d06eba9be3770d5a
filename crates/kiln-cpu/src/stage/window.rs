//! Sliding windows over up to three trailing axes.

use super::parallel::{each, threads_for};
use super::{Context, Stage};
use crate::error::Result;
use crate::lower::Lowering;
use crate::program::Class;
use crate::simd::{Loop, widest};
use bytemuck::Pod;
use kiln_graph::{DType, ReduceOp, ValueId, WindowSpec};
use std::ops::Range;

/// Geometry of windows, padded on the left to three axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spatial {
    pub(crate) input: [usize; 3],
    pub(crate) output: [usize; 3],
    pub(crate) taps: [usize; 3],
    pub(crate) strides: [usize; 3],
    /// Padding before the first element.
    pub(crate) pads: [usize; 3],
    pub(crate) dilations: [usize; 3],
}

impl Spatial {
    /// `None` for more than three axes. Those that say nothing are left out, so that the last one is long.
    pub(crate) fn new(
        input: &[usize],
        output: &[usize],
        taps: &[usize],
        strides: &[usize],
        pads: &[(usize, usize)],
        dilations: &[usize],
    ) -> Option<Spatial> {
        let live: Vec<usize> =
            (0..input.len()).filter(|&a| (input[a], output[a], taps[a], pads[a].0) != (1, 1, 1, 0)).collect();
        let lead = 3usize.checked_sub(live.len())?;
        let wide = |of: &dyn Fn(usize) -> usize, fill: usize| {
            let mut all = [fill; 3];
            for (to, &a) in all[lead..].iter_mut().zip(&live) {
                *to = of(a);
            }
            all
        };
        Some(Spatial {
            input: wide(&|a| input[a], 1),
            output: wide(&|a| output[a], 1),
            taps: wide(&|a| taps[a], 1),
            strides: wide(&|a| strides[a], 1),
            pads: wide(&|a| pads[a].0, 0),
            dilations: wide(&|a| dilations[a], 1),
        })
    }

    pub(crate) fn pixels(&self) -> usize {
        self.input.iter().product()
    }

    pub(crate) fn positions(&self) -> usize {
        self.output.iter().product()
    }

    pub(crate) fn taps(&self) -> usize {
        self.taps.iter().product()
    }

    /// The input coordinate under a tap, if it is not padding.
    #[inline(always)]
    pub(crate) fn source(&self, axis: usize, position: usize, tap: usize) -> Option<usize> {
        let i = (position * self.strides[axis] + tap * self.dilations[axis]).checked_sub(self.pads[axis])?;
        (i < self.input[axis]).then_some(i)
    }

    /// The positions along the last axis at which a tap is not over padding, and the input coordinate of the first.
    #[inline(always)]
    pub(crate) fn live(&self, tap: usize) -> (Range<usize>, usize) {
        let (stride, at, pad) = (self.strides[2], tap * self.dilations[2], self.pads[2]);
        let low = pad.saturating_sub(at).div_ceil(stride).min(self.output[2]);
        // position * stride + at - pad < input
        let high = (self.input[2] + pad).saturating_sub(at).div_ceil(stride).clamp(low, self.output[2]);
        (low..high, (low * stride + at).saturating_sub(pad))
    }
}

/// A pooling.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) op: ReduceOp,
    pub(crate) class: Class,
    pub(crate) dtype: DType,
    pub(crate) x: usize,
    pub(crate) out: usize,
    pub(crate) planes: usize,
    pub(crate) spatial: Spatial,
    pub(crate) threads: usize,
}

impl Window {
    pub(crate) fn run(&self, cx: Context<'_>) {
        let (low, high) = self.dtype.int_range().unwrap_or((0, 1));
        match (self.class, self.op) {
            (Class::F32, ReduceOp::Sum) => self.planes(&cx, 0f32, |a, b| a + b),
            (Class::F32, ReduceOp::Prod) => self.planes(&cx, 1f32, |a, b| a * b),
            (Class::F32, ReduceOp::Max) => {
                self.planes(&cx, f32::NEG_INFINITY, |a, b| if a > b || a.is_nan() { a } else { b });
            }
            (Class::F32, _) => self.planes(&cx, f32::INFINITY, |a, b| if a < b || a.is_nan() { a } else { b }),
            (Class::F64, ReduceOp::Sum) => self.planes(&cx, 0f64, |a, b| a + b),
            (Class::F64, ReduceOp::Prod) => self.planes(&cx, 1f64, |a, b| a * b),
            (Class::F64, ReduceOp::Max) => {
                self.planes(&cx, f64::NEG_INFINITY, |a, b| if a > b || a.is_nan() { a } else { b });
            }
            (Class::F64, _) => self.planes(&cx, f64::INFINITY, |a, b| if a < b || a.is_nan() { a } else { b }),
            (Class::I32, ReduceOp::Sum) => self.planes(&cx, 0i32, i32::wrapping_add),
            (Class::I32, ReduceOp::Prod) => self.planes(&cx, 1i32, i32::wrapping_mul),
            (Class::I32, ReduceOp::Max) => self.planes(&cx, low as i32, i32::max),
            (Class::I32, ReduceOp::Any) => self.planes(&cx, 0i32, i32::max),
            (Class::I32, ReduceOp::Min) => self.planes(&cx, high as i32, i32::min),
            (Class::I32, ReduceOp::All) => self.planes(&cx, 1i32, i32::min),
            (Class::I64, ReduceOp::Sum) => self.planes(&cx, 0i64, i64::wrapping_add),
            (Class::I64, ReduceOp::Prod) => self.planes(&cx, 1i64, i64::wrapping_mul),
            (Class::I64, ReduceOp::Max | ReduceOp::Any) if self.dtype == DType::U64 => {
                self.planes(&cx, 0i64, |a, b| (a as u64).max(b as u64) as i64);
            }
            (Class::I64, ReduceOp::Min | ReduceOp::All) if self.dtype == DType::U64 => {
                self.planes(&cx, -1i64, |a, b| (a as u64).min(b as u64) as i64);
            }
            (Class::I64, ReduceOp::Max | ReduceOp::Any) => self.planes(&cx, low as i64, i64::max),
            (Class::I64, ReduceOp::Min | ReduceOp::All) => self.planes(&cx, high as i64, i64::min),
        }
    }

    fn planes<T: Pod + Send + Sync>(&self, cx: &Context<'_>, identity: T, f: impl Fn(T, T) -> T + Copy + Sync) {
        let s = &self.spatial;
        let (x, out): (&[T], _) = (cx.slots[self.x].typed(), &cx.slots[self.out]);
        let (pixels, positions) = (s.pixels(), s.positions());
        let threads = threads_for(self.planes * positions * s.taps(), self.threads);
        each(cx.pool, threads, self.planes, |p| {
            let plane = &x[p * pixels..(p + 1) * pixels];
            let out = out.range_mut::<T>(p * positions, positions);
            widest(Plane { spatial: *s, plane, out, identity, f });
        });
    }
}

/// The windows of one plane: rows of outputs, one tap at a time.
struct Plane<'a, T, F> {
    spatial: Spatial,
    plane: &'a [T],
    out: &'a mut [T],
    identity: T,
    f: F,
}

impl<T: Copy, F: Fn(T, T) -> T + Copy> Loop for Plane<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let s = &self.spatial;
        let [_, height, width] = s.input;
        if s.output[2] == 0 {
            return;
        }
        for (r, row) in self.out.chunks_exact_mut(s.output[2]).enumerate() {
            let (od, oh) = (r / s.output[1], r % s.output[1]);
            row.fill(self.identity);
            for td in 0..s.taps[0] {
                let Some(d) = s.source(0, od, td) else { continue };
                for th in 0..s.taps[1] {
                    let Some(h) = s.source(1, oh, th) else { continue };
                    let line = &self.plane[(d * height + h) * width..][..width];
                    for tw in 0..s.taps[2] {
                        let (live, first) = s.live(tw);
                        if live.is_empty() {
                            continue;
                        }
                        let row = &mut row[live];
                        if s.strides[2] == 1 {
                            for (o, &x) in row.iter_mut().zip(&line[first..]) {
                                *o = (self.f)(*o, x);
                            }
                        } else {
                            for (o, &x) in row.iter_mut().zip(line[first..].iter().step_by(s.strides[2])) {
                                *o = (self.f)(*o, x);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The stage of a window reduction.
pub(super) fn lower(low: &mut Lowering, v: ValueId, op: ReduceOp, spec: &WindowSpec) -> Result<()> {
    let node = low.graph.producer(v);
    let class = Class::of(low.dtype(v));
    let input = low.shape(node.inputs[0]).to_vec();
    let first = input.len() - spec.window.len();
    let Some(spatial) =
        Spatial::new(&input[first..], &low.shape(v)[first..], &spec.window, &spec.strides, &spec.pads, &spec.dilations)
    else {
        return Err(low.unsupported(node, "more than three window axes".into()));
    };
    let x = low.dense_as(node.inputs[0], class.dtype())?;
    let (out, same) = low.result_as(v, class);
    let planes = input[..first].iter().product();
    let dtype = low.dtype(v);
    let threads = low.threads;
    low.stages.push(Stage::Window(Window { op, class, dtype, x, out, planes, spatial, threads }));
    if !same {
        low.convert(out, class.dtype(), v, dtype, dtype);
    }
    Ok(())
}
