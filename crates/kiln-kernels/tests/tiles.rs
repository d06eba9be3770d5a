//! Programs of the tile IR, written by hand: through all passes and NVRTC, and run in the simulator with all checks against plain arithmetic.

use crate::common::missing::tables;
use crate::programs::{attention, gemm, hopper, shared_softmax};
use crate::run::{Problem, attention_of, product_of, ready, scheduled, softmax_of};
use kiln_target::arch::Arch;
use kiln_target::atoms::AtomTable;
use kiln_tile::DType;
use kiln_tile::ir::{Program, Schedule};

fn plain() -> Schedule {
    Schedule { warps: 4, ..Schedule::default() }
}

fn overlapped() -> Schedule {
    Schedule { overlap: true, ping_pong: true, raster: 0, ..hopper(8) }
}

/// Runs a program in two orders; gives its text.
fn check(program: Program, problem: &Problem, atoms: impl Into<AtomTable>) -> String {
    let atoms = atoms.into();
    let (name, arch) = (program.name.clone(), atoms.arch());
    let ready = ready(scheduled(program, &atoms), &atoms).unwrap_or_else(|e| panic!("{name} for {arch}: {e}"));
    for seed in [None, Some(1)] {
        problem.holds(&ready, seed).unwrap_or_else(|e| panic!("{name} for {arch}: {e}\n{}", ready.kernel.source));
    }
    ready.kernel.source
}

#[test]
fn products_by_every_instruction() {
    for (arch, dtype, sizes, tile, stages, schedule) in [
        (Arch::Sm90a, DType::BF16, [200, 136, 200], [128, 128, 64], 3, hopper(8)),
        (Arch::Sm90a, DType::F16, [128, 192, 64], [64, 96, 64], 2, hopper(4)),
        (Arch::Sm80, DType::BF16, [100, 136, 200], [64, 64, 32], 3, plain()),
        (Arch::Sm75, DType::F16, [100, 136, 200], [64, 64, 32], 2, plain()),
        (Arch::Sm80, DType::F32, [33, 40, 24], [32, 32, 16], 3, plain()),
    ] {
        check(gemm(dtype, tile, stages, schedule), &product_of(dtype, sizes, 1), arch);
    }
}

/// One CTA takes all tiles, an odd number of them and an even one, whose steps end at every slot of the ring.
#[test]
fn two_groups_take_tiles_in_turn() {
    for (sizes, tile, stages, staged_epilogue) in [
        ([150, 200, 200], [64, 64, 64], 3, true),
        ([200, 136, 328], [128, 64, 64], 2, false),
        ([64, 64, 72], [64, 64, 64], 4, true),
    ] {
        let atoms = AtomTable::new(Arch::Sm90a);
        let schedule = Schedule { ping_pong: true, staged_epilogue, ..hopper(4) };
        let ready = ready(scheduled(gemm(DType::BF16, tile, stages, schedule), &atoms), &atoms).unwrap();
        assert!(ready.kernel.source.contains("group_ + 6"), "{}", ready.kernel.source);
        let problem = product_of(DType::BF16, sizes, 1);
        for seed in 0..20 {
            problem
                .holds(&ready, (seed > 0).then_some(seed))
                .unwrap_or_else(|e| panic!("{e}\n{}", ready.kernel.source));
        }
    }
}

/// CTAs of a cluster bring halves, or quarters, to all; some rows or columns of tiles are odd, the last tile is outside.
#[test]
fn clusters_share_what_they_multiply() {
    let clustered = |cluster, across, warps| Schedule { cluster, across, ..hopper(warps) };
    for (sizes, tile, schedule, seeds) in [
        ([300, 136, 328], [128, 64, 64], clustered(2, false, 8), 20),
        ([70, 200, 200], [64, 64, 64], clustered(2, true, 4), 20),
        ([150, 72, 72], [64, 64, 64], Schedule { persistent: false, ..clustered(4, false, 4) }, 4),
    ] {
        let atoms = AtomTable::new(Arch::Sm90a);
        let program = scheduled(gemm(DType::BF16, tile, 3, schedule), &atoms);
        let ready = ready(program, &atoms).unwrap();
        let source = &ready.kernel.source;
        assert!(source.contains("__cluster_dims__") && source.contains("tma_load_multicast("), "{source}");
        let problem = product_of(DType::BF16, sizes, 1);
        for seed in 0..seeds {
            problem.holds(&ready, (seed > 0).then_some(seed)).unwrap_or_else(|e| panic!("{e}\n{source}"));
        }
    }
    let schedule = Schedule { cluster: 2, across: true, ..overlapped() };
    check(
        attention(DType::BF16, 64, [128, 64, 64], 2, schedule),
        &attention_of(DType::BF16, [2, 300, 200, 64], 2),
        Arch::Sm90a,
    );
}

/// Rows of which CTAs of a cluster have a part each, the last of them less; where there is no multicast too.
#[test]
fn clusters_share_what_they_combine() {
    for (arch, dtype, cluster, part, sizes) in [
        (Arch::Sm90a, DType::F16, 2, 256, [3, 300]),
        (Arch::Sm120, DType::BF16, 8, 128, [2, 1001]),
        // The last CTA of the cluster has nothing.
        (Arch::Sm90a, DType::F32, 4, 128, [1, 384]),
    ] {
        let text = check(shared_softmax(dtype, cluster, part), &softmax_of(dtype, sizes, 6), arch);
        assert!(text.contains(&format!("__cluster_dims__({cluster}")), "{text}");
    }
}

#[test]
fn attention_by_every_instruction() {
    for (arch, dtype, tile, schedule) in [
        (Arch::Sm90a, DType::BF16, [128, 128, 64], overlapped()),
        (Arch::Sm80, DType::BF16, [64, 32, 64], plain()),
        (Arch::Sm75, DType::F16, [64, 32, 64], plain()),
    ] {
        check(attention(dtype, 64, tile, 2, schedule), &attention_of(dtype, [2, 150, 300, 64], 2), arch);
    }
}

/// Where instructions are missing, the same programs become others that are right too.
#[test]
fn programs_do_without_instructions() {
    let product = product_of(DType::BF16, [140, 72, 136], 3);
    let stream = attention_of(DType::BF16, [1, 70, 100, 64], 4);
    let mut texts = vec![];
    for (atoms, gone) in tables(AtomTable::new(Arch::Sm90a)) {
        let text = check(gemm(DType::BF16, [128, 64, 64], 3, hopper(8)), &product, atoms.clone())
            + &check(attention(DType::BF16, 64, [128, 64, 64], 2, overlapped()), &stream, atoms);
        let left = gone.iter().find(|name| text.contains(**name));
        assert_eq!(left, None, "{text}");
        texts.push(text);
    }
    // Each was in use.
    texts.dedup();
    assert_eq!(texts.len(), 6);
}
