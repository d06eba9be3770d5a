//! What fusion does, step by step, and what each step leaves behind.

use std::fmt::Display;
use std::time::Instant;

/// A step of [`crate::fuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Moves what loops repeat in vain before them.
    Hoist,
    /// Puts the graph into an e-graph.
    Build,
    /// Rewrites it until no rule finds anything new.
    Saturate,
    /// Drops cycles, and numbers the classes so that operands come first.
    Order,
    /// Finds the functions that there are kernels for.
    Match,
    /// Chooses the cuts.
    Select,
    /// Makes the plan.
    Emit,
}

impl Pass {
    /// All of them, in order.
    pub const ALL: [Pass; 7] =
        [Pass::Hoist, Pass::Build, Pass::Saturate, Pass::Order, Pass::Match, Pass::Select, Pass::Emit];

    /// Its name, one word.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Hoist => "hoist",
            Pass::Build => "build",
            Pass::Saturate => "saturate",
            Pass::Order => "order",
            Pass::Match => "match",
            Pass::Select => "select",
            Pass::Emit => "emit",
        }
    }

    /// What it leaves behind.
    pub fn leaves(self) -> &'static str {
        match self {
            Pass::Hoist => "the graph, with what loops repeat in vain moved before them",
            Pass::Build => "the e-graph of the model",
            Pass::Saturate => "the e-graph after rewriting, how it ended, which rules fired",
            Pass::Order => "the classes that results are computed from, operands first",
            Pass::Match => "where the functions are that there are kernels for, and what each would compute",
            Pass::Select => "the chosen cuts, with what the cost model makes of each",
            Pass::Emit => "the plan",
        }
    }
}

/// Is shown what each pass leaves behind; the text is only made if it is written somewhere.
pub type Watch<'a> = dyn FnMut(Pass, &dyn Display) + 'a;

/// Runs passes, and keeps what each took.
#[derive(Clone)]
pub(crate) struct Passes {
    /// Names and seconds, in order.
    pub times: Vec<(String, f64)>,
}

impl Passes {
    pub fn new() -> Passes {
        Passes { times: Vec::new() }
    }

    pub fn run<T>(&mut self, pass: Pass, work: impl FnOnce() -> T) -> T {
        let name = pass.name();
        let _span = tracing::debug_span!("pass", name).entered();
        let start = Instant::now();
        let done = work();
        self.times.push((name.to_owned(), start.elapsed().as_secs_f64()));
        done
    }
}
