//! The value of a graph node at an index, as a tile expression: what every family is made of.
//!
//! A value is computed where it is used, recursing through elementwise ops, views and gathers down to the region's inputs, and
//! through what the family has computed already ([`Values::bind`]). Every value is rounded to its declared dtype where it is defined: an
//! expression has the type that holds the dtype in a register, and arithmetic casts it to the compute type. What is used more than once is
//! named once.

mod convert;
pub mod dims;
pub mod dtype;
mod elementwise;
mod gather;
mod quant;
mod range;
mod reshape;
mod view;
mod writer;

pub use writer::Writer;

use crate::families::TileLaunch;
use crate::program::{Argument, TileProgram};
use crate::{Error, Result};
use kiln_fuse::{MemoryAxis, Region, Strided};
use kiln_graph::{Dim, Graph, Op, Symbols, ValueId};
use kiln_tile::expr::{Expr, ExprKind};
use kiln_tile::program::Param;
use kiln_tile::{Access, Buffer, Builder, ir};
use std::collections::HashMap;

/// Nodes of an expression past which it is named, so that generated code has no endless lines.
const LONG: usize = 14;
/// Nodes of a value, counted as a tree, up to which it may stand inside a conditional expression, where nothing can be named.
const LIGHT: u64 = 24;
/// The same for values that cannot stand anywhere else.
const HEAVY: u64 = 2048;

/// What an expression is known as.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    /// A value of the graph at an index.
    Value(ValueId, Vec<Expr>),
    /// An expression that has a name.
    Named(Expr),
    /// A violation that is checked.
    Checked(Expr),
}

/// Writes values of one region into one kernel.
pub struct Values<'a> {
    pub region: &'a Region,
    pub graph: &'a Graph,
    symbols: &'a Symbols,
    arguments: Vec<Argument>,
    dims: Vec<(Dim, Expr)>,
    inputs: Vec<Buffer>,
    outputs: Vec<Buffer>,
    uses: Vec<u32>,
    /// Size of each value's expression as a tree.
    weights: Vec<u64>,
    /// Expressions known in the open scopes, innermost last.
    scopes: Vec<HashMap<Key, Expr>>,
    /// Conditions of the expressions around what is being written: nothing may be named inside.
    guards: Vec<Expr>,
    /// Where the point exists that is being written; elsewhere nothing is loaded.
    exists: Option<Expr>,
    /// Within what the values of inputs lie, where that is known.
    ranges: Vec<Option<(i64, i64)>>,
    /// Where faults are noted, and the code of the first check.
    fault: Option<(Buffer, Expr)>,
    /// What the checks are of, in the order of their codes.
    checks: Vec<String>,
    /// Values that the family has computed, whatever the index.
    bound: HashMap<ValueId, Expr>,
}

impl<'a> Values<'a> {
    /// Starts a kernel for `region`, called `name`, and declares the region's inputs and outputs in it.
    pub fn start(region: &'a Region, symbols: &'a Symbols, name: &str) -> Result<(Values<'a>, Builder)> {
        let mut k = Builder::new(name, &region.summary);
        let mut values = Values::new(region, symbols)?;
        values.declare(&mut k, |shape| shape.to_vec());
        Ok((values, k))
    }

