//! `kiln inspect --diff`: what two builds differ in.

use super::out::bytes;
use super::profile::Profile;
use super::regions::{chosen_for, modelled_us};
use kiln_engine::{Compiled, Engine, Resources, TargetImage, read_header};
use kiln_fuse::RegionId;
use miette::{IntoDiagnostic, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Two sides of something.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Sides<T> {
    a: T,
    b: T,
}

impl<T: PartialEq> Sides<T> {
    fn differ(&self) -> bool {
        self.a != self.b
    }
}

/// What differs.
#[derive(Serialize)]
pub struct Diff {
    engines: Sides<PathBuf>,
    /// Fields of the stamp and of the signature that differ.
    stamp: BTreeMap<String, Sides<Value>>,
    /// Bytes of files and sections, those that are equal too.
    bytes: BTreeMap<String, Sides<Option<usize>>>,
    targets: BTreeMap<String, TargetDiff>,
}

#[derive(Serialize)]
struct TargetDiff {
    /// Whether each has it. What follows is of targets that both have.
    present: Sides<bool>,
    /// NVRTC's release, where it differs.
    nvrtc: Option<Sides<String>>,
    /// Options of NVRTC that the other has not.
    options: Sides<Vec<String>>,
    launches: Sides<usize>,
    /// Milliseconds of all steps, where both were profiled.
    measured_ms: Option<Sides<f64>>,
    /// By identity, those whose cost grew most first.
    regions: Vec<RegionDiff>,
}

/// A region that one of them has, or both.
#[derive(Serialize)]
struct RegionDiff {
    identity: RegionId,
    name: String,
    summary: String,
    /// `added`, `removed`, `changed` or `same`: what its kernels are.
    change: &'static str,
    sides: Sides<Option<RegionSide>>,
}

#[derive(Clone, PartialEq, Serialize)]
struct RegionSide {
    /// Steps that launch it.
    uses: usize,
    kernels: Vec<KernelSide>,
    /// What the cost model says of the variant that runs at the sizes chosen for, on the target's GPU, in microseconds a launch; none where its family has no model.
    modelled_us: Option<f64>,
    /// All its launches in a run, in milliseconds, where it was profiled.
    measured_ms: Option<f64>,
}

#[derive(Clone, PartialEq, Serialize)]
struct KernelSide {
    entry: String,
    guard: String,
    family: String,
    config: Value,
    #[serde(flatten)]
    resources: Resources,
    cubin_bytes: usize,
    /// Its CUDA C.
    #[serde(skip)]
    source: String,
}

impl RegionSide {
    /// Milliseconds of a run: measured, else modelled.
    fn cost(&self) -> Option<f64> {
        self.measured_ms.or(self.modelled_us.map(|us| us * self.uses as f64 / 1e3))
    }
}

impl RegionDiff {
    /// Milliseconds by which B takes longer.
    fn blame(&self) -> f64 {
        let cost = |side: &Option<RegionSide>| side.as_ref().and_then(RegionSide::cost).unwrap_or(0.0);
        cost(&self.sides.b) - cost(&self.sides.a)
    }
}

/// Compares two engines; `profiles` are none, or what `kiln bench --profile-kernels --json` says of each.
pub fn diff(a: &PathBuf, b: &PathBuf, profiles: &[Profile]) -> Result<Diff> {
    let mut headers = Vec::new();
    let mut engines = Vec::new();
    for path in [a, b] {
        headers.push(read_header(path).into_diagnostic()?);
        engines.push(Engine::load(path).into_diagnostic()?);
    }
    let [a_engine, b_engine] = [&engines[0], &engines[1]];
    let mut stamp = BTreeMap::new();
    let fields: Vec<BTreeMap<String, Value>> = headers
        .iter()
        .map(|header| {
            let mut json = serde_json::to_value(header).into_diagnostic()?;
            // Those have sections of their own below.
            ["targets", "sections", "weights"].iter().for_each(|part| json[part] = Value::Null);
            let mut fields = BTreeMap::new();
            flatten("", json, &mut fields);
            Ok(fields)
        })
        .collect::<Result<_>>()?;
    for name in fields.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        let side = |i: usize| fields[i].get(name).cloned().unwrap_or_default();
        let sides = Sides { a: side(0), b: side(1) };
        if sides.differ() {
            stamp.insert(name.clone(), sides);
        }
    }
    let lengths = |i: usize| {
        let sections = headers[i].sections.iter().map(|section| (section.name.clone(), section.length));
        let file = headers[i].sections.iter().map(|section| section.offset + section.length).max();
        sections.chain([("file".to_owned(), file.unwrap_or(0))]).collect::<BTreeMap<String, usize>>()
    };
    let lengths = [lengths(0), lengths(1)];
    let all: BTreeSet<&String> = lengths.iter().flat_map(BTreeMap::keys).collect();
    let bytes = all.into_iter().map(|name| {
        let [a, b] = [0, 1].map(|i| lengths[i].get(name).copied());
        (name.clone(), Sides { a, b })
    });
    let names: BTreeSet<String> = engines.iter().flat_map(|engine| &engine.targets).map(TargetImage::label).collect();
    let mut targets = BTreeMap::new();
    for name in names {
        let of = |engine: &Engine| engine.targets.iter().find(|image| image.label() == name).cloned();
        let images = Sides { a: of(a_engine), b: of(b_engine) };
        let profile = |i: usize| profiles.get(i).filter(|profile| profile.target == name);
        let sides = [(a_engine, &images.a, profile(0)), (b_engine, &images.b, profile(1))];
        targets.insert(name.clone(), target(sides)?);
    }
    Ok(Diff { engines: Sides { a: a.clone(), b: b.clone() }, stamp, bytes: bytes.collect(), targets })
}

