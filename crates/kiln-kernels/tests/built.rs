//! What families build on the tile IR, in its interpreter, against the reference interpreter: as built, and after the passes.

mod common;

use common::{Case, cases, shapes};
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;

/// The cheapest Config, the dearest and one between, as `family` built them and after the passes.
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
            if !built.guard.holds(&case.bindings()).unwrap() {
                continue;
            }
            // The last pass is followed by the proof of the schedule.
            for launch in &built.launches {
                launch.scheduled(arch).unwrap_or_else(|e| panic!("{} for {arch}: {e}", case.region.name));
            }
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

#[test]
fn maps_of_random_shapes() {
    let seed = shapes::fresh_seed();
    println!("seeds from {seed}");
    check((0..30).map(|i| shapes::map(seed.wrapping_add(i))).collect(), "map");
}

#[test]
fn rows_of_random_shapes() {
    let seed = shapes::fresh_seed();
    println!("seeds from {seed}");
    check((0..30).map(|i| shapes::rows(seed.wrapping_add(i))).collect(), "rows");
}

/// Every Config, not only the best: whatever the tuner takes must be right.
#[test]
fn every_config_is_right() {
    let seed = shapes::fresh_seed();
    println!("seeds from {seed}");
    for case in (0..3).map(|i| shapes::rows(seed.wrapping_add(i))).chain([shapes::map(seed)]) {
        for offer in case.offers(Arch::Sm80) {
            let built = offer.build().unwrap();
            if built.guard.holds(&case.bindings()).unwrap() {
                case.compare(&case.interpret_built(&built, Arch::Sm80, Level::LaidOut).0, 1.0);
            }
        }
    }
}
