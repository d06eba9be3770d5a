//! Products of f32 that may round their operands to TF32: which operands are rounded, how, and what that does to results. In the tile interpreter
//! and the simulator, against the reference interpreter on operands rounded beforehand, and against float64.

use crate::common::products::{self, einsum};
use crate::common::{Case, TF32_UNIT, case, d, ints, sim, spec};
use kiln_fuse::Anchor;
use kiln_graph::{DType, Rng, Tensor, interpret, widen};
use kiln_kernels::families::{Built, Offer, implementation};
use kiln_sim::Options;
use kiln_target::arch::Arch;
use kiln_tile::ir::{Level, Op};
use std::collections::HashSet;

/// f32 rounded to TF32 in its bits: to nearest, ties away from zero or to even.
fn rounded(tensor: &Tensor, away: bool) -> Tensor {
    let round = |word: &[u8]| {
        let bits = u32::from_le_bytes(word.try_into().unwrap());
        let half = if away { 0x1000 } else { 0xfff + (bits >> 13 & 1) };
        if bits & 0x7f80_0000 == 0x7f80_0000 { bits } else { (bits + half) & !0x1fff }
    };
    let data: Vec<u8> = tensor.data().chunks_exact(4).flat_map(|word| round(word).to_le_bytes()).collect();
    Tensor::new(DType::F32, tensor.shape().to_vec(), data.into()).unwrap()
}

/// Numbers of 11 to 13 bits, of which a half lie between two of TF32, halfway or not.
fn between(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    Tensor::generate(DType::F32, shape, |_| rng.range(-(1 << 13), 1 << 13) as f64 / f64::from(1 << 12)).unwrap()
}

fn product(text: &str, [m, n, k]: [usize; 3]) -> Case {
    let extent = |l: char| match l {
        'b' => 2,
        'm' => m,
        'n' => n,
        _ => k,
    };
    let mut case = einsum(&format!("{text}_{m}x{n}x{k}"), text, DType::F32, &extent).rounding_to_tf32();
    for (i, input) in case.inputs.iter_mut().enumerate() {
        *input = between(input.shape(), 7 + i as u64);
    }
    case
}

/// Whether a product of the programs is of rounded operands.
fn rounds(built: &Built) -> bool {
    let mut found = false;
    for stmt in built.launches.iter().flat_map(|launch| &launch.program.body) {
        stmt.walk(&mut |stmt| found |= matches!(stmt.op, Op::Dot { tf32: Some(_), .. }));
    }
    found
}

/// The reference on rounded operands.
fn reference(case: &Case, away: bool) -> Vec<Tensor> {
    let inputs: Vec<Tensor> = case.inputs.iter().map(|input| rounded(input, away)).collect();
    interpret(&case.region.graph, &inputs).unwrap()
}

/// No element is further from float64 than the roundings of its operands allow: of each product of two numbers `2 u + u^2` of its size with u of
/// TF32, and of sums of f32 one rounding an addition.
fn within_bound(case: &Case, depth: usize, found: &[Tensor]) {
    let size = |t: &Tensor| {
        Tensor::from_f64(DType::F32, t.shape(), &t.to_f64_vec().iter().map(|x| x.abs()).collect::<Vec<_>>()).unwrap()
    };
    let sizes: Vec<Tensor> = case.inputs.iter().map(size).collect();
    let [exact, sizes] =
        [&case.inputs, &sizes].map(|inputs| widen::reference(&case.region.graph, inputs).unwrap()[0].to_f64_vec());
    let depth = depth as f64;
    let bound = 2.0 * TF32_UNIT + TF32_UNIT * TF32_UNIT + depth * 2f64.powi(-24);
    let mut furthest = 0.0f64;
    for ((found, exact), size) in found[0].to_f64_vec().iter().zip(&exact).zip(&sizes) {
        assert!((found - exact).abs() <= bound * size, "{}: {found}, in float64 {exact}", case.region.name);
        furthest = furthest.max((found - exact).abs() / size);
    }
    // f32 alone would be nearer: something was rounded.
    assert!(furthest > 16.0 * depth.sqrt() * 2f64.powi(-24), "{}: {furthest:e}", case.region.name);
}

/// The best offer of each kind that rounds: with roles, without, with parts, transposed.
fn kinds(case: &Case, arch: Arch) -> Vec<(Offer, Built)> {
    let (mut seen, mut found) = (HashSet::new(), vec![]);
    for offer in case.offers(arch) {
        if seen.insert(offer.text.replace(|c: char| c.is_ascii_digit(), "")) {
            let built = offer.build().unwrap();
            if rounds(&built) && built.guard.holds(&case.bindings()).unwrap() {
                found.push((offer, built));
            }
        }
    }
    assert!(!found.is_empty(), "{} on {arch} rounds nothing", case.region.name);
    found
}

#[test]
fn operands_are_rounded_as_the_architecture_can() {
    let sizes = [[40, 72, 64], [64, 96, 100], [33, 17, 7]];
    let arches = [[(Arch::Sm80, true), (Arch::Sm90a, false)], [(Arch::Sm89, true), (Arch::Sm120, false)]];
    for (n, text) in ["mk,nk->mn", "mk,kn->mn", "km,kn->mn", "bkm,bnk->bmn"].into_iter().enumerate() {
        let (case, depth) = (product(text, sizes[n % 3]), sizes[n % 3][2]);
        for (arch, away) in arches[n % 2] {
            let expected = reference(&case, away);
            for (offer, built) in kinds(&case, arch).into_iter().take(4) {
                for level in [Level::Tile, Level::LaidOut] {
                    let (found, _) = case.interpret_built(&built, arch, level);
                    let said = case.differs_from(&expected, &found, 8.0);
                    assert_eq!(said, None, "{arch}, {level:?}, {}", offer.text);
                    within_bound(&case, depth, &found);
                }
            }
        }
    }
}

