//! Builds a register program by pulling a value's definition through elementwise ops and views down to slots.

use super::Lowering;
use super::affine::{Affine, Unsplit, dense_strides, linear, split};
use crate::error::Error;
use crate::program::{Access, Id, Instr, Kind, Level, Program, Scalar};
use kiln_graph::{DType, Op, QuantAxes, ValueId};
use std::collections::HashMap;

/// Why a value cannot be computed within the loop nest being built.
pub(super) enum Stop {
    /// Cut a loop dim in two and start again.
    Refine { dim: usize, inner: usize },
    /// Compute this value by stages of its own first.
    Materialise(ValueId),
    /// Give up.
    Fail(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Fail(e)
    }
}

/// The loop dims: one or more factors an axis, kept axes before reduced ones.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) factors: Vec<Vec<usize>>,
    /// Leading axes that reductions keep.
    pub(super) kept_axes: usize,
}

impl Domain {
    pub(super) fn new(extents: &[usize], kept_axes: usize) -> Domain {
        Domain { factors: extents.iter().map(|&e| vec![e]).collect(), kept_axes }
    }

    /// All loop extents.
    pub(super) fn dims(&self) -> Vec<usize> {
        self.factors.concat()
    }

    /// How many loop dims the kept axes have.
    pub(super) fn kept(&self) -> usize {
        self.factors[..self.kept_axes].iter().map(Vec::len).sum()
    }

    /// The coordinate along axis `axis`.
    pub(super) fn coord(&self, axis: usize) -> Affine {
        let first: usize = self.factors[..axis].iter().map(Vec::len).sum();
        let strides = dense_strides(&self.factors[axis]);
        (0..strides.len())
            // An axis of extent 1 is at 0, however it is written.
            .filter(|&i| self.factors[axis][i] != 1)
            .fold(Affine::default(), |a, i| a.plus(&Affine::dim(first + i), strides[i]))
    }

    pub(super) fn refine(&mut self, dim: usize, inner: usize) {
        let mut at = dim;
        for factors in &mut self.factors {
            if at < factors.len() {
                let outer = factors[at] / inner;
                factors.splice(at..=at, [outer, inner]);
                return;
            }
            at -= factors.len();
        }
    }
}

/// The reductions that the nest computes: those over these axes of a value of this shape.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) shape: Vec<usize>,
    pub(super) axes: Vec<usize>,
    /// Coordinates of each axis of that shape.
    pub(super) coords: Vec<Affine>,
}

impl Rows {
    pub(super) fn kept_coords(&self) -> Vec<Affine> {
        (0..self.shape.len()).filter(|a| !self.axes.contains(a)).map(|a| self.coords[a].clone()).collect()
    }
}

/// A program under construction.
#[derive(Clone)]
pub(super) struct Pull<'l, 'g> {
    low: &'l Lowering<'g>,
    dims: Vec<usize>,
    /// Loop dims below this are rows; the same as `dims.len()` in a nest without reductions.
    kept: usize,
    rows: Option<Rows>,
    pub(super) program: Program,
    memo: HashMap<(ValueId, Vec<Affine>), Id>,
    levelled: HashMap<(Id, bool), Id>,
    depth: usize,
}

/// Deeper definitions are cut by materialising, to bound recursion.
const MAX_DEPTH: usize = 128;

impl<'l, 'g> Pull<'l, 'g> {
    pub(super) fn new(low: &'l Lowering<'g>, domain: &Domain, rows: Option<Rows>) -> Pull<'l, 'g> {
        Pull {
            low,
            dims: domain.dims(),
            kept: domain.kept(),
            rows,
            program: Program::default(),
            memo: HashMap::new(),
            levelled: HashMap::new(),
            depth: 0,
        }
    }

    fn emit(&mut self, kind: Kind, level: Level, dtype: DType) -> Id {
        self.program.instrs.push(Instr { kind, level, dtype });
        self.program.instrs.len() - 1
    }

