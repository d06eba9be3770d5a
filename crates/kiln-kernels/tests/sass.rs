//! What machine code is made of: by the assembler's report, and by NVIDIA's disassembler where this machine has one (`cargo xtask test`
//! fetches it; `python3 -m pip install nvidia-cuda-nvdisasm`).
//!
//! `KILN_CONFIGS=all` assembles every Config of the spaces, otherwise some are drawn; `KILN_SEED` repeats a draw.

use crate::common::{Case, attention, case, convs, d, drawn, products, random, shapes, sim};
use kiln_cuda::Disassembler;
use kiln_fuse::Anchor;
use kiln_graph::{DType, Rng};
use kiln_kernels::families::{Offer, implementation};
use kiln_target::arch::Arch;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// The code of the first kernel of an offer; `None`, said on standard error, where there is no disassembler.
fn sass(offer: &Offer, arch: Arch) -> Option<String> {
    static FOUND: OnceLock<Option<Disassembler>> = OnceLock::new();
    let said = |e| eprintln!("SKIPPED, nothing is known of the machine code: {e}");
    let found = FOUND.get_or_init(|| Disassembler::find().map_err(said).ok()).as_ref()?;
    let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
    let code = found.sass(&sim::compile(&made, arch)[0].cubin).unwrap();
    let local = instructions(&code).any(|name| name.starts_with("STL") || name.starts_with("LDL"));
    assert!(!local, "{} on {arch} uses local memory", offer.text);
    Some(code)
}

/// The opcodes of a listing, with modifiers.
fn instructions(sass: &str) -> impl Iterator<Item = &str> {
    let code = sass.lines().filter_map(|line| line.trim().strip_prefix("/*")?.split_once("*/"));
    let words = code.map(|(_, text)| text.split_whitespace().filter(|word| !word.starts_with(['@', '{'])));
    words.filter_map(|mut words| words.next()).map(|word| word.trim_end_matches(';'))
}

fn product(dtype: DType, text: &str, [m, n, k]: [usize; 3]) -> Case {
    let extent = |l: char| match l {
        'm' => m,
        'n' => n,
        _ => k,
    };
    products::einsum(&format!("product_{dtype}"), text, dtype, &extent)
}

