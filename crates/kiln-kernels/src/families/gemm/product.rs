//! An einsum as a matrix product: its labels fall into batch (both operands and the result), the outer axes of either operand (that operand and
//! the result) and depth (both operands, summed); where operands and results lie in memory as boxes of these.

use super::windows::Windows;
use crate::Result;
use crate::value::dims::{gcd, multiple, numel};
use crate::value::{Values, Writer};
use kiln_fuse::{MemoryAxis, Role};
use kiln_graph::{DType, Dim, EinsumSpec, NodeId, Op, OpKind, ValueId};
use kiln_tile::Expr;

/// Labels that are one flat dimension of the product.
#[derive(Clone, Debug)]
pub struct Group {
    pub labels: Vec<char>,
    pub extents: Vec<Dim>,
}

impl Group {
    pub fn total(&self) -> Dim {
        numel(&self.extents)
    }

    /// The indices of its labels at a flat position.
    pub fn coordinates(&self, values: &mut Values, k: &mut dyn Writer, position: &Expr) -> Vec<(char, Expr)> {
        let mut index = vec![Expr::index(0); self.labels.len()];
        values.split(k, &self.extents, position.clone(), &mut index);
        self.labels.iter().copied().zip(index).collect()
    }

    /// Without its first `count` labels, and those.
    fn cut(&self, count: usize) -> (Group, Vec<(char, Dim)>) {
        let rest = Group { labels: self.labels[count..].to_vec(), extents: self.extents[count..].to_vec() };
        let first = self.labels.iter().copied().zip(self.extents.iter().cloned()).take(count);
        (rest, first.collect())
    }
}

/// What an axis of memory is to the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// A CTA has one coordinate of it: this axis of the grid.
    Grid(usize),
    /// The outer dimension of the left operand, 0, or of the right one, 1.
    Outer(usize),
    /// What is summed over.
    Depth,
}

/// A box of memory whose axes are dimensions of the product.
#[derive(Clone, Debug)]
pub struct Axes(pub Vec<(Along, MemoryAxis)>);

impl Axes {
    pub fn shape(&self) -> Vec<Dim> {
        self.0.iter().map(|(_, axis)| axis.len.clone()).collect()
    }

    /// The dimension whose neighbours are neighbours in memory.
    pub fn dense(&self) -> Option<Along> {
        self.0.last().map(|(along, _)| *along)
    }

    /// What the distance of rows is a multiple of, and where they begin and end, in elements, whatever the sizes are.
    pub fn pitch(&self) -> i64 {
        self.0.last().map_or(1, |(_, axis)| pitch(axis))
    }
}

/// What the distance of rows along an innermost axis is a multiple of, and where they begin and end.
pub fn pitch(axis: &MemoryAxis) -> i64 {
    let ends = [&axis.start, &axis.len].into_iter().filter(|dim| !dim.is(0)).map(multiple);
    ends.fold(multiple(&axis.extent), gcd)
}

/// One operand.
#[derive(Clone, Debug)]
pub struct Operand {
    /// What is multiplied: where the einsum's operand only widens a value, that value.
    pub value: ValueId,
    /// What elementwise ops make that of, which lies in memory; else the value itself.
    pub from: ValueId,
    /// Labels of its axes.
    pub labels: Vec<char>,
    /// Type of its elements.
    pub dtype: DType,
    /// The labels that only it and the result have.
    pub outer: Group,
    /// The region's input that it is, or is made of, and that input's axes, if they are those of the product.
    pub lies: Option<(usize, Axes)>,
    /// The image whose windows it has, if it has some.
    pub windows: Option<Windows>,
}

impl Operand {
    /// Whether its elements are made of those that lie in memory.
    pub fn is_made(&self) -> bool {
        self.from != self.value
    }
}

/// A contraction beside the first, which differs from it in one operand alone.
#[derive(Clone, Debug)]
pub struct Twin {
    pub anchor: NodeId,
    pub result: ValueId,
    /// Whether that is the left operand, 0, or the right one, 1.
    pub side: usize,
    pub operand: Operand,
}

