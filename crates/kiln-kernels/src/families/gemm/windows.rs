//! An operand that is the windows of an image, without a copy of them ("implicit GEMM": Chetlur et al., "cuDNN: Efficient Primitives for Deep
//! Learning"): its rows are the places where windows are, of all images, and its depth is what they see, taps and channels.
//!
//! Where channels lie side by side and a step of the depth divides them, a step is one tap of some channels: the accelerator of sm_90 finds the pixels
//! by itself ("im2col" tensor maps), and threads before it have one sum to make for 16 bytes. Elsewhere the depth too is taken apart element by element,
//! or run by run.

use super::product::{Along, pitch};
use super::program::Program;
use crate::value::Values;
use crate::value::dims::{gcd, multiple};
use kiln_fuse::MemoryAxis;
use kiln_graph::{ConvSpec, Dim, ValueId};
use kiln_tile::Buffer;
use kiln_tile::expr::Expr;
use kiln_tile::ir::{Builder, Part, View, Walk};

/// Axes of an image, as convolutions count them; those of space follow.
pub const IMAGE: usize = 0;
const CHANNEL: usize = 1;
const SPACE: usize = 2;

/// The windows of an image.
#[derive(Clone, Debug)]
pub struct Windows {
    /// The region's input that the image is.
    input: usize,
    /// The axes of the image in the order of memory.
    memory: Vec<(usize, MemoryAxis)>,
    spec: ConvSpec,
    /// Images, and places of windows along each axis of space.
    places: Vec<Dim>,
    /// Taps along each axis of space.
    taps: Vec<i64>,
    /// Channels that a window sees.
    channels: Dim,
    /// Where windows see a group of channels each: results of a group.
    pub group: Option<Dim>,
    /// Whether channels are the fastest of the depth, or taps.
    pub channels_last: bool,
}

impl Windows {
    /// Those of image `x` that filters `w` see at all places of `result`; `None` where the image has no box of memory, or the filters no constant extents.
    pub fn of(values: &Values, spec: &ConvSpec, [x, w, result]: [ValueId; 3]) -> Option<Windows> {
        let (from, filter, to) = (values.shape(x), values.shape(w), values.shape(result));
        let taps = filter[SPACE..].iter().map(Dim::as_const).collect::<Option<Vec<i64>>>()?;
        let (input, strided) = values.viewed_input(x)?;
        let mut memory = strided.boxed(|_| true)?;
        // Windows reach over the ends of an axis that has one element, and is nowhere in memory.
        for axis in (0..from.len()).rev() {
            if memory.iter().all(|(own, _)| *own != axis) {
                let before =
                    memory.iter().position(|(own, _)| *own == CHANNEL || (SPACE..).contains(own) && *own > axis);
                let at = before.filter(|_| axis >= SPACE).unwrap_or(0);
                memory.insert(at, (axis, MemoryAxis::whole(from[axis].is(1).then(|| Dim::from(1))?)));
            }
        }
        let padded = |(axis, own): &(usize, MemoryAxis)| *axis < SPACE || own.start.is(0);
        if !memory.iter().all(padded) || values.graph.ty(x).dtype.bits() < 8 {
            return None;
        }
        let places = [&to[..1], &to[SPACE..]].concat();
        let group = (spec.groups > 1).then(|| to[CHANNEL].floor_div(&Dim::from(spec.groups)));
        let channels_last = memory.last().is_some_and(|(axis, _)| *axis == CHANNEL);
        let channels = filter[CHANNEL].clone();
        Some(Windows { input, memory, spec: spec.clone(), places, taps, channels, group, channels_last })
    }

    /// What neighbours in memory are neighbours along.
    pub fn dense(&self) -> Along {
        let channels = self.memory.last().is_some_and(|(axis, _)| *axis == CHANNEL);
        if channels { Along::Depth } else { Along::Outer(0) }
    }

    /// What runs of neighbours are multiples of, and begin at.
    pub fn pitch(&self) -> i64 {
        match self.memory.last() {
            Some((CHANNEL, own)) => gcd(pitch(own), multiple(&self.channels)),
            _ => 1,
        }
    }

    /// Whether a step of so much depth is one tap of some channels.
    fn steps_by_channels(&self, step: i64) -> bool {
        let whole = multiple(&self.channels) % step == 0 || self.one_tap() && self.group.is_none();
        self.dense() == Along::Depth && whole
    }

    fn one_tap(&self) -> bool {
        self.taps.iter().all(|taps| *taps == 1)
    }

    /// How far windows move along an axis of space at least and at most, from the first and the last pixel.
    fn corners(&self, axis: usize) -> [i64; 2] {
        let [before, after] = [self.spec.pads[axis].0, self.spec.pads[axis].1].map(|pad| pad as i64);
        [-before, after - self.reach(axis)]
    }

    /// From the first tap to the last along an axis of space.
    fn reach(&self, axis: usize) -> i64 {
        (self.taps[axis] - 1) * self.spec.dilations[axis] as i64
    }

