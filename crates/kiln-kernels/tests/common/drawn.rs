//! Random regions of a family and an element type whose extents are symbols, and data of any size for them: one kernel runs many shapes.
//! Extents are odd, 1, a symbol that is 1 at run time, and around the edges of tiles; data has infinities and NaN where they matter.

mod convs;

pub use convs::{conv, grouped_conv};

use super::{Case, ints, random, spec, wild};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{ArgOp, BinaryOp, Bindings, Builder, CompareOp, DType, Dim, ReduceOp, Result, Rng, Tensor, ValueId};

/// Extents at which instructions, warps, accesses and tiles end, and their neighbours.
const EDGES: [i64; 26] =
    [1, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 100, 127, 128, 129, 136, 200, 257, 1025];

/// The seed of a run: `KILN_SEED`, or always the same, for what lands must not depend on luck.
pub fn seed() -> u64 {
    std::env::var("KILN_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// What a symbol is at run time.
#[derive(Clone)]
enum Size {
    /// One of [`EDGES`], no more than this.
    Edge(i64),
    /// From one number to another.
    Between(i64, i64),
    /// What another symbol is, or 1.
    OneOr(String),
}

/// What an input holds.
#[derive(Clone, Copy)]
enum Data {
    /// Small numbers.
    Tame,
    /// The smallest: no more than floats are.
    Tiny,
    /// Infinities, NaN, ends of the range.
    Wild,
    /// Indices below an extent of another input.
    Below(usize, usize),
    /// A mask that hides elements, in some rows all.
    Mask,
}

/// What of an input a region reads: along an axis from where on, and how much. The rest is what must not be read.
struct Part {
    axis: usize,
    start: Dim,
    len: Dim,
}

/// A region and what it may run on.
pub struct Drawn {
    pub region: Region,
    roundings: f64,
    sizes: Vec<(String, Size)>,
    data: Vec<Data>,
    parts: Vec<Option<Part>>,
    /// Most multiplications, or elements where there are none.
    most: i64,
    /// Whether products of f32 may round their operands to TF32.
    pub tf32: bool,
}

/// How a family's regions are drawn.
pub type Draw = fn(&mut Rng, DType) -> Result<Drawn>;

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.range(0, of.len() as i64 - 1) as usize].clone()
}

/// Whether something that happens once in so many times does.
fn one_in(rng: &mut Rng, times: i64) -> bool {
    rng.range(1, times) == 1
}

impl Drawn {
    /// Values of the symbols.
    pub fn bindings(&self, rng: &mut Rng) -> Bindings {
        let mut found = Bindings::new();
        for (name, size) in &self.sizes {
            let value = match size {
                Size::Edge(most) => pick(rng, &EDGES).min(*most),
                Size::Between(low, high) => rng.range(*low, *high),
                Size::OneOr(other) if one_in(rng, 2) => found[other],
                Size::OneOr(_) => 1,
            };
            found.insert(name.clone(), value);
        }
        while self.work(&found) > self.most {
            let Some(name) = found.iter().max_by_key(|(_, value)| **value).map(|(name, _)| name.clone()) else { break };
            let (old, new) = (found[&name], found[&name] / 2);
            if new == 0 {
                break;
            }
            found.values_mut().filter(|value| **value == old).for_each(|value| *value = new);
        }
        found
    }

    /// Typical sizes of large problems, for which other Configs are the best.
    pub fn large(&self) -> Bindings {
        let large = |size: &Size| if let Size::Between(_, high) = size { *high } else { 2048 };
        self.sizes.iter().map(|(name, size)| (name.clone(), large(size))).collect()
    }