#[test]
fn products_and_attention_are_the_instructions_of_their_gpu() {
    let large = |dtype| product(dtype, "mk,nk->mn", [512, 512, 512]);
    let stream = || attention::stream_of(128, true, "nqhd,nkhd->nhqk", 150, 333);
    // Results of 16 bits, which the last two are for, get to where TMA takes them four 8 x 8 matrices at a time; those of 32 leave from registers.
    let hopper = ["UTMALDG", "USETMAXREG", "UTMASTG", "STSM.16.M88.4"];
    let ampere = ["LDSM", "LDGSTS"];
    for (case, arch, made_of, besides) in [
        (large(DType::BF16), Arch::Sm90a, "HGMMA", &hopper[..]),
        (large(DType::F16), Arch::Sm90a, "HGMMA", &hopper[..]),
        (large(DType::F8E4M3), Arch::Sm90a, "QGMMA", &hopper[..2]),
        (large(DType::F8E5M2), Arch::Sm90a, "QGMMA", &hopper[..2]),
        (large(DType::I8), Arch::Sm90a, "IGMMA", &hopper[..2]),
        (stream(), Arch::Sm90a, "HGMMA", &hopper[..]),
        (large(DType::BF16), Arch::Sm80, "HMMA.16816", &ampere[..]),
        (large(DType::F16), Arch::Sm80, "HMMA.16816", &ampere[..]),
        (large(DType::I8), Arch::Sm80, "IMMA.16832", &ampere[..]),
        (stream(), Arch::Sm80, "HMMA.16816", &ampere[..]),
        (large(DType::F8E4M3), Arch::Sm89, "QMMA.16832", &ampere[..]),
        (large(DType::F64), Arch::Sm80, "DMMA", &["LDGSTS"][..]),
        (large(DType::F16), Arch::Sm75, "HMMA.1688", &["LDSM"][..]),
        (large(DType::I8), Arch::Sm75, "IMMA.8816", &["LDSM"][..]),
        (large(DType::F16), Arch::Sm120, "HMMA.16816", &ampere[..]),
        (large(DType::F32).rounding_to_tf32(), Arch::Sm80, "HMMA.1688.F32.TF32", &ampere[..]),
        (large(DType::F32).rounding_to_tf32(), Arch::Sm90a, "HGMMA", &hopper[..2]),
        (large(DType::F32).rounding_to_tf32(), Arch::Sm120, "HMMA.1688.F32.TF32", &["F2FP.TF32", "LDSM", "LDGSTS"][..]),
    ] {
        let offers = case.offers(arch);
        // Results of some tiles go straight to memory: what stands here is of those with roles, and results staged, where there are such.
        let roles = |offer: &&Offer| offer.text.contains("specialised") && !offer.text.contains("parts");
        let staged = |offer: &&Offer| roles(offer) && offer.text.contains("staged");
        let offer = offers.iter().find(staged).or_else(|| offers.iter().find(roles));
        let offer = offer.filter(|_| arch == Arch::Sm90a).unwrap_or(&offers[0]);
        let Some(code) = sass(offer, arch) else { return };
        let has = |wanted: &str| instructions(&code).any(|name| name.starts_with(wanted));
        for wanted in [made_of].iter().chain(besides) {
            // Registers change hands where two warpgroups multiply.
            if *wanted == "USETMAXREG" && !offer.text.contains("8 warps") {
                continue;
            }
            assert!(has(wanted), "{} on {arch} with {}: no {wanted}", case.region.name, offer.text);
        }
        let matrix = ["HMMA", "IMMA", "QMMA", "DMMA", "HGMMA", "QGMMA", "IGMMA"];
        let rounded = |name: &str| !matrix.iter().any(|of| name.starts_with(of)) || name.contains("TF32");
        assert!(!case.tf32 || instructions(&code).all(rounded), "{} on {arch} with {}", case.region.name, offer.text);
        let other = matrix.into_iter().find(|name| has(name) && !made_of.starts_with(name));
        assert_eq!(other, None, "{} on {arch} with {}", case.region.name, offer.text);
    }
}

/// Of images whose channels lie side by side, windows come 16 bytes a thread, or the accelerator finds them; threads that have no products of tiles load as wide.
#[test]
fn windows_are_loaded_wide() {
    let form = convs::form("windows", &[2, 64, 14, 14], &[64, 64, 3, 3], (1, (1, 1), 1, 1));
    let depthwise = convs::form("depthwise", &[2, 64, 14, 14], &[64, 1, 3, 3], (1, (1, 1), 1, 64));
    for (form, arch, family, wanted) in [
        (&form, Arch::Sm80, "conv", ["HMMA.16816", "LDGSTS.E.BYPASS", ".128"]),
        (&form, Arch::Sm90a, "conv", ["HGMMA", "UTMALDG", "IM2COL"]),
        (&depthwise, Arch::Sm80, "conv_direct", ["FFMA", "LDG", ".128"]),
    ] {
        let case = form.case(true);
        let offers = case.offers(arch);
        let roles = |offer: &&Offer| arch != Arch::Sm90a || offer.text.contains("specialised");
        let offer = offers.iter().filter(roles).find(|offer| offer.family == family).expect("an offer");
        let found = complaints(&case, offer, arch);
        assert!(found.is_empty(), "{found:?}");
        let Some(code) = sass(offer, arch) else { return };
        let [made_of, load, wide] = wanted;
        let has = |wanted: &dyn Fn(&str) -> bool| instructions(&code).any(wanted);
        assert!(has(&|name| name.starts_with(made_of)), "{arch} with {}: no {made_of}", offer.text);
        assert!(
            has(&|name| name.starts_with(load) && name.contains(wide)),
            "{arch} with {}: no {load} {wide}",
            offer.text
        );
    }
}

