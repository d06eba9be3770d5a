//! Parsing.

use super::attribute::Reader;
use super::cursor::Cursor;
use crate::{Constraint, Error, Graph, Op, OpCode, Relation, Requirement, Result, TensorType, ValueId};
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

pub(super) fn graph(c: &mut Cursor, depth: usize) -> Result<Graph> {
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
    let Some(code) = OpCode::from_name(mnemonic) else {
        return c.fail(format!("unknown op `{mnemonic}`"));
    };
    let mut attributes = Reader { c: &mut *c, mnemonic, label, literal: None, depth };
    let mut op = Op::read(code, &mut attributes)?;
    if attributes.label.is_some() {
        return c.fail(format!("{mnemonic} takes no label"));
    }
    let types = if attributes.c.eat(":") { Some(types(attributes.c)?) } else { None };
    op.declare(&mut attributes, types.as_deref())?;
    let name = if c.eat("@") { c.string()? } else { String::new() };
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

fn types(c: &mut Cursor) -> Result<Vec<TensorType>> {
    let mut types = vec![c.ty()?];
    while c.eat(",") {
        types.push(c.ty()?);
    }
    Ok(types)
}
