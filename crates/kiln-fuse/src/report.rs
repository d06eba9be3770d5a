//! What fusion did, for people and for the build report.

use crate::{Anchor, Numerics};
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

impl Report {
    /// The next best to a region, by its number in the plan, where it is first launched.
    pub fn next(&self, region: usize) -> Option<&NextBest> {
        self.launches.iter().find(|launch| launch.region == region)?.next.as_ref()
    }
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
    /// Index into [`crate::Plan::steps`].
    pub step: usize,
    /// The region's name.
    pub name: String,
    /// Its anchor.
    pub anchor: Anchor,
    /// The function whose kernel it was chosen for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The model's nodes that it computes.
    pub nodes: Vec<String>,
    /// Their numbers in the graph; none where a loop was hoisted out of, which numbers all nodes anew.
    pub numbers: Vec<u32>,
    /// Modelled bytes moved.
    pub bytes: f64,
    /// Modelled operations.
    pub ops: f64,
    /// Modelled seconds, launch included; where whoever makes the kernel has measured it, those that it took.
    pub seconds: f64,
    /// Whether they were measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub measured: bool,
    /// Seconds that moving the bytes takes at least.
    pub memory: f64,
    /// Seconds that doing the operations takes at least.
    pub arithmetic: f64,
    /// Rules that made what it computes and the model did not write, with those whose results they rewrote in turn: each once, in the order in which they fired.
    pub rules: Vec<RuleReport>,
    /// The next best to it, of the first launch of each region, where there was anything else to choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextBest>,
}

impl LaunchReport {
    /// Seconds that the target's roofline allows: the longer of moving the bytes and doing the operations.
    pub fn roofline(&self) -> f64 {
        self.memory.max(self.arithmetic)
    }
}

/// A rewrite rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// Its name.
    pub name: String,
    /// How far it may change results.
    pub numerics: Numerics,
    /// Why it holds, in a line.
    pub reason: String,
}

/// The best cover of the model that was found without one kernel of the chosen one: another cut in its place, or none where all that read its result do without. It is a neighbour of
/// the chosen cover, not an optimum. Cuts that differ in views or in what is computed of weights alone count as the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextBest {
    /// Modelled seconds that the model would take more; below zero where the search for a cover stopped short of it.
    pub seconds: f64,
    /// Kernels that there would be no longer, the launch's among them.
    pub without: Vec<KernelReport>,
    /// Kernels that there would be instead.
    pub instead: Vec<KernelReport>,
}

/// A kernel of a cover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelReport {
    /// Its anchor.
    pub anchor: Anchor,
    /// What it computes, in a line.
    pub summary: String,
    /// The model's nodes that it computes.
    pub nodes: Vec<String>,
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
