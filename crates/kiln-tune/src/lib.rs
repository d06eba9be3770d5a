//! Which way to make each kernel is fastest: measured on the device, kept in a timing cache.
//!
//! Knows: what regions could be made of ([`kiln_kernels::candidates`]), measuring on a [`kiln_engine::Device`], the timing cache. Must not know: how a
//! model was imported, the engine file.
//!
//! Measuring all candidates takes minutes; the cost model alone picks one that is some percent slower than the best. Between the two: what the
//! model ranks first is measured, what was measured corrects the model for those that are like it ([`Surrogate`], a Gaussian process over
//! Configs), and the next to be measured are those that may still win. The few that end close together are measured again, in turns.
//!
//! [`Search`] decides and never measures, [`Measure`] measures and never decides, [`Turns`] says whose turn it is, and [`tune`] drives them over the
//! regions of an engine.

mod cache;
mod compile;
mod error;
mod features;
mod fit;
mod measure;
mod operands;
mod plans;
mod points;
mod prices;
mod report;
mod rotating;
mod search;
mod shipped;
mod surrogate;
mod task;
mod times;
mod timings;
mod tune;
mod turns;

pub use compile::{Made, code};
pub use error::{Error, Result};
pub use features::Features;
pub use fit::{Fit, Measurements, Quality, fit, quality_of};
pub use measure::{Measure, OnDevice, Report};
pub use prices::Prices;
pub use report::{Row, Tuned, TunedPlan, TunedRegion};
pub use rotating::{Rotating, Shape, Timed};
pub use search::{Candidate, Job, Measured, Options, Search, Stop};
pub use shipped::shipped;
pub use surrogate::Surrogate;
pub use task::Task;
pub use times::{Bucket, Outcome, Problem, Record, Times, append};
pub use timings::{Timings, Writer};
pub use tune::{News, Tuning, tune, tune_plans};
pub use turns::{TURN, Turn, Turns};
