//! Rows that the CTAs of a cluster share: which are, and that they go through memory once. `cells.rs` runs many.

mod common;

use common::{Case, shapes, sim};
use kiln_graph::DType;
use kiln_kernels::families::{Offer, implementation};
use kiln_sim::Options;
use kiln_target::Gpu;
use kiln_target::arch::Arch;

fn best(dtype: DType, rows: usize, length: usize, gpu: &str) -> Offer {
    shapes::long(dtype, rows, length).offers_on(&Gpu::named(gpu).unwrap()).swap_remove(0)
}

/// CTAs of the cluster, and whether they hold the row whole.
fn shared(offer: &Offer) -> (u64, bool) {
    (offer.config["cluster"].as_u64().unwrap(), offer.config["whole"] == true)
}

#[test]
fn rows_that_no_cta_holds_are_shared() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, length) in [(1, 16640), (1, 40000), (2048, 32768), (64, 65536), (1024, 131072), (4, 16385)] {
            let offer = best(dtype, rows, length, "h200");
            let (cluster, whole) = shared(&offer);
            assert!(cluster > 1 && whole, "{dtype} {rows}x{length}: {}", offer.text);
        }
        // Longer ones are read again, by more SMs than one where there are few.
        assert!(shared(&best(dtype, 1, 1 << 20, "h200")).0 > 1, "{dtype}");
        // Shorter ones fit a CTA, older GPUs have no clusters.
        assert_eq!(shared(&best(dtype, 2048, 8192, "h200")).0, 1, "{dtype}");
        assert!(shapes::long(dtype, 8, 40000).offers(Arch::Sm89).iter().all(|offer| shared(offer).0 == 1), "{dtype}");
    }
    // An SM has more of them than of one that fills it.
    let offer = best(DType::F32, 2048, 32768, "h200");
    assert!(offer.config["warps"].as_u64().unwrap() <= 16, "{}", offer.text);
}

/// What is read and written: no more than there is.
fn moves_once(case: &Case, arch: Arch) {
    let offer = &case.offers(arch)[0];
    assert!(offer.text.contains("clusters of"), "{}", offer.text);
    let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
    let options = Options { counters: true, ..Options::default() };
    let (found, reports) = sim::counted(case, &made, &sim::load(&made, arch), &options, 1);
    case.compare(&found, 4.0);
    let floor: usize = case.inputs.iter().chain(&case.poisoned()).map(|t| t.data().len()).sum();
    let moved = 32 * reports[0].total.global_sectors;
    assert!(moved as f64 <= 1.05 * floor as f64, "{}: {moved} bytes, {floor} at least", offer.text);
}

#[test]
fn shared_rows_go_through_memory_once() {
    moves_once(&shapes::long(DType::F32, 1, 40000), Arch::Sm90a);
    moves_once(&shapes::long(DType::F16, 2, 33024), Arch::Sm120);
}
