//! What a convolution multiplies as a matrix product, in labels that fall into batch (in both operands and the result), M (left and result), N
//! (right and result) and K (both operands, summed); each group is one flat dimension of the product.
//!
//! Its filter, `[channels, channels in and taps]`, is multiplied by its image, `[channels in and taps, positions]`, whose elements are read where
//! the window has them ("implicit GEMM").

use super::gemm_config::Problem;
use super::window::Sliding;
use super::{anchor, op};
use crate::Result;
use crate::value::Values;
use crate::value::dims::numel;
use crate::value::dtype::register;
use kiln_graph::{ConvSpec, Dim, NodeId, Op, Symbols, ValueId};
use kiln_target::arch::Arch;
use kiln_tile::{Buffer, Builder, DType, Expr};

/// One group of labels, flattened.
pub struct Group {
    pub labels: Vec<char>,
    pub extents: Vec<Dim>,
}

impl Group {
    pub fn total(&self) -> Dim {
        numel(&self.extents)
    }

    pub fn has(&self, label: Option<&char>) -> bool {
        label.is_some_and(|label| self.labels.contains(label))
    }

    /// The indices of its labels at a flat position.
    pub fn coordinates(&self, values: &mut Values, k: &mut Builder, position: &Expr) -> Coordinates {
        let mut index = vec![Expr::index(0); self.labels.len()];
        values.split(k, &self.extents, position.clone(), &mut index);
        self.labels.iter().copied().zip(index).collect()
    }

    /// Whether a position that tiles of `tile` reach lies within it; `end` is its extent.
    pub fn holds(&self, position: &Expr, tile: i64, end: &Expr) -> Expr {
        match self.total().as_const() {
            Some(extent) if extent % tile == 0 => Expr::bool(true),
            _ => position.lt(end),
        }
    }
}

/// One operand: its value, and the labels of its axes in memory.
pub struct Operand<'a> {
    pub value: ValueId,
    pub labels: Vec<char>,
    /// The windows of an image, whose axes past the second have a position and a tap for a label each.
    windows: Option<&'a ConvSpec>,
}

impl Operand<'_> {
    /// An operand that is read as it lies in memory.
    pub fn plain(value: ValueId, labels: &[char]) -> Self {
        Operand { value, labels: labels.to_vec(), windows: None }
    }
}

pub struct Product<'a> {
    pub anchor: NodeId,
    pub lhs: Operand<'a>,
    pub rhs: Operand<'a>,
    pub result: ValueId,
    /// Labels of the result's axes.
    out_labels: Vec<char>,
    pub acc: DType,
    pub out: DType,
    /// Element type of the shared tiles.
    pub tile: DType,
    pub batch: Group,
    pub m: Group,
    pub n: Group,
    pub k: Group,
}

/// Indices that labels stand for.
pub type Coordinates = Vec<(char, Expr)>;

/// Labels of an image's axes: positions of the window, and taps in it.
const POSITIONS: [char; 3] = ['y', 'x', 'z'];
const TAPS: [char; 3] = ['r', 's', 't'];

/// Channels of a convolution's result below which the tile would be mostly empty.
const LEAST_CHANNELS: i64 = 8;
/// Positions of an image below which several images are in one tile.
const SHARED_POSITIONS: i64 = 256;

