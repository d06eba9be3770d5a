//! What fusion did, for people and for the build report.

use crate::Anchor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What fusion did to one graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Ops of the graph that its outputs depend on (inputs, weights and literals not counted).
    pub ops: usize,
    /// Kernels of the plan.
    pub kernels: usize,
    /// Distinct kernels of the plan.
    pub distinct: usize,
    /// E-nodes after saturation.
    pub enodes: usize,
    /// Rounds of rewriting.
    pub iterations: usize,
    /// Why rewriting stopped.
    pub stopped: String,
    /// How often each rule found something new.
    pub fired: BTreeMap<String, usize>,
    /// Seconds spent in each stage, in order.
    pub stages: Vec<(String, f64)>,
    /// What became of each function that there is a kernel for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<FunctionReport>,
    /// Each kernel launch in order.
    pub launches: Vec<LaunchReport>,
}

/// A function that there is a kernel for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionReport {
    /// Its name.
    pub name: String,
    /// Places in the model where it could run; those that two functions share count for the first.
    pub places: usize,
    /// Launches that it was chosen for.
    pub launches: usize,
    /// Steps that the search for places took: pairs of classes that were compared, ways to compute one that were tried.
    pub steps: usize,
    /// Whether the search for places was given up before its end: there may be more.
    pub exhausted: bool,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchReport {
    /// Index into [`crate::Plan::regions`].
    pub region: usize,
    /// The region's name.
    pub name: String,
    /// Its anchor.
    pub anchor: Anchor,
    /// The function whose kernel it was chosen for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The model's nodes that it computes.
    pub nodes: Vec<String>,
    /// Modelled bytes moved.
    pub bytes: f64,
    /// Modelled operations.
    pub ops: f64,
    /// Modelled seconds, launch included.
    pub seconds: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ops -> {} kernels ({} distinct)", self.ops, self.kernels, self.distinct)?;
        writeln!(f, "{} e-nodes after {} iterations ({})", self.enodes, self.iterations, self.stopped)?;
        for (stage, seconds) in &self.stages {
            writeln!(f, "  {stage:<10} {:8.1} ms", seconds * 1e3)?;
        }
        for (rule, n) in &self.fired {
            writeln!(f, "  {rule:<32} {n:6}")?;
        }
        for function in &self.functions {
            let FunctionReport { name, places, launches, steps, exhausted } = function;
            let more = if *exhausted { ", perhaps more: the search was given up" } else { "" };
            writeln!(f, "  `{name}`: {launches} of {places} places, {steps} steps{more}")?;
        }
        for l in &self.launches {
            let (us, kib, mops) = (l.seconds * 1e6, l.bytes / 1024.0, l.ops / 1e6);
            writeln!(f, "{:8.1} us {kib:10.1} KiB {mops:10.2} Mop  {} <- {}", us, l.name, l.nodes.join(", "))?;
        }
        Ok(())
    }
}
