//! What families build on the tile IR, in its interpreter, against the reference interpreter: as built, and after the passes.

mod common;

use common::{Case, cases};
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;

/// Every Config of `family` as it is built; the first, the last and one between after the passes too.
fn check(cases: Vec<Case>, family: &str) {
    assert!(!cases.is_empty());
    for (n, case) in cases.iter().enumerate() {
        let arch = [Arch::Sm75, Arch::Sm80, Arch::Sm90a][n % 3];
        let offers = case.offers(arch);
        assert!(!offers.is_empty() && offers.iter().all(|offer| offer.family == family), "{}", case.region.name);
        let chosen = [0, n % offers.len(), offers.len() - 1];
        for (i, offer) in offers.iter().enumerate() {
            if !chosen.contains(&i) {
                continue;
            }
            let built = offer.build().unwrap_or_else(|e| panic!("{}: {e}", case.region.name));
            for level in [Level::Tile, Level::LaidOut] {
                let (found, fault) = case.interpret_built(&built, arch, level);
                assert_eq!(fault, 0, "{}: a check failed", case.region.name);
                case.compare(&found, 1.0);
            }
        }
    }
}

#[test]
fn unary() {
    check(cases::unary_functions(), "map");
}

#[test]
fn binary() {
    check(cases::binary_functions(), "map");
}

#[test]
fn casts() {
    check(cases::casts(), "map");
}

#[test]
fn views() {
    check(cases::views(), "map");
}

#[test]
fn gathers() {
    check(cases::gathers(), "map");
}

#[test]
fn quantization() {
    check(cases::quantization(), "map");
}

#[test]
fn random_maps() {
    check((0..60).map(cases::random_maps).collect(), "map");
}

#[test]
fn reductions() {
    check(cases::reductions(), "rows");
}
