//! Products of rows in groups: in the tile interpreter and in the simulator, against the reference interpreter, whatever the groups are at run time.

use crate::common::products::{Groups, grouped};
use crate::common::{Case, sim};
use kiln_graph::{DType, Rng};
use kiln_kernels::families::{self, Offer, Subject, implementation};
use kiln_sim::Options;
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;
use std::sync::Arc;

/// Rows, and the ends of groups: of one row, none, groups without rows, one with all, ends within tiles and at their edges, rows behind the last.
fn splits(rng: &mut Rng) -> Vec<(usize, Vec<i64>)> {
    let mut all = vec![
        (1, vec![1]),
        (1, vec![0, 0, 1, 1]),
        (70, vec![70]),
        (33, vec![0, 33, 33]),
        (129, vec![64, 128, 128, 128, 129]),
        (40, vec![0, 0]),
        (90, vec![1, 2, 3, 35, 36, 80]),
    ];
    for _ in 0..6 {
        let (rows, groups) = (rng.range(1, 150), rng.range(1, 9));
        let mut ends: Vec<i64> = (0..groups).map(|_| rng.range(0, rows)).collect();
        ends.sort_unstable();
        all.push((rows as usize, ends));
    }
    all
}

const ARCHES: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

/// The ways to make a case's region where this many rows come in groups of this many.
fn offers(case: &Case, arch: Arch, rows: i64, groups: i64) -> Vec<Offer> {
    let sizes = [("T".to_owned(), rows), ("G".to_owned(), groups)].into();
    let subject = Subject::new(&case.region, &case.region.graph.symbols, &[], &sizes);
    let offers = families::offers(&Arc::new(subject), &Gpu::typical(arch).unwrap()).unwrap();
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer.family == "gemm"), "{}", case.region.name);
    offers
}

#[test]
fn groups_of_any_size_are_multiplied_by_their_own_matrices() {
    let dtypes = [DType::F16, DType::F32, DType::I8, DType::BF16, DType::F64, DType::F8E4M3, DType::I32, DType::U8];
    let mut rng = Rng::new(1);
    for (n, (rows, ends)) in splits(&mut rng).into_iter().enumerate() {
        for turn in 0..2 {
            let n = 2 * n + turn;
            let dtype = dtypes[n % dtypes.len()];
            let [depth, columns] = [[40, 33], [64, 64], [7, 1], [33, 72]][n % 4];
            let (transposed, behind) = (n / 2 % 2 == 0, n % 3 == 0 && dtype.bits() > 8 && !dtype.is_int());
            let form = Groups { dtype, depth, columns, transposed, behind };
            let at = [DType::I32, DType::I64][n % 2];
            let case = grouped(form, rows, &ends, at);
            let arch = ARCHES[(n + n / 4) % 4];
            let all = offers(&case, arch, [8, 64, 4096][n % 3], 8);
            for offer in [&all[0], &all[n * 7 % all.len()]] {
                let built = offer.build().unwrap();
                assert!(built.guard.is_always() && built.launches.len() == 1, "{}", offer.text);
                for level in [Level::Tile, Level::LaidOut] {
                    let (found, fault) = case.interpret_built(&built, arch, level);
                    assert_eq!(fault, 0, "{}: a check failed", case.region.name);
                    let said = case.differs(&found, 1.0);
                    assert!(said.is_none(), "{arch}, {}, {level:?}, {ends:?}: {}", offer.text, said.unwrap());
                }
            }
        }
    }
}

/// One kernel on all splits, poisoned; of asynchronous ones the first three in twenty schedules.
fn simulate(form: Groups, arch: Arch, chosen: impl Fn(&Offer) -> bool, sizes: (i64, i64)) {
    let any = grouped(form, 70, &[70, 70], DType::I32);
    let all = offers(&any, arch, sizes.0, sizes.1);
    let offer = all.iter().find(|offer| chosen(offer)).unwrap_or_else(|| panic!("{arch}: {}", all[0].text));
    let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
    assert!(!sim::compile(&made, arch)[0].log.spills(), "{arch}, {}", offer.text);
    let entries = sim::load(&made, arch);
    let asynchronous = made.kernels[0].source.contains("cp.async");
    let mut rng = Rng::new(2);
    let mut splits = splits(&mut rng);
    // Most of them have less to do.
    splits.sort_by_key(|(rows, _)| *rows != 90);
    for (n, (rows, ends)) in (0u64..).zip(splits) {
        let case = grouped(form, rows, &ends, DType::I32);
        for seed in 0..if asynchronous && n < 1 { 20 } else { 1 } {
            let options = Options { seed: Some(seed + n), ..Options::default() };
            let found = sim::run(&case, &made, &entries, &options, 1 + (n % 3) as u32);
            let said = case.differs(&found, 4.0);
            assert!(said.is_none(), "{arch}, {}, {ends:?}, schedule {seed}: {}", offer.text, said.unwrap());
        }
    }
}

#[test]
fn kernels_find_their_groups_on_every_architecture() {
    let form = |dtype| Groups { dtype, depth: 64, columns: 72, transposed: false, behind: dtype == DType::F16 };
    let any = |_: &Offer| true;
    simulate(form(DType::F16), Arch::Sm75, any, (64, 4));
    simulate(form(DType::F16), Arch::Sm80, any, (256, 4));
    simulate(Groups { transposed: true, ..form(DType::I8) }, Arch::Sm80, any, (64, 4));
    simulate(Groups { depth: 33, columns: 40, ..form(DType::F32) }, Arch::Sm75, any, (64, 4));
    simulate(Groups { columns: 65, transposed: true, ..form(DType::F8E4M3) }, Arch::Sm89, any, (64, 4));
}

#[test]
fn boxes_start_where_groups_do() {
    let wide = |offer: &Offer| offer.text.contains("specialised") && !offer.text.contains("swapped");
    let swapped = |offer: &Offer| offer.text.contains("specialised") && offer.text.contains("swapped");
    let form = Groups { dtype: DType::BF16, depth: 128, columns: 136, transposed: false, behind: true };
    simulate(form, Arch::Sm90a, wide, (4096, 8));
    simulate(Groups { transposed: true, behind: false, ..form }, Arch::Sm90a, swapped, (128, 8));
    let case = grouped(form, 70, &[70, 70], DType::I32);
    let offer = offers(&case, Arch::Sm90a, 4096, 8).into_iter().find(wide).unwrap();
    let program = offer.build().unwrap().launches[0].scheduled(Arch::Sm90a).unwrap().to_string();
    assert!(program.contains("wgmma") && program.contains("tma"), "{program}");
}

#[test]
fn groups_that_end_where_they_cannot_are_noted_and_access_nothing_outside() {
    let form = Groups { dtype: DType::F16, depth: 16, columns: 24, transposed: true, behind: true };
    let wrong: [&[i64]; 7] =
        [&[-1, 5], &[20, 3, 40], &[3, 41], &[41, 41], &[0, 40, 39], &[i64::MIN, 40], &[10, i64::MAX]];
    for (n, ends) in wrong.into_iter().enumerate() {
        let case = grouped(form, 40, ends, DType::I64);
        for arch in [Arch::Sm80, Arch::Sm90a] {
            let all = offers(&case, arch, 40, 2);
            let built = all[n * 5 % all.len()].build().unwrap();
            // The interpreter refuses an access outside of a buffer.
            let (_, fault) = case.interpret_built(&built, arch, Level::LaidOut);
            assert_eq!(fault, 1, "{arch}, {ends:?}");
            assert!(built.launches[0].checks[0].contains("past row T"), "{:?}", built.launches[0].checks);
        }
    }
}