/// Boxes that CTAs of a cluster share come once, to both; along rows and along columns.
#[test]
fn clusters_load_by_multicast() {
    for (dtype, text) in [(DType::BF16, "mk,nk->mn"), (DType::F16, "km,kn->mn"), (DType::F8E4M3, "mk,nk->mn")] {
        let case = product(dtype, text, [512, 512, 512]);
        let offers = case.offers(Arch::Sm90a);
        for shape in ["clusters of 2x1", "clusters of 1x2"] {
            let offer = offers.iter().find(|offer| offer.text.contains(shape)).unwrap_or_else(|| panic!("no {shape}"));
            let found = complaints(&case, offer, Arch::Sm90a);
            assert!(found.is_empty(), "{found:?}");
            let Some(code) = sass(offer, Arch::Sm90a) else { continue };
            let loads = || instructions(&code).filter(|name| name.starts_with("UTMALDG"));
            let shared = |name: &str| name.contains("MULTICAST");
            assert!(loads().any(shared) && loads().any(|name| !shared(name)), "{}: {code}", offer.text);
        }
    }
}

/// Whoever has a part of the depth, its products run on by themselves (C7515).
#[test]
fn products_of_shared_depths_run_on() {
    for dtype in [DType::BF16, DType::I8] {
        let (few, uneven) = ([128, 640, 4096], [1280, 2048, 512]);
        for (size, depth) in [(few, "parts"), (few, "turns"), (uneven, "streamed"), (uneven, "ping-pong")] {
            let case = product(dtype, "mk,nk->mn", size);
            let offers = case.offers(Arch::Sm90a);
            let shared = |offer: &&Offer| offer.text.contains("specialised") && offer.text.contains(depth);
            let offer = offers.iter().find(shared).unwrap_or_else(|| panic!("no {depth} for {dtype}"));
            let found = complaints(&case, offer, Arch::Sm90a);
            assert!(found.is_empty(), "{found:?}");
        }
    }
}

#[test]
fn the_best_product_of_hopper_has_roles() {
    for dtype in [DType::BF16, DType::F16, DType::F8E4M3, DType::I8] {
        let case = product(dtype, "mk,nk->mn", [4096, 4096, 4096].map(|n| n / 4));
        let best = &case.offers(Arch::Sm90a)[0];
        assert!(best.text.contains("specialised, persistent"), "{dtype}: {}", best.text);
    }
}

#[test]
fn aligned_maps_and_rows_access_16_bytes() {
    for (n, case) in shapes::aligned().iter().enumerate() {
        let arch = [Arch::Sm80, Arch::Sm90a, Arch::Sm75][n % 3];
        let offer = &case.offers(arch)[0];
        let Some(code) = sass(offer, arch) else { return };
        let global = |name: &&str| name.starts_with("LDG") || name.starts_with("STG");
        let (wide, narrow): (Vec<&str>, Vec<&str>) =
            instructions(&code).filter(global).partition(|name| name.contains(".128"));
        // What a column becomes is one number.
        let stored = case.region.name.starts_with("columns");
        let fits = !wide.is_empty() && narrow.iter().all(|name| stored && name.starts_with("STG"));
        assert!(fits, "{} on {arch} with {}: {narrow:?}", case.region.name, offer.text);
    }
}

/// Elements of 16 bits come two in a word: neither takes two instructions to become an f32.
#[test]
fn halves_of_words_are_widened_at_once() {
    let inputs = vec![random(DType::BF16, &[64, 1024], 1), random(DType::BF16, &[64, 1024], 2)];
    let sum = case("add_bf16", Anchor::Map, 4.0, inputs, |b| {
        let [x, y] = ["x", "y"].map(|name| b.input(name, DType::BF16, &d(&["N", "1024"])));
        Ok(vec![b.plus(x?, y?)?])
    });
    for arch in [Arch::Sm80, Arch::Sm90a] {
        let offer = &sum.offers(arch)[0];
        let Some(code) = sass(offer, arch) else { return };
        let count =
            |names: &[&str]| instructions(&code).filter(|op| names.iter().any(|name| op.starts_with(name))).count();
        let (sums, moved) = (count(&["FADD"]), count(&["PRMT", "SHF", "SHL", "IMAD.U32", "IMAD.SHL", "LOP3", "MOV"]));
        // Addresses, and pairs that were rounded, take some too.
        assert!(sums >= 8 && moved <= 3 * sums + 4, "{moved} for {sums} sums on {arch} with {}", offer.text);
    }
}

