//! Where elements are: constant indices into what is put together from parts, and indices that are data.

use crate::common::{Case, case, cases, d, ints, random};
use kiln_fuse::Anchor;
use kiln_graph::{Builder, DType, Dim, PadMode, Rng, Tensor, ValueId};
use kiln_kernels::families::Subject;
use kiln_kernels::lower;
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use std::sync::Arc;

const F: DType = DType::F32;

/// Something too large to stand in a conditional expression, or something light.
fn worked(b: &mut Builder, x: ValueId, heavy: bool) -> kiln_graph::Result<ValueId> {
    // As a tree, each doubles it.
    (0..if heavy { 6 } else { 1 }).try_fold(x, |x, _| b.mul(x, x))
}

/// A random tower of concatenations, paddings and arithmetic over `[4, 5]`, and one row or column of it.
fn tower(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let inputs = vec![random(F, &[4, 5], seed), random(F, &[4, 5], seed + 1000)];
    case(&format!("tower_{seed}"), Anchor::Map, 1e3, inputs, |b| {
        let mut x = b.input("x", F, &d(&["4", "5"]))?;
        let mut y = b.input("y", F, &d(&["4", "5"]))?;
        for _ in 0..rng.range(1, 2) {
            let (axis, heavy) = (rng.range(0, 1), rng.range(0, 3) == 0);
            x = worked(b, x, heavy)?;
            let mut amounts = || [0, 1].map(|_| Dim::from(rng.range(0, 2)));
            let (low, high) = (amounts(), amounts());
            let mode = [PadMode::Constant(0.25), PadMode::Edge, PadMode::Reflect][rng.range(0, 2) as usize];
            (x, y) = match rng.range(0, 1) {
                0 if b.shape(x)[1 - axis as usize] == b.shape(y)[1 - axis as usize] => (b.concat(&[x, y, x], axis)?, y),
                _ => (b.pad(x, &low, &high, mode)?, x),
            };
        }
        let axis = rng.range(0, 1);
        let extent = b.shape(x)[axis as usize].as_const().unwrap_or(1);
        let at = Dim::from(rng.range(0, extent - 1));
        Ok(vec![b.slice_axis(x, axis, &at, &Dim::from(1), 1)?])
    })
}

