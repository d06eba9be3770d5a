//! Attributes in the text form: what prints one and what reads it stand side by side.

use super::cursor::Cursor;
use super::print::{from_numbers, list, literal, quoted};
use crate::{ConvSpec, DType, Dim, EinsumSpec, Graph, QuantAxes, Result, ScatterOp, Tensor, TensorType, WindowSpec};

/// The attributes of a node as text.
#[derive(Default)]
pub(crate) struct Text {
    /// What follows the mnemonic, quoted.
    pub label: String,
    /// What follows the operands.
    words: Vec<String>,
}

impl Text {
    fn key(&mut self, key: &str, value: impl std::fmt::Display) {
        self.words.push(format!("{key}={value}"));
    }

    /// What follows the operands.
    pub fn rest(&self) -> String {
        self.words.join(" ")
    }
}

/// Where attributes are read from.
pub(crate) struct Reader<'c, 'a> {
    pub(super) c: &'c mut Cursor<'a>,
    pub(super) mnemonic: &'a str,
    /// The label, until an attribute takes it.
    pub(super) label: Option<String>,
    /// Values of a literal, whose type comes later.
    pub(super) literal: Option<Literal>,
    /// Subgraphs around this one.
    pub(super) depth: usize,
}

/// Values of a literal, whose dtype and shape come later in the statement.
pub(super) enum Literal {
    Numbers(Vec<String>),
    Bytes(Vec<u8>),
}

/// An attribute of an op. Its key is the field's name, or what the table of ops has instead.
pub(crate) trait Attribute: Sized {
    /// Adds it to the text of a node; nothing for what is said elsewhere.
    fn print(&self, key: &str, to: &mut Text);
    /// Reads it.
    fn read(key: &str, from: &mut Reader) -> Result<Self>;
    /// Completes what the result types tell, which come last.
    fn declare(&mut self, _: &mut Reader, _: Option<&[TensorType]>) -> Result<()> {
        Ok(())
    }
    /// The graph that it is.
    fn graph(&self) -> Option<&Graph> {
        None
    }
}

impl Reader<'_, '_> {
    /// `key=`.
    fn key(&mut self, key: &str) -> Result<()> {
        if !self.c.eat_word(key) {
            return self.c.expected(&format!("`{key}=`"));
        }
        self.c.need("=")
    }

    fn numbers<T: std::str::FromStr>(&mut self, key: &str) -> Result<Vec<T>> {
        self.key(key)?;
        self.c.list(Cursor::number)
    }

    fn pads(&mut self) -> Result<Vec<(usize, usize)>> {
        self.key("pads")?;
        self.c.list(|c| {
            let before = c.number()?;
            c.need(":")?;
            Ok((before, c.number()?))
        })
    }
}

fn pairs(items: &[(usize, usize)]) -> String {
    let items: Vec<String> = items.iter().map(|(a, b)| format!("{a}:{b}")).collect();
    list(&items)
}

impl Attribute for usize {
    fn print(&self, key: &str, to: &mut Text) {
        to.key(key, self);
    }
    fn read(key: &str, from: &mut Reader) -> Result<usize> {
        from.key(key)?;
        from.c.number()
    }
}

/// A word that is there or not.
impl Attribute for bool {
    fn print(&self, key: &str, to: &mut Text) {
        if *self {
            to.words.push(key.to_owned());
        }
    }
    fn read(key: &str, from: &mut Reader) -> Result<bool> {
        Ok(from.c.eat_word(key))
    }
}

impl Attribute for DType {
    fn print(&self, key: &str, to: &mut Text) {
        to.key(key, self);
    }
    fn read(key: &str, from: &mut Reader) -> Result<DType> {
        from.key(key)?;
        from.c.dtype()
    }
}

impl Attribute for ScatterOp {
    fn print(&self, key: &str, to: &mut Text) {
        to.key(key, self);
    }
    fn read(key: &str, from: &mut Reader) -> Result<ScatterOp> {
        from.key(key)?;
        let word = from.c.word()?;
        match ScatterOp::from_name(word) {
            Some(op) => Ok(op),
            None => from.c.fail(format!("unknown scatter op `{word}`")),
        }
    }
}

