//! The compiler's passes, in order: [`layout`], [`sync`], [`lower`], [`dce`]; [`facts`] is the analysis they share, and [`simplify`] the one simplification of addresses.

pub mod dce;
pub mod facts;
pub mod layout;
pub mod lower;
pub mod simplify;
pub mod sync;

use std::fmt::Display;

/// A step of [`crate::compile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Checks the program.
    Verify,
    /// Chooses how loops and memory are spread over threads.
    Layout,
    /// Inserts barriers.
    Sync,
    /// Lowers it to what one thread does.
    Lower,
    /// Writes CUDA C, with the helpers that it calls.
    Cuda,
}

impl Pass {
    /// All of them, in order.
    pub const ALL: [Pass; 5] = [Pass::Verify, Pass::Layout, Pass::Sync, Pass::Lower, Pass::Cuda];

    /// Its name, one word.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Verify => "verify",
            Pass::Layout => "layout",
            Pass::Sync => "sync",
            Pass::Lower => "lower",
            Pass::Cuda => "cuda",
        }
    }

    /// What it leaves behind.
    pub fn leaves(self) -> &'static str {
        match self {
            Pass::Verify => "the tile program, as its kernel family made it",
            Pass::Layout => "the tile program, and the layouts of its tiles and loops",
            Pass::Sync => "the tile program with barriers",
            Pass::Lower => "what one thread does, in C",
            Pass::Cuda => "CUDA C, with the helpers that it calls",
        }
    }

    /// Runs it in a span of its name.
    pub(crate) fn run<T>(self, work: impl FnOnce() -> T) -> T {
        tracing::trace_span!("pass", name = self.name()).in_scope(work)
    }
}

/// Is shown what each pass leaves behind; the text is only made if it is written somewhere.
pub type Watch<'a> = dyn FnMut(Pass, &dyn Display) + 'a;
