//! The operands and dimensions of both products of an attention, in the labels of the first.

use super::positions::{Positions, literal};
use crate::Result;
use crate::families::gemm::{pitch, stored, views};
use crate::value::dims::numel;
use crate::value::{Values, Writer};
use kiln_fuse::{Attention, MemoryAxis};
use kiln_graph::{BinaryOp, DType, Dim, Op, OpKind, ValueId};
use kiln_tile::Expr;

/// Axes that a tensor map may have.
const MAP_AXES: usize = 5;

/// Labels that are one flat dimension.
pub struct Group {
    pub labels: Vec<char>,
    pub extents: Vec<Dim>,
}

impl Group {
    pub fn total(&self) -> Dim {
        numel(&self.extents)
    }

    /// The label that a position is an index of, if there is one such.
    pub fn single(&self) -> Option<char> {
        let long = self.labels.iter().zip(&self.extents).filter(|(_, extent)| !extent.is(1));
        match long.map(|(label, _)| *label).collect::<Vec<_>>()[..] {
            [label] => Some(label),
            [] => self.labels.first().copied(),
            _ => None,
        }
    }

    /// The indices of its labels at a flat position.
    pub fn coordinates(&self, values: &mut Values, k: &mut dyn Writer, position: &Expr) -> Vec<(char, Expr)> {
        let mut index = vec![Expr::index(0); self.labels.len()];
        if self.labels.len() == 1 {
            index[0] = position.clone();
        } else {
            values.split(k, &self.extents, position.clone(), &mut index);
        }
        self.labels.iter().copied().zip(index).collect()
    }
}

/// What is multiplied, and the labels of its axes.
pub struct Operand {
    pub value: ValueId,
    pub labels: Vec<char>,
    /// The input that it shows elements of.
    pub input: usize,
    /// That input's memory as a box, each axis with the label that walks along it, where views leave each label one step.
    pub lies: Option<Vec<(char, MemoryAxis)>>,
}

/// Two products with a softmax between them.
pub struct Streamed {
    pub parts: Attention,
    /// Results of the two products.
    pub sums: ValueId,
    pub result: ValueId,
    pub query: Operand,
    pub key: Operand,
    pub value: Operand,
    /// Labels of the scores' axes, and of the second product's.
    pub scores: Vec<char>,
    pub out: Vec<char>,
    /// Types of the products' results, and of what they multiply.
    pub types: [DType; 2],
    pub dtype: DType,
    /// Axes of the scores of which a CTA has one coordinate.
    pub grid: Vec<(char, Dim)>,
    /// Rows of the scores, of which a CTA has a tile.
    pub rows: Group,
    /// Columns of the scores, which the softmax sums over.
    pub keys: Group,
    /// What the first product sums over.
    pub depth: Group,
    /// Columns of the second product.
    pub columns: Group,
    /// Which keys a row sees by its position.
    pub positions: Positions,
    /// The factor, if nothing else stands between the sums and the softmax but masks of positions.
    pub scale: Option<f64>,
    /// Results that follow from the second product, and results of rows.
    pub full: Vec<usize>,
    pub of_rows: Vec<usize>,
    /// For each result the labels of its elements in row-major order, where these are whole axes.
    pub boxes: Vec<Option<Vec<char>>>,
}

