//! Matrix products on the tile IR, in its interpreter, against the reference interpreter: as built, and after the passes.

use crate::common::products::einsum;
use crate::common::{Case, case, cases, d, products, random, sim, spec};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{Builder, DType, Dim, Rng};
use kiln_kernels::families::{self, Offer, Subject, implementation};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tile::ir::Level;
use std::sync::Arc;

const ARCHES: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

/// The cheapest Config, and `more` others spread over the space.
fn check(case: &Case, arch: Arch, more: usize, seed: usize) {
    let name = &case.region.name;
    let offers = case.offers(arch);
    assert!(!offers.is_empty() && offers.iter().all(|offer| offer.family == "gemm"), "{name}");
    let mut chosen: Vec<usize> =
        (0..more).map(|i| (seed * 7 + i * offers.len() / more.max(1)) % offers.len()).collect();
    chosen.push(0);
    chosen.sort_unstable();
    chosen.dedup();
    for offer in chosen.into_iter().map(|i| &offers[i]) {
        let built = offer.build().unwrap_or_else(|e| panic!("{name}, {}: {e}", offer.text));
        for level in [Level::Tile, Level::LaidOut] {
            let (found, fault) = case.interpret_built(&built, arch, level);
            assert_eq!(fault, 0, "{name}: a check failed");
            let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.compare(&found, 1.0)));
            assert!(compared.is_ok(), "{name}, {arch}, {level:?}: {}", offer.text);
        }
    }
}

#[test]
fn contractions() {
    for (n, case) in cases::contractions().iter().enumerate() {
        for (i, arch) in ARCHES.into_iter().enumerate() {
            if (n + i) % 2 == 0 {
                check(case, arch, 1, n);
            }
        }
    }
}

#[test]
fn orientations_types_and_odd_sizes() {
    let specs = [
        "mk,kn->mn",
        "mk,nk->mn",
        "km,kn->mn",
        "km,nk->mn",
        "km,nk->nm",
        "bmk,bnk->bmn",
        "bhmk,bhnk->bhmn",
        "bkm,kn->bmn",
        "bmk,kn->bmn",
        "mkj,kjn->mn",
        "mkj,jkn->mn",
        "bmk,khd->bhmd",
        "mk,k->m",
        "k,kn->n",
        "bmk,bk->bm",
        "m,n->mn",
    ];
    let dtypes = [
        DType::F16,
        DType::BF16,
        DType::F32,
        DType::F64,
        DType::I32,
        DType::I8,
        DType::U8,
        DType::F8E4M3,
        DType::F8E5M2,
    ];
    let mut rng = Rng::new(5);
    let sizes = [1, 3, 8, 16, 24, 33, 40, 64, 70, 96, 130];
    for (n, text) in specs.into_iter().cycle().take(48).enumerate() {
        let dtype = dtypes[(n + n / 16) % dtypes.len()];
        let mut pick = || sizes[rng.range(0, sizes.len() as i64 - 1) as usize];
        let (m, n_, k) = (pick(), pick(), pick());
        let extent = |l: char| match l {
            'b' => 2,
            'h' | 'j' => 3,
            'm' => m,
            'n' | 'd' => n_,
            _ => k,
        };
        let case = einsum(&format!("einsum_{n}_{dtype}_{m}x{n_}x{k}"), text, dtype, &extent);
        check(&case, ARCHES[(n + n / 4) % 4], 2, n);
    }
}

#[test]
fn epilogues() {
    for (n, (m, k, columns)) in [(2, 7, 48), (5, 33, 24), (128, 64, 192), (17, 16, 36)].into_iter().enumerate() {
        for dtype in [DType::F32, DType::F16] {
            check(&products::epilogue(dtype, [m, k, columns]), ARCHES[(n + 1) % 4], 2, n);
        }
    }
}