impl<'a> Product<'a> {
    /// The region's anchor as a matrix product, if it is one.
    pub fn of(values: &Values<'a>) -> Result<Option<Product<'a>>> {
        let anchor = anchor(values)?;
        match op(values, anchor) {
            Op::Conv { spec, acc, out } => Ok(Self::of_windows(values, anchor, spec, [*acc, *out])),
            _ => values.malformed("its anchor is not a convolution"),
        }
    }

    fn of_windows(values: &Values<'a>, anchor: NodeId, spec: &'a ConvSpec, types: [DType; 2]) -> Option<Self> {
        let node = values.graph.node(anchor);
        let (image, filter, result) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        let axes = spec.strides.len();
        let few = values.shape(filter)[0].as_const().is_some_and(|channels| channels < LEAST_CHANNELS);
        if spec.groups != 1 || few || axes > POSITIONS.len() {
            return None;
        }
        let (positions, taps) = (&POSITIONS[..axes], &TAPS[..axes]);
        let (from, to) = (values.shape(filter), values.shape(result));
        let group = |labels: Vec<char>, extents: Vec<Dim>| Group { labels, extents };
        // Small images share tiles; of large ones, neighbours in a tile are neighbours in memory.
        let share = numel(&to[2..]).as_const().is_some_and(|positions| positions < SHARED_POSITIONS);
        let (apart, together) = if share { (0, 1) } else { (1, 0) };
        let groups = [
            group(['n'][..apart].to_vec(), to[..apart].to_vec()),
            group(vec!['o'], vec![from[0].clone()]),
            group([&['n'][..together], positions].concat(), [&to[..together], &to[2..]].concat()),
            group([&['c'], taps].concat(), from[1..].to_vec()),
        ];
        let lhs = Operand::plain(filter, &[&['o', 'c'], taps].concat());
        let rhs = Operand { value: image, labels: [&['n', 'c'], positions].concat(), windows: Some(spec) };
        Self::new(values, anchor, [lhs, rhs], [&['n', 'o'], positions].concat(), groups, types)
    }

    fn new(
        values: &Values<'a>,
        anchor: NodeId,
        [lhs, rhs]: [Operand<'a>; 2],
        out_labels: Vec<char>,
        [batch, m, n, k]: [Group; 4],
        [acc, out]: [DType; 2],
    ) -> Option<Self> {
        if [&m, &n, &k].iter().any(|group| group.labels.is_empty()) {
            return None;
        }
        let total = acc.compute();
        if !matches!(total, DType::F32 | DType::F64 | DType::I32 | DType::U32 | DType::I64 | DType::U64) {
            return None;
        }
        let (a, b) = (values.graph.ty(lhs.value).dtype, values.graph.ty(rhs.value).dtype);
        let tile = if a == b && a.compute() == total { register(a) } else { total };
        let result = values.graph.node(anchor).outputs[0];
        Some(Product { anchor, lhs, rhs, result, out_labels, acc, out, tile, batch, m, n, k })
    }

    /// What the choice of a Config depends on.
    pub fn problem(&self, values: &Values, symbols: &Symbols, arch: Arch) -> Problem {
        let range = |group: &Group| group.total().bounds(symbols);
        // Rows that are whole 16-byte vectors of what the tile holds, read directly from memory.
        let vector = i64::from(128 / self.tile.bits());
        let v = self.lhs.value;
        // A filter's row is all that it sums over.
        let direct = values.graph.inputs.contains(&v)
            && values.graph.ty(v).dtype == self.tile
            && self.k.total().terms().all(|(_, coefficient)| coefficient % vector == 0);
        Problem {
            arch,
            tile: self.tile,
            accumulator: self.acc.compute(),
            batch: range(&self.batch),
            m: range(&self.m),
            n: range(&self.n),
            k: range(&self.k),
            direct,
        }
    }

    /// The element of an operand at its labels' coordinates; zero in the padding of an image.
    pub fn element(
        &self,
        values: &mut Values,
        k: &mut Builder,
        of: &Operand,
        coordinates: &Coordinates,
    ) -> Result<Expr> {
        let mut index = indices(&of.labels, coordinates);
        let Some(spec) = of.windows else { return values.value(k, of.value, &index) };
        let taps = indices(&TAPS, coordinates);
        let mut inside = Expr::bool(true);
        for (a, tap) in taps.iter().enumerate() {
            let axis = Sliding { stride: spec.strides[a], dilation: spec.dilations[a], pads: spec.pads[a] };
            let extent = values.dim(k, &values.shape(of.value)[2 + a]);
            let place = values.name(k, ["y", "x", "z"][a], axis.place(&index[2 + a], tap));
            inside = inside.and(axis.inside(&place, &extent));
            index[2 + a] = place;
        }
        values.within(k, of.value, &index, inside, |dtype| Expr::int(dtype, 0))
    }

    /// The index of the result at its labels' coordinates.
    pub fn index(&self, coordinates: &Coordinates) -> Vec<Expr> {
        indices(&self.out_labels, coordinates)
    }
}

/// A stretch of a group that a tile covers.
pub struct TileRange<'g> {
    pub group: &'g Group,
    /// Position of its first element.
    pub first: Expr,
    /// Extent of the tile.
    pub extent: i64,
}

/// Fills a tile `[outer, inner]`, or `[inner, outer]` if so, with what `element` gives at a position in both spans; zeros past their ends.
/// `element` also gets the place in the tile along the outer range.
pub fn fill_tile(
    values: &mut Values,
    k: &mut Builder,
    (tile, inner_first): (&Buffer, bool),
    [outer, inner]: [TileRange; 2],
    element: impl FnOnce(&mut Values, &mut Builder, [&Expr; 2], &Expr) -> Result<Expr>,
) -> Result<()> {
    let [inner_end, outer_end] = [&inner, &outer].map(|range| values.dim(k, &range.group.total()));
    let coordinates =
        |ix: &[Expr]| if inner_first { [ix[1].clone(), ix[0].clone()] } else { [ix[0].clone(), ix[1].clone()] };
    let mask = |ix: &[Expr]| {
        let [x, y] = coordinates(ix);
        let inside = outer.group.holds(&(&outer.first + x), outer.extent, &outer_end);
        inside.and(inner.group.holds(&(&inner.first + y), inner.extent, &inner_end))
    };
    let mut result = Ok(());
    k.copy(tile, if inner_first { &["d", "i"] } else { &["i", "d"] }, mask, |k, ix| {
        let [x, y] = coordinates(ix);
        let at = [&outer.first + &x, &inner.first + &y];
        values.scoped(|values| element(values, k, at.each_ref(), &x)).unwrap_or_else(|e| {
            result = Err(e);
            Expr::int(tile.dtype, 0)
        })
    });
    result
}

/// What an operand's tile is named after.
pub fn hint(values: &Values, v: ValueId) -> String {
    if values.graph.inputs.contains(&v) {
        values.graph.input_name(v)
    } else {
        values.graph.producer(v).op.name().to_owned()
    }
}

/// The index whose axes have these labels.
pub fn indices(labels: &[char], coordinates: &Coordinates) -> Vec<Expr> {
    let find = |label: &char| coordinates.iter().find(|(l, _)| l == label).map(|(_, at)| at.clone());
    labels.iter().filter_map(find).collect()
}