    /// The values of `region`, none of which is written yet.
    pub fn new(region: &'a Region, symbols: &'a Symbols) -> Result<Values<'a>> {
        let graph = &region.graph;
        let mut values = Values {
            region,
            graph,
            symbols,
            arguments: vec![],
            dims: vec![],
            inputs: vec![],
            outputs: vec![],
            uses: vec![0; graph.values.len()],
            weights: vec![1; graph.values.len()],
            scopes: vec![HashMap::new()],
            guards: vec![],
            exists: None,
            ranges: vec![],
            fault: None,
            checks: vec![],
            bound: HashMap::new(),
        };
        values.count()?;
        for (name, v) in &graph.outputs {
            let dtype = graph.ty(*v).dtype;
            if dtype.bits() < 8 {
                let what = format!("result `{name}` is {dtype}: two elements share a byte");
                return values.unsupported(what, "keep 4-bit values in constants, or store them as i8");
            }
        }
        Ok(values)
    }

    /// Declares the region's inputs, and its outputs in the shapes that `view` makes of theirs.
    pub fn declare(&mut self, k: &mut dyn Writer, view: impl Fn(&[Dim]) -> Vec<Dim>) {
        let graph = self.graph;
        for (i, &v) in graph.inputs.iter().enumerate() {
            let ty = graph.ty(v);
            let shape = self.dims(k, &ty.shape);
            self.inputs.push(k.tensor(&graph.input_name(v), ty.dtype, &shape, Access::Read));
            self.arguments.push(Argument::Input(i));
        }
        for (i, (name, v)) in graph.outputs.iter().enumerate() {
            let ty = graph.ty(*v);
            let shape = self.dims(k, &view(&ty.shape));
            // What is updated holds something already.
            let access = if self.region.updated().is_some() { Access::ReadWrite } else { Access::Write };
            self.outputs.push(k.tensor(name, ty.dtype, &shape, access));
            self.arguments.push(Argument::Output(i));
        }
    }

    /// Uses and sizes of all values.
    fn count(&mut self) -> Result<()> {
        for node in &self.graph.nodes {
            let mut weight = 1u64;
            for input in &node.inputs {
                self.uses[input.index()] += 1;
                weight = weight.saturating_add(self.weights[input.index()]);
            }
            if let Op::Binary(kiln_graph::BinaryOp::Pow) = node.op {
                weight = weight.saturating_mul(2);
            }
            for output in &node.outputs {
                self.weights[output.index()] = weight;
            }
        }
        for (_, v) in &self.graph.outputs {
            self.uses[v.index()] += 1;
        }
        if self.graph.outputs.is_empty() {
            return self.malformed("it has no result");
        }
        Ok(())
    }

    /// The finished program.
    pub fn finish(self, k: Builder, points: Dim) -> Result<TileProgram> {
        let region = &self.region.name;
        let program = k.finish().map_err(|source| Error::Tile { region: region.clone(), source: source.into() })?;
        Ok(TileProgram { program, arguments: self.arguments, points, checks: self.checks })
    }

    /// The finished program of the tile IR, without the tensors that nothing accesses.
    pub fn launch(self, k: ir::Builder) -> Result<TileLaunch> {
        let region = &self.region.name;
        let finished = k.finish().map_err(|source| Error::Tile { region: region.clone(), source: source.into() });
        let mut program = finished?;
        let accessed = program.accessed();
        let used = |param: &Param| match param {
            Param::Buffer { buffer, .. } => accessed.contains(&buffer.id),
            Param::Scalar { .. } => true,
        };
        let params = std::mem::take(&mut program.params).into_iter().zip(self.arguments);
        let (params, arguments) = params.filter(|(param, _)| used(param)).unzip();
        program.params = params;
        Ok(TileLaunch { program, arguments, checks: self.checks })
    }

    /// Tells within what the values of inputs lie, as [`crate::families::Subject`] does.
    pub fn know(&mut self, ranges: &[Option<(i64, i64)>]) {
        self.ranges = ranges.to_vec();
    }

    /// An error that says what no family can express.
    pub fn unsupported<T>(&self, what: impl Into<String>, help: &str) -> Result<T> {
        Err(Error::Unsupported {
            region: self.region.name.clone(),
            summary: self.region.summary.clone(),
            what: what.into(),
            help: help.to_owned(),
        })
    }

    /// An error for a broken promise of fusion.
    pub fn malformed<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::Malformed { region: self.region.name.clone(), what: what.into() })
    }

    /// The value of output `i` of the region.
    pub fn output(&self, i: usize) -> ValueId {
        self.graph.outputs[i].1
    }

    /// The shape of a value.
    pub fn shape(&self, v: ValueId) -> &'a [Dim] {
        &self.graph.ty(v).shape
    }

    /// From here on `v` is `value`, at every index.
    pub fn bind(&mut self, v: ValueId, value: Expr) {
        self.bound.insert(v, value);
    }

    /// The region's input that views in place show as `v`, and how; `None` where something else does.
    pub fn viewed_input(&self, v: ValueId) -> Option<(usize, Strided)> {
        if let Some(input) = self.graph.inputs.iter().position(|input| *input == v) {
            return Some((input, Strided::of(self.shape(v))));
        }
        let node = self.graph.producer(v);
        let (input, from) = self.viewed_input(*node.inputs.first()?)?;
        Some((input, from.through(&node.op, self.shape(v))?))
    }

    /// The buffer of output `i`.
    pub fn output_buffer(&self, i: usize) -> &Buffer {
        &self.outputs[i]
    }

    /// Input `i` as a row-major tensor of another shape with the same elements.
    pub fn input_as(&mut self, k: &mut dyn Writer, i: usize, shape: &[Dim]) -> Buffer {
        let v = self.graph.inputs[i];
        if self.shape(v) == shape {
            return self.inputs[i].clone();
        }
        let extents = self.dims(k, shape);
        self.arguments.push(Argument::Input(i));
        k.tensor(&self.graph.input_name(v), self.graph.ty(v).dtype, &extents, Access::Read)
    }

    /// Input `i` as a box of memory, of which there is no more than what the axes have; and where each of these begins.
    pub fn input_box(&mut self, k: &mut ir::Builder, i: usize, axes: &[&MemoryAxis]) -> (Buffer, Vec<Expr>) {
        let starts = axes.iter().map(|axis| self.dim(k, &axis.start)).collect();
        let extents: Vec<Dim> = axes.iter().map(|axis| axis.extent.clone()).collect();
        if axes.iter().all(|axis| axis.is_whole()) {
            return (self.input_as(k, i, &extents), starts);
        }
        let ends: Vec<Dim> = axes.iter().map(|axis| axis.start.clone() + axis.len.clone()).collect();
        let (shape, extents) = (self.dims(k, &ends), self.dims(k, &extents));
        let v = self.graph.inputs[i];
        self.arguments.push(Argument::Input(i));
        let strides = ir::row_major(&extents);
        let (name, dtype) = (self.graph.input_name(v), self.graph.ty(v).dtype);
        (k.tensor_strided(&name, dtype, &shape, &strides, Access::Read), starts)
    }

    /// Output `i` as a row-major tensor of another shape with the same elements.
    pub fn output_as(&mut self, k: &mut dyn Writer, i: usize, shape: &[Dim]) -> Buffer {
        let (name, v) = &self.graph.outputs[i];
        if self.shape(*v) == shape {
            return self.outputs[i].clone();
        }
        let extents = self.dims(k, shape);
        self.arguments.push(Argument::Output(i));
        k.tensor(name, self.graph.ty(*v).dtype, &extents, Access::Write)
    }

    /// The scratch of the region's kernels, as a row-major tensor.
    pub fn scratch(
        &mut self,
        k: &mut dyn Writer,
        name: &str,
        dtype: kiln_tile::DType,
        shape: &[Dim],
        access: Access,
    ) -> Buffer {
        let extents = self.dims(k, shape);
        self.arguments.push(Argument::Scratch);
        k.tensor(name, dtype, &extents, access)
    }

    /// The memory of the region's kernels that is zero, as a row-major tensor of counters.
    pub fn zeroed(&mut self, k: &mut dyn Writer, name: &str, shape: &[Dim]) -> Buffer {
        let extents = self.dims(k, shape);
        self.arguments.push(Argument::Zeroed);
        k.tensor(name, kiln_tile::DType::I32, &extents, Access::ReadWrite)
    }

    /// Writes the body of a map. Where `exists` does not hold there is no point: inputs count as 0, and no check fails.
    pub fn at_points<T>(&mut self, exists: Option<Expr>, write: impl FnOnce(&mut Self) -> T) -> T {
        let outside = std::mem::replace(&mut self.exists, exists);
        let result = self.scoped(write);
        self.exists = outside;
        result
    }

    /// In this scope `v` at `index` is `value`.
    pub fn given(&mut self, v: ValueId, index: &[Expr], value: &Expr) {
        self.remember(Key::Value(v, index.to_vec()), value);
    }

    /// In this scope input `v` at `index` is the element at `at` of `tensor`, which is another form of it.
    pub fn given_element(&mut self, v: ValueId, index: &[Expr], tensor: &Buffer, at: &[Expr]) {
        let value = self.loaded(v, tensor.at(at));
        self.remember(Key::Value(v, index.to_vec()), &value);
    }

    /// An element of input `v`, 0 where there is no point, in the register type of its dtype.
    fn loaded(&self, v: ValueId, element: Expr) -> Expr {
        let element = match &self.exists {
            Some(exists) => exists.select(&element, Expr::int(element.ty(), 0)),
            None => element,
        };
        element.cast(dtype::register(self.graph.ty(v).dtype))
    }

    /// From here on nothing that the family has computed is known.
    pub fn unbind(&mut self) {
        self.bound.clear();
    }

    /// Runs `write` in a block: what it names is known only inside.
    pub fn scoped<T>(&mut self, write: impl FnOnce(&mut Self) -> T) -> T {
        self.scopes.push(HashMap::new());
        let result = write(self);
        self.scopes.pop();
        result
    }

    /// Stores the value of output `i` at `index`.
    pub fn store(&mut self, k: &mut Builder, i: usize, index: &[Expr]) -> Result<()> {
        let value = self.value(k, self.output(i), index)?;
        k.store(&self.outputs[i].clone(), index, value);
        Ok(())
    }

    /// Stores `value` as an element of output `i`.
    pub fn store_value(&mut self, k: &mut Builder, i: usize, index: &[Expr], value: Expr) {
        k.store(&self.outputs[i].clone(), index, value);
    }

    /// The value of `v` at `index`, in the register type of its dtype.
    pub fn value(&mut self, k: &mut dyn Writer, v: ValueId, index: &[Expr]) -> Result<Expr> {
        if let Some(bound) = self.bound.get(&v) {
            return Ok(bound.clone());
        }
        let key = Key::Value(v, index.to_vec());
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let value = match self.graph.inputs.iter().position(|&input| input == v) {
            Some(i) => self.loaded(v, self.inputs[i].at(index)),
            None => self.compute(k, v, index)?,
        };
        let value =
            if self.uses[v.index()] > 1 || size(&value) > LONG { self.name(k, &self.hint(v), value) } else { value };
        self.remember(key, &value);
        Ok(value)
    }

    /// [`Values::value`] in the compute type of its dtype.
    pub fn number(&mut self, k: &mut dyn Writer, v: ValueId, index: &[Expr]) -> Result<Expr> {
        let value = self.value(k, v, index)?;
        Ok(value.cast(self.graph.ty(v).dtype.compute()))
    }

    fn compute(&mut self, k: &mut dyn Writer, v: ValueId, index: &[Expr]) -> Result<Expr> {
        let graph = self.graph;
        let node = graph.producer(v);
        let ty = graph.ty(v);
        match &node.op {
            Op::Const { value } => match (value.to_i128_vec(), value.to_f64_vec().first()) {
                (Some(ints), _) if ints.len() == 1 => Ok(Expr::wide_int(dtype::register(ty.dtype), ints[0])),
                (None, Some(&float)) if value.len() == 1 => Ok(Expr::float(dtype::register(ty.dtype), float)),
                _ => self.malformed(format!("a constant of {} elements stands inside", value.len())),
            },
            Op::Iota { axis, .. } => Ok(dtype::round(&index[*axis].cast(ty.dtype.compute()), ty.dtype)),
            Op::DimValue { dim } => Ok(self.dim(k, dim).cast(dtype::register(ty.dtype))),
            Op::Unary(op) => self.unary(k, *op, node.inputs[0], index),
            Op::Binary(op) => self.binary(k, *op, [node.inputs[0], node.inputs[1]], index),
            Op::Compare(op) => self.compare(k, *op, [node.inputs[0], node.inputs[1]], index),
            Op::Select => self.select(k, [node.inputs[0], node.inputs[1], node.inputs[2]], index),
            Op::Cast { to, saturate } => {
                let x = self.value(k, node.inputs[0], index)?;
                self.convert(k, x, graph.ty(node.inputs[0]).dtype, *to, *saturate)
            }
            Op::Quantize { to, axes } => self.quantize(k, node, *to, axes, index),
            Op::Dequantize { axes } => self.dequantize(k, node, axes, index),
            Op::Permute { .. }
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. } => self.view(k, v, index),
            Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. } => self.gathered(k, v, index),
            op => self.malformed(format!("`{}` stands where only elementwise ops, views and gathers may", op.name())),
        }
    }

    /// Names `value` unless that is pointless or impossible here.
    pub fn name(&mut self, k: &mut dyn Writer, name: &str, value: Expr) -> Expr {
        if self.is_guarded() || is_short(&value) {
            return value;
        }
        // The same expression may have a name already.
        let key = Key::Named(value.clone());
        if let Some(known) = self.known(&key) {
            return known;
        }
        let named = k.bind(name, value);
        self.remember(key, &named);
        named
    }

    /// Evaluates under a condition that must hold before anything is loaded.
    pub fn guarded<T>(&mut self, condition: Expr, write: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.guards.push(condition);
        let result = write(self);
        self.guards.pop();
        result
    }

    /// Whether what is being written stands inside a conditional expression.
    fn is_guarded(&self) -> bool {
        !self.guards.is_empty()
    }

    /// Notes a fault where `violated` holds and what is being written is evaluated; `what` says of what.
    pub fn check(&mut self, k: &mut dyn Writer, violated: Expr, what: impl FnOnce() -> String) {
        let guards = self.exists.iter().chain(&self.guards);
        let violated = guards.rfold(violated, |violated, guard| guard.and(violated));
        let key = Key::Checked(violated.clone());
        if violated.as_const() == Some(0) || self.known(&key).is_some() {
            return;
        }
        let arguments = &mut self.arguments;
        let (fault, first) = self.fault.get_or_insert_with(|| {
            arguments.extend([Argument::Fault, Argument::FaultCode]);
            let one = [Expr::index(1)];
            let fault = k.tensor("fault", kiln_tile::DType::I32, &one, Access::ReadWrite);
            (fault, k.scalar("fault_code", kiln_tile::DType::I32))
        });
        // Blocks that write the same points twice, whole tiles and the last one, check one thing.
        let what = what();
        let number = self.checks.iter().position(|known| *known == what).unwrap_or(self.checks.len());
        if number == self.checks.len() {
            self.checks.push(what);
        }
        let code = if number == 0 { first.clone() } else { &*first + number as i64 };
        k.check(violated.clone(), fault, code);
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(key, violated);
        }
    }

    fn known(&self, key: &Key) -> Option<Expr> {
        self.scopes.iter().rev().find_map(|scope| scope.get(key)).cloned()
    }

    fn remember(&mut self, key: Key, value: &Expr) {
        if !self.is_guarded()
            && let Some(scope) = self.scopes.last_mut()
        {
            scope.insert(key, value.clone());
        }
    }

    /// What a value is called in generated code: the end of the model's own name if that is short, else the op.
    pub fn hint(&self, v: ValueId) -> String {
        let node = self.graph.producer(v);
        let own = &self.graph.value(v).name;
        let own = if own.is_empty() { &node.name } else { own };
        let last = own.rsplit(['/', '.']).next().unwrap_or_default();
        if (1..=20).contains(&last.len()) && last.starts_with(|c: char| c.is_ascii_alphabetic()) {
            last.to_owned()
        } else {
            node.op.name().to_owned()
        }
    }
}

/// Whether naming an expression gains nothing.
fn is_short(e: &Expr) -> bool {
    match e.kind() {
        ExprKind::Const(_) | ExprKind::Var(_) => true,
        ExprKind::Cast(x) => x.ty() == kiln_tile::Type::Index && is_short(x),
        _ => false,
    }
}

/// Nodes of an expression.
fn size(e: &Expr) -> usize {
    let mut nodes = 0;
    e.walk(&mut |_| nodes += 1);
    nodes
}