    fn work(&self, bindings: &Bindings) -> i64 {
        let graph = &self.region.graph;
        let count = |v: &ValueId| graph.ty(*v).shape.iter().map(|dim| dim.eval(bindings).unwrap()).product::<i64>();
        let outputs = graph.outputs.iter().map(|(_, v)| v);
        let elements = graph.inputs.iter().chain(outputs).map(count).max().unwrap_or(0);
        let products = graph.nodes.iter().filter_map(|node| match &node.op {
            kiln_graph::Op::Contract { spec, .. } => {
                let (left, result) = (&graph.ty(node.inputs[0]).shape, count(&node.outputs[0]));
                let summed = spec.lhs.iter().zip(left).filter(|(label, _)| !spec.out.contains(label));
                Some(result * summed.map(|(_, dim)| dim.eval(bindings).unwrap()).product::<i64>())
            }
            kiln_graph::Op::Conv { .. } => {
                let seen = graph.ty(node.inputs[1]).shape[1..].iter().map(|dim| dim.eval(bindings).unwrap());
                Some(count(&node.outputs[0]) * seen.product::<i64>())
            }
            _ => None,
        });
        products.max().unwrap_or(0).max(elements)
    }

    /// The region on fresh data of these sizes.
    pub fn case(&self, bindings: &Bindings, seed: u64) -> Case {
        let graph = &self.region.graph;
        let shape = |v: ValueId| graph.ty(v).concrete(bindings).unwrap();
        let input = |(i, (v, data)): (usize, (&ValueId, &Data))| {
            let (dtype, extents, seed) = (graph.ty(*v).dtype, shape(*v), seed.wrapping_mul(31).wrapping_add(i as u64));
            match data {
                Data::Tame if dtype.int_range().is_some() && dtype != DType::Bool => {
                    ints(dtype, &extents, if dtype.is_signed() { -9 } else { 0 }, 9, seed)
                }
                Data::Tame => random(dtype, &extents, seed),
                Data::Tiny => ints(dtype, &extents, -1, 1, seed),
                Data::Wild => wild(dtype, &extents, seed),
                Data::Below(input, axis) => {
                    let extent = shape(graph.inputs[*input])[*axis] as i64;
                    ints(dtype, &extents, -extent, extent - 1, seed)
                }
                Data::Mask => {
                    let (mut rng, keys) = (Rng::new(seed), extents[extents.len() - 1]);
                    let hides = |i: usize, rng: &mut Rng| i / keys % 8 == 3 || rng.range(0, 3) == 0;
                    let value = |i| if hides(i, &mut rng) { f64::NEG_INFINITY } else { rng.signed() };
                    Tensor::generate(dtype, &extents, value).unwrap()
                }
            }
        };
        let inputs: Vec<Tensor> = graph.inputs.iter().zip(&self.data).enumerate().map(input).collect();
        let spoilt = |(tensor, part): (Tensor, &Option<Part>)| match part {
            Some(part) => {
                let [start, len] = [&part.start, &part.len].map(|dim| dim.eval(bindings).unwrap() as usize);
                super::spoilt(&tensor, part.axis, start..start + len)
            }
            None => tensor,
        };
        let inputs = inputs.into_iter().zip(&self.parts).map(spoilt).collect();
        Case { region: self.region.clone(), inputs, roundings: self.roundings, tf32: self.tf32 }
    }
}

/// What a draw puts together.
struct Draft<'r> {
    rng: &'r mut Rng,
    sizes: Vec<(String, Size)>,
    data: Vec<Data>,
    parts: Vec<Option<Part>>,
}

impl<'r> Draft<'r> {
    fn new(rng: &'r mut Rng) -> Self {
        Draft { rng, sizes: vec![], data: vec![], parts: vec![] }
    }

    fn symbol(&mut self, name: &str, size: Size) -> Dim {
        self.sizes.push((name.to_owned(), size));
        Dim::sym(name)
    }

    /// An extent of any kind: a symbol, one times `multiple`, or a number.
    fn extent(&mut self, name: &str, multiple: i64, most: i64) -> Dim {
        match self.rng.range(0, 3) {
            0 | 1 => self.symbol(name, Size::Edge(most)),
            2 => self.symbol(name, Size::Between(1, (most / multiple).clamp(1, 24))) * Dim::from(multiple),
            _ => Dim::from(pick(self.rng, &EDGES).min(most)),
        }
    }

    fn input(&mut self, b: &mut Builder, dtype: DType, shape: &[Dim], data: Data) -> Result<ValueId> {
        self.data.push(data);
        self.parts.push(None);
        b.input(&format!("x{}", self.data.len()), dtype, shape)
    }

