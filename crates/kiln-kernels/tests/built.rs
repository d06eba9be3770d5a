//! What families build on the tile IR, in its interpreter, against the reference interpreter: as built, and after the passes.

use crate::common::drawn::{self, Draw};
use crate::common::{Case, attention, cases};
use kiln_graph::{DType, Rng};
use kiln_kernels::families::{Subject, offers};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;
use std::sync::Arc;

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

/// The cheapest Config, the dearest, one with roles or one between, and one in parts, on two architectures in turn.
#[test]
fn attentions() {
    for (n, case) in attention::attentions().into_iter().enumerate() {
        for arch in [[Arch::Sm75, Arch::Sm80][n % 2], Arch::Sm90a].into_iter().filter(|arch| case.is_for(*arch)) {
            let offers = case.offers(arch);
            assert!(!offers.is_empty(), "{}", case.region.name);
            let special = offers.iter().position(|offer| offer.text.contains("specialised"));
            let parted = offers.iter().position(|offer| offer.text.contains("parts"));
            let chosen = [0, offers.len() - 1, special.unwrap_or(offers.len() / 2), parted.unwrap_or(0)];
            for i in std::collections::BTreeSet::from(chosen) {
                let built = offers[i].build().unwrap_or_else(|e| panic!("{}: {e}", case.region.name));
                for level in [Level::Tile, Level::LaidOut] {
                    println!("{} on {arch}: {}, {level:?}", case.region.name, offers[i].text);
                    case.compare(&case.interpret_built(&built, arch, level).0, 1.0);
                }
            }
        }
    }
}

/// At sizes that were measured on an H200 the cheapest Config is the one that was fastest there; few queries have few rows.
#[test]
fn attentions_are_ranked_as_measured() {
    let gpu = Gpu::named("h200").unwrap();
    let best = |depth: usize, queries: i64, batch: i64| {
        let case = attention::stream_of(depth, false, "nqhd,nkhd->nhqk", 1, 1);
        let sizes = [("N".to_owned(), batch), ("M".to_owned(), queries), ("K".to_owned(), 4096)].into();
        let subject = Subject::new(&case.region, &case.region.graph.symbols, &[], &sizes);
        offers(&Arc::new(subject), &gpu).unwrap().remove(0).config
    };
    for (depth, keys) in [(128, vec![128]), (64, vec![128, 192])] {
        let config = best(depth, 4096, 16);
        let [bm, bn, warps] = ["bm", "bn", "warps"].map(|name| config[name].as_u64().unwrap());
        assert!(bm == 128 && keys.contains(&bn) && warps == 8 && config["specialise"] == true, "{depth}: {config}");
    }
    let config = best(128, 8, 1);
    assert!(config["bm"].as_u64().unwrap() <= 64, "{config}");
    // Of one query over a cache: steps so long that memory is busy, and parts until all SMs are.
    let decoding = |batch: i64, keys: i64| {
        let case = attention::decoding(DType::BF16);
        let sizes = [("N".to_owned(), batch), ("K".to_owned(), keys)].into();
        let subject = Subject::new(&case.region, &case.region.graph.symbols, &[], &sizes);
        let config = offers(&Arc::new(subject), &gpu).unwrap().remove(0).config;
        ["bm", "bn", "parts"].map(|name| config[name].as_u64().unwrap_or(1))
    };
    for (batch, keys, parts) in [(4, 32768, 8..=32), (4, 8192, 8..=32), (128, 8192, 1..=1)] {
        let [bm, bn, shared] = decoding(batch, keys);
        assert!(bm <= 64 && bn >= 64 && parts.contains(&shared), "{batch} x {keys}: {bm}, {bn}, {shared} parts");
    }
}

/// Regions of every type on shapes of every kind.
fn of_random_shapes(draw: Draw, count: u64) -> Vec<Case> {
    let seed = drawn::seed();
    println!("seeds from {seed}");
    let types = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::I8];
    let case = |i: u64| {
        let mut rng = Rng::new(seed.wrapping_add(i));
        let drawn = draw(&mut rng, types[i as usize % types.len()]).unwrap();
        drawn.case(&drawn.bindings(&mut rng), seed.wrapping_add(i))
    };
    (0..count).map(case).collect()
}

#[test]
fn maps_of_random_shapes() {
    check(of_random_shapes(drawn::map, 30), "map");
}

#[test]
fn rows_of_random_shapes() {
    check(of_random_shapes(drawn::rows, 30), "rows");
}

/// Every Config, not only the best: whatever the tuner takes must be right.
#[test]
fn every_config_is_right() {
    for case in of_random_shapes(drawn::rows, 3).into_iter().chain(of_random_shapes(drawn::map, 1)) {
        for offer in case.offers(Arch::Sm80) {
            let built = offer.build().unwrap();
            if built.guard.holds(&case.bindings()).unwrap() {
                case.compare(&case.interpret_built(&built, Arch::Sm80, Level::LaidOut).0, 1.0);
            }
        }
    }
}
