//! Two products that share an operand are one launch, whatever Config makes it: in the tile interpreter, before and after the passes, in the
//! simulator with all checks. Spills: `sass.rs`.

use crate::common::products::{Rotary, Twins, rotary, twins};
use crate::common::{Case, sim};
use kiln_graph::DType;
use kiln_kernels::families::{Offer, implementation};
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;
use std::collections::BTreeSet;

const ARCHES: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

const PLAIN: Twins = Twins { text: "mk,nk->mn", dtype: DType::F16, mirrored: false, bias: false, several: false };

fn sized(form: Twins, [m, n, k]: [usize; 3]) -> Case {
    twins(form, &|l| match l {
        'm' => m,
        'n' => n,
        'k' => k,
        _ => 3,
    })
}

/// The first Config of every kind: what kinds differ in is more than numbers.
fn of_each_kind(mut offers: Vec<Offer>) -> Vec<Offer> {
    let mut seen = BTreeSet::new();
    offers.retain(|offer| seen.insert(offer.text.replace(|c: char| c.is_ascii_digit(), "")));
    offers
}

/// The best Config of every kind.
fn kinds(case: &Case, arch: Arch) -> Vec<Offer> {
    let offers = case.offers(arch);
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer.family == "gemm"), "{}", case.region.name);
    of_each_kind(offers)
}

/// The same results as the reference's, of the best Config of every kind.
fn interpreted(case: &Case, arch: Arch) {
    for offer in kinds(case, arch) {
        let built = offer.build().unwrap_or_else(|e| panic!("{}, {}: {e}", case.region.name, offer.text));
        for level in [Level::Tile, Level::LaidOut] {
            let (found, fault) = case.interpret_built(&built, arch, level);
            let said = case.differs(&found, 1.0);
            assert_eq!((said, fault), (None, 0), "{arch}, {level:?}: {}", offer.text);
        }
    }
}

#[test]
fn orientations_types_and_odd_sizes() {
    let texts = ["mk,nk->mn", "mk,kn->mn", "km,kn->mn", "bmk,nk->bmn", "bmk,bkn->bmn", "mk,nk->nm", "mk,k->m"];
    let dtypes = [DType::F16, DType::BF16, DType::F32, DType::I8, DType::F8E4M3];
    let sizes = [[1, 72, 200], [5, 33, 40], [70, 96, 130], [33, 8, 64], [130, 64, 96]];
    for (n, text) in texts.into_iter().cycle().take(10).enumerate() {
        let dtype = dtypes[(n + n / 5) % dtypes.len()];
        let form = Twins {
            text,
            dtype,
            mirrored: n % 3 == 2,
            bias: n % 2 == 1 && !text.ends_with("->m"),
            several: n % 4 == 1,
        };
        interpreted(&sized(form, sizes[(n + n / 7) % sizes.len()]), ARCHES[(n + n / 4) % 4]);
    }
}

/// Heads whose pairs are turned, in halves and turn by turn, all in one result and in several.
fn rotaries() -> Vec<Case> {
    let form = |dtype, interleaved, parts, bias| Rotary { dtype, interleaved, parts, bias };
    let (f16, bf16, f32) = (DType::F16, DType::BF16, DType::F32);
    vec![
        rotary(form(f16, false, false, false), [7, 5, 3, 64, 96]),
        rotary(form(bf16, true, true, false), [1, 4, 3, 48, 136]),
        rotary(form(f32, false, true, true), [129, 3, 2, 32, 40]),
        rotary(form(f16, true, false, true), [129, 7, 5, 32, 64]),
        rotary(form(bf16, false, true, true), [1, 9, 8, 64, 264]),
        rotary(form(f32, true, false, false), [7, 3, 2, 22, 130]),
        rotary(form(f16, false, true, false), [130, 5, 4, 128, 128]),
    ]
}

#[test]
fn heads_are_turned_and_stored_at_their_places() {
    for (n, case) in rotaries().iter().enumerate() {
        interpreted(case, ARCHES[n % 4]);
    }
}

