//! Every pass of the tile compiler against the interpreter: what a program computes is the same, bit for bit, after each.

mod tiles;

use kiln_target::arch::Arch;
use kiln_tile::TileError;
use kiln_tile::interp::Arg;
use kiln_tile::ir::{Level, Program, interp};
use kiln_tile::passes::{Machine, PASSES};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

fn results(program: &Program, ctas: u32, args: &[Arg]) -> Result<Vec<Arg>, TileError> {
    let mut args = args.to_vec();
    interp::run_on(program, NonZeroU32::MIN.saturating_add(ctas), &mut args)?;
    Ok(args)
}

/// Runs the passes as far as programs are interpreted, and compares after each. `Ok(Some(why))`: a pass refused the Config.
fn keeps_values(program: &Program, arch: Arch, args: &[Arg]) -> Result<Option<String>, String> {
    let machine = Machine { arch };
    let expected = results(program, 0, args).map_err(|e| format!("before any pass: {e}"))?;
    let mut program = program.clone();
    for pass in PASSES.iter().filter(|pass| pass.level < Level::Async) {
        let before = program.clone();
        if let Err(error) = pass.run(&mut program, &machine) {
            return Ok(Some(format!("{}: {error}", pass.name)));
        }
        if program == (Program { level: program.level, ..before }) {
            continue;
        }
        let found = results(&program, 3, args).map_err(|e| format!("after {}: {e}", pass.name))?;
        for (position, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let (Arg::Array(found), Arg::Array(expected)) = (found, expected) else { continue };
            if let Some(at) =
                (0..found.len()).find(|&i| found.bytes() != expected.bytes() && differ(found, expected, i))
            {
                let (found, expected) = (found.get(at), expected.get(at));
                return Err(format!(
                    "after {}: argument {position}, element {at} is {found:?}, was {expected:?}",
                    pass.name
                ));
            }
        }
    }
    Ok(None)
}

fn differ(a: &kiln_tile::Array, b: &kiln_tile::Array, i: usize) -> bool {
    let (a, b) = (a.get(i), b.get(i));
    a != b && !(a.as_f64().is_nan() && b.as_f64().is_nan())
}
#[test]
fn passes_keep_the_values_of_random_programs() {
    let refused: RefCell<BTreeMap<String, usize>> = RefCell::default();
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&tiles::generate::tapes(), |tape| {
        let case = tiles::generate::generate(&tape);
        match keeps_values(&case.program, case.arch, &case.args) {
            Ok(None) => Ok(()),
            Ok(Some(why)) => {
                *refused.borrow_mut().entry(why).or_default() += 1;
                Ok(())
            }
            Err(what) => Err(TestCaseError::fail(format!("{what}\n{}\n{}", case.steps.join("\n"), case.program))),
        }
    });
    for (why, count) in refused.borrow().iter() {
        println!("{count}: {why}");
    }
    outcome.unwrap_or_else(|e| panic!("{e}"));
}
