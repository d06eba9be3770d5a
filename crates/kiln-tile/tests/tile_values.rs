//! Every pass of the tile compiler against the interpreter: what a program computes is the same, bit for bit, after each.

use crate::tiles::Product;
use crate::tiles::random::{Random, dims, poison, random};
use kiln_target::arch::Arch;
use kiln_tile::interp::Arg;
use kiln_tile::ir::{Level, Program, Schedule, interp, verify};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::{Array, AtomicOp, DType, Scalar, TileError};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
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

/// Runs the passes as far as programs are interpreted, and compares after each what its text computes.
fn keeps_values(program: &Program, arch: Arch, args: &[Arg]) -> Result<Outcome, String> {
    let machine = Machine::new(arch);
    read_back(program)?;
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
        let found = read_back(&program).and_then(|program| results(&program, 3, args).map_err(|e| e.to_string()));
        let found = found.map_err(|e| format!("after {}: {e}", pass.name))?;
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

/// What the text of a valid program says, which must be all of it.
fn read_back(program: &Program) -> Result<Program, String> {
    verify(program).map_err(|e| format!("{e} in\n{program}"))?;
    let text = program.to_string();
    let read: Program = text.parse().map_err(|e| format!("{e} in\n{text}"))?;
    if read.to_string() == text { Ok(read) } else { Err(format!("written\n{text}\nread as\n{read}")) }
}

fn differ(a: Scalar, b: Scalar) -> bool {
    a != b && !(a.as_f64().is_nan() && b.as_f64().is_nan())
}

/// Every choice of a schedule that changes a program, and none.
fn schedules() -> [Schedule; 3] {
    let all = Schedule {
        warps: 8,
        specialise: true,
        registers: Some((40, 232)),
        persistent: true,
        raster: 2,
        staged_epilogue: true,
        overlap: true,
        ..Schedule::default()
    };
    [Schedule::default(), Schedule { specialise: false, warps: 4, ..all.clone() }, all]
}

#[test]
fn passes_keep_the_values_of_kernels() {
    let mut r = random();
    let floats = |r: &mut Random, dtype, lens: &[usize]| -> Vec<Arg> {
        lens.iter().map(|len| Arg::Array(r.array(dtype, *len))).collect()
    };
    let mut cases: Vec<(Program, Vec<Arg>)> = vec![];
    let mut add = |program: Program, dims: Vec<Arg>, inputs: Vec<Arg>, output: Arg| {
        cases.push((program, [dims, inputs, vec![output]].concat()));
    };
    let (rows, cols) = (37, 50);
    let x = || rows * cols;
    for program in [crate::tiles::softmax(DType::F16, [8, 64]), crate::tiles::softmax_loop(DType::F16, [8, 32])] {
        add(program, dims([rows, cols]), floats(&mut r, DType::F16, &[x()]), poison(DType::F16, x()));
    }
    let eps = vec![Arg::Scalar(Scalar::Float(1e-5))];
    let inputs = floats(&mut r, DType::BF16, &[x(), cols, cols]);
    let sizes = [dims([rows, cols]), eps].concat();
    add(crate::tiles::layer_norm(DType::BF16, [4, 64]), sizes, inputs, poison(DType::BF16, x()));
    let ids = (0..rows).map(|_| Scalar::Int(i128::from(r.below(20)) - 10));
    let ids = Arg::Array(Array::from_values(DType::I64, ids.collect::<Vec<Scalar>>()));
    let inputs = [
        floats(&mut r, DType::F16, &[7 * cols]),
        vec![ids],
        floats(&mut r, DType::F32, &[cols]),
        vec![Arg::Array(Array::zeros(DType::I32, 1))],
    ];
    let program = crate::tiles::gather_gelu(DType::F16, [16, 32]);
    add(program, dims([rows, 7, cols]), inputs.concat(), poison(DType::F16, x()));
    add(crate::tiles::branches(64), dims([1, cols]), floats(&mut r, DType::F32, &[cols]), poison(DType::F32, cols));
    let whole: Vec<Scalar> = (0..200).map(|_| Scalar::Int(r.below(1000).into())).collect();
    let whole = vec![Arg::Array(Array::from_values(DType::I32, whole))];
    add(crate::tiles::scatter(AtomicOp::Max, 64), dims([200, 9]), whole, poison(DType::I32, 9));
    for (operands, acc) in [(DType::F16, DType::F32), (DType::F32, DType::F32), (DType::I8, DType::I32)] {
        let of = Product { operands, acc, tile: [64, 64, 32], transposed: [false, true], stages: 3 };
        let [batch, m, n, k] = [2, 70, 65, 50];
        let inputs = floats(&mut r, operands, &[batch * m * k, batch * k * n]);
        let inputs = [inputs, floats(&mut r, acc, &[n])].concat();
        add(crate::tiles::gemm(of), dims([batch, m, n, k]), inputs, poison(acc, batch * m * n));
    }
    for [batch, queries, keys] in [[2, 70, 100], [1, 1, 1]] {
        let program = crate::tiles::attention(DType::BF16, [64, 32], [32, 64]);
        let lens = [queries * 32, keys * 32, keys * 64].map(|len| batch * len);
        let inputs = floats(&mut r, DType::BF16, &lens);
        add(program, dims([batch, queries, keys]), inputs, poison(DType::BF16, batch * queries * 64));
    }
    for (program, args) in &cases {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90a] {
            for schedule in schedules() {
                let program = Program { schedule, ..program.clone() };
                let outcome = keeps_values(&program, arch, args);
                outcome.unwrap_or_else(|what| panic!("{what}\n{arch}: {program}"));
            }
        }
    }
}

#[test]
fn passes_keep_the_values_of_random_programs() {
    let counts: RefCell<BTreeMap<String, usize>> = RefCell::default();
    // The draw stays, as what it must meet is counted; `KILN_SEED` makes another.
    let seed = std::env::var("KILN_SEED").ok().and_then(|seed| seed.parse::<u8>().ok()).unwrap_or(1);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
    let outcome = runner.run(&crate::tiles::generate::tapes(), |tape| {
        let case = crate::tiles::generate::generate(&tape);
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