#[test]
fn constant_indices_reach_only_parts_that_have_them() {
    for seed in 0..400 {
        let case = tower(seed);
        case.compare(&case.interpret_tiles(Arch::Sm80), 1.0);
        case.lower(Arch::Sm80).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// The gathers and scatters of the other tests, each with one index moved out of its axis.
fn out_of_range() -> Vec<Case> {
    let mut all: Vec<Case> = cases::gathers().into_iter().chain(cases::scatters()).collect();
    for (seed, case) in all.iter_mut().enumerate() {
        let mut rng = Rng::new(seed as u64);
        let places = &mut case.inputs[1];
        let mut values = places.to_i128_vec().unwrap();
        let at = rng.range(0, values.len() as i64 - 1) as usize;
        values[at] = [-1000, 1000, i128::from(i32::MIN), i128::from(i32::MAX)][rng.range(0, 3) as usize];
        *places = Tensor::from_i128(places.dtype(), places.shape(), &values).unwrap();
    }
    all
}

#[test]
fn indices_out_of_range_are_noted_and_access_nothing_outside() {
    for case in out_of_range() {
        // The interpreter refuses an access outside of a buffer.
        let (_, fault) = case.interpret_faulty(Arch::Sm80);
        let made = case.lower(Arch::Sm80).unwrap();
        let checks = &made.kernels[0].checks;
        let what = usize::try_from(fault - 1).ok().and_then(|i| checks.get(i));
        let what = what.unwrap_or_else(|| panic!("{}: fault {fault}", case.region.name));
        assert!(what.contains("outside of axis"), "{what}");
    }
}

/// What `build` makes of `x`, `[6, 5]`, and `ids`, `[4]`, and the ranges known of the two.
fn gathered(build: impl FnOnce(&mut Builder, ValueId, ValueId) -> kiln_graph::Result<ValueId>) -> Case {
    let inputs = vec![random(F, &[6, 5], 1), ints(DType::I64, &[4], -6, 5, 2)];
    case("gathered", Anchor::Index, 2.0, inputs, |b| {
        let x = b.input("x", F, &d(&["6", "5"]))?;
        let ids = b.input("ids", DType::I64, &d(&["4"]))?;
        Ok(vec![build(b, x, ids)?])
    })
}

#[test]
fn indices_that_cannot_be_out_of_range_are_not_checked() {
    let plain = gathered(|b, x, ids| b.gather(x, ids, 0));
    let checks = |case: &Case, range: Option<(i64, i64)>| {
        let subject = Subject { ranges: vec![None, range], ..Subject::of(&case.region) };
        let made = lower(&Arc::new(subject), &Gpu::typical(Arch::Sm80).unwrap()).unwrap().remove(0).1;
        let kernel = &made.kernels[0];
        assert_eq!(kernel.source.contains("fault"), !kernel.checks.is_empty(), "{}", kernel.source);
        kernel.checks.len()
    };
    for (range, expected) in [(None, 1), (Some((0, 5)), 0), (Some((-6, 5)), 0), (Some((-7, 5)), 1), (Some((0, 6)), 1)] {
        assert_eq!(checks(&plain, range), expected, "{range:?}");
    }
    // What the graph itself clamps.
    let clamped = gathered(|b, x, ids| {
        let (low, high) = (b.scalar_int(DType::I64, 0)?, b.scalar_int(DType::I64, 5)?);
        let ids = b.max(ids, low)?;
        let ids = b.min(ids, high)?;
        b.gather(x, ids, 0)
    });
    assert_eq!(checks(&clamped, None), 0);
    clamped.compare(&clamped.interpret_tiles(Arch::Sm80), 1.0);
    let counted = gathered(|b, x, ids| {
        let one = b.scalar_int(DType::I64, 1)?;
        let ids = b.plus(ids, one)?;
        b.gather(x, ids, 0)
    });
    assert_eq!((checks(&counted, Some((-7, 4))), checks(&counted, Some((-7, 5)))), (0, 1));
}

#[test]
fn a_check_keeps_accesses_wide() {
    let case = &cases::gathers()[0];
    let made = case.lower(Arch::Sm80).unwrap();
    let source = &made.kernels[0].source;
    assert!(!made.kernels[0].checks.is_empty() && source.contains("load<8>") && source.contains("store("), "{source}");
}

#[test]
fn indices_beside_padding_are_read_only_where_they_exist() {
    // Whether or not the gather stands in a conditional expression; the index that is wrong is never padding.
    for heavy in [false, true] {
        for (wrong, expected) in [(false, false), (true, true)] {
            let mut case = gathered(|b, x, ids| {
                let rows = b.gather(x, ids, 0)?;
                let rows = worked(b, rows, heavy)?;
                b.pad(rows, &d(&["2", "1"]), &d(&["1", "2"]), PadMode::Constant(0.5))
            });
            if wrong {
                case.inputs[1] = Tensor::from_i128(DType::I64, &[4], &[0, 3, 6, 1]).unwrap();
            }
            let (found, fault) = case.interpret_faulty(Arch::Sm80);
            assert_eq!(fault != 0, expected, "heavy {heavy}");
            if !wrong {
                case.compare(&found, 1.0);
            }
        }
    }
}

#[test]
fn an_empty_axis_is_out_of_range_and_not_read() {
    let inputs =
        vec![Tensor::full(F, &[0, 5], 0.0).unwrap(), Tensor::from_i128(DType::I64, &[3], &[0, -1, 2]).unwrap()];
    let mut empty = case("empty", Anchor::Index, 1.0, inputs, |b| {
        let x = b.input("x", F, &d(&["N", "5"]))?;
        let ids = b.input("ids", DType::I64, &d(&["3"]))?;
        Ok(vec![b.gather(x, ids, 0)?])
    });
    assert_eq!(empty.interpret_faulty(Arch::Sm80).1, 1);
    empty.inputs[0] = random(F, &[4, 5], 3);
    empty.compare(&empty.interpret_tiles(Arch::Sm80), 1.0);
}
