//! Reading ops: the label before the operands and the attributes after them.

use super::cursor::Cursor;
use super::print::from_numbers;
use crate::{
    ArgOp, BinaryOp, CompareOp, ConvSpec, DType, EinsumSpec, Op, QuantAxes, ReduceOp, Result, ScanOp, ScatterOp,
    Tensor, TensorType, UnaryOp, WindowSpec,
};

/// Values of a literal, whose dtype and shape come later in the statement.
pub(super) enum Literal {
    Numbers(Vec<String>),
    Bytes(Vec<u8>),
}

impl Literal {
    pub fn tensor(self, c: &Cursor, ty: &TensorType) -> Result<Tensor> {
        let Some(shape) = ty.const_shape() else {
            return c.fail(format!("a literal needs a constant shape, found {ty}"));
        };
        let tensor = match self {
            Literal::Numbers(numbers) => from_numbers(ty.dtype, &shape, &numbers),
            Literal::Bytes(bytes) => Tensor::new(ty.dtype, shape, bytes.into()).ok(),
        };
        match tensor {
            Some(t) => Ok(t),
            None => c.fail(format!("the literal does not hold the elements of {ty}")),
        }
    }
}

/// `key=value`.
fn key<'a, T>(c: &mut Cursor<'a>, name: &str, read: impl FnOnce(&mut Cursor<'a>) -> Result<T>) -> Result<T> {
    if !c.eat_word(name) {
        return c.expected(&format!("`{name}=`"));
    }
    c.need("=")?;
    read(c)
}

fn number<T: std::str::FromStr>(c: &mut Cursor, name: &str) -> Result<T> {
    key(c, name, Cursor::number)
}

fn numbers<T: std::str::FromStr>(c: &mut Cursor, name: &str) -> Result<Vec<T>> {
    key(c, name, |c| c.list(Cursor::number))
}

fn pads(c: &mut Cursor) -> Result<Vec<(usize, usize)>> {
    key(c, "pads", |c| {
        c.list(|c| {
            let before = c.number()?;
            c.need(":")?;
            Ok((before, c.number()?))
        })
    })
}

fn dtype(c: &mut Cursor, name: &str) -> Result<DType> {
    key(c, name, Cursor::dtype)
}

fn one_dim(c: &mut Cursor) -> Result<crate::Dim> {
    let mut dims = c.dims()?;
    match (dims.pop(), dims.is_empty()) {
        (Some(d), true) => Ok(d),
        _ => c.fail("expected one dimension in brackets"),
    }
}

fn einsum(c: &Cursor, label: &str) -> Result<EinsumSpec> {
    let parts = label.split_once("->").and_then(|(i, o)| i.split_once(',').map(|(l, r)| [l, r, o]));
    match parts.map(|p| p.map(|s| s.chars().collect::<Vec<char>>())) {
        Some([lhs, rhs, out]) => Ok(EinsumSpec { lhs, rhs, out }),
        None => c.fail(format!("expected labels like \"mk,kn->mn\", found \"{label}\"")),
    }
}

fn scatter_op(c: &mut Cursor) -> Result<ScatterOp> {
    let word = key(c, "op", Cursor::word)?;
    match ScatterOp::from_name(word) {
        Some(op) => Ok(op),
        None => c.fail(format!("unknown scatter op `{word}`")),
    }
}

fn quant_axes(c: &mut Cursor) -> Result<QuantAxes> {
    if c.eat_word("per_tensor") {
        return Ok(QuantAxes::Tensor);
    }
    let axis = number(c, "axis")?;
    if c.peek_word() == "block" {
        return Ok(QuantAxes::Block { axis, block: number(c, "block")? });
    }
    Ok(QuantAxes::Axis(axis))
}

pub(super) fn literal(c: &mut Cursor) -> Result<Literal> {
    if c.eat_word("hex") {
        return Ok(Literal::Bytes(c.hex()?));
    }
    Ok(Literal::Numbers(c.list(|c| Ok(c.number_text()?.to_owned()))?))
}