    /// A value of this shape: an input, or now and then a view of a part of one, of one with its axes in another order, or of one that repeats.
    fn seen(&mut self, b: &mut Builder, dtype: DType, shape: &[Dim], data: Data) -> Result<ValueId> {
        let rank = shape.len();
        if rank == 0 || !one_in(self.rng, 4) {
            return self.input(b, dtype, shape, data);
        }
        let axis = self.rng.range(0, rank as i64 - 1) as usize;
        let len = shape[axis].clone();
        let mut whole = shape.to_vec();
        let at = Dim::from(self.rng.range(0, 2));
        let (x, part) = match self.rng.range(0, 5) {
            // One of three equal parts, along an axis or as an axis of their own.
            0 => {
                let start = at * len.clone();
                whole[axis] = len.clone() * Dim::from(3);
                let x = self.input(b, dtype, &whole, data)?;
                (b.slice_axis(x, axis as i64, &start, &len, 1)?, Part { axis, start, len })
            }
            1 => {
                whole.insert(axis, 3.into());
                let x = self.input(b, dtype, &whole, data)?;
                let part = b.slice_axis(x, axis as i64, &at, &1.into(), 1)?;
                (b.reshape(part, shape)?, Part { axis, start: at, len: 1.into() })
            }
            // Axes in another order.
            2 => {
                whole.rotate_left(1);
                let own = (axis + rank - 1) % rank;
                whole[own] = len.clone() + Dim::from(8);
                let x = self.input(b, dtype, &whole, data)?;
                let part = b.slice_axis(x, own as i64, &8.into(), &len, 1)?;
                let order: Vec<usize> = (0..rank).map(|axis| (axis + rank - 1) % rank).collect();
                (b.transpose(part, &order)?, Part { axis: own, start: 8.into(), len })
            }
            // No extent would say what a symbol is.
            3 if len.as_const().is_some() => {
                whole[axis] = 1.into();
                let x = self.input(b, dtype, &whole, data)?;
                return b.broadcast_to(x, shape);
            }
            // Any part.
            more => {
                let name = format!("O{}", self.data.len());
                let start = match more {
                    // Of two unknown numbers no extent says which is which.
                    4 if len.as_const().is_some() => self.symbol(&name, Size::Between(0, 9)),
                    _ => Dim::from(pick(self.rng, &[0, 1, 3, 8, 16])),
                };
                whole[axis] = start.clone() + len.clone() + Dim::from(pick(self.rng, &[0, 1, 8, 40]));
                let x = self.input(b, dtype, &whole, data)?;
                (b.slice_axis(x, axis as i64, &start, &len, 1)?, Part { axis, start, len })
            }
        };
        *self.parts.last_mut().unwrap() = Some(part);
        Ok(x)
    }

    fn done(self, name: &str, anchor: Anchor, roundings: f64, most: i64, b: Builder) -> Drawn {
        let region = Region { name: name.to_owned(), summary: format!("{name}, drawn"), anchor, graph: b.finish() };
        region.verify().unwrap_or_else(|e| panic!("{e}"));
        let Draft { sizes, data, parts, .. } = self;
        Drawn { region, roundings, sizes, data, parts, most, tf32: false }
    }
}

fn outputs(b: &mut Builder, values: Vec<ValueId>) {
    values.into_iter().enumerate().for_each(|(i, v)| b.output(format!("y{i}"), v));
}

/// A function of one value in any type; eight bits of float are computed in f32.
fn function(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    match b.dtype(x) {
        DType::Bool => b.unary(kiln_graph::UnaryOp::Not, x),
        dtype if dtype.is_f8() => {
            let wide = b.cast(x, DType::F32)?;
            let y = b.tanh(wide)?;
            b.cast_saturating(y, dtype)
        }
        dtype if dtype.is_float() => b.tanh(x),
        _ => b.unary(kiln_graph::UnaryOp::Neg, x),
    }
}

/// A function of two values.
fn join(b: &mut Builder, x: ValueId, y: ValueId) -> Result<ValueId> {
    match b.dtype(x) {
        DType::Bool => b.binary(BinaryOp::Xor, x, y),
        dtype if dtype.is_f8() => {
            let (x, y) = (b.cast(x, DType::F32)?, b.cast(y, DType::F32)?);
            let sum = b.plus(x, y)?;
            b.cast_saturating(sum, dtype)
        }
        _ => b.plus(x, y),
    }
}

