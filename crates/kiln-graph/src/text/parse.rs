//! Parsing.

use super::cursor::Cursor;
use super::op::{Literal, iota_axis, literal, loop_attributes, op};
use crate::{Constraint, Error, Graph, Op, Relation, Requirement, Result, TensorType, ValueId};
use std::collections::HashMap;
use std::str::FromStr;

/// Deepest nesting of subgraphs that the parser follows.
const MAX_DEPTH: usize = 16;

impl FromStr for Graph {
    type Err = Error;

    fn from_str(text: &str) -> Result<Graph> {
        let mut c = Cursor { text, at: 0 };
        let graph = graph(&mut c, 0)?;
        if c.peek().is_some() {
            return c.expected("the end");
        }
        Ok(graph)
    }
}

fn graph(c: &mut Cursor, depth: usize) -> Result<Graph> {
    if depth > MAX_DEPTH {
        return c.fail(format!("subgraphs nest deeper than {MAX_DEPTH}"));
    }
    if !c.eat_word("graph") {
        return c.expected("`graph`");
    }
    let mut g = Graph::new(c.string()?);
    let mut names: HashMap<&str, ValueId> = HashMap::new();
    c.need("{")?;
    while !c.eat("}") {
        if c.eat_word("symbol") {
            let name = c.string()?;
            let low = c.number()?;
            c.need("..=")?;
            g.symbols.declare(&name, low, c.number()?);
        } else if c.eat_word("inputs") {
            let mut inputs = vec![value(c, &names)?];
            while c.eat(",") {
                inputs.push(value(c, &names)?);
            }
            g.inputs = inputs;
        } else if c.eat_word("constraint") {
            c.need("[")?;
            let left = c.dim()?;
            c.need("]")?;
            let relation = if c.eat("->") {
                Relation::Broadcasts
            } else if c.eat("<=") {
                Relation::AtMost
            } else if c.eat("%") {
                Relation::Multiple
            } else {
                c.need("==")?;
                Relation::Equal
            };
            c.need("[")?;
            let right = c.dim()?;
            c.need("]")?;
            g.constraints.push(Constraint { requirement: Requirement { left, relation, right }, why: c.string()? });
        } else if c.eat_word("output") {
            let name = c.string()?;
            c.need("=")?;
            let id = value(c, &names)?;
            g.outputs.push((name, id));
        } else {
            node(c, &mut g, &mut names, depth)?;
        }
    }
    Ok(g)
}

fn value(c: &mut Cursor, names: &HashMap<&str, ValueId>) -> Result<ValueId> {
    let name = c.value()?;
    match names.get(name) {
        Some(id) => Ok(*id),
        None => c.fail(format!("`%{name}` is not defined above")),
    }
}

/// What of an op is known before its types are read.
enum Pending {
    Ready(Op),
    Input(String),
    Weight(String),
    Const(Literal),
    Iota(usize),
}

fn node<'a>(c: &mut Cursor<'a>, g: &mut Graph, names: &mut HashMap<&'a str, ValueId>, depth: usize) -> Result<()> {
    let mut results: Vec<(&str, String)> = Vec::new();
    if c.peek() == Some('%') {
        loop {
            let name = c.value()?;
            let public = if c.peek() == Some('"') { c.string()? } else { String::new() };
            results.push((name, public));
            if !c.eat(",") {
                break;
            }
        }
        c.need("=")?;
    }
    let mnemonic = c.word()?;
    let label = if c.peek() == Some('"') { Some(c.string()?) } else { None };
    let mut operands = Vec::new();
    if c.eat("(") && !c.eat(")") {
        operands.push(value(c, names)?);
        while c.eat(",") {
            operands.push(value(c, names)?);
        }
        c.need(")")?;
    }
    let pending = pending(c, mnemonic, label, depth)?;
    let types = if c.eat(":") { Some(types(c)?) } else { None };
    let name = if c.eat("@") { c.string()? } else { String::new() };
    let op = complete(c, pending, types.as_deref())?;
    let ids = match g.add(op, &operands, &name) {
        Ok(ids) => ids,
        Err(e) => return c.fail(e.to_string()),
    };
    if ids.len() != results.len() {
        return c.fail(format!("{mnemonic} gives {} results, found {} names", ids.len(), results.len()));
    }
    if let Some(types) = types {
        if types.len() != ids.len() {
            return c.fail(format!("{mnemonic} gives {} results, found {} types", ids.len(), types.len()));
        }
        for (&id, ty) in ids.iter().zip(types) {
            crate::verify::same_type(g, &ty, g.ty(id)).or_else(|message| c.fail(format!("{mnemonic}: {message}")))?;
            g.values[id.index()].ty = ty;
        }
    }
    for (id, (name, public)) in ids.into_iter().zip(results) {
        g.values[id.index()].name = public;
        if names.insert(name, id).is_some() {
            return c.fail(format!("`%{name}` is defined twice"));
        }
    }
    Ok(())
}

fn pending(c: &mut Cursor, mnemonic: &str, label: Option<String>, depth: usize) -> Result<Pending> {
    if !matches!(mnemonic, "input" | "weight" | "contract") && label.is_some() {
        return c.fail(format!("{mnemonic} takes no label"));
    }
    let name = |c: &Cursor| match &label {
        Some(name) => Ok(name.clone()),
        None => c.fail(format!("{mnemonic} needs a name")),
    };
    Ok(match mnemonic {
        "input" => Pending::Input(name(c)?),
        "weight" => Pending::Weight(name(c)?),
        "const" => Pending::Const(literal(c)?),
        "iota" => Pending::Iota(iota_axis(c)?),
        "if" => {
            let then_graph = Box::new(subgraph(c, "then", depth)?);
            Pending::Ready(Op::If { then_graph, else_graph: Box::new(subgraph(c, "else", depth)?) })
        }
        "loop" => {
            let (carried, trip) = loop_attributes(c)?;
            Pending::Ready(Op::Loop { body: Box::new(subgraph(c, "body", depth)?), carried, trip })
        }
        _ => Pending::Ready(op(c, mnemonic, label.as_deref())?),
    })
}

fn subgraph(c: &mut Cursor, word: &str, depth: usize) -> Result<Graph> {
    if !c.eat_word(word) {
        return c.expected(&format!("`{word}`"));
    }
    graph(c, depth + 1)
}

fn types(c: &mut Cursor) -> Result<Vec<TensorType>> {
    let mut types = vec![c.ty()?];
    while c.eat(",") {
        types.push(c.ty()?);
    }
    Ok(types)
}

fn complete(c: &Cursor, pending: Pending, types: Option<&[TensorType]>) -> Result<Op> {
    let one = || match types {
        Some([ty]) => Ok(ty.clone()),
        _ => c.fail("this op needs exactly one type after `:`"),
    };
    Ok(match pending {
        Pending::Ready(op) => op,
        Pending::Input(name) => Op::Input { name, ty: one()? },
        Pending::Weight(name) => Op::Weight { name, ty: one()? },
        Pending::Const(literal) => Op::Const { value: literal.tensor(c, &one()?)? },
        Pending::Iota(axis) => Op::Iota { ty: one()?, axis },
    })
}
