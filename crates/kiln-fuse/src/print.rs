//! The text form of a plan, for people and golden tests: buffers and steps in order, then the graph of every region.

use crate::plan::{BufferId, BufferKind, Plan, Step};
use std::fmt::{self, Display, Formatter};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        plan(f, self, 0)?;
        regions(f, self)
    }
}

fn regions(f: &mut Formatter<'_>, p: &Plan) -> fmt::Result {
    for region in &p.regions {
        write!(f, "\n{}: {}\n{}", region.name, region.summary, region.graph)?;
    }
    p.steps.iter().flat_map(Step::nested).try_for_each(|(_, inner)| regions(f, inner))
}

fn plan(f: &mut Formatter<'_>, p: &Plan, depth: usize) -> fmt::Result {
    let pad = "  ".repeat(depth + 1);
    writeln!(f, "plan {:?} {{", p.name)?;
    for (name, (low, high)) in p.symbols.iter() {
        writeln!(f, "{pad}symbol {name:?} {low}..={high}")?;
    }
    for (i, buffer) in p.buffers.iter().enumerate() {
        let (what, name) = match &buffer.kind {
            BufferKind::Input(name) => ("input", name),
            BufferKind::Weight(name) => ("weight", name),
            BufferKind::Temp => continue,
        };
        match buffer.alias_of {
            None => writeln!(f, "{pad}%{i} = {what} {name:?} : {}", buffer.ty)?,
            Some(of) => writeln!(f, "{pad}%{i} = alias (%{}) : {}", of.0, buffer.ty)?,
        }
    }
    for step in &p.steps {
        let what = match step {
            Step::Run { region, .. } => p.regions[*region].name.clone(),
            Step::If { .. } => "if".to_owned(),
            Step::Loop { .. } => "loop".to_owned(),
        };
        let (inputs, outputs) = (step.operands(), step.results());
        let types: Vec<String> = outputs.iter().map(|o| p.buffers[o.index()].ty.to_string()).collect();
        write!(f, "{pad}{} = {what} ({})", list(outputs), list(&inputs))?;
        for (word, inner) in step.nested() {
            write!(f, " {word} ")?;
            plan(f, inner, depth + 1)?;
        }
        writeln!(f, " : {}", types.join(", "))?;
        for (i, buffer) in p.buffers.iter().enumerate() {
            if let (BufferKind::Temp, Some(of)) = (&buffer.kind, buffer.alias_of)
                && outputs.contains(&of)
            {
                writeln!(f, "{pad}%{i} = alias (%{}) : {}", of.0, buffer.ty)?;
            }
        }
    }
    for (name, id) in &p.outputs {
        writeln!(f, "{pad}output {name:?} = %{}", id.0)?;
    }
    write!(f, "{}}}", "  ".repeat(depth))?;
    if depth == 0 { writeln!(f) } else { Ok(()) }
}

fn list(ids: &[BufferId]) -> String {
    ids.iter().map(|id| format!("%{}", id.0)).collect::<Vec<_>>().join(", ")
}
