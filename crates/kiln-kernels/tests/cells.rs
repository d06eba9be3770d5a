//! Every cell of `docs/kernels.md` whose family is on the tile IR, in the simulator with all checks, against the reference interpreter and
//! float64: random regions with symbols, each compiled with a random Config, on random shapes and data, outputs poisoned.
//!
//! A default run visits every cell with few shapes, and does not repeat what another architecture has the same text for. `KILN_SHAPES=30`
//! runs so many shapes of every cell, and 20 schedules of every asynchronous kernel; `KILN_SEED` repeats a run.

use crate::common::drawn::{self, Draw, Drawn};
use crate::common::{Case, sim};
use kiln_graph::{DType, Rng, Tensor};
use kiln_kernels::Implementation;
use kiln_kernels::families::{self, Built, Offer, Subject, implementation};
use kiln_sim::Options;
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;
use std::collections::{BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const PAGE: &str = include_str!("../../../docs/kernels.md");
/// Shapes that run on one kernel.
const SHAPES: usize = 5;
const SCHEDULES: u64 = 20;

/// The cells of a family: element types, and the architectures of each. `tf32` is f32 that may be rounded so.
fn cells(family: &str) -> Vec<(String, Vec<Arch>)> {
    let rows = || PAGE.lines().filter(|line| line.starts_with('|'));
    let split = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let head = split(rows().next().unwrap());
    let row = rows().map(split).find(|row| row[1] == format!("`{family}`")).unwrap_or_else(|| panic!("no {family}"));
    let arch = |name: &str| Arch::ALL.into_iter().find(|arch| arch.name() == name).unwrap();
    let archs = |text: &str| match text.strip_suffix(" on") {
        _ if text == "all" => Arch::ALL.to_vec(),
        Some(first) => Arch::ALL.into_iter().filter(|a| a.capability() >= arch(first).capability()).collect(),
        None => text.split(", ").map(arch).collect(),
    };
    let cell =
        |(name, text): (&String, &String)| (text != "-" && !text.is_empty()).then(|| (name.clone(), archs(text)));
    head.iter().zip(&row).skip(2).filter_map(cell).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One way to make a region on an architecture: at random, or the Config that another architecture took.
fn offer(drawn: &Drawn, family: &str, arch: Arch, rng: &mut Rng, other: Option<&serde_json::Value>) -> (Offer, Built) {
    let sizes = if rng.range(0, 1) == 0 { drawn.large() } else { drawn.bindings(&mut rng.clone()) };
    let graph = &drawn.region.graph;
    let subject = Arc::new(Subject::new(&drawn.region, &graph.symbols, &[], &sizes).with_tf32(drawn.tf32));
    let mut offers = families::offers(&subject, &Gpu::typical(arch).unwrap()).unwrap_or_else(|e| panic!("{e}"));
    assert!(offers.iter().any(|offer| offer.family == family), "{family} does not take {}", drawn.region.name);
    offers.retain(|offer| offer.family == family);
    // Of each kind (whole rows or chunks, roles, parts..) as often as of another; the numbers are what one kind differs in.
    let kind = |offer: &Offer| offer.text.replace(|c: char| c.is_ascii_digit(), "");
    let kinds: Vec<String> = offers.iter().map(kind).collect::<BTreeSet<_>>().into_iter().collect();
    let chosen = &kinds[rng.range(0, kinds.len() as i64 - 1) as usize];
    let alike: Vec<usize> = (0..offers.len()).filter(|i| kind(&offers[*i]) == *chosen).collect();
    // The best of them as often as all others.
    let own = if rng.range(0, 1) == 0 { alike[0] } else { alike[rng.range(0, alike.len() as i64 - 1) as usize] };
    let at = other.and_then(|config| offers.iter().position(|offer| offer.config == *config)).unwrap_or(own);
    let offer = offers.swap_remove(at);
    let built = offer.build().unwrap_or_else(|e| panic!("{}: {e}", offer.text));
    (offer, built)
}

#[derive(Default)]
struct Found {
    cells: usize,
    kernels: usize,
    /// Kernels with another architecture's text.
    same: usize,
    shapes: usize,
    schedules: usize,
    configs: HashSet<String>,
    failures: Vec<String>,
}

/// A kernel of a cell.
struct Way {
    /// Cell, seed, region and Config.
    what: String,
    drawn: Drawn,
    built: Built,
    made: Implementation,
    arch: Arch,
}

impl Found {
    fn fail(&mut self, what: String) {
        eprintln!("{what}");
        self.failures.push(what);
    }

    /// Runs a kernel on random shapes; how many.
    fn kernel(&mut self, way: &Way, rng: &mut Rng, shapes: usize, schedules: u64) -> usize {
        let Way { what, drawn, built, made, arch } = way;
        self.kernels += 1;
        let Ok(entries) = catch_unwind(AssertUnwindSafe(|| sim::load(made, *arch))) else {
            self.fail(format!("{what}: it does not compile"));
            return shapes;
        };
        let asynchronous = made.kernels.iter().any(|kernel| orders(&kernel.source));
        let mut ran = 0;
        for _ in 0..20 * shapes {
            if ran == shapes {
                break;
            }
            let bindings = drawn.bindings(rng);
            if !built.guard.holds(&bindings).unwrap() {
                continue;
            }
            let seed = rng.next_u64();
            let case = drawn.case(&bindings, seed);
            let meant = case.meant(built, *arch);
            let first = ran == 0 && asynchronous;
            for schedule in 0..if first { schedules } else { 1 } {
                let options =
                    Options { seed: (schedule > 0 || ran > 0).then_some(seed ^ schedule), ..Options::default() };
                let sms = 1 + (seed % 3) as u32;
                if let Err(said) = right(&case, &meant, made, &entries, &options, sms) {
                    self.fail(format!("{what}, {bindings:?}, data {seed}, schedule {:?}: {said}", options.seed));
                    return ran + 1;
                }
                self.schedules += 1;
            }
            ran += 1;
        }
        self.shapes += ran;
        ran
    }
}

/// Whether a kernel's threads meet by more than the barriers of their CTA.
fn orders(source: &str) -> bool {
    ["cp.async", "barrier.cluster"].iter().any(|word| source.contains(word))
}

/// Runs a case and says what is wrong.
fn right(
    case: &Case,
    meant: &[Tensor],
    made: &Implementation,
    entries: &[kiln_sim::Kernel],
    options: &Options,
    sms: u32,
) -> Result<(), String> {
    let found = catch_unwind(AssertUnwindSafe(|| sim::run(case, made, entries, options, sms)));
    let found = found.map_err(|panic| {
        panic.downcast_ref::<String>().map_or("it panicked".to_owned(), |said| said.chars().take(600).collect())
    })?;
    case.differs_from(meant, &found, 4.0).map_or(Ok(()), Err)?;
    case.strays(&found).map_or(Ok(()), Err)
}

fn check(family: &str, draw: Draw) {
    check_cells(family, draw, |_| true);
}

fn check_cells(family: &str, draw: Draw, taken: impl Fn(&str) -> bool) {
    let wanted = number("KILN_SHAPES").map(|n| n as usize);
    let seed = drawn::seed();
    let only = std::env::var("KILN_CELL").ok();
    let mut found = Found::default();
    for (number, (element, archs)) in (0u64..).zip(cells(family)).filter(|(_, (element, _))| taken(element)) {
        let tf32 = element == "tf32";
        let dtype = if tf32 { DType::F32 } else { element.parse().unwrap() };
        let mut left: Vec<usize> = archs.iter().map(|_| wanted.unwrap_or(SHAPES)).collect();
        found.cells += archs.len();
        let mut first_schedules: HashSet<Arch> = HashSet::new();
        for turn in 0.. {
            if left.iter().all(|left| *left == 0) || turn > 60 {
                break;
            }
            // Types draw regions of their own, architectures the same.
            let drawn_from = seed.wrapping_add(1000 * number + turn);
            let mut texts: HashSet<String> = HashSet::new();
            let mut config = None;
            for (arch, left) in archs.iter().zip(&mut left).filter(|(_, left)| **left > 0) {
                let what = format!("{family} {element} {arch}, KILN_SEED={seed}");
                if only.as_ref().is_some_and(|only| !what.starts_with(only)) {
                    *left = 0;
                    continue;
                }
                let mut rng = Rng::new(drawn_from);
                let made = catch_unwind(AssertUnwindSafe(|| {
                    let mut drawn = draw(&mut rng, dtype).unwrap_or_else(|e| panic!("{e}"));
                    drawn.tf32 = tf32;
                    let (offer, built) = offer(&drawn, family, *arch, &mut rng, config.as_ref());
                    let made = implementation(&offer, &built, *arch, &mut |_, _, _| {})
                        .unwrap_or_else(|e| panic!("{}: {e}", offer.text));
                    (drawn, offer, built, made)
                }));
                let Ok((drawn, offer, built, made)) = made else {
                    found.fail(format!("{what}: no kernel"));
                    *left = 0;
                    continue;
                };
                config.get_or_insert(offer.config.clone());
                found.configs.insert(offer.text.clone());
                let text: String = made.kernels.iter().map(|kernel| kernel.source.as_str()).collect();
                if !texts.insert(text) && wanted.is_none() {
                    found.same += 1;
                    *left = left.saturating_sub(SHAPES);
                    continue;
                }
                let what = format!("{what}, {} with {}", drawn.region.name, offer.text);
                let many = wanted.is_some() || first_schedules.insert(*arch) && dtype.bits() == 16;
                let shapes = SHAPES.min(*left);
                let way = Way { what, drawn, built, made, arch: *arch };
                *left -= found.kernel(&way, &mut rng, shapes, if many { SCHEDULES } else { 1 });
            }
        }
        for (arch, left) in archs.iter().zip(&left).filter(|(_, left)| **left > 0) {
            found.fail(format!("{family} {element} {arch}: {left} shapes did not run"));
        }
    }
    let Found { cells, kernels, same, shapes, schedules, configs, failures } = found;
    println!(
        "{family}: KILN_SEED={seed}: {cells} cells, {kernels} kernels and {same} with the text of another, {} Configs, {shapes} shapes, \
         {schedules} runs, {} failures",
        configs.len(),
        failures.len()
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn maps() {
    check("map", drawn::map);
}

#[test]
fn rows() {
    check("rows", drawn::rows);
}

/// Rows that the CTAs of a cluster share, whole or in chunks, also on the tile interpreter.
#[test]
fn shared_rows() {
    let seed = drawn::seed();
    let only = std::env::var("KILN_CELL").ok();
    let mut found = Found::default();
    let types = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::Bool];
    for (turn, dtype) in (0..12).zip(types.into_iter().cycle()) {
        let arch = [Arch::Sm90a, Arch::Sm100, Arch::Sm120][turn % 3];
        let mut rng = Rng::new(seed.wrapping_add(turn as u64));
        let drawn = drawn::long_rows(&mut rng, dtype).unwrap_or_else(|e| panic!("{e}"));
        let graph = &drawn.region.graph;
        let subject = Arc::new(Subject::new(&drawn.region, &graph.symbols, &[], &drawn.large()));
        let mut offers = families::offers(&subject, &Gpu::typical(arch).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        let held = if turn % 2 == 0 { "whole" } else { "in chunks" };
        offers.retain(|offer| offer.text.contains("clusters of") && offer.text.contains(held));
        assert!(!offers.is_empty(), "{} is not shared {held}", drawn.region.name);
        let offer = offers.swap_remove(rng.range(0, offers.len() as i64 - 1) as usize);
        let what =
            format!("shared_rows {turn} {dtype} {arch}, KILN_SEED={seed}, {} with {}", drawn.region.name, offer.text);
        if only.as_ref().is_some_and(|only| !what.starts_with(only)) {
            continue;
        }
        let built = offer.build().unwrap_or_else(|e| panic!("{what}: {e}"));
        let made = implementation(&offer, &built, arch, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(made.kernels[0].launch.clustered(), "{what}");
        let bindings = drawn.bindings(&mut rng);
        if turn % 4 == 0 && built.guard.holds(&bindings).unwrap() {
            let case = drawn.case(&bindings, seed);
            let (results, fault) = case.interpret_built(&built, arch, Level::LaidOut);
            assert_eq!((case.differs(&results, 4.0), fault), (None, 0), "{what}");
        }
        let way = Way { what, drawn, built, made, arch };
        found.kernel(&way, &mut rng, 2, if turn < 3 { SCHEDULES } else { 1 });
    }
    println!("{} kernels, {} shapes, {} runs", found.kernels, found.shapes, found.schedules);
    assert!(found.failures.is_empty() && found.shapes >= 20, "{} shapes, {:#?}", found.shapes, found.failures);
}

#[test]
fn products() {
    check("gemm", drawn::product);
}

/// Two that share an operand; those of f64 stay apart. A default run leaves schedules, which types of 16 bits have many of, to `twins.rs`.
#[test]
fn twins() {
    let few = number("KILN_SHAPES").is_none();
    check_cells("gemm", drawn::twins, |element| if few { ["f32", "i8"].contains(&element) } else { element != "f64" });
}

/// One of whose operands is made on the way. A default run leaves most types to the others: what is made is one program whatever the type.
#[test]
fn made_operands() {
    let few = number("KILN_SHAPES").is_none();
    check_cells("gemm", drawn::made, |element| !few || ["f32", "f16", "i8"].contains(&element));
}

#[test]
fn convolutions() {
    check("conv", drawn::conv);
}

#[test]
fn direct_convolutions() {
    check("conv_direct", drawn::grouped_conv);
}

#[test]
fn attentions() {
    check("attention", drawn::attention);
}