/// Scores of two rows that are as far from the diagonal share a comparison, and weights are words of two from where they are rounded on.
#[test]
fn masks_and_weights_of_attention_take_few_instructions() {
    let case = attention::stream_of(128, true, "nqhd,nkhd->nhqk", 256, 256);
    let offers = case.offers(Arch::Sm90a);
    let tile =
        |offer: &&Offer| offer.text.starts_with("128 queries, 128 keys") && offer.text.contains("overlapped, staged");
    let offer = offers.iter().find(tile).expect("a Config with roles");
    let found = complaints(&case, offer, Arch::Sm90a);
    assert!(found.is_empty(), "{found:?}");
    let Some(code) = sass(offer, Arch::Sm90a) else { return };
    let count = |name: &str| instructions(&code).filter(|op| op.starts_with(name)).count();
    // The first step and those of the loop: 64 scores of a thread, under the diagonal and before the last key, 64 weights. Results are put together
    // where they leave.
    let [selects, comparisons, rounded, moved] = ["FSEL", "ISETP", "F2FP", "PRMT"].map(count);
    assert!(selects >= 2 * 64 && rounded >= 2 * 32, "{selects} selects, {rounded} roundings");
    assert!(comparisons <= 300 && moved <= 40, "{comparisons} comparisons, {moved} permutations of bytes");
}

/// What the compiler and the assembler say against an offer's kernels.
fn complaints(case: &Case, offer: &Offer, arch: Arch) -> Vec<String> {
    let made = match implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}) {
        Ok(made) => made,
        Err(e) => return vec![format!("{} on {arch} with {}: {e}", case.region.name, offer.text)],
    };
    let mut found = vec![];
    for (kernel, compiled) in made.kernels.iter().zip(sim::compile(&made, arch)) {
        let own = compiled.log.entry(&kernel.entry);
        let own = own.unwrap_or_else(|| panic!("no report of the resources of {} in {:?}", kernel.entry, compiled.log));
        let waits = compiled.log.wgmma_serialized() || compiled.log.wgmma_interrupted();
        if compiled.log.spills() || own.stack > 0 || waits {
            let spilled = own.spill_stores + own.spill_loads;
            found.push(format!(
                "{} on {arch} with {}: {} registers, {} bytes of stack, {spilled} spilled{}",
                case.region.name,
                offer.text,
                own.registers,
                own.stack,
                if waits { ", products wait" } else { "" }
            ));
        }
    }
    found
}