/// Through `mma.sync` from `cp.async` and from registers, whichever axis is dense; through wgmma from boxes that are rounded as they are loaded.
#[test]
fn instructions_get_rounded_operands() {
    let cases = [
        (product("mk,nk->mn", [72, 80, 64]), [Arch::Sm80, Arch::Sm90a, Arch::Sm120]),
        (product("km,kn->mn", [48, 64, 40]), [Arch::Sm80, Arch::Sm90a, Arch::Sm120]),
        (product("bmk,bkn->bmn", [33, 17, 23]), [Arch::Sm86, Arch::Sm90a, Arch::Sm89]),
    ];
    let mut wgmma = 0;
    for (case, arches) in cases {
        for arch in arches {
            let expected = reference(&case, arch < Arch::Sm90a);
            for (offer, built) in kinds(&case, arch) {
                if ["parts", "turns", "streamed", "swapped"].iter().any(|kind| offer.text.contains(kind)) {
                    continue;
                }
                let made = implementation(&offer, &built, arch, &mut |_, _, _| {}).unwrap();
                let source = &made.kernels[0].source;
                let instruction = if offer.text.contains("specialised") { "wgmma.mma_async" } else { "mma.sync" };
                wgmma += u32::from(instruction.starts_with("wg"));
                assert!(source.contains(instruction) && source.contains("f32.tf32.tf32"), "{arch}, {}", offer.text);
                let options = Options { seed: Some(3), ..Options::default() };
                let found = sim::run(&case, &made, &sim::load(&made, arch), &options, 2);
                assert_eq!(case.differs_from(&expected, &found, 8.0), None, "{arch}, {}", offer.text);
            }
        }
    }
    assert!(wgmma > 0, "no product was wgmma's");
}

/// What is computed on the way is rounded after it; what stands behind a product is not.
#[test]
fn prologues_and_epilogues_are_f32() {
    // Of 13 bits; weights as much smaller.
    let weights = between(&[72, 64], 2).to_f64_vec();
    let weights = Tensor::generate(DType::F32, &[72, 64], |i| weights[i] / 8192.0).unwrap();
    let inputs = vec![ints(DType::I32, &[40, 64], -8192, 8192, 1), weights, between(&[72], 3)];
    let case = case("surrounded", Anchor::Contract, 128.0, inputs, |b| {
        let (x, w) = (b.input("x", DType::I32, &d(&["M", "64"]))?, b.input("w", DType::F32, &d(&["72", "64"]))?);
        let bias = b.input("bias", DType::F32, &d(&["72"]))?;
        let x = b.cast(x, DType::F32)?;
        let y = b.contract(spec("mk,nk->mn"), x, w, DType::F32, DType::F32)?;
        b.plus(y, bias).map(|y| vec![y])
    })
    .rounding_to_tf32();
    for (arch, away) in [(Arch::Sm80, true), (Arch::Sm90a, false)] {
        // A rounded number of 13 bits is still whole.
        let wide = Tensor::from_f64(DType::F32, &[40, 64], &case.inputs[0].to_f64_vec()).unwrap();
        let whole: Vec<i128> = rounded(&wide, away).to_f64_vec().into_iter().map(|x| x as i128).collect();
        let x = Tensor::from_i128(DType::I32, &[40, 64], &whole).unwrap();
        let inputs = [x, rounded(&case.inputs[1], away), case.inputs[2].clone()];
        let expected = interpret(&case.region.graph, &inputs).unwrap();
        let (offer, built) = kinds(&case, arch).remove(0);
        let made = implementation(&offer, &built, arch, &mut |_, _, _| {}).unwrap();
        let found = sim::run(&case, &made, &sim::load(&made, arch), &Options::default(), 1);
        assert_eq!(case.differs_from(&expected, &found, 8.0), None, "{arch}, {}", offer.text);
    }
}

#[test]
fn nothing_is_rounded_unless_it_may_be_and_can_be() {
    let case = product("mk,nk->mn", [72, 80, 64]);
    let exact = Case { tf32: false, ..product("mk,nk->mn", [72, 80, 64]) };
    let offered = |case: &Case, arch| case.offers(arch).iter().take(16).any(|offer| rounds(&offer.build().unwrap()));
    assert!(offered(&case, Arch::Sm80) && !offered(&exact, Arch::Sm80));
    // No instruction; and other types have their own.
    assert!(!offered(&case, Arch::Sm75));
    for dtype in [DType::F16, DType::F64, DType::I32] {
        let other = einsum("other", "mk,nk->mn", dtype, &|l| if l == 'k' { 64 } else { 48 }).rounding_to_tf32();
        assert!(!offered(&other, Arch::Sm90a), "{dtype}");
    }
    let rounded = products::epilogue(DType::F32, [9, 20, 36]).rounding_to_tf32();
    assert!(offered(&rounded, Arch::Sm90a));
}

/// The best of a large product are tensor cores, and on Hopper roles.
#[test]
fn tensor_cores_are_faster() {
    let case = product("mk,nk->mn", [512; 3]);
    for (arch, kind) in [(Arch::Sm80, "stages"), (Arch::Sm90a, "specialised, persistent")] {
        let best = &case.offers(arch)[0];
        assert!(best.text.contains(kind) && rounds(&best.build().unwrap()), "{arch}: {}", best.text);
        let exact = Case { tf32: false, ..product("mk,nk->mn", [512; 3]) };
        assert!(best.estimate.seconds < exact.offers(arch)[0].estimate.seconds, "{arch}");
    }
}