    fn lowest(&self) -> Level {
        if self.rows.is_some() { Level::Row } else { Level::Full }
    }

    fn level_of(&self, index: &Affine) -> Level {
        let inner = index.terms.iter().any(|t| t.0 >= self.kept && self.dims[t.0] != 1);
        if inner { Level::Full } else { self.lowest() }
    }

    fn access(&mut self, slot: usize, dtype: DType, index: &Affine) -> usize {
        let mut strides = vec![0; self.dims.len()];
        for &(d, c) in &index.terms {
            strides[d] = if self.dims[d] > 1 { c } else { 0 };
        }
        self.program.accesses.push(Access { slot, dtype, offset: index.offset, strides });
        self.program.accesses.len() - 1
    }

    /// Brings a value to a level.
    fn at(&mut self, id: Id, level: Level) -> Id {
        if self.program.instrs[id].level >= level {
            return id;
        }
        if let Some(&known) = self.levelled.get(&(id, level == Level::Full)) {
            return known;
        }
        let dtype = self.program.instrs[id].dtype;
        let kind = match &self.program.instrs[id].kind {
            Kind::Const(v) => Kind::Const(*v),
            _ => Kind::Expand(id),
        };
        let raised = self.emit(kind, level, dtype);
        self.levelled.insert((id, level == Level::Full), raised);
        raised
    }

    /// Adds a store of `v` at `coords` to the dense index `to` of `slot`.
    pub(super) fn store(
        &mut self,
        v: ValueId,
        coords: &[Affine],
        slot: usize,
        to: &Affine,
        level: Level,
    ) -> Result<(), Stop> {
        self.store_as(v, coords, slot, to, level, self.low.dtype(v))
    }

    /// [`Pull::store`] after a cast.
    pub(super) fn store_as(
        &mut self,
        v: ValueId,
        coords: &[Affine],
        slot: usize,
        to: &Affine,
        level: Level,
        dtype: DType,
    ) -> Result<(), Stop> {
        let id = self.value(v, coords)?;
        if self.program.instrs[id].level > level {
            return Err(Stop::Materialise(v));
        }
        let mut id = self.at(id, level);
        if dtype != self.low.dtype(v) {
            id = self.emit(Kind::Cast { from: id, saturate: false }, level, dtype);
        }
        let access = self.access(slot, dtype, to);
        self.emit(Kind::Store(id, access), level, dtype);
        Ok(())
    }