/// A product.
#[derive(Clone, Debug)]
pub struct Product {
    pub anchor: NodeId,
    /// The einsum's result.
    pub result: ValueId,
    /// Labels of its axes.
    pub labels: Vec<char>,
    /// Type of the sums, as the graph says, and of the result.
    pub acc: DType,
    pub out: DType,
    /// Labels of which a CTA has one coordinate.
    pub grid: Vec<(char, Dim)>,
    pub operands: [Operand; 2],
    /// What is multiplied beside, with the same coordinates.
    pub twins: Vec<Twin>,
    pub depth: Group,
    /// For each of the region's results its axes, if they are those of the product.
    pub boxes: Vec<Option<Axes>>,
    /// The same for the einsum's result, which is nowhere.
    pub plain: Option<Axes>,
}

/// Positions of a tile's dimension below which it is not worth a tile of its own.
const LEAST_INNER: i64 = 32;

impl Product {
    /// The einsum of all `anchors` as a product.
    pub fn of(values: &Values, anchors: &[NodeId], spec: &EinsumSpec, [acc, out]: [DType; 2]) -> Result<Product> {
        let [anchor, others @ ..] = anchors else { return values.malformed("it has no contraction") };
        let anchor = *anchor;
        let node = values.graph.node(anchor);
        let extent = |label: &char| {
            let among = |labels: &[char], v: ValueId| {
                labels.iter().position(|l| l == label).map(|axis| values.shape(v)[axis].clone())
            };
            among(&spec.lhs, node.inputs[0]).or_else(|| among(&spec.rhs, node.inputs[1])).unwrap_or(Dim::from(1))
        };
        // An axis of one element has no place of its own.
        let group = |order: &[char], left: bool, right: bool, result: bool| {
            let has = |labels: &[char], label: &char| labels.contains(label);
            let member = |l: &&char| {
                (has(&spec.lhs, l), has(&spec.rhs, l), has(&spec.out, l)) == (left, right, result) && !extent(l).is(1)
            };
            let labels: Vec<char> = order.iter().filter(member).copied().collect();
            Group { extents: labels.iter().map(extent).collect(), labels }
        };
        let batch = group(&spec.out, true, true, true);
        let outer = [group(&spec.out, true, false, true), group(&spec.out, false, true, true)];
        // Of right operands that rows choose from a CTA has one.
        let chosen = group(&spec.rhs, false, true, false);
        let labels = [&spec.lhs, &spec.rhs];
        let operand = |side: usize| {
            let value = narrowest(values, node.inputs[side], acc.compute());
            let dtype = values.graph.ty(value).dtype;
            Operand {
                value,
                from: values.region.made_of(value).unwrap_or(value),
                labels: labels[side].clone(),
                dtype,
                outer: outer[side].clone(),
                lies: None,
                windows: None,
            }
        };
        let mut product = Product {
            anchor,
            result: node.outputs[0],
            labels: spec.out.clone(),
            acc,
            out,
            grid: [batch, chosen].into_iter().flat_map(|own| own.labels.into_iter().zip(own.extents)).collect(),
            operands: [operand(0), operand(1)],
            twins: vec![],
            depth: group(&spec.lhs, true, true, false),
            boxes: vec![],
            plain: None,
        };
        let memory = [0, 1].map(|side| memory(values, &product.operands[side]));
        // Depth has one order: that in which more operands are boxes.
        let other = group(&spec.rhs, true, true, false);
        let boxes = |product: &Product| (0..2).filter(|side| product.promoted(*side, &memory).is_some()).count();
        let turned = Product { depth: other, ..product.clone() };
        if boxes(&turned) > boxes(&product) {
            product = turned;
        }
        for side in 0..2 {
            let Some((count, input, axes)) = product.promoted(side, &memory) else { continue };
            let (rest, first) = product.operands[side].outer.cut(count);
            product.operands[side].outer = rest;
            product.operands[side].lies = Some((input, axes));
            product.grid.extend(first);
        }
        for other in others {
            let twin = product.twin(values, *other)?;
            product.twins.push(twin);
        }
        product.stores(values, anchors, &extent)?;
        Ok(product)
    }