#[test]
fn several_results_leave_one_product() {
    let f = DType::F16;
    let inputs = vec![random(f, &[40, 64], 1), random(f, &[72, 64], 2), random(f, &[40, 72], 3)];
    let case = case("several", Anchor::Contract, 128.0, inputs, |b| {
        let (x, w) = (b.input("x", f, &d(&["M", "64"]))?, b.input("w", f, &d(&["72", "64"]))?);
        let residual = b.input("residual", f, &d(&["M", "72"]))?;
        let y = b.contract(spec("mk,nk->mn"), x, w, DType::F32, f)?;
        let sum = b.plus(y, residual)?;
        let wide = b.cast(sum, DType::F32)?;
        Ok(vec![sum, wide, y])
    });
    for arch in ARCHES {
        check(&case, arch, 3, 1);
    }
}

/// One operand with another sign than the other, seen through casts.
#[test]
fn bytes_of_either_sign_are_multiplied_as_they_are() {
    let case = products::signs();
    for arch in ARCHES {
        check(&case, arch, 2, 3);
    }
    let built = case.offers(Arch::Sm80)[0].build().unwrap();
    let text = built.launches[0].scheduled(Arch::Sm80).unwrap().to_string();
    assert!(text.contains("mma.m16n8k32.s32.u8.s8"), "{text}");
}

#[test]
fn prologues_are_made_on_the_way() {
    for arch in ARCHES {
        check(&products::packed_weights(), arch, 3, 2);
    }
}

#[test]
fn long_depths_are_summed_in_parts_and_few_rows_swapped() {
    for (n, dtype) in [DType::F16, DType::F32, DType::I8].into_iter().enumerate() {
        let extent = |l: char| match l {
            'm' => 5,
            'n' => 136,
            _ => 2064,
        };
        let case = einsum(&format!("deep_{dtype}"), "mk,nk->mn", dtype, &extent);
        let arch = [Arch::Sm80, Arch::Sm90a][n % 2];
        let offers = case.offers(arch);
        // Threads that multiply have no instruction to fill.
        let wanted = if dtype == DType::F32 { &["parts"][..] } else { &["parts", "swapped"] };
        for &wanted in wanted {
            let offer = offers.iter().find(|offer| offer.text.contains(wanted)).unwrap_or_else(|| panic!("{wanted}"));
            let built = offer.build().unwrap();
            assert!(built.guard.holds(&case.bindings()).unwrap());
            assert_eq!(built.launches.len(), if offer.text.contains(" parts") { 2 } else { 1 });
            for level in [Level::Tile, Level::LaidOut] {
                case.compare(&case.interpret_built(&built, arch, level).0, 1.0);
            }
        }
        check(&case, arch, 1, n);
    }
}

/// The cheapest Config of `x[m, k] * w[n, k]` in bf16 on an H200.
fn first(m: i64, n: i64, k: i64) -> (String, serde_json::Value) {
    first_of(DType::BF16, (DType::F32, DType::BF16), [m, n, k])
}

fn first_of(f: DType, types: (DType, DType), extents: [i64; 3]) -> (String, serde_json::Value) {
    let offers = offers_of(f, types, extents);
    (offers[0].text.clone(), offers[0].config.clone())
}

fn offers_of(f: DType, (acc, out): (DType, DType), [m, n, k]: [i64; 3]) -> Vec<Offer> {
    let mut b = Builder::new("first");
    let [x, w] = [("x", m), ("w", n)].map(|(name, rows)| b.input(name, f, &[Dim::from(rows), Dim::from(k)]).unwrap());
    let y = b.contract(spec("mk,nk->mn"), x, w, acc, out).unwrap();
    b.output("y", y);
    let (name, summary) = ("first".to_owned(), "a product".to_owned());
    let region = Region { name, summary, anchor: Anchor::Contract, graph: b.finish() };
    families::offers(&Arc::new(Subject::of(&region)), &Gpu::named("h200").unwrap()).unwrap()
}