/// Without a key, a label; else a string after it.
impl Attribute for String {
    fn print(&self, key: &str, to: &mut Text) {
        match key {
            "" => to.label = quoted(self),
            key => to.key(key, quoted(self)),
        }
    }
    fn read(key: &str, from: &mut Reader) -> Result<String> {
        if !key.is_empty() {
            from.key(key)?;
            return from.c.string();
        }
        match from.label.take() {
            Some(label) => Ok(label),
            None => from.c.fail(format!("{} needs a name", from.mnemonic)),
        }
    }
}

/// In brackets, which stand alone without a key.
impl Attribute for Dim {
    fn print(&self, key: &str, to: &mut Text) {
        match key {
            "" => to.words.push(format!("[{self}]")),
            key => to.key(key, format_args!("[{self}]")),
        }
    }
    fn read(key: &str, from: &mut Reader) -> Result<Dim> {
        if !key.is_empty() {
            from.key(key)?;
        }
        let mut dims = from.c.dims()?;
        match (dims.pop(), dims.is_empty()) {
            (Some(d), true) => Ok(d),
            _ => from.c.fail("expected one dimension in brackets"),
        }
    }
}

impl Attribute for Option<Dim> {
    fn print(&self, key: &str, to: &mut Text) {
        if let Some(dim) = self {
            dim.print(key, to);
        }
    }
    fn read(key: &str, from: &mut Reader) -> Result<Option<Dim>> {
        if from.c.peek_word() == key { Dim::read(key, from).map(Some) } else { Ok(None) }
    }
}

impl Attribute for Vec<Dim> {
    fn print(&self, key: &str, to: &mut Text) {
        to.key(key, list(self));
    }
    fn read(key: &str, from: &mut Reader) -> Result<Vec<Dim>> {
        from.key(key)?;
        from.c.dims()
    }
}

impl Attribute for Vec<usize> {
    fn print(&self, key: &str, to: &mut Text) {
        to.key(key, list(self));
    }
    fn read(key: &str, from: &mut Reader) -> Result<Vec<usize>> {
        from.numbers(key)
    }
}

impl Attribute for Vec<i64> {
    fn print(&self, key: &str, to: &mut Text) {
        to.key(key, list(self));
    }
    fn read(key: &str, from: &mut Reader) -> Result<Vec<i64>> {
        from.numbers(key)
    }
}

/// The label.
impl Attribute for EinsumSpec {
    fn print(&self, _: &str, to: &mut Text) {
        let [l, r, o]: [String; 3] = [&self.lhs, &self.rhs, &self.out].map(|s| s.iter().collect());
        to.label = quoted(&format!("{l},{r}->{o}"));
    }
    fn read(_: &str, from: &mut Reader) -> Result<EinsumSpec> {
        let label = from.label.take().unwrap_or_default();
        let parts = label.split_once("->").and_then(|(i, o)| i.split_once(',').map(|(l, r)| [l, r, o]));
        match parts.map(|p| p.map(|s| s.chars().collect::<Vec<char>>())) {
            Some([lhs, rhs, out]) => Ok(EinsumSpec { lhs, rhs, out }),
            None => from.c.fail(format!("expected labels like \"mk,kn->mn\", found \"{label}\"")),
        }
    }
}

/// Keys of its own.
impl Attribute for ConvSpec {
    fn print(&self, _: &str, to: &mut Text) {
        to.key("strides", list(&self.strides));
        to.key("pads", pairs(&self.pads));
        to.key("dilations", list(&self.dilations));
        to.key("groups", self.groups);
    }
    fn read(_: &str, from: &mut Reader) -> Result<ConvSpec> {
        let (strides, pads) = (from.numbers("strides")?, from.pads()?);
        Ok(ConvSpec { strides, pads, dilations: from.numbers("dilations")?, groups: usize::read("groups", from)? })
    }
}

