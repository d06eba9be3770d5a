//! The search for the fastest of many ways to make one kernel.
//!
//! Measuring all of them takes minutes; the cost model alone picks one that is some percent slower than the best. Between the two: what the
//! model ranks first is measured, what was measured corrects the model for those that are like it ([`Surrogate`], a Gaussian process over
//! Configs), and the next to be measured are those that may still win. The few that end close together are measured again, in turns.
//!
//! [`Search`] decides and never measures: whoever drives it compiles, checks and times, as it likes and for as long as it likes, and may stop
//! at any time; the best so far is always there.

mod features;
mod search;
mod surrogate;
mod times;

pub use features::Features;
pub use search::{Candidate, Job, Measured, Options, Search, Stop};
pub use surrogate::Surrogate;
pub use times::{Outcome, Problem, Record, Times, append};
