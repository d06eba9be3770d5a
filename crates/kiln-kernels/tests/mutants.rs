//! The validator of schedules against the simulator: what it accepts of changed programs runs without a finding and right, whatever the
//! order of warps; what it refuses and the simulator finds nothing wrong with is listed. `KILN_MUTANTS` says how many are made.

use crate::common::drawn::seed;
use crate::programs::mutants::mutate;
use crate::programs::{attention, gemm, hopper, shared_softmax};
use crate::run::{Problem, attention_of, product_of, ready, scheduled, softmax_of};
use kiln_target::arch::Arch;
use kiln_target::atoms::AtomTable;
use kiln_tile::DType;
use kiln_tile::ir::{Program, Schedule};
use kiln_tile::validate::validate;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Orders of warps that a mutant runs in.
const ORDERS: [Option<u64>; 3] = [None, Some(1), Some(2)];

/// A program of every kind of schedule, and a problem that fills its slots more than once.
fn programs() -> Vec<(&'static str, Program, Arch, Problem)> {
    let plain = || Schedule { warps: 4, ..Schedule::default() };
    let overlapped = Schedule { overlap: true, ping_pong: true, raster: 0, ..hopper(8) };
    let product = || product_of(DType::BF16, [140, 72, 328], 1);
    let small = || product_of(DType::BF16, [70, 72, 328], 2);
    let all = [
        ("tma", gemm(DType::BF16, [128, 64, 64], 3, hopper(8)), Arch::Sm90a, product()),
        (
            "turns",
            gemm(DType::BF16, [64, 64, 64], 3, Schedule { ping_pong: true, ..hopper(4) }),
            Arch::Sm90a,
            product(),
        ),
        (
            "flash",
            attention(DType::BF16, 64, [128, 64, 64], 2, overlapped),
            Arch::Sm90a,
            attention_of(DType::BF16, [2, 140, 200, 64], 3),
        ),
        (
            "shared",
            gemm(DType::BF16, [128, 64, 64], 3, Schedule { cluster: 2, ..hopper(8) }),
            Arch::Sm90a,
            product_of(DType::BF16, [300, 72, 328], 5),
        ),
        ("mixed", gemm(DType::BF16, [64, 64, 64], 3, plain()), Arch::Sm90a, small()),
        ("copies", gemm(DType::BF16, [64, 64, 32], 3, plain()), Arch::Sm80, small()),
        ("cluster", shared_softmax(DType::BF16, 4, 256), Arch::Sm90a, softmax_of(DType::BF16, [2, 900], 5)),
        ("staged", gemm(DType::F16, [64, 64, 32], 2, plain()), Arch::Sm75, product_of(DType::F16, [70, 72, 104], 4)),
    ];
    all.into_iter()
        .map(|(name, program, arch, problem)| (name, scheduled(program, &arch.into()), arch, problem))
        .collect()
}

/// What the simulator finds wrong.
fn wrong(program: &Program, arch: Arch, problem: &Problem) -> Option<String> {
    let atoms: AtomTable = arch.into();
    let run = || {
        let ready = ready(program.clone(), &atoms)?;
        ORDERS.into_iter().try_for_each(|seed| problem.holds(&ready, seed))
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked".to_owned())).err()
}

#[test]
fn the_simulator_agrees_with_the_validator() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (total, seed) = (number("KILN_MUTANTS").unwrap_or(10), seed());
    println!("KILN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let programs = programs();
    for (name, program, arch, problem) in &programs {
        assert_eq!(wrong(program, *arch, problem), None, "{name}");
    }
    let (mut tried, mut refused, mut accepted) = (0, 0, vec![]);
    let mut only_refused: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..total {
        let (name, program, arch, problem) = &programs[i as usize % programs.len()];
        let mut mutant = program.clone();
        let Some(what) = mutate(&mut mutant, &mut random) else { continue };
        tried += 1;
        let (verdict, found) = (validate(&mutant), wrong(&mutant, *arch, problem));
        match (verdict, found) {
            (Ok(_), Some(found)) => accepted.push(format!("{name}: {what}: {found}")),
            (Ok(_), None) => {}
            (Err(_), Some(_)) => refused += 1,
            (Err(_), None) => {
                refused += 1;
                *only_refused.entry(format!("{name}: {what}")).or_default() += 1;
            }
        }
    }
    println!(
        "{tried} mutants, {refused} refused, {} of them run clean: {only_refused:#?}",
        only_refused.values().sum::<usize>()
    );
    assert!(accepted.is_empty(), "KILN_SEED={seed}: {} accepted wrongly: {accepted:#?}", accepted.len());
}
