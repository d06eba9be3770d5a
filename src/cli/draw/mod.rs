//! Pictures: the fused plan of an engine as a layered graph, its activation arena over time, a model's graph before fusion,
//! also beside the plan.

mod card;
mod graph;
mod layered;
mod memory;
mod picture;
mod plan;
mod sides;
mod svg;

pub use card::condition;
pub use graph::graph;
pub use memory::memory;
pub use plan::plan;
pub use sides::sides;
pub use svg::round;

use kiln_fuse::{Anchor, Plan, Step};

/// What a step is called.
pub fn step_name<'a>(plan: &'a Plan, step: &Step) -> &'a str {
    match step {
        Step::Run { region, .. } => &plan.regions[*region].name,
        Step::If { .. } => "if",
        Step::Loop { .. } => "loop",
    }
}

/// An anchor as a word and its colour.
pub fn anchor(anchor: Anchor) -> (&'static str, &'static str) {
    match anchor {
        Anchor::Map => ("map", "#64748b"),
        Anchor::Reduce => ("reduce", "#b45309"),
        Anchor::Contract => ("contract", "#c2410c"),
        Anchor::Attention => ("attention", "#7c3aed"),
        Anchor::Conv => ("conv", "#be123c"),
        Anchor::Window => ("window", "#0369a1"),
        Anchor::Index => ("index", "#0f766e"),
        Anchor::Sink => ("sink", "#4d7c0f"),
        Anchor::Alone => ("alone", "#a21caf"),
        Anchor::Kernel => ("kernel", "#0e7490"),
    }
}

/// Colour of control flow.
const CONTROL: &str = "#334155";

/// The colour of a step.
fn colour(plan: &Plan, step: &Step) -> &'static str {
    match step {
        Step::Run { region, .. } => anchor(plan.regions[*region].anchor).1,
        _ => CONTROL,
    }
}

/// Fonts of one width, so that text is as wide as it was thought to be.
const FONT: &str = "text { font-family: 'DejaVu Sans Mono', Menlo, Consolas, monospace; }\n";