/// The tile that divides the waves: on 132 SMs, what cuBLAS was met with.
#[test]
fn the_tile_divides_the_waves() {
    let cases = [
        ([4096, 3072, 4096], [192, 256]),
        ([4096, 4608, 4096], [192, 192]),
        ([8192, 7680, 8192], [128, 256]),
        ([8192, 8192, 8192], [192, 256]),
        ([2048, 2048, 2048], [256, 256]),
        ([2048, 2304, 2048], [144, 144]),
    ];
    for ([m, n, k], [least, most]) in cases {
        let (text, config) = first(m, n, k);
        let bn = config["bn"].as_u64().unwrap();
        let right = (least..=most).contains(&bn) && config["bm"] == 128 && config["persistent"] == true;
        assert!(right && config["specialise"] == true, "{m}x{n}x{k}: {text}");
    }
    // Bytes are multiplied twice as fast, and are half as many.
    for (f, sums) in [(DType::F8E4M3, (DType::F32, DType::BF16)), (DType::I8, (DType::I32, DType::I32))] {
        let (text, config) = first_of(f, sums, [8192; 3]);
        let tile = config["bm"].as_u64().unwrap() * config["bn"].as_u64().unwrap();
        assert!(tile >= 128 * 128 && config["bk"] == 128 && config["specialise"] == true, "{f}: {text}");
    }
}

/// Where large tiles fill the waves nothing is gained by clusters: what was timed beside cuBLAS stays. Small tiles wait for the L2 cache.
#[test]
fn clusters_are_for_small_tiles() {
    let squares = [1024, 2048, 4096, 8192, 16384].map(|n| [n, n, n]);
    let layers = [
        (6144, 4096),
        (4096, 4096),
        (28672, 4096),
        (4096, 14336),
        (10240, 8192),
        (8192, 8192),
        (57344, 8192),
        (8192, 28672),
    ];
    let layers = [2048, 8192].into_iter().flat_map(|m| layers.map(|(n, k)| [m, n, k]));
    for [m, n, k] in squares.into_iter().chain(layers) {
        let (text, config) = first(m, n, k);
        assert!(config["cluster"] == serde_json::json!([1, 1]), "{m}x{n}x{k}: {text}");
    }
    let offers = offers_of(DType::BF16, (DType::F32, DType::BF16), [4096; 3]);
    let best = |cluster: [u32; 2]| {
        let tile = |config: &serde_json::Value| {
            config["bm"] == 128 && config["bn"] == 128 && config["depth"] == "whole" && config["ping_pong"] == false
        };
        let is = |config: &serde_json::Value| tile(config) && config["cluster"] == serde_json::json!(cluster);
        offers.iter().position(|offer| is(&offer.config)).unwrap()
    };
    assert!(best([2, 1]) < best([1, 1]));
}

/// Either operand in halves, whichever axis is dense; tiles outside of the result store nothing, and what stands beside them is not read there.
#[test]
fn clusters_share_operands_of_every_orientation() {
    let specs = ["mk,nk->mn", "mk,kn->mn", "km,kn->mn", "km,nk->mn"];
    let extent = |l: char| match l {
        'm' => 136,
        'n' => 200,
        _ => 264,
    };
    let mut cases: Vec<Case> =
        specs.iter().map(|text| einsum(&format!("clusters_{text}"), text, DType::BF16, &extent)).collect();
    cases.push(products::epilogue(DType::BF16, [192, 64, 192]));
    for (n, case) in cases.iter().enumerate() {
        let beside = n == specs.len();
        let shape = ["clusters of 2x1", "clusters of 1x2"][(n % 2).max(usize::from(beside))];
        let offers = case.offers(Arch::Sm90a);
        // Three tiles of 64 columns end with the result: a fourth is outside.
        let is = |offer: &&Offer| offer.text.contains(shape) && (!beside || offer.config["bn"] == 64);
        let chosen = offers.iter().find(is);
        let offer = chosen.unwrap_or_else(|| panic!("{}: no {shape}", case.region.name));
        let built = offer.build().unwrap();
        for level in [Level::Tile, Level::LaidOut] {
            case.compare(&case.interpret_built(&built, Arch::Sm90a, level).0, 1.0);
        }
        let made = implementation(offer, &built, Arch::Sm90a, &mut |_, _, _| {}).unwrap();
        assert_eq!(made.kernels[0].launch.cluster, [2, 1, 1]);
        assert!(made.kernels[0].source.contains("tma_load_multicast("), "{}", offer.text);
        sim::simulate_made(case, &made, Arch::Sm90a, [None, Some(n as u64)]);
    }
}