    /// Finds out which results are boxes.
    pub fn stores(&mut self, values: &Values, anchors: &[NodeId], extent: &dyn Fn(&char) -> Dim) -> Result<()> {
        let outers = [Along::Outer(0), Along::Outer(1)];
        for i in 0..values.graph.outputs.len() {
            let labels = stored(&views(values, anchors, values.output(i))?, values, &self.labels);
            let axes = labels.and_then(|labels| self.axes(&row_major(&labels, extent), &outers));
            self.boxes.push(axes);
        }
        self.plain = self.axes(&row_major(&self.labels, extent), &outers);
        Ok(())
    }

    /// A contraction as a twin of this one, whose operands lie alike.
    fn twin(&self, values: &Values, anchor: NodeId) -> Result<Twin> {
        let (first, node) = (values.graph.node(self.anchor), values.graph.node(anchor));
        let side = usize::from(first.inputs[0] == node.inputs[0]);
        let value = narrowest(values, node.inputs[side], self.acc.compute());
        let mut operand = Operand { value, from: value, ..self.operands[side].clone() };
        if let Some((_, axes)) = operand.lies.take() {
            let Some(Memory { input, .. }) = memory(values, &operand) else {
                return values.malformed("the operands of its contractions lie in other ways");
            };
            operand.lies = Some((input, axes));
        }
        Ok(Twin { anchor, result: node.outputs[0], side, operand })
    }

    /// All contractions.
    pub fn anchors(&self) -> Vec<NodeId> {
        std::iter::once(self.anchor).chain(self.twins.iter().map(|twin| twin.anchor)).collect()
    }

    /// The results of all contractions.
    pub fn results(&self) -> Vec<ValueId> {
        std::iter::once(self.result).chain(self.twins.iter().map(|twin| twin.result)).collect()
    }

    /// The operands of all contractions on a side; what they share counts once.
    pub fn operands_of(&self, side: usize) -> impl Iterator<Item = &Operand> {
        let own = self.twins.iter().filter(move |twin| twin.side == side).map(|twin| &twin.operand);
        std::iter::once(&self.operands[side]).chain(own)
    }

    /// What contraction `n` multiplies on a side; none where that is what the first does.
    pub fn own(&self, n: usize, side: usize) -> Option<&Operand> {
        match n.checked_sub(1) {
            None => Some(&self.operands[side]),
            Some(twin) => self.twins.get(twin).filter(|twin| twin.side == side).map(|twin| &twin.operand),
        }
    }

    /// Operand `side` as a box, with the least number of outer labels that CTAs have one coordinate of.
    pub fn promoted(&self, side: usize, memory: &[Option<Memory>; 2]) -> Option<(usize, usize, Axes)> {
        let Memory { input, axes: lies } = memory[side].as_ref()?;
        let all = self.operands[side].outer.labels.len();
        (0..all.max(1)).find_map(|count| {
            let mut product = self.clone();
            let (rest, first) = self.operands[side].outer.cut(count);
            let short = rest.total().as_const().is_some_and(|inner| inner < LEAST_INNER);
            if count > 0 && short {
                return None;
            }
            product.operands[side].outer = rest;
            product.grid.extend(first);
            let axes = product.axes(lies, &[Along::Outer(side), Along::Depth])?;
            Some((count, *input, axes))
        })
    }

    /// Axes of memory with these labels as dimensions of the product, of which all of `needed` are one axis each; `None` where some are not.
    pub fn axes(&self, lies: &[(char, MemoryAxis)], needed: &[Along]) -> Option<Axes> {
        let mut axes: Vec<(Along, MemoryAxis)> = vec![];
        let mut found: Vec<(Along, usize)> = vec![];
        for (label, own) in lies {
            if let Some(grid) = self.grid.iter().position(|(l, _)| l == label) {
                axes.push((Along::Grid(grid), own.clone()));
                continue;
            }
            let (along, place) = needed.iter().find_map(|along| {
                self.group(*along)?.labels.iter().position(|l| l == label).map(|place| (*along, place))
            })?;
            match (found.iter_mut().find(|(known, _)| *known == along), axes.last_mut()) {
                (None, _) if place == 0 => {
                    found.push((along, 1));
                    axes.push((along, own.clone()));
                }
                (Some((_, count)), Some((last, axis))) if *last == along && *count == place => {
                    *count += 1;
                    *axis = axis.with(own)?;
                }
                _ => return None,
            }
        }
        for along in needed {
            let labels = self.group(*along)?.labels.len();
            match found.iter().find(|(known, _)| known == along) {
                Some((_, count)) if *count == labels => {}
                None if labels == 0 => axes.insert(0, (*along, MemoryAxis::whole(Dim::from(1)))),
                _ => return None,
            }
        }
        Some(Axes(axes))
    }

