//! Tile programs of the families on the first tile IR, run by the tile interpreter, against the reference interpreter: `built.rs` and
//! `products.rs` have the others.

use crate::common::{Case, attention, case, cases, random, spec};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{DType, Dim};
use kiln_kernels::families::Subject;
use kiln_kernels::{Error, Result, Variants};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use std::sync::Arc;

fn check(cases: Vec<Case>) {
    assert!(!cases.is_empty());
    for case in cases {
        case.compare(&case.interpret_tiles(Arch::Sm80), 1.0);
        // The CUDA C exists too, and its launch can be evaluated.
        let name = &case.region.name;
        let oldest = if case.is_for(Arch::Sm75) { Arch::Sm75 } else { Arch::Sm80 };
        let made = case.lower(oldest).unwrap_or_else(|e| panic!("{name}: {e}"));
        let bindings = case.bindings();
        for kernel in &made.kernels {
            assert!(kernel.source.contains(&format!("{}(", kernel.entry)), "{name}");
            assert!(kernel.source.contains(&case.region.summary), "{name}");
            assert!(kernel.launch.grid.blocks(&bindings, 1, [1; 3]).unwrap().iter().all(|&blocks| blocks >= 0));
        }
    }
}

#[test]
fn scatters() {
    check(cases::scatters());
}

#[test]
fn tiles_that_no_row_sees_are_skipped() {
    for case in attention::attentions() {
        let made = case.lower(Arch::Sm80).unwrap();
        let causal = case.region.name.ends_with("causal");
        assert_eq!(made.kernels[0].source.contains("const int end_ = "), causal, "{}", made.kernels[0].source);
    }
}

#[test]
fn sums_that_no_product_has_go_to_the_loop_nest() {
    let spec = spec("mk,kn->mn");
    let inputs = vec![random(DType::I64, &[9, 9], 1), random(DType::I64, &[9, 9], 2)];
    let case = case("loops", Anchor::Contract, 64.0, inputs, |b| {
        let x = b.input("x", DType::I64, &[Dim::from(9), Dim::from(9)])?;
        let y = b.input("y", DType::I64, &[Dim::from(9), Dim::from(9)])?;
        Ok(vec![b.contract(spec.clone(), x, y, DType::I64, DType::I64)?])
    });
    assert_eq!(case.lower(Arch::Sm80).unwrap().family, "contract_loops");
    check(vec![case]);
}

#[test]
fn windows() {
    check(cases::windows());
}

#[test]
fn scans() {
    check(cases::scans());
}

#[test]
fn top_k() {
    check(cases::top_k());
}

fn lowered(region: &Region) -> Result<Variants> {
    kiln_kernels::lower(&Arc::new(Subject::of(region)), &Gpu::typical(Arch::Sm80).unwrap())
}

#[test]
fn what_cannot_be_expressed_is_an_error() {
    let packed =
        crate::common::case("packed", Anchor::Map, 1.0, vec![crate::common::random(DType::I8, &[6], 1)], |b| {
            let x = b.input("x", DType::I8, &crate::common::d(&["6"]))?;
            Ok(vec![b.cast(x, DType::I4)?])
        });
    let error = lowered(&packed.region).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("i4")), "{error}");
    let mut wrong = packed.region.clone();
    wrong.anchor = Anchor::Conv;
    let error = lowered(&wrong).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    // The largest of each row of a product: nothing here makes that in one piece.
    let f = DType::F32;
    let inputs = vec![crate::common::random(f, &[6, 8], 1), crate::common::random(f, &[4, 8], 2)];
    let written = crate::common::case("written", Anchor::Kernel, 1.0, inputs, |b| {
        let (x, w) =
            (b.input("x", f, &crate::common::d(&["6", "8"]))?, b.input("w", f, &crate::common::d(&["4", "8"]))?);
        let y = b.linear(x, w, None, true)?;
        Ok(vec![b.reduce(kiln_graph::ReduceOp::Max, y, &[1], false)?])
    });
    written.region.verify().unwrap();
    let error = lowered(&written.region).unwrap_err();
    assert!(
        matches!(&error, Error::Unsupported { what, .. } if what.contains("a kernel that somebody wrote")),
        "{error}"
    );
}
