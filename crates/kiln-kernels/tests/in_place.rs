//! Products and attention whose operands are views of parts of what lies in memory, against the reference interpreter: in the tile interpreter, and in the
//! simulator with all checks. What is beside the parts is NaN, so that whatever is read there shows.

use crate::common::attention::{part_of_a_cache, part_of_heads, parts_of_one};
use crate::common::{Case, products, sim};
use kiln_graph::DType;
use kiln_kernels::families::implementation;
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;
use std::collections::BTreeSet;

const ARCHES: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

/// The cheapest Config, one with roles, and another, on an architecture: interpreted as built and as laid out, one of them simulated in two orders.
fn check(case: &Case, arch: Arch, seed: usize) {
    let name = &case.region.name;
    let offers = case.offers(arch);
    assert!(!offers.is_empty(), "{name}");
    let special = offers.iter().position(|offer| offer.text.contains("specialised"));
    let chosen: BTreeSet<usize> = [0, special.unwrap_or(offers.len() / 2), seed * 7 % offers.len()].into();
    for (n, i) in chosen.into_iter().enumerate() {
        let offer = &offers[i];
        let what = format!("{name} on {arch}, {}", offer.text);
        println!("{what}");
        let built = offer.build().unwrap_or_else(|e| panic!("{what}: {e}"));
        for level in [Level::Tile, Level::LaidOut] {
            let (found, fault) = case.interpret_built(&built, arch, level);
            assert_eq!((case.differs(&found, 1.0), fault), (None, 0), "{what}, {level:?}");
        }
        if n == seed % 2 && built.guard.holds(&case.bindings()).unwrap() {
            let made = implementation(offer, &built, arch, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
            sim::simulate_made(case, &made, arch, [None, Some(seed as u64)]);
        }
    }
}

fn check_all(cases: Vec<Case>) {
    for (n, case) in cases.iter().enumerate() {
        let archs: Vec<Arch> = ARCHES.into_iter().filter(|arch| case.is_for(*arch)).collect();
        // The newest, and one of the others.
        let [.., last] = archs[..] else { continue };
        check(case, archs[n % (archs.len() - 1)], n);
        check(case, last, n + 1);
    }
}

#[test]
fn attention_reads_parts_of_one_projection() {
    let mut cases = vec![];
    for (form, dtype, rows, depth) in [
        ("split", DType::F16, 75, 64),
        ("axis", DType::BF16, 33, 64),
        ("grouped", DType::F16, 40, 128),
        ("split", DType::F16, 19, 40),
        ("axis", DType::F32, 21, 24),
        ("split", DType::BF16, 130, 20),
    ] {
        cases.push(parts_of_one(dtype, form, rows, depth));
    }
    // Boxes, as of what lies by itself.
    for case in &cases[..3] {
        let offers = case.offers(Arch::Sm90a);
        let offer = offers.iter().find(|offer| offer.text.contains("specialised")).expect("roles");
        let made = implementation(offer, &offer.build().unwrap(), Arch::Sm90a, &mut |_, _, _| {}).unwrap();
        assert!(made.kernels[0].source.contains("tma_load("), "{}", made.kernels[0].source);
    }
    check_all(cases);
}

#[test]
fn attention_reads_a_part_of_a_cache() {
    let mut cases = vec![];
    for (dtype, sizes, start, after) in [
        (DType::F16, [19, 75, 64], 0, 60),
        (DType::BF16, [70, 33, 128], 5, 100),
        (DType::F16, [5, 129, 24], 3, 1),
        (DType::F32, [20, 40, 20], 1, 70),
    ] {
        cases.push(part_of_a_cache(dtype, sizes, start, after));
    }
    check_all(cases);
}

/// Heads that end within memory, and ones that begin between multiples of 16 bytes.
#[test]
fn attention_reads_parts_of_heads() {
    let mut cases = vec![];
    for (dtype, sizes) in [
        (DType::F16, [64, 192, 64]),
        (DType::F16, [40, 128, 16]),
        (DType::BF16, [32, 72, 3]),
        (DType::F16, [24, 33, 2]),
        (DType::F32, [20, 50, 7]),
    ] {
        cases.push(part_of_heads(dtype, sizes));
    }
    check_all(cases);
}

#[test]
fn products_read_parts_along_any_axis() {
    let mut cases = vec![];
    let sizes = |m: usize, n: usize, k: usize| {
        move |l: char| match l {
            'm' => m,
            'n' => n,
            'k' => k,
            _ => 2,
        }
    };
    for (text, dtype, [m, n, k], label, part) in [
        ("mk,nk->mn", DType::F16, [70, 96, 64], 'k', [64, 64]),
        ("mk,nk->mn", DType::BF16, [33, 40, 100], 'k', [8, 20]),
        ("mk,kn->mn", DType::F16, [40, 33, 33], 'k', [3, 50]),
        ("km,nk->mn", DType::F16, [64, 72, 40], 'k', [5, 40]),
        ("km,kn->mn", DType::BF16, [24, 64, 40], 'm', [16, 24]),
        ("bmk,nk->bmn", DType::F16, [19, 64, 72], 'm', [7, 40]),
        ("bmk,bnk->bmn", DType::F16, [64, 64, 64], 'b', [1, 1]),
        ("mk,nk->mn", DType::F32, [20, 24, 36], 'k', [1, 30]),
        ("mk,nk->mn", DType::F16, [1, 200, 520], 'k', [8, 504]),
        ("mk,nk->mn", DType::I8, [30, 32, 48], 'k', [16, 64]),
        ("mk,kn->mn", DType::F64, [9, 17, 12], 'k', [2, 5]),
    ] {
        cases.push(products::part(text, dtype, &sizes(m, n, k), label, part));
    }
    cases.push(products::thirds(DType::F16, [33, 64, 72]));
    cases.push(products::thirds(DType::BF16, [5, 24, 40]));
    check_all(cases);
}