    fn group(&self, along: Along) -> Option<&Group> {
        match along {
            Along::Grid(_) => None,
            Along::Outer(side) => Some(&self.operands[side].outer),
            Along::Depth => Some(&self.depth),
        }
    }

    /// The extent of a dimension.
    pub fn extent(&self, along: Along) -> Dim {
        match along {
            Along::Grid(axis) => self.grid[axis].1.clone(),
            Along::Outer(side) => self.operands[side].outer.total(),
            Along::Depth => self.depth.total(),
        }
    }
}

/// An operand as it lies in memory: a region's input, and the labels that walk along its axes.
pub struct Memory {
    pub input: usize,
    pub axes: Vec<(char, MemoryAxis)>,
}

/// The region's input that an operand is, or is made of, seen through views that leave each label one step.
pub fn memory(values: &Values, operand: &Operand) -> Option<Memory> {
    let (input, strided) = values.viewed_input(operand.from)?;
    let shape = values.shape(operand.from);
    let axes = strided.boxed(|axis| !shape[axis].is(1))?;
    let axes = axes.into_iter().map(|(axis, lies)| (operand.labels[axis], lies)).collect();
    (values.graph.ty(operand.from).dtype.bits() >= 8).then_some(Memory { input, axes })
}

/// A row-major tensor with these labels.
fn row_major(labels: &[char], extent: &dyn Fn(&char) -> Dim) -> Vec<(char, MemoryAxis)> {
    let long = labels.iter().filter(|label| !extent(label).is(1));
    long.map(|label| (*label, MemoryAxis::whole(extent(label)))).collect()
}

/// The value that `v` is, but for casts to a type of sums which keep every value.
fn narrowest(values: &Values, v: ValueId, sums: DType) -> ValueId {
    let graph = values.graph;
    let node = graph.producer(v);
    let exact = |from: DType| match sums {
        DType::F32 => matches!(from, DType::F16 | DType::BF16) || from.is_f8(),
        DType::I32 => matches!(from, DType::I8 | DType::U8),
        _ => false,
    };
    match &node.op {
        Op::Cast { to, .. } if *to == sums && exact(graph.ty(node.inputs[0]).dtype) => node.inputs[0],
        _ => v,
    }
}

/// The permutes and reshapes between the results of `anchors`, which all see the same, and `output`, from the output on.
pub fn views(values: &Values, anchors: &[NodeId], output: ValueId) -> Result<Vec<ValueId>> {
    let graph = values.graph;
    let roles = values.region.roles();
    let depends = |v: &ValueId| matches!(roles[graph.value(*v).node.index()], Role::Anchor | Role::Epilogue);
    let mut views = vec![];
    let mut v = output;
    while !anchors.contains(&graph.value(v).node) {
        let node = graph.producer(v);
        if node.op.kind() == OpKind::View {
            views.push(v);
        }
        match node.inputs.iter().copied().find(depends) {
            Some(next) => v = next,
            None => return values.malformed("a result does not depend on the product"),
        }
    }
    Ok(views)
}

/// The labels of a result's elements in row-major order, where views leave whole axes; they are given from the output on.
pub fn stored(views: &[ValueId], values: &Values, labels: &[char]) -> Option<Vec<char>> {
    let mut labels = labels.to_vec();
    let mut reshaped = false;
    for view in views.iter().rev() {
        match &values.graph.producer(*view).op {
            Op::Reshape { .. } => reshaped = true,
            Op::Permute { perm } if !reshaped => labels = perm.iter().map(|&axis| labels[axis]).collect(),
            _ => return None,
        }
    }
    Some(labels)
}
