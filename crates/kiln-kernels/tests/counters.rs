//! What kernels do, as the simulator counts it: bytes and sectors of global memory, passes over the banks of shared memory, matrix
//! instructions.

use crate::common::{Case, products, shapes, sim};
use kiln_graph::DType;
use kiln_kernels::Implementation;
use kiln_kernels::families::{Offer, implementation};
use kiln_layout::Conflicts;
use kiln_sim::{CounterReport, Mix, Options};
use kiln_target::arch::Arch;
use kiln_target::atoms::MmaKind;
use kiln_tile::ir::{Op, Operand, Program};
use kiln_tile::passes::Machine;
use kiln_tile::passes::machine::DotLayouts;

/// Runs an offer, compares its results, and gives what its first kernel did.
fn counted(case: &Case, offer: &Offer, arch: Arch) -> (Implementation, CounterReport) {
    let built = offer.build().unwrap();
    let made = implementation(offer, &built, arch, &mut |_, _, _| {}).unwrap();
    let options = Options { counters: true, ..Options::default() };
    let (found, mut reports) = sim::counted(case, &made, &sim::load(&made, arch), &options, 1);
    assert_eq!(case.differs_from(&case.meant(&built, arch), &found, 4.0), None);
    (made, reports.swap_remove(0))
}

/// Aligned shapes go through memory once, 16 bytes a lane at a time, in whole sectors.
#[test]
fn aligned_maps_and_rows_move_their_bytes_once_and_wide() {
    for case in shapes::aligned() {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90a] {
            let offer = &case.offers(arch)[0];
            let (made, report) = counted(&case, offer, arch);
            let (counts, source) = (report.total, &made.kernels[0].source);
            let what = format!("{} on {arch} with {}", case.region.name, offer.text);
            let floor: usize = case.inputs.iter().chain(&case.poisoned()).map(|t| t.data().len()).sum();
            let (floor, moved) = (floor as f64, 32.0 * counts.global_sectors as f64);
            assert!(moved <= 1.05 * floor, "{what}: {moved} bytes, {floor} at least\n{source}");
            assert_eq!(counts.global_sectors, counts.global_ideal_sectors, "{what}\n{source}");
            // A warp's request is 512 bytes.
            let requests = counts.global_requests as f64;
            assert!(requests <= 1.05 * floor / 512.0, "{what}: {requests} requests\n{source}");
        }
    }
}

/// Rows, columns and depth of products.
const M: usize = 128;
const N: usize = 192;
const K: usize = 128;

/// Products whose extents tiles divide.
fn whole() -> Vec<Case> {
    let of = |text: &str, dtype| {
        let extent = |l: char| match l {
            'm' => M,
            'n' => N,
            _ => K,
        };
        products::einsum(&format!("{text}_{dtype}"), text, dtype, &extent)
    };
    let orientations = ["mk,nk->mn", "mk,kn->mn", "km,kn->mn", "km,nk->mn"].map(|text| of(text, DType::BF16));
    let types = [DType::F16, DType::I8, DType::F8E4M3, DType::F64, DType::F32].map(|dtype| of("mk,nk->mn", dtype));
    let rounded = ["mk,nk->mn", "mk,kn->mn", "km,kn->mn"].map(|text| of(text, DType::F32).rounding_to_tf32());
    orientations.into_iter().chain(types).chain(rounded).collect()
}

/// The best offer with whole tiles, and the best that no role feeds.
fn divided(case: &Case, arch: Arch) -> Vec<Offer> {
    let whole = |offer: &Offer| {
        let of = |name: &str| offer.config[name].as_u64().unwrap();
        let [m, n] = if offer.config["swap"] == true { [N, M] } else { [M, N] };
        let divides = |extent: usize, tile: &str| (extent as u64).is_multiple_of(of(tile));
        offer.config["depth"] == "whole" && divides(m, "bm") && divides(n, "bn") && divides(K, "bk")
    };
    let mut offers: Vec<Offer> = case.offers(arch).into_iter().filter(whole).collect();
    let plain = offers.iter().position(|offer| offer.config["specialise"] == false);
    let plain = plain.filter(|at| *at > 0).map(|at| offers.swap_remove(at));
    offers.into_iter().take(1).chain(plain).collect()
}

