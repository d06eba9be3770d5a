//! Every pass of the tile compiler against the interpreter: what a program computes is the same, bit for bit, after each.

mod tiles;

use kiln_target::arch::Arch;
use kiln_tile::interp::Arg;
use kiln_tile::ir::{Level, Program, interp};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::{Scalar, TileError};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

fn results(program: &Program, ctas: u32, args: &[Arg]) -> Result<Vec<Arg>, TileError> {
    let mut args = args.to_vec();
    interp::run_on(program, NonZeroU32::MIN.saturating_add(ctas), &mut args)?;
    Ok(args)
}

/// What came of a program.
#[derive(Default)]
struct Outcome {
    /// Passes that changed it.
    changed: Vec<&'static str>,
    /// Why it has no layouts: not every Config of every program has.
    refused: Option<String>,
}

/// Runs the passes as far as programs are interpreted, and compares after each.
fn keeps_values(program: &Program, arch: Arch, args: &[Arg]) -> Result<Outcome, String> {
    let machine = Machine::new(arch);
    let expected = results(program, 0, args).map_err(|e| format!("before any pass: {e}"))?;
    let mut outcome = Outcome::default();
    let mut program = program.clone();
    for pass in PASSES.iter().filter(|pass| pass.level < Level::Async) {
        let before = program.clone();
        if let Err(error) = pass.run(&mut program, &machine) {
            outcome.refused = Some(error.to_string());
            return if pass.name == "layouts" { Ok(outcome) } else { Err(format!("{}: {error}", pass.name)) };
        }
        if program == (Program { level: program.level, ..before }) {
            continue;
        }
        outcome.changed.push(pass.name);
        let found = results(&program, 3, args).map_err(|e| format!("after {}: {e}", pass.name))?;
        for (position, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let (Arg::Array(found), Arg::Array(expected)) = (found, expected) else { continue };
            if let Some(at) = (0..found.len()).find(|&i| differ(found.get(i), expected.get(i))) {
                let (found, expected) = (found.get(at), expected.get(at));
                let place = format!("argument {position}, element {at}");
                return Err(format!("after {}: {place} is {found:?}, was {expected:?}", pass.name));
            }
        }
    }
    Ok(outcome)
}

fn differ(a: Scalar, b: Scalar) -> bool {
    a != b && !(a.as_f64().is_nan() && b.as_f64().is_nan())
}

#[test]
fn passes_keep_the_values_of_random_programs() {
    let counts: RefCell<BTreeMap<String, usize>> = RefCell::default();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&tiles::generate::tapes(), |tape| {
        let case = tiles::generate::generate(&tape);
        let outcome = keeps_values(&case.program, case.arch, &case.args)
            .map_err(|what| TestCaseError::fail(format!("{what}\n{}\n{}", case.steps.join("\n"), case.program)))?;
        for event in outcome.changed.into_iter().map(str::to_owned).chain(outcome.refused) {
            *counts.borrow_mut().entry(event).or_default() += 1;
        }
        Ok(())
    });
    let counts = counts.into_inner();
    println!("{counts:#?}");
    outcome.unwrap_or_else(|e| panic!("{e}"));
    let idle: Vec<&str> = PASSES.iter().filter(|pass| pass.level < Level::Async).map(|pass| pass.name).collect();
    let idle: Vec<&&str> = idle.iter().filter(|name| !counts.contains_key(**name)).collect();
    assert!(idle.is_empty(), "no program was one for {idle:?}");
}