/// Elementwise regions, broadcast, turned, gathered.
pub fn map(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    let (mut d, mut b) = (Draft::new(rng), Builder::new("map"));
    let kind = d.rng.range(0, 4);
    let data = if one_in(d.rng, 2) { Data::Wild } else { Data::Tame };
    let columns = d.extent("B", 16, 1025);
    match kind {
        // Rows that are there once, or may be.
        0 => {
            let rows = d.symbol("A", Size::Edge(200));
            let again = d.symbol("C", Size::OneOr("A".to_owned()));
            let x = d.input(&mut b, dtype, &[rows, columns.clone()], data)?;
            let y = d.input(&mut b, dtype, &[again, columns.clone()], data)?;
            let along = d.input(&mut b, dtype, &[columns], Data::Tame)?;
            let sum = join(&mut b, x, y)?;
            let y = function(&mut b, sum)?;
            let y = join(&mut b, y, along)?;
            outputs(&mut b, vec![y, sum]);
        }
        1 => {
            let (rows, many) = (d.extent("A", 8, 129), d.symbol("N", Size::Edge(9)));
            let x = d.input(&mut b, dtype, &[many, rows, columns], data)?;
            let y = function(&mut b, x)?;
            let order = pick(d.rng, &[[0, 2, 1], [2, 1, 0], [1, 0, 2]]);
            let y = b.transpose(y, &order)?;
            outputs(&mut b, vec![y]);
        }
        2 => {
            let (rows, chosen) = (d.symbol("A", Size::Edge(64)), d.symbol("N", Size::Edge(65)));
            let x = d.input(&mut b, dtype, &[rows, columns], data)?;
            let at = d.input(&mut b, DType::I64, &[chosen], Data::Below(0, 0))?;
            let y = b.gather(x, at, 0)?;
            let y = function(&mut b, y)?;
            outputs(&mut b, vec![y]);
        }
        _ => {
            let rows = d.extent("A", 8, 200);
            let shape = [rows, columns];
            let x = d.input(&mut b, dtype, &shape, data)?;
            let y = d.input(&mut b, dtype, &shape, data)?;
            let [wide, other] = [x, y].map(|v| if dtype.is_f8() { b.cast(v, DType::F32) } else { Ok(v) });
            let (wide, other) = (wide?, other?);
            let less = match dtype {
                DType::Bool => b.compare(CompareOp::Ne, wide, other)?,
                _ => b.compare(CompareOp::Lt, wide, other)?,
            };
            let chosen = b.select(less, x, y)?;
            let y = function(&mut b, chosen)?;
            outputs(&mut b, vec![less, y]);
        }
    }
    let anchor = if kind == 2 { Anchor::Index } else { Anchor::Map };
    Ok(d.done(&format!("map_{kind}_{dtype}"), anchor, 40.0, 6000, b))
}

/// Reductions and what surrounds them, along any axes.
pub fn rows(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    let mut d = Draft::new(rng);
    let (rows, columns) = (d.extent("A", 8, 200), d.extent("B", 8, 1025));
    let shape = match d.rng.range(0, 2) {
        0 => vec![columns],
        1 => vec![rows, columns],
        _ => vec![d.symbol("N", Size::Edge(5)), rows, columns],
    };
    let axis = d.rng.range(0, shape.len() as i64 - 1);
    reductions(d, dtype, shape, axis, 6000)
}

/// The same along rows that one CTA does not hold: odd ones, ones whose accesses can be wide, one element more than clusters begin at.
pub fn long_rows(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    let mut d = Draft::new(rng);
    let columns = match d.rng.range(0, 4) {
        0 => Dim::from(16385),
        1 => Dim::from(pick(d.rng, &[16640, 20480, 33024])),
        2 => d.symbol("B", Size::Between(2100, 4000)) * Dim::from(8),
        _ => d.symbol("B", Size::Between(16385, 33001)),
    };
    let shape = if one_in(d.rng, 3) { vec![columns] } else { vec![d.symbol("A", Size::Between(1, 2)), columns] };
    let axis = shape.len() as i64 - 1;
    reductions(d, dtype, shape, axis, 66_100)
}

