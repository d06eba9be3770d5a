//! What the box of a step, and the label of a buffer, say.

use super::svg::{fit, width, wrap};
use super::{CONTROL, anchor, step_name};
use crate::cli::profile::Profile;
use kiln_engine::{Compiled, Variant};
use kiln_fuse::{BufferKind, Plan, RegionId, Step};
use kiln_graph::{Dim, Op};
use std::collections::BTreeMap;

/// Width of a step's box.
pub const WIDTH: f64 = 400.0;
/// Sizes of its title and text.
pub const TITLE: f64 = 12.5;
pub const TEXT: f64 = 10.5;
/// Height of the title's bar, and of a line.
pub const BAR: f64 = 24.0;
pub const LINE: f64 = 15.0;
/// Beside text.
pub const PAD: f64 = 12.0;

/// A step's box.
pub struct Card {
    pub step: usize,
    pub title: String,
    /// Title in full, and the model's nodes.
    pub hint: String,
    pub colour: &'static str,
    /// Class and text.
    pub lines: Vec<(&'static str, String)>,
    /// Milliseconds, and the part of all steps' and of the longest step's time.
    pub time: Option<(f64, f64, f64)>,
}

impl Card {
    pub fn height(&self) -> f64 {
        BAR + self.lines.len() as f64 * LINE + 10.0
    }
}

/// The kernels of regions.
pub type Kernels = BTreeMap<RegionId, Compiled>;

/// When a variant runs, where its region has several; with `symbols` in the place of the region's.
pub fn condition(compiled: &Compiled, variant: &Variant, symbols: &BTreeMap<String, Dim>) -> String {
    match compiled.variants.len() {
        0 | 1 => String::new(),
        _ if variant.guard.is_always() => " otherwise".into(),
        _ => format!(" if {}", variant.guard.substitute(symbols)),
    }
}

/// The box of step `i`. `kernels` has those of the plan's regions, none on the CPU; `profile` is of this plan.
pub fn card(plan: &Plan, i: usize, kernels: &Kernels, profile: Option<&Profile>) -> Card {
    let step = &plan.steps[i];
    let room = WIDTH - 2.0 * PAD;
    let mut lines = Vec::new();
    let time = profile.map(|p| (p.kernels[i].ms, p.kernels.iter().map(|k| k.ms)));
    let time = time.map(|(ms, all)| (ms, ms / all.clone().sum::<f64>().max(1e-12), ms / all.fold(1e-12, f64::max)));
    let mut hint = step_name(plan, step).to_owned();
    let mut colour = CONTROL;
    match step {
        Step::Run { region, nodes, symbols, .. } => {
            let region = &plan.regions[*region];
            let compiled = kernels.get(&region.identity());
            let profiled = profile.and_then(|p| p.kernels[i].implementation.as_deref());
            let (word, paint) = anchor(region.anchor);
            colour = paint;
            hint = format!("{hint}: {}\nnodes: {}", region.summary, nodes.join(", "));
            lines.extend(wrap(&region.summary, TEXT, room, 2).into_iter().map(|line| ("summary", line)));
            // A copy has none.
            let ops = Some(ops(&region.graph)).filter(|ops| !ops.is_empty());
            let ops = ops.map(|ops| wrap(&format!("ops: {ops}"), TEXT, room, 3));
            lines.extend(ops.into_iter().flatten().map(|line| ("ops", line)));
            let implementation = match (compiled, profiled) {
                (Some(compiled), _) => {
                    // What the picture says of buffers is in the plan's symbols.
                    let here = symbols.iter().map(|(own, outer)| (own.clone(), Dim::sym(outer.clone()))).collect();
                    let ways = compiled.variants.iter().map(|variant| {
                        let made = &variant.implementation;
                        let entries: Vec<&str> = made.kernels.iter().map(|kernel| kernel.entry.as_str()).collect();
                        format!("{}: {}{}", made.family, entries.join(", "), condition(compiled, variant, &here))
                    });
                    format!("{word} by {}", ways.collect::<Vec<_>>().join("; "))
                }
                (None, Some(profiled)) => format!("{word} by {profiled}"),
                (None, None) => word.to_owned(),
            };
            lines.push(("implementation", fit(&implementation, TEXT, room)));
        }
        Step::If { .. } | Step::Loop { .. } => {}
    }
    for buffer in step.operands().into_iter().map(|id| &plan.buffers[plan.root(id).index()]) {
        if let BufferKind::Weight(name) = &buffer.kind {
            let ty = buffer.ty.to_string();
            let name = fit(name, TEXT, room - width(&format!("weight  {ty}"), TEXT));
            lines.push(("weight", fit(&format!("weight {name} {ty}"), TEXT, room)));
        }
    }
    let share = time.map_or(String::new(), |(ms, share, _)| format!(" {:.1} % · {ms:.3} ms", 100.0 * share));
    let number = format!("#{i} ");
    let name = fit(step_name(plan, step), TITLE, room - width(&format!("{number}{share}"), TITLE));
    Card { step: i, title: number + &name, hint, colour, lines, time }
}

/// Mnemonics in order, with counts: `contract, add, mul x2`.
fn ops(graph: &kiln_graph::Graph) -> String {
    let operand = |op: &Op| matches!(op, Op::Input { .. } | Op::Weight { .. } | Op::Const { .. });
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for node in graph.nodes.iter().filter(|node| !operand(&node.op)) {
        match counts.iter_mut().find(|(name, _)| *name == node.op.name()) {
            Some((_, count)) => *count += 1,
            None => counts.push((node.op.name(), 1)),
        }
    }
    let one = |(name, count): &(&str, usize)| if *count > 1 { format!("{name} x{count}") } else { (*name).to_owned() };
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A buffer's label: it, what is the same memory under another shape, and what it is to the caller.
pub struct Label {
    pub buffer: usize,
    pub lines: Vec<String>,
    pub class: &'static str,
    pub hint: String,
}

/// Most characters of a name in a label.
const NAME: f64 = 30.0 * TEXT * 0.61;

impl Label {
    pub fn of(plan: &Plan, buffer: usize) -> Label {
        let aliases =
            plan.buffers.iter().enumerate().filter(|(_, b)| b.alias_of.is_some_and(|of| of.index() == buffer));
        let line = |i: usize, before: &str| {
            let b = &plan.buffers[i];
            let name = fit(name(plan, i), TEXT, NAME);
            let gap = if name.is_empty() { "" } else { " " };
            format!("{before}%{i} {name}{gap}{}", b.ty)
        };
        let outputs: Vec<&str> = plan
            .outputs
            .iter()
            .filter(|(_, id)| plan.root(*id).index() == buffer)
            .map(|(name, _)| name.as_str())
            .collect();
        let (class, before) = match (&plan.buffers[buffer].kind, outputs.is_empty()) {
            (BufferKind::Input(_), _) => ("input", "input "),
            (_, false) => ("output", ""),
            _ => ("temp", ""),
        };
        let mut lines = vec![line(buffer, before)];
        lines.extend(aliases.map(|(i, _)| line(i, "as ")));
        lines.extend(outputs.iter().map(|name| format!("output {}", fit(name, TEXT, NAME))));
        let hint = format!("%{buffer} {}", name(plan, buffer));
        Label { buffer, lines, class, hint }
    }

    pub fn width(&self) -> f64 {
        self.lines.iter().map(|line| width(line, TEXT)).fold(0.0, f64::max) + 2.0 * PAD
    }

    pub fn height(&self) -> f64 {
        self.lines.len() as f64 * LINE + 5.0
    }
}

/// What people know a buffer by; may be empty.
pub fn name(plan: &Plan, buffer: usize) -> &str {
    let buffer = &plan.buffers[buffer];
    match &buffer.kind {
        BufferKind::Input(name) | BufferKind::Weight(name) => name,
        BufferKind::Temp => &buffer.name,
    }
}