impl Streamed {
    pub fn of(values: &Values, size: &dyn Fn(&Dim) -> f64) -> Result<Streamed> {
        let graph = values.graph;
        let Some(parts) = values.region.attention() else { return values.malformed("it is no attention") };
        let (first, second) = (graph.node(parts.scores), graph.node(parts.product));
        let (Op::Contract { spec: one, out: score, .. }, Op::Contract { spec: two, out: result, .. }) =
            (&first.op, &second.op)
        else {
            return values.malformed("its anchors are no contractions");
        };
        let scores = one.out.clone();
        let Some(last) = scores.last() else { return values.malformed("scores without an axis of keys") };
        let operands = [(first.inputs[0], &one.lhs), (first.inputs[1], &one.rhs)];
        let [query, key] = if one.rhs.contains(last) { operands } else { [operands[1], operands[0]] };
        let operands = [(second.inputs[0], &two.lhs), (second.inputs[1], &two.rhs)];
        let [(_, weights), value] =
            if second.inputs[0] == parts.weights { operands } else { [operands[1], operands[0]] };
        // The second product's labels are others: those of the weights stand for the scores' axes, the rest is new.
        let unused: Vec<char> =
            ('\u{e000}'..).filter(|c| !one.lhs.contains(c) && !one.rhs.contains(c)).take(value.1.len()).collect();
        let rename = |l: &char| match (weights.iter().position(|w| w == l), value.1.iter().position(|v| v == l)) {
            (Some(axis), _) => scores[axis],
            (None, at) => unused[at.unwrap_or(0)],
        };
        let [value_labels, out] = [value.1, &two.out].map(|labels| labels.iter().map(rename).collect::<Vec<char>>());
        let group = |v: ValueId, labels: &[char], member: &dyn Fn(&char) -> bool| {
            let mut group = Group { labels: vec![], extents: vec![] };
            for (label, extent) in labels.iter().zip(values.shape(v)).filter(|(l, _)| member(l)) {
                if !group.labels.contains(label) {
                    group.labels.push(*label);
                    group.extents.push(extent.clone());
                }
            }
            group
        };
        let free = |l: &char| l != last && !key.1.contains(l) && !value_labels.contains(l);
        let free = group(parts.x, &scores, &free);
        let candidates = free.labels.iter().zip(&free.extents);
        let Some((rows, _)) = candidates.max_by(|(_, a), (_, b)| size(a).total_cmp(&size(b))) else {
            return values.malformed("an attention without rows of queries");
        };
        let outer = group(parts.x, &scores, &|l| l != last && l != rows);
        let operand = |(value, labels): (ValueId, &Vec<char>)| {
            let mut leaf = value;
            while graph.producer(leaf).op.kind() == OpKind::View {
                leaf = graph.producer(leaf).inputs[0];
            }
            let Some(input) = graph.inputs.iter().position(|input| *input == leaf) else {
                return values.malformed("its products multiply other than inputs");
            };
            let lies = values.viewed_input(value).and_then(|(_, strided)| strided.boxed(|_| true));
            let labelled = |(axis, lies): (usize, MemoryAxis)| (labels[axis], lies);
            let lies = lies.map(|lies| lies.into_iter().map(labelled).collect());
            Ok(Operand { value, labels: labels.clone(), input, lies })
        };
        let sums = first.outputs[0];
        let positions = Positions::of(values, parts.x);
        let scale = scale(values, &positions, parts.x, sums);
        let mut behind = vec![false; graph.values.len()];
        for node in &graph.nodes {
            let follows = node.outputs == second.outputs || node.inputs.iter().any(|v| behind[v.index()]);
            node.outputs.iter().for_each(|v| behind[v.index()] = follows);
        }
        let (full, of_rows): (Vec<usize>, Vec<usize>) =
            (0..graph.outputs.len()).partition(|i| behind[graph.outputs[*i].1.index()]);
        let of_result = |i: usize| match full.contains(&i) {
            true => Ok(stored(&views(values, &[parts.product], graph.outputs[i].1)?, values, &out)),
            false => Ok(None),
        };
        let boxes = (0..graph.outputs.len()).map(of_result).collect::<Result<_>>()?;
        Ok(Streamed {
            sums,
            result: second.outputs[0],
            query: operand(query)?,
            key: operand(key)?,
            value: operand((value.0, &value_labels))?,
            types: [*score, *result],
            dtype: graph.ty(key.0).dtype,
            grid: outer.labels.into_iter().zip(outer.extents).collect(),
            rows: group(parts.x, &scores, &|l| l == rows),
            keys: group(parts.x, &scores, &|l| l == last),
            depth: group(key.0, key.1, &|l| !scores.contains(l)),
            columns: group(value.0, &value_labels, &|l| !scores.contains(l)),
            parts,
            scores,
            out,
            positions,
            scale,
            full,
            of_rows,
            boxes,
        })
    }

    /// The extent of a label of the second product's result.
    pub fn extent(&self, label: char) -> Dim {
        let groups = [&self.rows, &self.keys, &self.columns];
        let mut all = groups.iter().flat_map(|group| group.labels.iter().zip(&group.extents));
        let found = all.find(|(l, _)| **l == label).map(|(_, extent)| extent);
        let found = found.or_else(|| self.grid.iter().find(|(l, _)| *l == label).map(|(_, extent)| extent));
        found.cloned().unwrap_or(Dim::from(1))
    }