/// The leaves of a value by their path; lists are leaves.
fn flatten(path: &str, value: Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&if path.is_empty() { name } else { format!("{path}.{name}") }, value, into);
            }
        }
        leaf => drop(into.insert(path.to_owned(), leaf)),
    }
}

/// An engine, its image of a target if it has one, and its profile.
type Side<'s> = (&'s Engine, &'s Option<TargetImage>, Option<&'s Profile>);

fn target(sides: [Side<'_>; 2]) -> Result<TargetDiff> {
    let present = Sides { a: sides[0].1.is_some(), b: sides[1].1.is_some() };
    let mut diff = TargetDiff {
        present,
        nvrtc: None,
        options: Sides { a: Vec::new(), b: Vec::new() },
        launches: Sides { a: 0, b: 0 },
        measured_ms: None,
        regions: Vec::new(),
    };
    let [(engine_a, Some(a), profile_a), (engine_b, Some(b), profile_b)] = sides else { return Ok(diff) };
    let [own, other] = [a, b].map(|image| image.toolchain.clone().unwrap_or_default());
    let without = |these: &[String], those: &[String]| {
        these.iter().filter(|option| !those.contains(option)).cloned().collect::<Vec<_>>()
    };
    diff.options = Sides { a: without(&own.options, &other.options), b: without(&other.options, &own.options) };
    let nvrtc = Sides { a: own.nvrtc, b: other.nvrtc };
    diff.nvrtc = nvrtc.differ().then_some(nvrtc);
    let found = [of_regions(engine_a, a, profile_a)?, of_regions(engine_b, b, profile_b)?];
    let launches = |i: usize| found[i].values().map(|(_, _, side)| side.uses).sum();
    diff.launches = Sides { a: launches(0), b: launches(1) };
    if let (Some(a), Some(b)) = (profile_a, profile_b) {
        diff.measured_ms = Some(Sides { a: a.ms(), b: b.ms() });
    }
    for id in found.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        let side = |i: usize| found[i].get(id).map(|(_, _, side)| side.clone());
        let sides = Sides { a: side(0), b: side(1) };
        let change = match (&sides.a, &sides.b) {
            (Some(a), Some(b)) if a.kernels == b.kernels && a.uses == b.uses => "same",
            (Some(_), Some(_)) => "changed",
            (Some(_), None) => "removed",
            (None, _) => "added",
        };
        let Some((name, summary, _)) = found.iter().find_map(|regions| regions.get(id)) else { continue };
        diff.regions.push(RegionDiff { identity: *id, name: name.clone(), summary: summary.clone(), change, sides });
    }
    diff.regions.sort_by(|x, y| y.blame().total_cmp(&x.blame()).then_with(|| x.name.cmp(&y.name)));
    Ok(diff)
}

/// Name, summary and kernels of each distinct region of a target.
type Regions = BTreeMap<RegionId, (String, String, RegionSide)>;

fn of_regions(engine: &Engine, image: &TargetImage, profile: Option<&Profile>) -> Result<Regions> {
    let mut measured: BTreeMap<RegionId, f64> = BTreeMap::new();
    for (id, time) in profile.map(|profile| profile.launches(&image.plan)).transpose()?.into_iter().flatten() {
        *measured.entry(id).or_default() += time.ms;
    }
    let gpu = chosen_for(image);
    let mut all = BTreeMap::new();
    for used in engine.subjects(&image.label()).into_diagnostic()? {
        let region = &used.subject.region;
        let compiled = image.kernels.get(&used.id);
        let side = RegionSide {
            uses: used.uses,
            kernels: compiled.map(kernels).unwrap_or_default(),
            modelled_us: gpu.as_ref().zip(compiled).and_then(|(gpu, compiled)| modelled_us(&used, compiled, gpu)),
            measured_ms: measured.get(&used.id).copied(),
        };
        all.insert(used.id, (region.name.clone(), region.summary.clone(), side));
    }
    Ok(all)
}

