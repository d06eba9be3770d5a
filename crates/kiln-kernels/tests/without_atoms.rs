//! Programs are recompiled by what is left where instructions are missing, and stay right: first without wgmma, then without TMA too, then
//! without cp.async, ldmatrix, mma.sync.

use crate::common::missing::tables;
use crate::common::{Case, attention, products, shapes, sim};
use kiln_graph::DType;
use kiln_kernels::families::implementation;
use kiln_sim::Options;
use kiln_target::arch::Arch;
use kiln_target::atoms::AtomTable;

fn cases() -> Vec<Case> {
    let product = |text: &str, dtype| {
        let extent = |l: char| match l {
            'm' => 72,
            'n' => 80,
            _ => 144,
        };
        products::einsum(&format!("{text}_{dtype}"), text, dtype, &extent)
    };
    let mut cases = vec![
        product("mk,nk->mn", DType::BF16),
        product("mk,kn->mn", DType::F16),
        product("mk,nk->mn", DType::I8),
        product("mk,nk->mn", DType::F8E4M3),
        product("mk,nk->mn", DType::F32).rounding_to_tf32(),
        products::epilogue(DType::F16, [70, 64, 72]),
        attention::stream_of(64, true, "nqhd,nkhd->nhqk", 40, 70),
    ];
    cases.extend(shapes::aligned().into_iter().take(2));
    cases
}

#[test]
fn families_do_without() {
    for case in cases() {
        let offers = case.offers(Arch::Sm90a);
        // With roles, where there are such: they use everything.
        let offer = offers.iter().find(|offer| offer.text.contains("specialised")).unwrap_or(&offers[0]);
        let built = offer.build().unwrap();
        let (mut last, meant) = (String::new(), case.meant(&built, Arch::Sm90a));
        for (atoms, gone) in tables(AtomTable::new(Arch::Sm90a)) {
            let what = format!("{} with {}, without {}", case.region.name, offer.text, gone.join(", "));
            let made =
                implementation(offer, &built, atoms, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
            let text: String = made.kernels.iter().map(|kernel| kernel.source.as_str()).collect();
            let left = gone.iter().find_map(|name| text.split_once(name));
            assert_eq!(left.map(|(_, after)| &after[..after.len().min(60)]), None, "{what}");
            if text != last {
                let options = Options { seed: Some(1), ..Options::default() };
                let found = sim::run(&case, &made, &sim::load(&made, Arch::Sm90a), &options, 2);
                assert_eq!(case.differs_from(&meant, &found, 4.0), None, "{what}");
                last = text;
            }
        }
    }
}