/// No Config of the spaces spills, has local memory, or makes the assembler wait for a product that could run on (C7510), or take
/// turns with its registers (C7519).
#[test]
fn no_config_spills() {
    let all = std::env::var("KILN_CONFIGS").is_ok_and(|which| which == "all");
    let only = std::env::var("KILN_CELL").ok();
    let seed = drawn::seed();
    println!("KILN_SEED={seed}");
    let mut rng = Rng::new(seed);
    let size = [512, 768, 512];
    let mut problems: Vec<Case> = vec![];
    for dtype in [DType::BF16, DType::I8, DType::F8E4M3, DType::F32, DType::F64] {
        problems.push(product(dtype, "mk,nk->mn", size));
    }
    problems.push(product(DType::F16, "mk,kn->mn", size));
    problems.push(product(DType::BF16, "mk,nk->mn", [128, 640, 4096]));
    problems.push(product(DType::F16, "km,kn->mn", [33, 768, 1040]));
    problems.push(product(DType::I8, "mk,kn->mn", size));
    problems.push(product(DType::F16, "mk,nk->mn", [8, 768, 2048]));
    problems.push(products::epilogue(DType::F16, [512, 512, 768]));
    problems.push(products::packed_weights());
    for (dtype, several, [m, n, k]) in [
        (DType::BF16, false, size),
        (DType::F16, true, [24, 768, 2048]),
        (DType::F16, false, [1, 768, 2048]),
        (DType::F32, true, size),
    ] {
        let form = products::Twins { text: "mk,nk->mn", dtype, mirrored: false, bias: true, several };
        let extent = move |l: char| match l {
            'm' => m,
            'n' => n,
            _ => k,
        };
        problems.push(products::twins(form, &extent));
    }
    for (dtype, interleaved, rows, depth) in
        [(DType::F16, false, 512, 512), (DType::F32, true, 512, 512), (DType::BF16, false, 1, 2048)]
    {
        let form = products::Rotary { dtype, interleaved, parts: !interleaved, bias: true };
        problems.push(products::rotary(form, [rows, 12, 10, 64, depth]));
    }
    for (dtype, twins, size) in [
        (DType::F32, false, [4, 40, 40, 96, 384]),
        (DType::F32, true, [4, 40, 40, 96, 384]),
        (DType::F16, false, [4, 40, 40, 96, 384]),
        (DType::F32, false, [1, 6, 24, 200, 32]),
    ] {
        problems.push(products::excited(products::Excited { dtype, left: false, twins, function: true }, size));
    }
    for (depth, causal, lies) in
        [(64, true, "nqhd,nkhd->nhqk"), (128, false, "nhqd,nhkd->nhqk"), (256, true, "nhqd,nhkd->nhqk")]
    {
        problems.push(attention::stream_of(depth, causal, lies, 150, 333));
        problems.push(attention::stream_in(DType::F32, depth, causal, lies, 150, 333));
    }
    problems.extend(attention::attentions().into_iter().filter(|case| !case.region.name.contains("stream")).step_by(4));
    problems.extend(shapes::aligned());
    for text in ["mk,nk->mn", "mk,kn->mn"] {
        let extent = |l: char| if l == 'n' { 768 } else { 512 };
        problems.push(products::einsum(&format!("product_tf32_{text}"), text, DType::F32, &extent).rounding_to_tf32());
    }
    for (dtype, rows, transposed) in [(DType::BF16, 512, false), (DType::F16, 16, true), (DType::F32, 512, false)] {
        let form = products::Groups { dtype, depth: 512, columns: 768, transposed, behind: true };
        problems.push(products::grouped(form, rows, &[0, rows as i64 / 2, rows as i64], DType::I32));
    }
    problems.extend([DType::F32, DType::F16].map(|dtype| shapes::long_filled(dtype, 8, 32768)));
    for (n, form) in convs::forms().into_iter().enumerate() {
        let dtype = [DType::BF16, DType::F32, DType::F16][n % 3];
        problems.push(convs::Form { dtype, ..form }.case(n % 2 == 0));
    }
    // Tiles as wide as there are, and the depth shared.
    for (channels, places) in [(256, 14), (512, 7)] {
        let (x, w) = ([8, channels, places, places], [channels, channels, 3, 3]);
        problems.push(convs::form("wide", &x, &w, (1, (1, 1), 1, 1)).case(false));
    }
    let mut tried = vec![];
    for case in &problems {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90a].into_iter().filter(|arch| case.is_for(*arch)) {
            let mut offers = case.offers(arch);
            if !all {
                let drawn = rng.range(0, offers.len() as i64 - 1) as usize;
                offers = offers.drain(drawn..).take(usize::from(rng.range(1, 4) == 1)).collect();
            }
            let what = format!("{} {arch}", case.region.name);
            if only.as_ref().is_none_or(|only| what.contains(only.as_str())) {
                println!("{what}: {} Configs", offers.len());
                tried.extend(offers.into_iter().map(|offer| (case, arch, offer)));
            }
        }
    }
    println!("{} Configs", tried.len());
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                while let Some((case, arch, offer)) = tried.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for complaint in complaints(case, offer, *arch) {
                        println!("{complaint}");
                        found.lock().unwrap().push(complaint);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "KILN_SEED={seed}: {found:#?}");
}