/// Keys of its own.
impl Attribute for WindowSpec {
    fn print(&self, _: &str, to: &mut Text) {
        to.key("window", list(&self.window));
        to.key("strides", list(&self.strides));
        to.key("pads", pairs(&self.pads));
        to.key("dilations", list(&self.dilations));
    }
    fn read(_: &str, from: &mut Reader) -> Result<WindowSpec> {
        let (window, strides) = (from.numbers("window")?, from.numbers("strides")?);
        Ok(WindowSpec { window, strides, pads: from.pads()?, dilations: from.numbers("dilations")? })
    }
}

/// `per_tensor`, or keys of its own.
impl Attribute for QuantAxes {
    fn print(&self, _: &str, to: &mut Text) {
        match self {
            QuantAxes::Tensor => to.words.push("per_tensor".to_owned()),
            QuantAxes::Axis(axis) => to.key("axis", axis),
            QuantAxes::Block { axis, block } => {
                to.key("axis", axis);
                to.key("block", block);
            }
        }
    }
    fn read(_: &str, from: &mut Reader) -> Result<QuantAxes> {
        if from.c.eat_word("per_tensor") {
            return Ok(QuantAxes::Tensor);
        }
        let axis = usize::read("axis", from)?;
        if from.c.peek_word() == "block" {
            return Ok(QuantAxes::Block { axis, block: usize::read("block", from)? });
        }
        Ok(QuantAxes::Axis(axis))
    }
}

/// The one result type.
impl Attribute for TensorType {
    fn print(&self, _: &str, _: &mut Text) {}
    fn read(_: &str, _: &mut Reader) -> Result<TensorType> {
        Ok(TensorType { dtype: DType::Bool, shape: Vec::new() })
    }
    fn declare(&mut self, from: &mut Reader, types: Option<&[TensorType]>) -> Result<()> {
        let Some([ty]) = types else {
            return from.c.fail("this op needs exactly one type after `:`");
        };
        self.clone_from(ty);
        Ok(())
    }
}

/// All result types.
impl Attribute for Vec<TensorType> {
    fn print(&self, _: &str, _: &mut Text) {}
    fn read(_: &str, _: &mut Reader) -> Result<Vec<TensorType>> {
        Ok(Vec::new())
    }
    fn declare(&mut self, _: &mut Reader, types: Option<&[TensorType]>) -> Result<()> {
        *self = types.unwrap_or_default().to_vec();
        Ok(())
    }
}

/// Its elements, of the one result type.
impl Attribute for Tensor {
    fn print(&self, _: &str, to: &mut Text) {
        to.words.push(literal(self));
    }
    fn read(_: &str, from: &mut Reader) -> Result<Tensor> {
        from.literal = Some(if from.c.eat_word("hex") {
            Literal::Bytes(from.c.hex()?)
        } else {
            Literal::Numbers(from.c.list(|c| Ok(c.number_text()?.to_owned()))?)
        });
        Ok(Tensor::raw(DType::Bool, vec![0], bytes::Bytes::new()))
    }
    fn declare(&mut self, from: &mut Reader, types: Option<&[TensorType]>) -> Result<()> {
        let mut ty = TensorType::read("", from)?;
        ty.declare(from, types)?;
        let Some(shape) = ty.const_shape() else {
            return from.c.fail(format!("a literal needs a constant shape, found {ty}"));
        };
        let tensor = match from.literal.take() {
            Some(Literal::Numbers(numbers)) => from_numbers(ty.dtype, &shape, &numbers),
            Some(Literal::Bytes(bytes)) => Tensor::new(ty.dtype, shape, bytes.into()).ok(),
            None => None,
        };
        match tensor {
            Some(tensor) => *self = tensor,
            None => return from.c.fail(format!("the literal does not hold the elements of {ty}")),
        }
        Ok(())
    }
}

/// A graph after its word.
impl Attribute for Box<Graph> {
    fn print(&self, _: &str, _: &mut Text) {}
    fn read(key: &str, from: &mut Reader) -> Result<Box<Graph>> {
        if !from.c.eat_word(key) {
            return from.c.expected(&format!("`{key}`"));
        }
        super::parse::graph(from.c, from.depth + 1).map(Box::new)
    }
    fn graph(&self) -> Option<&Graph> {
        Some(self)
    }
}
