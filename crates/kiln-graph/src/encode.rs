//! Structure as bytes, for hashes that are kept in files: they depend on neither the machine nor the release of Rust, as what is fed to `std::hash` does, nor on how anything
//! is written as text. Sequences and names carry their length, alternatives a tag, so that different structures have different bytes.

use crate::{
    Atom, ConvSpec, DType, Dim, EinsumSpec, Graph, Op, QuantAxes, Relation, Requirement, ScatterOp, Tensor, TensorType,
    WindowSpec,
};
use std::collections::BTreeMap;

/// Writes pieces of graphs as bytes.
#[derive(Clone, Debug, Default)]
pub struct Encoder<'s> {
    out: Vec<u8>,
    /// What symbols are written as; by name without it.
    symbols: Option<&'s BTreeMap<String, u64>>,
    /// Whether the names of inputs and weights are written.
    names: bool,
}

impl<'s> Encoder<'s> {
    /// Symbols are written by name, names of inputs and weights not at all.
    pub fn new() -> Encoder<'static> {
        Encoder::default()
    }

    /// Symbols are written as these numbers: equal numbers stand for symbols that are not told apart.
    pub fn numbering(symbols: &'s BTreeMap<String, u64>) -> Encoder<'s> {
        Encoder { symbols: Some(symbols), ..Encoder::default() }
    }

    pub(crate) fn naming(names: bool) -> Encoder<'static> {
        Encoder { names, ..Encoder::default() }
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    /// A number.
    pub fn number(&mut self, v: u64) {
        self.out.extend_from_slice(&v.to_le_bytes());
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, data: &[u8]) {
        self.number(data.len() as u64);
        self.out.extend_from_slice(data);
    }

    /// A name where names count, else nothing.
    pub(crate) fn name(&mut self, name: &str) {
        self.bytes(if self.names { name.as_bytes() } else { b"" });
    }

    /// An op: its mnemonic, then its attributes. What its result types say is left to those; labels of a contraction count by where they occur.
    pub fn op(&mut self, op: &Op) {
        self.bytes(op.name().as_bytes());
        op.encode(self);
    }

    /// A dtype and dims.
    pub fn ty(&mut self, ty: &TensorType) {
        ty.dtype.encode(self);
        ty.shape.encode(self);
    }

    /// A dim: what does not depend on the order of its operands is in the order of its bytes, not of its symbols' names.
    pub fn dim(&mut self, dim: &Dim) {
        let terms = dim.terms().map(|(atoms, coefficient)| {
            let mut term = self.inner();
            term.number(coefficient as u64);
            let factors = atoms.iter().map(|atom| self.atom(atom)).collect();
            term.sorted(factors);
            term.out
        });
        let terms = terms.collect();
        self.sorted(terms);
    }

    fn atom(&self, atom: &Atom) -> Vec<u8> {
        let mut to = self.inner();
        let (tag, a, b) = match atom {
            Atom::Sym(name) => {
                to.number(0);
                match self.symbols.and_then(|numbers| numbers.get(name)) {
                    Some(number) => to.number(*number),
                    None => to.bytes(name.as_bytes()),
                }
                return to.out;
            }
            Atom::FloorDiv(a, b) => {
                to.number(1);
                to.dim(a);
                to.dim(b);
                return to.out;
            }
            Atom::Min(a, b) => (2, a, b),
            Atom::Max(a, b) => (3, a, b),
            Atom::Broadcast(a, b) => (4, a, b),
        };
        to.number(tag);
        let either = [a, b].map(|d| {
            let mut one = self.inner();
            one.dim(d);
            one.out
        });
        to.sorted(either.into());
        to.out
    }

    /// A requirement; sides that may be exchanged are in the order of their bytes.
    pub fn requirement(&mut self, requirement: &Requirement) {
        let Requirement { left, relation, right } = requirement;
        let mut sides = [left, right].map(|d| {
            let mut one = self.inner();
            one.dim(d);
            one.out
        });
        self.number(match relation {
            Relation::Equal => {
                sides.sort();
                0
            }
            Relation::Broadcasts => 1,
            Relation::AtMost => 2,
            Relation::Multiple => 3,
        });
        sides.iter().for_each(|side| self.bytes(side));
    }

    /// Pieces whose order does not count.
    pub fn sorted(&mut self, mut pieces: Vec<Vec<u8>>) {
        pieces.sort();
        self.number(pieces.len() as u64);
        pieces.iter().for_each(|piece| self.bytes(piece));
    }

    fn inner(&self) -> Encoder<'s> {
        Encoder { out: Vec::new(), ..*self }
    }

    fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| each(self, item));
    }
}