/// Two tiles in work, of which one multiplies.
#[test]
fn tiles_take_turns() {
    let extent = |l: char| if l == 'k' { 208 } else { 264 };
    for (n, (text, dtype)) in
        [("mk,nk->mn", DType::BF16), ("km,kn->mn", DType::F16), ("mk,nk->mn", DType::I8)].iter().enumerate()
    {
        let case = einsum(&format!("turns_{text}_{dtype}"), text, *dtype, &extent);
        let offers = case.offers(Arch::Sm90a);
        let offer = offers.iter().find(|offer| offer.text.contains("ping-pong")).expect("ping-pong");
        let built = offer.build().unwrap();
        for level in [Level::Tile, Level::LaidOut] {
            case.compare(&case.interpret_built(&built, Arch::Sm90a, level).0, 1.0);
        }
        let made = implementation(offer, &built, Arch::Sm90a, &mut |_, _, _| {}).unwrap();
        assert!(made.kernels[0].source.contains("group_ + 6"), "{}", offer.text);
        sim::simulate_made(&case, &made, Arch::Sm90a, [None, Some(n as u64)]);
    }
}

/// All Configs of products with few rows or columns, whichever of their axes is dense in memory.
#[test]
fn every_config_of_small_products_becomes_cuda() {
    let specs = ["mk,kn->mn", "mk,nk->mn", "km,kn->mn", "km,nk->mn"];
    let sizes = [1, 8, 24, 48];
    for (n, dtype) in [DType::F16, DType::I8].into_iter().enumerate() {
        for (i, text) in specs.into_iter().enumerate() {
            for (j, few) in sizes.into_iter().enumerate() {
                let extent = |l: char| match l {
                    'm' => few,
                    'n' => 96,
                    _ => 64,
                };
                let case = einsum(&format!("few_{dtype}_{text}_{few}"), text, dtype, &extent);
                let arch = ARCHES[(n + i + j) % 4];
                for arch in [arch, Arch::Sm90a] {
                    for offer in case.offers(arch) {
                        let made =
                            offer.build().and_then(|built| implementation(&offer, &built, arch, &mut |_, _, _| {}));
                        assert!(made.is_ok(), "{}, {arch}, {}: {}", case.region.name, offer.text, made.unwrap_err());
                    }
                }
            }
        }
    }
}

/// One row meets columns in registers; a few are the columns of instructions whose rows are read once; all SMs have work.
#[test]
fn few_rows_read_the_other_operand_once() {
    for (n, k) in [(4096, 4096), (10240, 8192), (8192, 28672)] {
        let (text, config) = first(1, n, k);
        assert!(config["lanes"].as_u64().unwrap() >= 32 && config["bm"] == 1, "{text}");
        assert!(n as u64 / config["bn"].as_u64().unwrap() >= 132, "{text}");
        let (text, config) = first(16, n, k);
        assert!(config["swap"] == true && config["specialise"] == true && config["bn"] == 16, "{text}");
    }
    let (text, config) = first(128, 4096, 4096);
    assert!(config["specialise"] == true && config["bm"] == 64 && config["bn"] == 64, "{text}");
}
