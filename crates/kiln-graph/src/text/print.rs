//! Printing.

use super::attribute::Text;
use crate::{DType, Graph, Op, Tensor};
use std::fmt::{self, Write};

/// Literals of at most this many elements are printed as numbers, longer ones as hexadecimal bytes.
const MAX_NUMBERS: usize = 64;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        graph(&mut text, self, 0)?;
        f.write_str(&text)
    }
}

fn graph(out: &mut String, g: &Graph, depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth + 1);
    writeln!(out, "graph {} {{", quoted(&g.name))?;
    for (name, (low, high)) in g.symbols.iter() {
        writeln!(out, "{pad}symbol {} {low}..={high}", quoted(name))?;
    }
    for c in &g.constraints {
        writeln!(out, "{pad}constraint {} {}", c.requirement, quoted(&c.why))?;
    }
    for node in &g.nodes {
        out.push_str(&pad);
        for (i, id) in node.outputs.iter().enumerate() {
            write!(out, "{}%{}", if i > 0 { ", " } else { "" }, id.0)?;
            let name = &g.value(*id).name;
            if !name.is_empty() {
                write!(out, " {}", quoted(name))?;
            }
        }
        if !node.outputs.is_empty() {
            out.push_str(" = ");
        }
        out.push_str(node.op.name());
        let (label, rest) = attributes(&node.op);
        if !label.is_empty() {
            write!(out, " {label}")?;
        }
        if !node.inputs.is_empty() {
            let operands: Vec<String> = node.inputs.iter().map(|id| format!("%{}", id.0)).collect();
            write!(out, " ({})", operands.join(", "))?;
        }
        if !rest.is_empty() {
            write!(out, " {rest}")?;
        }
        for (what, sub) in node.op.subgraphs() {
            write!(out, " {what} ")?;
            graph(out, sub, depth + 1)?;
        }
        if !node.outputs.is_empty() {
            let types: Vec<String> = node.outputs.iter().map(|id| g.ty(*id).to_string()).collect();
            write!(out, " : {}", types.join(", "))?;
        }
        if !node.name.is_empty() {
            write!(out, " @{}", quoted(&node.name))?;
        }
        out.push('\n');
    }
    let in_order = g.nodes.iter().filter(|n| matches!(n.op, Op::Input { .. })).flat_map(|n| &n.outputs);
    if !in_order.eq(&g.inputs) {
        let ids: Vec<String> = g.inputs.iter().map(|id| format!("%{}", id.0)).collect();
        writeln!(out, "{pad}inputs {}", ids.join(", "))?;
    }
    for (name, id) in &g.outputs {
        writeln!(out, "{pad}output {} = %{}", quoted(name), id.0)?;
    }
    write!(out, "{}}}", "  ".repeat(depth))?;
    if depth == 0 {
        out.push('\n');
    }
    Ok(())
}

/// The label that follows the mnemonic, and the attributes that follow the operands. Subgraphs and result types are not part of them.
pub(crate) fn attributes(op: &Op) -> (String, String) {
    let mut text = Text::default();
    op.print(&mut text);
    let rest = text.rest();
    (text.label, rest)
}

pub(super) fn list<T: fmt::Display>(items: &[T]) -> String {
    format!("[{}]", items.iter().map(T::to_string).collect::<Vec<_>>().join(", "))
}

/// A string literal, with JSON's escapes.
pub(super) fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Numbers where they give the exact bytes back, else hexadecimal bytes.
pub(super) fn literal(t: &Tensor) -> String {
    if t.len() <= MAX_NUMBERS {
        let numbers = numbers(t);
        if from_numbers(t.dtype(), t.shape(), &numbers).as_ref() == Some(t) {
            return list(&numbers);
        }
    }
    let mut out = String::with_capacity(3 + 2 * t.data().len());
    out.push_str("hex\"");
    for b in t.data() {
        out.push(char::from_digit(u32::from(b >> 4), 16).unwrap_or('0'));
        out.push(char::from_digit(u32::from(b & 15), 16).unwrap_or('0'));
    }
    out.push('"');
    out
}

fn numbers(t: &Tensor) -> Vec<String> {
    match (t.to_i128_vec(), t.dtype()) {
        (Some(ints), _) => ints.iter().map(i128::to_string).collect(),
        (None, DType::F64) => t.to_f64_vec().iter().map(f64::to_string).collect(),
        // The shortest text that an f32 reads back from also gives the narrower types back.
        (None, _) => t.to_f64_vec().iter().map(|&v| (v as f32).to_string()).collect(),
    }
}

/// A tensor from printed numbers; `None` if one does not parse or the count is wrong.
pub(super) fn from_numbers<S: AsRef<str>>(dtype: DType, shape: &[usize], numbers: &[S]) -> Option<Tensor> {
    if dtype.is_float() {
        let values = numbers.iter().map(|n| n.as_ref().parse().ok()).collect::<Option<Vec<f64>>>()?;
        return Tensor::from_f64(dtype, shape, &values).ok();
    }
    let values = numbers.iter().map(|n| n.as_ref().parse().ok()).collect::<Option<Vec<i128>>>()?;
    let (low, high) = dtype.int_range()?;
    if values.iter().any(|v| !(low..=high).contains(v)) {
        return None;
    }
    Tensor::from_i128(dtype, shape, &values).ok()
}