/// A region of reductions of `shape` along `axis`, or of its last axis.
fn reductions(mut d: Draft<'_>, dtype: DType, shape: Vec<Dim>, axis: i64, most: i64) -> Result<Drawn> {
    let mut b = Builder::new("rows");
    let floats = dtype.is_float() && !dtype.is_f8();
    let kind = if floats { d.rng.range(0, 6) } else { d.rng.range(4, 6) };
    let data = if kind >= 4 || one_in(d.rng, 3) { Data::Wild } else { Data::Tame };
    let x = d.input(&mut b, dtype, &shape, data)?;
    let results = match kind {
        0 => vec![b.softmax(x, axis)?],
        1 => {
            let y = d.input(&mut b, dtype, &shape, Data::Tame)?;
            let sum = b.plus(x, y)?;
            vec![b.softmax(sum, axis)?, sum]
        }
        2 => {
            let last = &shape[shape.len() - 1..];
            let scale = d.input(&mut b, dtype, last, Data::Tame)?;
            vec![b.layer_norm(x, -1, Some(scale), None, 1e-5)?]
        }
        3 => vec![b.logsumexp(x, &[axis], false)?],
        _ if dtype == DType::Bool => {
            vec![b.reduce(ReduceOp::Any, x, &[axis], false)?, b.reduce(ReduceOp::All, x, &[axis], true)?]
        }
        4 if !dtype.is_f8() => {
            vec![b.arg_reduce(ArgOp::Max, x, axis, false, false)?, b.arg_reduce(ArgOp::Min, x, axis, true, false)?]
        }
        5 => {
            let all: Vec<i64> = (0..shape.len() as i64).collect();
            vec![b.reduce(ReduceOp::Max, x, &all, false)?, b.reduce(ReduceOp::Min, x, &all, true)?]
        }
        _ => vec![b.reduce(ReduceOp::Max, x, &[axis], false)?, b.reduce(ReduceOp::Min, x, &[axis], false)?],
    };
    outputs(&mut b, results);
    Ok(d.done(&format!("rows_{kind}_{axis}_{dtype}"), Anchor::Reduce, 60.0, most, b))
}

/// Products of any orientation, with what may stand before and behind them.
pub fn product(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    contraction(rng, dtype, Form::Plain)
}

/// The same, of which one operand is made by elementwise ops.
pub fn made(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    contraction(rng, dtype, Form::Made)
}

/// The same, of which there are two that share an operand.
pub fn twins(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    contraction(rng, dtype, Form::Twins)
}

/// What a contraction is drawn with.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Plain,
    Twins,
    Made,
}

/// An operand that is made of `x`, with what is broadcast along some of its axes that the result keeps.
fn made_of(d: &mut Draft, b: &mut Builder, x: ValueId, kept: &[bool]) -> Result<ValueId> {
    let shape = b.shape(x).to_vec();
    let mut own = shape.clone();
    let axes: Vec<usize> = (0..shape.len()).filter(|axis| kept[*axis]).collect();
    let always = pick(d.rng, &axes);
    for axis in axes {
        if axis == always || one_in(d.rng, 2) {
            own[axis] = 1.into();
        }
    }
    let data = if one_in(d.rng, 5) { Data::Wild } else { Data::Tame };
    let factor = d.input(b, b.dtype(x), &own, data)?;
    let factor = b.broadcast_to(factor, &shape)?;
    let y = match b.dtype(x).is_f8() {
        true => join(b, x, factor)?,
        false => b.mul(x, factor)?,
    };
    // What is outside is not 0 then.
    match b.dtype(y) {
        dtype if dtype.is_float() && !dtype.is_f8() && one_in(d.rng, 2) => b.plus_scalar(y, 0.5),
        _ if one_in(d.rng, 2) => function(b, y),
        _ => Ok(y),
    }
}