fn kernels(compiled: &Compiled) -> Vec<KernelSide> {
    let each = compiled.kernels().map(|(variant, kernel, image)| KernelSide {
        entry: kernel.entry.clone(),
        guard: variant.guard.to_string(),
        family: variant.implementation.family.clone(),
        config: variant.implementation.config.clone(),
        resources: image.resources,
        cubin_bytes: image.cubin.len(),
        source: kernel.source.clone(),
    });
    each.collect()
}

/// Prints a diff as text: what is equal is left out.
pub fn print(diff: &Diff) -> Result<()> {
    outln!("A {}\nB {}", diff.engines.a.display(), diff.engines.b.display())?;
    for (field, Sides { a, b }) in &diff.stamp {
        outln!("{field}: {} -> {}", word(a), word(b))?;
    }
    for (name, sides) in diff.bytes.iter().filter(|(_, sides)| sides.differ()) {
        let size = |n: &Option<usize>| n.map_or("none".to_owned(), bytes);
        outln!("{name}: {} -> {}", size(&sides.a), size(&sides.b))?;
    }
    for (name, target) in &diff.targets {
        print_target(name, target)?;
    }
    Ok(())
}

fn print_target(name: &str, target: &TargetDiff) -> Result<()> {
    match target.present {
        Sides { a: true, b: true } => {}
        Sides { a, .. } => return outln!("\n{name}: only in {}", if a { "A" } else { "B" }),
    }
    let count = |change: &str| target.regions.iter().filter(|region| region.change == change).count();
    outln!(
        "\n{name}: {} -> {} launches; {} regions the same, {} changed, {} only in A, {} only in B",
        target.launches.a,
        target.launches.b,
        count("same"),
        count("changed"),
        count("removed"),
        count("added")
    )?;
    if let Some(Sides { a, b }) = &target.nvrtc {
        outln!("  NVRTC {a} -> {b}")?;
    }
    for (sign, options) in [('-', &target.options.a), ('+', &target.options.b)] {
        options.iter().try_for_each(|option| outln!("  {sign} {option}"))?;
    }
    if let Some(Sides { a, b }) = target.measured_ms {
        outln!("  measured: {a:.4} -> {b:.4} ms, {:+.4}; by region, what grew most first:", b - a)?;
    }
    for region in &target.regions {
        // Of regions that are the same, what was measured may still differ.
        if region.change == "same" && target.measured_ms.is_none() {
            continue;
        }
        let cost = |side: &Option<RegionSide>| match side {
            None => "none".to_owned(),
            Some(side) => match (side.measured_ms, side.modelled_us) {
                (Some(ms), _) => format!("{ms:.4} ms"),
                (None, Some(us)) => format!("{:.2} us modelled", us * side.uses as f64),
                (None, None) => "no time".to_owned(),
            },
        };
        let (a, b) = (&region.sides.a, &region.sides.b);
        outln!("  {:>+9.4} ms {:>7} {}: {} -> {}", region.blame(), region.change, region.name, cost(a), cost(b))?;
        if region.change != "same" {
            print_sides(a.as_ref(), b.as_ref())?;
        }
    }
    Ok(())
}

/// Uses and kernels of both sides, of which equal ones are left out.
fn print_sides(a: Option<&RegionSide>, b: Option<&RegionSide>) -> Result<()> {
    let uses = |side: Option<&RegionSide>| side.map_or(0, |side| side.uses);
    if uses(a) != uses(b) {
        outln!("      launches: {} -> {}", uses(a), uses(b))?;
    }
    let kernels = |side: Option<&RegionSide>| side.map(|side| side.kernels.clone()).unwrap_or_default();
    let (a, b) = (kernels(a), kernels(b));
    for (sign, own, others) in [('-', &a, &b), ('+', &b, &a)] {
        for kernel in own.iter().filter(|kernel| !others.contains(kernel)) {
            let KernelSide { entry, guard, family, config, resources, cubin_bytes, .. } = kernel;
            outln!(
                "      {sign} {entry} [{family}] if {guard}: {} regs, {} spilled, {} shared, {} cubin; {config}",
                resources.registers,
                resources.spill_bytes,
                bytes(resources.shared_bytes as usize),
                bytes(*cubin_bytes)
            )?;
        }
    }
    Ok(())
}

/// A value in a line; a text without its quotes.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