    /// Whether the accelerator finds the pixels of a step of so much depth: the limits of its tensor maps (CUDA driver API, `cuTensorMapEncodeIm2col`).
    pub fn boxed(&self, step: u32) -> bool {
        let space = self.taps.len();
        let order = (0..space).map(|axis| SPACE + axis);
        let order = std::iter::once(IMAGE).chain(order).chain([CHANNEL]);
        let Some(&corner) = [1 << 15, 1 << 7, 1 << 4].get(space.wrapping_sub(1)) else { return false };
        let near = |axis: usize| {
            let corners = self.corners(axis).iter().all(|at| (-corner..corner).contains(at));
            corners && self.reach(axis) < 2 * corner && self.spec.strides[axis] <= 8
        };
        // Which tap a step has must be known to be one.
        let few = self.one_tap() || self.channels.as_const().is_some();
        few && self.steps_by_channels(step.into())
            && self.memory.iter().map(|(axis, _)| *axis).eq(order)
            && (0..space).all(near)
    }
}

/// An image in a program.
pub struct Image<'a> {
    windows: &'a Windows,
    tensor: Buffer,
    /// Where each of its axes begins.
    starts: Vec<Expr>,
    /// Extents of images and places, of taps, of channels and of a group's results.
    places: Vec<Expr>,
    channels: Expr,
    group: Option<Expr>,
}

impl<'a> Image<'a> {
    pub fn of(windows: &'a Windows, values: &mut Values, k: &mut Builder) -> Image<'a> {
        let memory: Vec<&MemoryAxis> = windows.memory.iter().map(|(_, own)| own).collect();
        let (tensor, starts) = values.input_box(k, windows.input, &memory);
        let places = values.dims(k, &windows.places);
        let channels = values.dim(k, &windows.channels);
        let group = windows.group.as_ref().map(|each| values.dim(k, each));
        Image { windows, tensor, starts, places, channels, group }
    }

    /// Where in memory an axis of the image is.
    fn axis(&self, of: usize) -> usize {
        self.windows.memory.iter().position(|(axis, _)| *axis == of).unwrap_or(0)
    }

    /// The places of windows from `first` on, along an axis of a tile.
    fn rows(&self, axis: usize, first: Expr, end: Expr) -> Walk {
        let Windows { spec, .. } = self.windows;
        let images = Part { axis: self.axis(IMAGE), extent: self.places[0].clone(), base: 0, step: 1, last: 0 };
        let along = |a: usize| {
            let [base, last] = self.windows.corners(a);
            let extent = self.places[1 + a].clone();
            Part { axis: self.axis(SPACE + a), extent, base, step: spec.strides[a] as i64, last }
        };
        let parts = std::iter::once(images).chain((0..spec.strides.len()).map(along)).collect();
        Walk { axis, first, end, parts }
    }

    /// The taps and channels from `first` on, along an axis of a tile.
    fn depth(&self, axis: usize, first: Expr, end: Expr) -> Walk {
        let Windows { spec, taps, channels_last, .. } = self.windows;
        let channels = Part { axis: self.axis(CHANNEL), extent: self.channels.clone(), base: 0, step: 1, last: 0 };
        let along = |a: usize| {
            let (axis, extent, step) = (self.axis(SPACE + a), Expr::index(taps[a]), spec.dilations[a] as i64);
            Part { axis, extent, base: 0, step, last: 0 }
        };
        let mut parts: Vec<Part> = (0..taps.len()).map(along).collect();
        parts.insert(if *channels_last { taps.len() } else { 0 }, channels);
        Walk { axis, first, end, parts }
    }
}

impl Program<'_> {
    /// The tile of windows, of which `axis` walks along places and the other along the depth from `k0` on.
    pub fn windows(&mut self, k: &mut Builder, image: &Image, axis: usize, shape: [u32; 2], k0: &Expr) -> View {
        let windows = image.windows;
        let deep = 1 - axis;
        let [end, depth] = [Along::Outer(0), Along::Depth].map(|along| self.extent(k, along));
        let rank = windows.memory.len();
        let mut origin = image.starts.clone();
        let mut axes = vec![None; rank];
        let mut walks = vec![image.rows(axis, self.first(axis), end)];
        let channel = image.axis(CHANNEL);
        if let Some(each) = &image.group {
            let group = k.bind("group", self.first(deep) / each);
            origin[channel] = &origin[channel] + group * &image.channels;
        }
        if windows.steps_by_channels(self.config.bk.into()) {
            axes[channel] = Some(deep);
            let mut first = k0.clone();
            if !windows.one_tap() {
                let mut tap = k.bind("tap", k0 / &image.channels);
                first = k.bind("channel", k0 % &image.channels);
                for (a, taps) in windows.taps.iter().enumerate().rev() {
                    let own = if a == 0 { tap.clone() } else { &tap % *taps };
                    let at = image.axis(SPACE + a);
                    origin[at] = &origin[at] + own * windows.spec.dilations[a] as i64;
                    tap = tap / *taps;
                }
            }
            origin[channel] = &origin[channel] + first;
        } else {
            walks.push(image.depth(deep, k0.clone(), depth));
        }
        View { tensor: image.tensor.clone(), origin, axes, shape: shape.to_vec(), masked: vec![true; rank], walks }
    }
}