fn contraction(rng: &mut Rng, dtype: DType, form: Form) -> Result<Drawn> {
    const ORIENTATIONS: [&str; 12] = [
        "mk,kn->mn",
        "mk,nk->mn",
        "km,kn->mn",
        "km,nk->mn",
        "mk,nk->nm",
        "bmk,bnk->bmn",
        "bmk,kn->bmn",
        "bkm,kn->bmn",
        "bmk,bkn->bmn",
        "mkj,jkn->mn",
        "mk,k->m",
        "bmk,nk->bmn",
    ];
    let twins = form == Form::Twins;
    let (mut d, mut b) = (Draft::new(rng), Builder::new("product"));
    let text = pick(d.rng, &ORIENTATIONS);
    // Aligned as boxes want it, or not at all.
    let aligned = one_in(d.rng, 2);
    let step = (16 * 8 / i64::from(dtype.bits())).max(8);
    let mut extent = |name: &str, most: i64| match aligned {
        true if name == "M" => d.symbol(name, Size::Edge(most)),
        true if text.contains('b') || text.starts_with("mk") => Dim::from(step * d.rng.range(1, most / step)),
        true => d.symbol(name, Size::Between(1, most / step)) * Dim::from(step),
        false => d.extent(name, step, most),
    };
    // Where rows lie last, they are what is aligned.
    let rows = if aligned && text.contains("km") { extent("M'", 200) } else { extent("M", 200) };
    let (columns, depth) = (extent("N", 200), extent("K", 264));
    let batch = d.symbol("B", Size::Between(1, 3));
    let dims = |labels: &[char]| -> Vec<Dim> {
        let of = |label: &char| match label {
            'm' => rows.clone(),
            'n' => columns.clone(),
            'k' => depth.clone(),
            'b' => batch.clone(),
            _ => Dim::from(3),
        };
        labels.iter().map(of).collect()
    };
    let spec = spec(text);
    if !text.contains('b') {
        d.sizes.retain(|(name, _)| name != "B");
    }
    if !text.contains('n') {
        d.sizes.retain(|(name, _)| name != "N");
    }
    let integers = dtype.is_int();
    let (sums, out) = match dtype {
        _ if integers => (DType::I32, DType::I32),
        _ if dtype.is_f8() => (DType::F32, DType::F32),
        _ => (dtype.accumulator(), dtype),
    };
    let data = if !integers && one_in(d.rng, 5) { Data::Wild } else { Data::Tame };
    // Sometimes bytes that are converted on the way.
    let converted = form != Form::Made && dtype.is_float() && !dtype.is_f8() && one_in(d.rng, 6);
    // What twins have apart lies alike.
    let read = |d: &mut Draft, b: &mut Builder, dtype: DType, labels: &[char], data: Data| match twins {
        true => d.input(b, dtype, &dims(labels), data),
        false => d.seen(b, dtype, &dims(labels), data),
    };
    let left = |d: &mut Draft, b: &mut Builder| match converted {
        true => {
            let x = read(d, b, DType::I8, &spec.lhs, Data::Tiny)?;
            b.cast(x, dtype)
        }
        false => read(d, b, dtype, &spec.lhs, data),
    };
    let mut x = left(&mut d, &mut b)?;
    let mut w = read(&mut d, &mut b, dtype, &spec.rhs, Data::Tame)?;
    if form == Form::Made {
        let kept = [&spec.lhs, &spec.rhs].map(|labels| labels.iter().map(|l| spec.out.contains(l)).collect::<Vec<_>>());
        let right = kept[1].contains(&true) && one_in(d.rng, 2);
        let side = if right { &mut w } else { &mut x };
        *side = made_of(&mut d, &mut b, *side, &kept[usize::from(right)])?;
    }
    let mut y = b.contract(spec.clone(), x, w, sums, out)?;
    let shape = b.shape(y).to_vec();
    let mut results = vec![];
    if twins {
        let (x, w) = match one_in(d.rng, 3) {
            true => (left(&mut d, &mut b)?, w),
            false => (x, read(&mut d, &mut b, dtype, &spec.rhs, Data::Tame)?),
        };
        let other = b.contract(spec.clone(), x, w, sums, out)?;
        if one_in(d.rng, 3) {
            results.push(other);
        }
        y = match out.is_float() {
            true => b.sigmoid(y).and_then(|gate| b.mul(gate, other))?,
            false => b.relu(y).and_then(|gate| b.plus(gate, other))?,
        };
    }
    let behind = d.rng.range(0, 4);
    if behind == 1 || behind == 2 {
        let bias = d.input(&mut b, out, &shape[shape.len() - 1..], Data::Tame)?;
        y = b.plus(y, bias)?;
        y = if out.is_float() { b.silu(y)? } else { b.relu(y)? };
    }
    if behind == 2 || behind == 3 {
        let residual = d.input(&mut b, out, &shape, Data::Tame)?;
        results.push(y);
        y = b.plus(y, residual)?;
    }
    results.push(y);
    outputs(&mut b, results);
    let name = match form {
        Form::Plain => "product",
        Form::Twins => "twins",
        Form::Made => "made",
    };
    Ok(d.done(&format!("{name}_{text}_{dtype}_{behind}"), Anchor::Contract, 64.0, 3_000_000, b))
}