/// What an attribute of an op is made of.
pub(crate) trait Structure {
    /// Writes it.
    fn encode(&self, to: &mut Encoder);
    /// Shows the dims in it, in order.
    fn dims(&self, _: &mut dyn FnMut(&Dim)) {}
    /// [`Structure::dims`] to be changed.
    fn dims_mut(&mut self, _: &mut dyn FnMut(&mut Dim)) {}
}

impl Structure for usize {
    fn encode(&self, to: &mut Encoder) {
        to.number(*self as u64);
    }
}

impl Structure for i64 {
    fn encode(&self, to: &mut Encoder) {
        to.number(*self as u64);
    }
}

impl Structure for bool {
    fn encode(&self, to: &mut Encoder) {
        to.number(u64::from(*self));
    }
}

impl Structure for DType {
    fn encode(&self, to: &mut Encoder) {
        to.bytes(self.name().as_bytes());
    }
}

impl Structure for ScatterOp {
    fn encode(&self, to: &mut Encoder) {
        to.bytes(self.name().as_bytes());
    }
}

/// The name of an input or a weight.
impl Structure for String {
    fn encode(&self, to: &mut Encoder) {
        to.name(self);
    }
}

impl Structure for Dim {
    fn encode(&self, to: &mut Encoder) {
        to.dim(self);
    }
    fn dims(&self, f: &mut dyn FnMut(&Dim)) {
        f(self);
    }
    fn dims_mut(&mut self, f: &mut dyn FnMut(&mut Dim)) {
        f(self);
    }
}

impl Structure for Option<Dim> {
    fn encode(&self, to: &mut Encoder) {
        to.list(self.as_slice(), |to, dim| to.dim(dim));
    }
    fn dims(&self, f: &mut dyn FnMut(&Dim)) {
        self.iter().for_each(f);
    }
    fn dims_mut(&mut self, f: &mut dyn FnMut(&mut Dim)) {
        self.iter_mut().for_each(f);
    }
}

impl<T: Structure> Structure for Vec<T> {
    fn encode(&self, to: &mut Encoder) {
        to.list(self, |to, item| item.encode(to));
    }
    fn dims(&self, f: &mut dyn FnMut(&Dim)) {
        self.iter().for_each(|item| item.dims(f));
    }
    fn dims_mut(&mut self, f: &mut dyn FnMut(&mut Dim)) {
        self.iter_mut().for_each(|item| item.dims_mut(f));
    }
}

impl Structure for (usize, usize) {
    fn encode(&self, to: &mut Encoder) {
        self.0.encode(to);
        self.1.encode(to);
    }
}

/// Labels as numbers in the order in which they first occur.
impl Structure for EinsumSpec {
    fn encode(&self, to: &mut Encoder) {
        let EinsumSpec { lhs, rhs, out } = self;
        let mut seen: Vec<char> = Vec::new();
        for labels in [lhs, rhs, out] {
            to.list(labels, |to, label| {
                let at = seen.iter().position(|s| s == label).unwrap_or_else(|| {
                    seen.push(*label);
                    seen.len() - 1
                });
                to.number(at as u64);
            });
        }
    }
}

impl Structure for ConvSpec {
    fn encode(&self, to: &mut Encoder) {
        let ConvSpec { strides, pads, dilations, groups } = self;
        strides.encode(to);
        pads.encode(to);
        dilations.encode(to);
        groups.encode(to);
    }
}

impl Structure for WindowSpec {
    fn encode(&self, to: &mut Encoder) {
        let WindowSpec { window, strides, pads, dilations } = self;
        window.encode(to);
        strides.encode(to);
        pads.encode(to);
        dilations.encode(to);
    }
}

impl Structure for QuantAxes {
    fn encode(&self, to: &mut Encoder) {
        match self {
            QuantAxes::Tensor => to.number(0),
            QuantAxes::Axis(axis) => {
                to.number(1);
                axis.encode(to);
            }
            QuantAxes::Block { axis, block } => {
                to.number(2);
                axis.encode(to);
                block.encode(to);
            }
        }
    }
}

impl Structure for TensorType {
    fn encode(&self, to: &mut Encoder) {
        to.ty(self);
    }
    fn dims(&self, f: &mut dyn FnMut(&Dim)) {
        self.shape.dims(f);
    }
    fn dims_mut(&mut self, f: &mut dyn FnMut(&mut Dim)) {
        self.shape.dims_mut(f);
    }
}

/// Its elements; their type is that of the result.
impl Structure for Tensor {
    fn encode(&self, to: &mut Encoder) {
        to.bytes(self.data());
    }
}

/// Its structure. Symbols inside are the graph's own, and go by name.
impl Structure for Box<Graph> {
    fn encode(&self, to: &mut Encoder) {
        to.bytes(&crate::canonical::encode(self, to.names));
    }
}