#[test]
fn heads_are_turned_cleanly_in_the_simulator() {
    for (n, case) in rotaries().iter().enumerate() {
        for arch in [ARCHES[n % 4], ARCHES[(n + 3) % 4]] {
            for offer in kinds(case, arch) {
                let built = offer.build().unwrap();
                if !built.guard.holds(&case.bindings()).unwrap() {
                    continue;
                }
                let made = implementation(&offer, &built, arch, &mut |_, _, _| {})
                    .unwrap_or_else(|e| panic!("{} on {arch} with {}: {e}", case.region.name, offer.text));
                println!("{} on {arch} with {}", case.region.name, offer.text);
                sim::simulate_made(case, &made, arch, [None, Some(n as u64 + 1)]);
            }
        }
    }
}

/// What two products share comes once a step, and each has an instruction of its own.
#[test]
fn what_is_shared_is_brought_once() {
    for (arch, instruction) in [(Arch::Sm80, "mma.m16n8k16"), (Arch::Sm90a, "wgmma.m64n")] {
        let case = sized(Twins { dtype: DType::BF16, ..PLAIN }, [512, 768, 512]);
        let offers = case.offers(arch);
        let offer = offers.iter().find(|offer| arch == Arch::Sm80 || offer.text.contains("specialised")).unwrap();
        let built = offer.build().unwrap();
        assert_eq!(built.launches.len(), 1);
        let loads = |text: &str| text.lines().filter(|line| line.contains("= load ")).count();
        let program = built.launches[0].program.to_string();
        assert_eq!(loads(&program), 3, "{program}");
        let scheduled = built.launches[0].scheduled(arch).unwrap().to_string();
        assert_eq!(scheduled.matches(instruction).count(), 2, "{scheduled}");
        // All of a step comes through one channel, which is called after the first tile: nothing waits between the products.
        let channels = ["a_full", "b_full"].map(|name| scheduled.contains(name));
        assert_eq!(channels, [arch == Arch::Sm90a, false], "{scheduled}");
    }
}

/// Few and many rows, in which every kind of Config takes part, with several schedules.
#[test]
fn every_kind_runs_clean_in_the_simulator() {
    let cases = [
        (PLAIN, [1, 72, 520], Arch::Sm90a),
        (Twins { dtype: DType::BF16, bias: true, ..PLAIN }, [17, 136, 1040], Arch::Sm90a),
        (Twins { several: true, ..PLAIN }, [136, 264, 200], Arch::Sm90a),
        (Twins { mirrored: true, ..PLAIN }, [136, 72, 200], Arch::Sm90a),
        (Twins { dtype: DType::I8, ..PLAIN }, [24, 136, 272], Arch::Sm90a),
        (Twins { dtype: DType::F32, ..PLAIN }, [33, 70, 130], Arch::Sm90a),
        (Twins { text: "mk,kn->mn", bias: true, ..PLAIN }, [40, 72, 264], Arch::Sm80),
        (Twins { dtype: DType::F32, mirrored: true, ..PLAIN }, [3, 64, 136], Arch::Sm80),
        (Twins { text: "bmk,bkn->bmn", several: true, ..PLAIN }, [33, 24, 40], Arch::Sm75),
        (Twins { dtype: DType::F8E4M3, ..PLAIN }, [19, 48, 160], Arch::Sm89),
    ];
    let mut met = BTreeSet::new();
    for (n, (form, size, arch)) in cases.into_iter().enumerate() {
        let case = sized(form, size);
        for offer in kinds(&case, arch) {
            let built = offer.build().unwrap();
            if !built.guard.holds(&case.bindings()).unwrap() {
                continue;
            }
            // The validator's verdict is part of it.
            let made = implementation(&offer, &built, arch, &mut |_, _, _| {})
                .unwrap_or_else(|e| panic!("{} on {arch} with {}: {e}", case.region.name, offer.text));
            println!("{} on {arch} with {}", case.region.name, offer.text);
            let schedules = if n < 3 { 20 } else { 2 };
            sim::simulate_made(&case, &made, arch, (0..schedules).map(|seed| (seed > 0).then_some(seed)));
            let words = ["specialised", "ping-pong", "swapped", "clusters", "parts", "turns", "lanes", "streamed"];
            met.extend(words.into_iter().filter(|word| offer.text.contains(word)));
        }
    }
    println!("{met:?}");
    for word in ["specialised", "ping-pong", "swapped", "clusters", "parts", "turns", "lanes"] {
        assert!(met.contains(word), "no Config is {word}");
    }
}
