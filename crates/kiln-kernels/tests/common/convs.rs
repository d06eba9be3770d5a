//! Convolutions with what may lie before and stand behind them.

use super::{Case, case, random};
use kiln_fuse::Anchor;
use kiln_graph::{Builder, ConvSpec, DType, Dim, Result, ValueId};

/// A convolution.
#[derive(Clone)]
pub struct Form {
    pub name: &'static str,
    pub dtype: DType,
    /// Extents of the image and of filters, channels before space.
    pub x: Vec<usize>,
    pub w: Vec<usize>,
    pub spec: ConvSpec,
    /// Whether channels are the last axis in memory: of the image, of filters, of results and what is added to them.
    pub last: [bool; 3],
}

/// A form of which every axis of space is alike.
pub fn form(
    name: &'static str,
    x: &[usize],
    w: &[usize],
    (stride, pads, dilation, groups): (usize, (usize, usize), usize, usize),
) -> Form {
    let axes = x.len() - 2;
    let spec =
        ConvSpec { strides: vec![stride; axes], pads: vec![pads; axes], dilations: vec![dilation; axes], groups };
    Form { name, dtype: DType::F16, x: x.to_vec(), w: w.to_vec(), spec, last: [true; 3] }
}

/// Of a shape with channels before space, that with channels last.
fn turned<T: Clone>(shape: &[T], last: bool) -> Vec<T> {
    let mut shape = shape.to_vec();
    if last {
        shape[1..].rotate_left(1);
    }
    shape
}

/// An input with channels before space, be they last in memory.
fn input(b: &mut Builder, name: &str, dtype: DType, shape: &[Dim], last: bool) -> Result<ValueId> {
    let x = b.input(name, dtype, &turned(shape, last))?;
    let rank = shape.len();
    let order: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    if last { b.transpose(x, &order) } else { Ok(x) }
}

impl Form {
    /// The convolution, a bias, something added, an activation: images and rows are symbols where that is asked for.
    pub fn case(&self, symbolic: bool) -> Case {
        let Form { name, dtype, x, w, spec, last } = self;
        let dtype = *dtype;
        let place = |a: usize| {
            let reach = (w[2 + a] - 1) * spec.dilations[a] + 1;
            (x[2 + a] + spec.pads[a].0 + spec.pads[a].1 - reach) / spec.strides[a] + 1
        };
        let y: Vec<usize> = [x[0], w[0]].into_iter().chain((0..x.len() - 2).map(place)).collect();
        let inputs = vec![
            random(dtype, &turned(x, last[0]), 1),
            random(dtype, &turned(w, last[1]), 2),
            random(dtype, &w[..1], 3),
            random(dtype, &turned(&y, last[2]), 4),
        ];
        let title = format!("{name}_{dtype}_{}", if symbolic { "symbols" } else { "numbers" });
        // Sums of these types are of their own: they may be made in any order.
        let depth: usize = w[1..].iter().product();
        let roundings = if dtype.bits() >= 32 { 64.0_f64.max(depth as f64) } else { 64.0 };
        case(&title, Anchor::Conv, roundings, inputs, |b| {
            let dims = |shape: &[usize]| shape.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>();
            let mut shape = dims(x);
            if symbolic {
                (shape[0], shape[2]) = (Dim::sym("N"), Dim::sym("H"));
                b.symbol("H", x[2] as i64, 4000);
            }
            let image = input(b, "x", dtype, &shape, last[0])?;
            let filter = input(b, "w", dtype, &dims(w), last[1])?;
            let bias = b.input("bias", dtype, &dims(&w[..1]))?;
            let y = b.conv(image, filter, Some(bias), spec.clone())?;
            let shape = b.shape(y).to_vec();
            let residual = input(b, "residual", dtype, &shape, last[2])?;
            let sum = b.plus(y, residual)?;
            let y = b.relu(sum)?;
            let order: Vec<usize> = [0].into_iter().chain(2..x.len()).chain([1]).collect();
            Ok(vec![if last[2] { b.transpose(y, &order)? } else { y }])
        })
    }
}

/// Every kind: strides, dilations, paddings, one to three axes of space, few channels and many, groups.
pub fn forms() -> Vec<Form> {
    vec![
        form("same", &[2, 64, 9, 7], &[40, 64, 3, 3], (1, (1, 1), 1, 1)),
        form("valid", &[1, 3, 20, 21], &[16, 3, 5, 4], (1, (0, 0), 1, 1)),
        form("strided", &[3, 32, 11, 8], &[33, 32, 3, 3], (2, (0, 1), 1, 1)),
        form("dilated", &[1, 8, 21, 19], &[8, 8, 3, 3], (1, (2, 2), 2, 1)),
        form("pointwise", &[2, 40, 6, 5], &[24, 40, 1, 1], (2, (0, 0), 1, 1)),
        form("one_position", &[2, 8, 3, 3], &[9, 8, 3, 3], (1, (0, 0), 1, 1)),
        form("one_pixel", &[2, 64, 1, 1], &[64, 64, 3, 3], (1, (1, 1), 1, 1)),
        form("padded", &[1, 16, 5, 3], &[24, 16, 3, 3], (1, (7, 9), 1, 1)),
        form("line", &[2, 7, 300], &[10, 7, 4], (1, (3, 0), 1, 1)),
        form("long_line", &[2, 64, 150], &[64, 64, 3], (2, (1, 1), 1, 1)),
        form("cube", &[1, 2, 5, 4, 6], &[8, 2, 2, 2, 3], (1, (1, 0), 1, 1)),
        form("large_cube", &[1, 32, 5, 4, 6], &[64, 32, 2, 3, 3], (1, (1, 1), 1, 1)),
        form("groups", &[1, 64, 6, 7], &[128, 32, 3, 3], (1, (1, 0), 1, 2)),
        form("small_groups", &[1, 12, 6, 7], &[18, 4, 3, 3], (1, (1, 0), 1, 3)),
        form("depthwise", &[2, 72, 9, 6], &[72, 1, 3, 3], (1, (1, 1), 1, 72)),
        form("odd_depthwise", &[1, 5, 7, 6], &[5, 1, 5, 5], (2, (2, 2), 1, 5)),
        form("large_depthwise", &[1, 16, 9, 9], &[16, 1, 7, 7], (1, (3, 3), 1, 16)),
    ]
}
