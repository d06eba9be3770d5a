//! Convolutions on the tile IR: in its interpreter, as built and after the passes, and in the simulator with all checks, against the reference
//! interpreter; what they are made of.

use crate::common::convs::{Form, form, forms};
use crate::common::{Case, sim};
use kiln_graph::{ConvSpec, DType};
use kiln_kernels::families::{Offer, implementation};
use kiln_sim::Options;
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;

const ARCHES: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

/// The first offer, and one of each kind, as far as they are of another number of words.
fn kinds(offers: Vec<Offer>, most: usize) -> Vec<Offer> {
    let mut seen = vec![];
    let kind = |offer: &Offer| format!("{} {}", offer.family, offer.text.replace(|c: char| c.is_ascii_digit(), ""));
    let mut kept: Vec<Offer> = vec![];
    for offer in offers {
        if !seen.contains(&kind(&offer)) && kept.len() < most {
            seen.push(kind(&offer));
            kept.push(offer);
        }
    }
    kept
}

fn interpreted(case: &Case, arch: Arch, most: usize) {
    let name = &case.region.name;
    for offer in kinds(case.offers(arch), most) {
        let built = offer.build().unwrap_or_else(|e| panic!("{name}, {}: {e}", offer.text));
        if !built.guard.holds(&case.bindings()).unwrap() {
            continue;
        }
        for launch in &built.launches {
            launch.scheduled(arch).unwrap_or_else(|e| panic!("{name} for {arch}, {}: {e}", offer.text));
        }
        for level in [Level::Tile, Level::LaidOut] {
            let (found, fault) = case.interpret_built(&built, arch, level);
            assert_eq!(fault, 0, "{name}: a check failed");
            if let Some(said) = case.differs(&found, 1.0) {
                panic!("{name}, {arch}, {level:?}: {} {}: {said}", offer.family, offer.text);
            }
        }
    }
}

/// Channels last, and all other ways that operands and results lie.
#[test]
fn every_form_is_a_convolution() {
    for (n, form) in forms().into_iter().enumerate() {
        let arch = ARCHES[n % 4];
        let dtype = [DType::F16, DType::BF16, DType::F32, DType::F64][n / 2 % 4];
        let last = if n % 3 == 0 { [true; 3] } else { [n & 1 > 0, n & 2 > 0, n & 4 > 0] };
        interpreted(&Form { dtype, last, ..form }.case(n / 4 % 2 == 0), arch, 2);
    }
}

/// In the simulator: the best of each kind, those with roles first.
fn simulated(case: &Case, arch: Arch, most: usize, seeds: u64) {
    let name = &case.region.name;
    let mut offers = case.offers(arch);
    offers.sort_by_key(|offer| !offer.text.contains("specialised"));
    for offer in kinds(offers, most) {
        let built = offer.build().unwrap();
        if !built.guard.holds(&case.bindings()).unwrap() {
            continue;
        }
        let made = implementation(&offer, &built, arch, &mut |_, _, _| {})
            .unwrap_or_else(|e| panic!("{name} on {arch}, {}: {e}", offer.text));
        let entries = sim::load(&made, arch);
        for seed in 0..seeds {
            let options = Options { seed: (seed > 0).then_some(seed), ..Options::default() };
            let found = sim::run(case, &made, &entries, &options, 1 + (seed % 3) as u32);
            let wrong = case.differs(&found, 4.0).or_else(|| case.strays(&found));
            assert_eq!(wrong, None, "{name} on {arch}: {} {}", offer.family, offer.text);
        }
    }
}

#[test]
fn forms_in_the_simulator() {
    for (n, form) in forms().into_iter().enumerate() {
        let arch = ARCHES[n % 4];
        let dtype = [DType::F16, DType::BF16, DType::F32][n % 3];
        let dtype = if arch == Arch::Sm75 && dtype == DType::BF16 { DType::F16 } else { dtype };
        simulated(&Form { dtype, ..form.clone() }.case(n % 2 == 0), arch, 2, 2);
        simulated(&Form { last: [false, n % 3 == 0, n % 2 == 0], ..form }.case(n % 2 == 1), ARCHES[(n + 2) % 4], 1, 1);
    }
}

fn wide() -> Vec<Form> {
    let mixed = ConvSpec { strides: vec![2, 1], pads: vec![(1, 2), (0, 3)], dilations: vec![1, 2], groups: 1 };
    vec![
        form("taps", &[2, 32, 5, 7], &[64, 32, 3, 3], (1, (1, 1), 1, 1)),
        Form { spec: mixed, ..form("mixed", &[3, 32, 9, 6], &[64, 32, 2, 3], (1, (0, 0), 1, 1)) },
        form("halves", &[2, 128, 12, 12], &[64, 64, 3, 3], (2, (1, 1), 1, 2)),
        form("line", &[2, 64, 120], &[64, 64, 5], (3, (2, 2), 1, 1)),
        form("cube", &[2, 64, 4, 5, 3], &[64, 64, 3, 3, 3], (1, (1, 1), 1, 1)),
    ]
}

/// Asynchronous copies find what windows see: several kinds of Configs in 20 schedules, other forms in few.
#[test]
fn asynchronous_windows() {
    for (n, form) in wide().into_iter().enumerate() {
        for arch in [Arch::Sm80, Arch::Sm90a] {
            let dtype = [DType::BF16, DType::F16][n % 2];
            let case = Form { dtype, ..form.clone() }.case(n % 2 == 0);
            let (kinds, seeds) = if n == 0 { (4, 20) } else { (1, 3) };
            simulated(&case, arch, kinds, seeds);
        }
    }
}

/// The accelerator finds the pixels by itself wherever its tensor maps say where they are; 16 bytes a thread where there is none.
#[test]
fn windows_are_found_by_the_accelerator() {
    for form in wide() {
        let case = Form { dtype: DType::BF16, ..form }.case(true);
        let offers = case.offers(Arch::Sm90a);
        let roles = |offer: &&Offer| offer.text.contains("specialised");
        let offer = offers.iter().find(roles).unwrap_or_else(|| panic!("{}: no roles", case.region.name));
        let made = implementation(offer, &offer.build().unwrap(), Arch::Sm90a, &mut |_, _, _| {}).unwrap();
        let source = &made.kernels[0].source;
        assert!(source.contains("tma_load_im2col(") && source.contains("wgmma"), "{source}");
        let offer = &case.offers(Arch::Sm80)[0];
        let made = implementation(offer, &offer.build().unwrap(), Arch::Sm80, &mut |_, _, _| {}).unwrap();
        assert!(made.kernels[0].source.contains("copy_async<16>("), "{}", made.kernels[0].source);
    }
}
