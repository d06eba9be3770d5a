//! Rows that the CTAs of a cluster share: which are, and that they go through memory once. `cells.rs` runs many.

use crate::common::{Case, shapes, sim};
use kiln_graph::{Bindings, DType};
use kiln_kernels::families::{self, Offer, Subject, implementation};
use kiln_sim::Options;
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use std::sync::Arc;

fn offers(dtype: DType, rows: usize, length: usize, gpu: &str) -> Vec<Offer> {
    let region = shapes::long(dtype, rows, length).region;
    let subject = Subject::new(&region, &region.graph.symbols, &[], &Bindings::new());
    families::offers(&Arc::new(subject), &Gpu::named(gpu).unwrap()).unwrap()
}

/// CTAs of the cluster, and whether they hold the row whole.
fn shared(offer: &Offer) -> (u64, bool) {
    (offer.config["cluster"].as_u64().unwrap(), offer.config["whole"] == true)
}

#[test]
fn rows_that_no_cta_holds_are_shared() {
    let mut wrong = vec![];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut check = |rows: usize, length: usize, right: fn(u64, bool) -> bool| {
            let offer = offers(dtype, rows, length, "h200").swap_remove(0);
            let (cluster, whole) = shared(&offer);
            let seconds = offer.estimate.seconds;
            let what = format!("{dtype} {rows}x{length}: {}, {:.1} us", offer.text, 1e6 * seconds);
            wrong.extend((!right(cluster, whole)).then_some(what));
        };
        for (rows, length) in [(1, 16640), (1, 40000), (2048, 32768), (64, 65536), (1024, 131072), (4, 16385)] {
            check(rows, length, |cluster, whole| cluster > 1 && whole);
        }
        // Longer ones are read again, by more SMs than one where there are few.
        check(1, 1 << 18, |cluster, _| cluster > 1);
        check(2048, 8192, |cluster, _| cluster == 1);
        let older = offers(dtype, 8, 40000, "l40s");
        wrong.extend(older.iter().filter(|offer| shared(offer).0 > 1).map(|offer| offer.text.clone()));
    }
    // An SM has more of them than of one that fills it.
    let offer = offers(DType::F32, 2048, 32768, "h200").swap_remove(0);
    wrong.extend((offer.config["warps"].as_u64() > Some(16)).then_some(offer.text));
    assert!(wrong.is_empty(), "{wrong:#?}");
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
    moves_once(&shapes::long_filled(DType::F32, 1, 40000), Arch::Sm90a);
    moves_once(&shapes::long_filled(DType::F16, 2, 33024), Arch::Sm120);
}