    pub(super) fn value(&mut self, v: ValueId, coords: &[Affine]) -> Result<Id, Stop> {
        let key = (v, coords.to_vec());
        if let Some(&id) = self.memo.get(&key) {
            return Ok(id);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Stop::Materialise(v));
        }
        let id = self.define(v, coords)?;
        self.depth -= 1;
        self.memo.insert(key, id);
        Ok(id)
    }

    fn define(&mut self, v: ValueId, coords: &[Affine]) -> Result<Id, Stop> {
        let low = self.low;
        let dtype = low.dtype(v);
        if let Some(slot) = low.dense_slot(v) {
            let index = linear(coords, low.shape(v));
            let level = self.level_of(&index);
            let access = self.access(slot, dtype, &index);
            return Ok(self.emit(Kind::Load(access), level, dtype));
        }
        let node = low.graph.producer(v);
        let x = node.inputs.first().copied();
        let operand = |i: usize| {
            node.inputs.get(i).copied().ok_or_else(|| Stop::Fail(low.unsupported(node, "an operand is missing".into())))
        };
        match &node.op {
            Op::Const { value } => {
                let scalar = Scalar::read(value.data(), dtype, 0).unwrap_or(Scalar::zero(dtype));
                Ok(self.emit(Kind::Const(scalar), self.lowest(), dtype))
            }
            Op::DimValue { dim } => {
                let value = dim.eval(low.bindings).map_err(|e| low.graph_error(e))?;
                Ok(self.emit(Kind::Const(Scalar::I(value)), self.lowest(), dtype))
            }
            Op::Iota { axis, .. } => {
                let index = &coords[*axis];
                let mut strides = vec![0; self.dims.len()];
                for &(d, c) in &index.terms {
                    strides[d] = c;
                }
                let level = self.level_of(index);
                Ok(self.emit(Kind::Iota(index.offset, strides), level, dtype))
            }
            Op::Unary(op) => {
                let a = self.value(operand(0)?, coords)?;
                self.check(node, op.domain(), low.dtype(operand(0)?))?;
                let level = self.program.instrs[a].level;
                Ok(self.emit(Kind::Unary(*op, a), level, dtype))
            }
            Op::Binary(op) => {
                self.check(node, op.domain(), dtype)?;
                self.pair(operand(0)?, operand(1)?, coords, dtype, |a, b| Kind::Binary(*op, a, b))
            }
            Op::Compare(op) => self.pair(operand(0)?, operand(1)?, coords, dtype, |a, b| Kind::Compare(*op, a, b)),
            Op::Select => {
                let mut ids = [0; 3];
                for (i, id) in ids.iter_mut().enumerate() {
                    *id = self.value(operand(i)?, coords)?;
                }
                self.triple(ids, dtype, Kind::Select)
            }
            Op::Cast { saturate, .. } => {
                let from = self.value(operand(0)?, coords)?;
                let level = self.program.instrs[from].level;
                Ok(self.emit(Kind::Cast { from, saturate: *saturate }, level, dtype))
            }
            Op::Quantize { axes, .. } | Op::Dequantize { axes } => {
                let scale_coords = self.scale_coords(v, operand(0)?, axes, coords)?;
                let x = self.value(operand(0)?, coords)?;
                let s = self.value(operand(1)?, &scale_coords)?;
                let z = self.value(operand(2)?, &scale_coords)?;
                let quantize = matches!(node.op, Op::Quantize { .. });
                self.triple([x, s, z], dtype, if quantize { Kind::Quantize } else { Kind::Dequantize })
            }
            Op::Permute { perm } => {
                let mut inner = vec![Affine::default(); perm.len()];
                for (a, &p) in perm.iter().enumerate() {
                    inner[p] = coords[a].clone();
                }
                self.value(operand(0)?, &inner)
            }
            Op::Reshape { .. } => {
                let x = operand(0)?;
                let index = linear(coords, low.shape(v));
                match split(&index, &self.dims, low.shape(x)) {
                    Ok(inner) => self.value(x, &inner),
                    Err(Unsplit::Refine { dim, inner }) => Err(Stop::Refine { dim, inner }),
                    Err(Unsplit::Never) => Err(Stop::Materialise(x)),
                }
            }
            Op::Broadcast { .. } => {
                let x = operand(0)?;
                let shape = low.shape(x);
                let lead = coords.len() - shape.len();
                let inner: Vec<Affine> = shape
                    .iter()
                    .zip(&coords[lead..])
                    .map(|(&e, c)| if e == 1 { Affine::default() } else { c.clone() })
                    .collect();
                // Row values are computed once a row in any case.
                let row = self.rows.is_some() && inner.iter().all(|c| self.level_of(c) == Level::Row);
                if !row && low.worth_hoisting(x, v) {
                    return Err(Stop::Materialise(x));
                }
                self.value(x, &inner)
            }
            Op::Slice { starts, steps, .. } => {
                let mut inner = Vec::with_capacity(coords.len());
                let (from, to) = (low.shape(operand(0)?), low.shape(v));
                for (a, ((start, &step), c)) in starts.iter().zip(steps).zip(coords).enumerate() {
                    let start = start.eval(low.bindings).map_err(|e| low.graph_error(e))?;
                    let last = (to[a] as i64 - 1).saturating_mul(step).saturating_add(start);
                    let extent = 0..from[a] as i64;
                    if !(to.contains(&0) || extent.contains(&start) && extent.contains(&last)) {
                        let message = format!("takes {start}..={last} of axis {a}, whose extent is {}", from[a]);
                        return Err(Stop::Fail(low.unsupported(node, message)));
                    }
                    inner.push(c.scaled(step as isize, start as isize));
                }
                self.value(operand(0)?, &inner)
            }
            Op::Reduce { axes, op } => {
                let op = *op;
                self.reduction(v, operand(0)?, axes, coords, |of| Kind::Reduce(op, of))
            }
            Op::ArgReduce { op, axis, last } => {
                let (op, last) = (*op, *last);
                self.reduction(v, operand(0)?, &[*axis], coords, |of| Kind::ArgReduce { op, last, of })
            }
            _ if x.is_some() => Err(Stop::Materialise(v)),
            _ => Err(Stop::Fail(low.unsupported(node, "has no data; bind its weight".into()))),
        }
    }

    fn pair(
        &mut self,
        a: ValueId,
        b: ValueId,
        coords: &[Affine],
        dtype: DType,
        kind: impl Fn(Id, Id) -> Kind,
    ) -> Result<Id, Stop> {
        let (a, b) = (self.value(a, coords)?, self.value(b, coords)?);
        let level = self.program.instrs[a].level.max(self.program.instrs[b].level);
        let (a, b) = (self.at(a, level), self.at(b, level));
        Ok(self.emit(kind(a, b), level, dtype))
    }

    fn triple(&mut self, ids: [Id; 3], dtype: DType, kind: impl Fn(Id, Id, Id) -> Kind) -> Result<Id, Stop> {
        let level = ids.iter().map(|&i| self.program.instrs[i].level).max().unwrap_or(Level::Full);
        let [a, b, c] = ids.map(|i| self.at(i, level));
        Ok(self.emit(kind(a, b, c), level, dtype))
    }

    fn reduction(
        &mut self,
        v: ValueId,
        x: ValueId,
        axes: &[usize],
        coords: &[Affine],
        kind: impl Fn(Id) -> Kind,
    ) -> Result<Id, Stop> {
        let Some(rows) = &self.rows else { return Err(Stop::Materialise(v)) };
        if self.low.shape(x) != rows.shape || axes != rows.axes || coords != rows.kept_coords() {
            return Err(Stop::Materialise(v));
        }
        let inner = rows.coords.clone();
        let of = self.value(x, &inner)?;
        let of = self.at(of, Level::Full);
        Ok(self.emit(kind(of), Level::Row, self.low.dtype(v)))
    }

    fn scale_coords(&self, v: ValueId, x: ValueId, axes: &QuantAxes, coords: &[Affine]) -> Result<Vec<Affine>, Stop> {
        match *axes {
            QuantAxes::Tensor => Ok(Vec::new()),
            QuantAxes::Axis(a) => Ok(vec![coords[a].clone()]),
            QuantAxes::Block { axis, block } => {
                let extent = self.low.shape(x)[axis];
                let blocks = extent.div_ceil(block.max(1));
                let mut inner = coords.to_vec();
                inner[axis] = match split(&coords[axis], &self.dims, &[blocks, block]) {
                    Ok(parts) => parts[0].clone(),
                    Err(Unsplit::Refine { dim, inner }) => return Err(Stop::Refine { dim, inner }),
                    Err(Unsplit::Never) => {
                        let message = format!("blocks of {block} do not divide {extent} elements");
                        return Err(Stop::Fail(self.low.unsupported(self.low.graph.producer(v), message)));
                    }
                };
                Ok(inner)
            }
        }
    }

    /// Refuses a function that is not defined on its operands.
    fn check(&self, node: &kiln_graph::Node, domain: kiln_graph::Domain, of: DType) -> Result<(), Stop> {
        if domain.holds(of) {
            return Ok(());
        }
        Err(Stop::Fail(self.low.unsupported(node, format!("is not defined on {of}"))))
    }
}
