//! Products of which one operand is made on the way, by elementwise ops: in the tile interpreter, before and after the passes, in the simulator with
//! all checks. Spills: `sass.rs`. Random ones: `cells.rs`.

use crate::common::products::{Excited, excited};
use crate::common::{Case, sim};
use kiln_graph::DType;
use kiln_kernels::families::{Offer, implementation};
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;
use std::collections::BTreeSet;

const ARCHES: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

/// The best Config of every kind.
fn kinds(case: &Case, arch: Arch) -> Vec<Offer> {
    let mut offers = case.offers(arch);
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer.family == "gemm"), "{}", case.region.name);
    let mut seen = BTreeSet::new();
    offers.retain(|offer| seen.insert(offer.text.replace(|c: char| c.is_ascii_digit(), "")));
    offers
}

fn cases() -> Vec<Case> {
    let form = |dtype, left, twins, function| Excited { dtype, left, twins, function };
    let (f16, bf16, f32, f64) = (DType::F16, DType::BF16, DType::F32, DType::F64);
    vec![
        excited(form(f32, false, false, false), [2, 5, 7, 24, 40]),
        excited(form(f32, true, false, true), [1, 1, 1, 1, 1]),
        excited(form(f32, false, false, true), [3, 9, 5, 37, 18]),
        excited(form(f32, true, true, false), [2, 6, 11, 88, 22]),
        excited(form(f16, false, false, true), [1, 13, 10, 64, 72]),
        excited(form(f16, true, true, false), [3, 8, 9, 40, 33]),
        excited(form(bf16, true, false, true), [2, 7, 7, 200, 64]),
        excited(form(f64, false, false, false), [2, 3, 5, 20, 12]),
        excited(form(f32, false, false, false), [2, 3, 5, 1040, 24]),
    ]
}

#[test]
fn they_are_right_in_every_kind_of_config() {
    for (n, case) in cases().iter().enumerate() {
        for arch in [ARCHES[n % 4], ARCHES[(n + 3) % 4]] {
            for offer in kinds(case, arch) {
                let what = format!("{} on {arch} with {}", case.region.name, offer.text);
                let built = offer.build().unwrap_or_else(|e| panic!("{what}: {e}"));
                for level in [Level::Tile, Level::LaidOut] {
                    let (found, fault) = case.interpret_built(&built, arch, level);
                    assert_eq!((case.differs(&found, 1.0), fault), (None, 0), "{what}, {level:?}");
                }
                if built.guard.holds(&case.bindings()).unwrap() {
                    let made = implementation(&offer, &built, arch, &mut |_, _, _| {}).unwrap();
                    sim::simulate_made(case, &made, arch, [None, Some(n as u64 + 1)]);
                }
            }
        }
    }
}

/// The image comes in whole accesses an iteration before it is multiplied; nothing waits for it between.
#[test]
fn the_next_step_is_on_its_way_while_one_is_multiplied() {
    let case = excited(Excited { dtype: DType::F32, left: false, twins: false, function: false }, [1, 20, 20, 96, 64]);
    for arch in ARCHES {
        let offer = &kinds(&case, arch)[0];
        let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
        let source = &made.kernels[0].source;
        let step = source.split(" k0_ = ").nth(1).unwrap().split("\n    }\n").next().unwrap();
        let (before, after) = step.split_once("__syncthreads();").unwrap();
        let loads = |text: &str| text.contains("= load<4>(x_at");
        assert!(
            !loads(before) && loads(after) && !after.contains("__syncthreads();"),
            "{arch}, {}: {step}",
            offer.text
        );
    }
}