/// Attention: heads beside rows or before them, causal, masked, capped, with shared keys.
pub fn attention(rng: &mut Rng, dtype: DType) -> Result<Drawn> {
    let (mut d, mut b) = (Draft::new(rng), Builder::new("attention"));
    let (kind, beside) = (d.rng.range(0, 4), one_in(d.rng, 2));
    let depth = Dim::from(pick(d.rng, &[16, 24, 32, 40, 64, 64, 128, 128]));
    let (many, heads) = (d.symbol("N", Size::Between(1, 2)), Dim::from(d.rng.range(1, 3)));
    let queries = d.symbol("M", Size::Edge(200));
    let keys =
        if kind <= 1 { queries.clone() + d.symbol("P", Size::Between(0, 140)) } else { d.symbol("K", Size::Edge(257)) };
    let lies = |rows: &Dim| match beside {
        true => [many.clone(), rows.clone(), heads.clone(), depth.clone()],
        false => [many.clone(), heads.clone(), rows.clone(), depth.clone()],
    };
    let data = if one_in(d.rng, 6) { Data::Wild } else { Data::Tame };
    let shared = kind == 2;
    let q = match shared {
        true => {
            let group = Dim::from(d.rng.range(2, 4));
            let shape = [many.clone(), queries.clone(), heads.clone(), group, depth.clone()];
            d.seen(&mut b, dtype, &shape, data)?
        }
        false => d.seen(&mut b, dtype, &lies(&queries), data)?,
    };
    let rows = if shared { [many.clone(), keys.clone(), heads.clone(), depth.clone()] } else { lies(&keys) };
    let (k, v) = (d.seen(&mut b, dtype, &rows, Data::Tame)?, d.seen(&mut b, dtype, &rows, Data::Tame)?);
    let [first, second] = match (shared, beside) {
        (true, _) => ["nqhgd,nkhd->nhgqk", "nhgqk,nkhd->nqhgd"],
        (_, true) => ["nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd"],
        (_, false) => ["nhqd,nhkd->nhqk", "nhqk,nhkd->nqhd"],
    };
    let scores = b.contract(spec(first), q, k, DType::F32, DType::F32)?;
    let scores = b.mul_scalar(scores, 0.125)?;
    let scores = match kind {
        0 | 1 => {
            let seen = b.causal_mask(&queries, &keys, &(keys.clone() - queries.clone()))?;
            let hidden = b.scalar(DType::F32, f64::NEG_INFINITY)?;
            b.select(seen, scores, hidden)?
        }
        3 => {
            let mask = d.input(&mut b, DType::F32, &[many.clone(), Dim::from(1), queries, keys], Data::Mask)?;
            b.plus(scores, mask)?
        }
        4 => {
            let small = b.tanh(scores)?;
            b.mul_scalar(small, 20.0)?
        }
        _ => scores,
    };
    let weights = b.softmax(scores, -1)?;
    let weights = b.cast(weights, dtype)?;
    let y = b.contract(spec(second), weights, v, DType::F32, dtype)?;
    outputs(&mut b, vec![y]);
    Ok(d.done(&format!("attention_{kind}_{dtype}"), Anchor::Attention, 64.0, 4_000_000, b))
}