/// Rows, columns and depth of a matrix instruction, from its opcode.
fn shape(opcode: &str) -> u64 {
    let part = opcode.split('.').find(|part| part.starts_with('m') && part.contains('n') && part.contains('k'));
    let part = part.unwrap_or_else(|| panic!("{opcode} has no shape"));
    part.split(['m', 'n', 'k']).skip(1).map(|n| n.parse::<u64>().unwrap()).product()
}

/// Passes over the banks that layouts say fragments take in one round of all dots: of `ldmatrix` where it reads them.
fn predicted(program: &Program, arch: Arch) -> Conflicts {
    let machine = Machine::new(arch);
    let mut total = Conflicts::default();
    program.body.iter().for_each(|stmt| {
        stmt.walk(&mut |stmt| {
            let Op::Dot { a, b, acc, atom: Some(name), .. } = &stmt.op else { return };
            let atom = machine.atom(name).unwrap();
            if atom.kind != MmaKind::Sync {
                return;
            }
            let accumulator = program.value(*acc).layout.as_ref().unwrap();
            let layouts = DotLayouts::of(&atom, atom.widths[0], accumulator).unwrap();
            for (side, operand) in [a, b].into_iter().enumerate() {
                let Operand::Shared(slot) = operand else { continue };
                let shared = program.shared(slot.buffer);
                let extents = [shared.shape[0], shared.shape[1]];
                let registers = match side {
                    0 => layouts.left(extents).unwrap(),
                    _ => layouts.right(extents).unwrap().unwrap(),
                };
                let layout = shared.layout.as_ref().unwrap();
                let access = [4, 2, 1].into_iter().find_map(|count| layout.matrix_access(&registers, count));
                total += access.map_or_else(Conflicts::default, |access| access.bank_conflicts(layout));
            }
        });
    });
    total
}

/// Matrix instructions are those that the product needs; shared memory is read, and written, without a bank conflict, as layouts predict.
#[test]
fn products_multiply_what_they_must_and_meet_no_bank_twice() {
    let mut wrong = vec![];
    for (n, case) in whole().iter().enumerate() {
        for arch in [[Arch::Sm75, Arch::Sm80, Arch::Sm89][n % 3], Arch::Sm90a] {
            for offer in divided(case, arch) {
                let what = format!("{} on {arch} with {}", case.region.name, offer.text);
                let (made, report) = counted(case, &offer, arch);
                let multiplied: u64 = report.matrix.iter().map(|kind| kind.instructions * shape(&kind.opcode)).sum();
                // Types without an instruction are multiplied by threads.
                let source = &made.kernels[0].source;
                let needed = (M * N * K) as u64;
                if source.contains("mma") && multiplied != needed {
                    wrong.push(format!("{what}: {multiplied} multiplied, {needed} needed"));
                }
                let total = report.total;
                let loaded = total.global_sectors - total.global_store_sectors;
                let ideal = total.global_ideal_sectors - total.global_ideal_store_sectors;
                if loaded != ideal {
                    wrong.push(format!("{what}: loads of {loaded} sectors, {ideal} ideal"));
                }
                for found in &report.instructions {
                    let counts = found.counts;
                    // What is narrower than 4 bytes and multiplied by threads comes four at a time, of two rows in one bank.
                    let narrow = ["ld.shared.v4.u8", "ld.shared.v4.u16"].contains(&found.opcode.as_str());
                    if counts.shared_wavefronts != counts.shared_ideal_wavefronts && !narrow {
                        let Mix { shared_wavefronts, shared_ideal_wavefronts, .. } = counts;
                        wrong.push(format!(
                            "{what}: {} takes {shared_wavefronts} passes for {shared_ideal_wavefronts}",
                            found.opcode
                        ));
                    }
                }
                let mut read = Mix::default();
                report.instructions.iter().filter(|i| i.opcode.starts_with("ldmatrix")).for_each(|i| read += i.counts);
                let program = offer.build().unwrap().launches[0].scheduled(arch).unwrap();
                let expected = predicted(&program, arch);
                // Instructions of one, two or four matrices read the same.
                let [passes, ideal] = [expected.wavefronts, expected.ideal].map(u64::from);
                let same = read.shared_wavefronts * ideal == passes * read.shared_ideal_wavefronts;
                if !same || (ideal == 0) != (read.shared_requests == 0) {
                    wrong.push(format!("{what}: ldmatrix {read:?}, {expected:?} predicted"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