    /// The axes of a row-major tensor with these labels: of which group each walks along, the grid's label that it has a coordinate of, or
    /// neither; `None` if a tile of both groups is no box of it.
    pub fn axes(&self, labels: &[char], groups: [&Group; 2]) -> Option<Vec<Axis>> {
        let distinct = (1..labels.len()).all(|i| !labels[..i].contains(&labels[i]));
        let walked = groups.map(|group| group.single());
        let axis = |label: &char| {
            if let Some(place) = walked.iter().position(|walked| *walked == Some(*label)) {
                return Some(Axis::Tile(place));
            }
            if let Some(place) = self.grid.iter().position(|(l, _)| l == label) {
                return Some(Axis::Grid(place));
            }
            let within = |group: &&Group| {
                let among = group.labels.iter().position(|l| l == label);
                among.is_some_and(|axis| group.extents[axis].is(1))
            };
            groups.iter().any(within).then_some(Axis::One)
        };
        let axes: Vec<Axis> = labels.iter().map(axis).collect::<Option<_>>()?;
        let both = (0..2).all(|place| axes.contains(&Axis::Tile(place)));
        (distinct && both).then_some(axes)
    }

    /// What a tile of an operand is made of: its two groups, that along which the product sums among them.
    pub fn groups(&self) -> [(&Operand, [&Group; 2]); 3] {
        let (rows, keys, depth, columns) = (&self.rows, &self.keys, &self.depth, &self.columns);
        [(&self.query, [rows, depth]), (&self.key, [depth, keys]), (&self.value, [keys, columns])]
    }

    /// The axes of a box that has tiles of an operand, as [`Streamed::axes`], and those of memory.
    pub fn lies<'o>(&self, operand: &'o Operand, groups: [&Group; 2]) -> Option<(Vec<Axis>, Vec<&'o MemoryAxis>)> {
        let lies = operand.lies.as_ref()?;
        let (labels, memory): (Vec<char>, Vec<&MemoryAxis>) = lies.iter().map(|(label, axis)| (*label, axis)).unzip();
        Some((self.axes(&labels, groups)?, memory))
    }

    /// How the tiles of an operand can come.
    pub fn feed(&self, operand: &Operand, groups: [&Group; 2]) -> Feed {
        let Some((axes, memory)) = self.lies(operand, groups) else { return Feed::Elements };
        let bits = memory.last().map_or(1, |axis| pitch(axis)).saturating_mul(i64::from(self.dtype.bits()));
        match axes.last() {
            Some(Axis::Tile(dense)) if bits % 128 == 0 && axes.len() <= MAP_AXES => Feed::Boxes(*dense),
            Some(Axis::Tile(dense)) if bits % 32 == 0 => Feed::Pieces(*dense),
            Some(Axis::Tile(dense)) => Feed::Registers(*dense),
            _ => Feed::Elements,
        }
    }
}

/// An axis of a tensor, to a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The tile walks along it.
    Tile(usize),
    /// A CTA has one coordinate of it, that of this axis of the grid.
    Grid(usize),
    /// It has one element.
    One,
}

/// How tiles of an operand can come, and which of their axes is dense in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Element by element.
    Elements,
    /// Through registers.
    Registers(usize),
    /// By asynchronous copies of a few bytes.
    Pieces(usize),
    /// In rows that are multiples of 16 bytes apart.
    Boxes(usize),
}

/// The factor by which `x` is `sums` times a positive constant, in f32, where no mask of positions hides it.
fn scale(values: &Values, positions: &Positions, x: ValueId, sums: ValueId) -> Option<f64> {
    let graph = values.graph;
    if graph.ty(x).dtype != DType::F32 {
        return None;
    }
    if x == sums {
        return Some(1.0);
    }
    let of = |x: ValueId| scale(values, positions, x, sums);
    let node = graph.producer(x);
    match (&node.op, &node.inputs[..]) {
        (Op::Select, _) => positions.decided.iter().find(|(v, _)| *v == x).and_then(|(_, seen)| of(*seen)),
        (Op::Cast { .. }, [from]) => of(*from),
        (Op::Binary(BinaryOp::Mul), [a, b]) => {
            let product = |x: ValueId, factor: ValueId| {
                let factor = literal(values, factor).filter(|factor| factor.is_finite() && *factor > 0.0)?;
                Some(of(x)? * factor)
            };
            product(*a, *b).or_else(|| product(*b, *a))
        }
        (Op::Binary(BinaryOp::Add), [a, b]) => {
            let nothing = |v: ValueId| positions.mask(values, v) == Some(0.0);
            [(*a, *b), (*b, *a)].into_iter().find(|(_, mask)| nothing(*mask)).and_then(|(x, _)| of(x))
        }
        _ => None,
    }
}