/// The op of a mnemonic, its attributes read from `c`. Ops with a declared type, a literal or subgraphs are the caller's.
pub(super) fn op(c: &mut Cursor, name: &str, label: Option<&str>) -> Result<Op> {
    if let Some(op) = UnaryOp::from_name(name) {
        return Ok(Op::Unary(op));
    }
    if let Some(op) = BinaryOp::from_name(name) {
        return Ok(Op::Binary(op));
    }
    if let Some(op) = CompareOp::from_name(name) {
        return Ok(Op::Compare(op));
    }
    if let Some(op) = ArgOp::from_name(name) {
        return Ok(Op::ArgReduce { op, axis: number(c, "axis")?, last: c.eat_word("last") });
    }
    if let Some(op) = name.strip_prefix("reduce_").and_then(ReduceOp::from_name) {
        return Ok(Op::Reduce { op, axes: numbers(c, "axes")? });
    }
    if let Some(op) = name.strip_prefix("window_").and_then(ReduceOp::from_name) {
        let window = numbers(c, "window")?;
        let strides = numbers(c, "strides")?;
        let spec = WindowSpec { window, strides, pads: pads(c)?, dilations: numbers(c, "dilations")? };
        return Ok(Op::WindowReduce { op, spec });
    }
    if let Some(op) = name.strip_prefix("scan_").and_then(ScanOp::from_name) {
        let axis = number(c, "axis")?;
        let exclusive = c.eat_word("exclusive");
        return Ok(Op::Scan { op, axis, exclusive, reverse: c.eat_word("reverse") });
    }
    Ok(match name {
        "dim" => Op::DimValue { dim: one_dim(c)? },
        "select" => Op::Select,
        "cast" => Op::Cast { to: dtype(c, "to")?, saturate: c.eat_word("saturate") },
        "contract" => {
            let spec = einsum(c, label.unwrap_or_default())?;
            Op::Contract { spec, acc: dtype(c, "acc")?, out: dtype(c, "out")? }
        }
        "conv" => {
            let strides = numbers(c, "strides")?;
            let pads = pads(c)?;
            let dilations = numbers(c, "dilations")?;
            let spec = ConvSpec { strides, pads, dilations, groups: number(c, "groups")? };
            Op::Conv { spec, acc: dtype(c, "acc")?, out: dtype(c, "out")? }
        }
        "permute" => Op::Permute { perm: numbers(c, "perm")? },
        "reshape" => Op::Reshape { shape: key(c, "shape", Cursor::dims)? },
        "broadcast" => Op::Broadcast { shape: key(c, "shape", Cursor::dims)? },
        "slice" => Op::Slice {
            starts: key(c, "starts", Cursor::dims)?,
            sizes: key(c, "sizes", Cursor::dims)?,
            steps: numbers(c, "steps")?,
        },
        "pad" => Op::Pad {
            low: key(c, "low", Cursor::dims)?,
            high: key(c, "high", Cursor::dims)?,
            interior: numbers(c, "interior")?,
        },
        "concat" => Op::Concat { axis: number(c, "axis")? },
        "gather" => Op::Gather { axis: number(c, "axis")? },
        "gather_elements" => Op::GatherElements { axis: number(c, "axis")? },
        "gather_nd" => Op::GatherNd { batch_dims: number(c, "batch_dims")? },
        "scatter_elements" => Op::ScatterElements { axis: number(c, "axis")?, op: scatter_op(c)? },
        "scatter_nd" => Op::ScatterNd { op: scatter_op(c)? },
        "topk" => {
            let axis = number(c, "axis")?;
            let k = key(c, "k", one_dim)?;
            Op::TopK { axis, k, largest: c.eat_word("largest") }
        }
        "quantize" => Op::Quantize { to: dtype(c, "to")?, axes: quant_axes(c)? },
        "dequantize" => Op::Dequantize { axes: quant_axes(c)? },
        _ => return c.fail(format!("unknown op `{name}`")),
    })
}

/// `axis=` of an iota, whose type comes later.
pub(super) fn iota_axis(c: &mut Cursor) -> Result<usize> {
    number(c, "axis")
}

/// `carried=` and `trip=` of a loop.
pub(super) fn loop_attributes(c: &mut Cursor) -> Result<(usize, Option<crate::Dim>)> {
    let carried = number(c, "carried")?;
    let trip = if c.peek_word() == "trip" { Some(key(c, "trip", one_dim)?) } else { None };
    Ok((carried, trip))
}
