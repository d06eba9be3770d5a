//! The CUDA C of every family: compiled by NVRTC for every target, and its PTX run in the simulator against the reference interpreter, on
//! regions written by hand; `cells.rs` draws others.

use crate::common::sim::{self, compile, simulate, simulate_made};
use crate::common::{Case, attention, cases, products};
use kiln_graph::number::{float_from_bits, float_to_bits};
use kiln_graph::{DType, Tensor};
use kiln_kernels::families::{Offer, implementation};
use kiln_sim::Options;
use kiln_target::Gpu;
use kiln_target::arch::Arch;

/// Every `step`-th case.
fn some(cases: Vec<Case>, step: usize) -> Vec<Case> {
    cases.into_iter().step_by(step).collect()
}

/// The oldest architecture has no bf16 conversions, the newest has all of them.
const SIMULATED: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

/// Runs each case on two architectures in turn: `cells.rs` visits every type on all of them.
fn check(cases: Vec<Case>) {
    for (i, case) in cases.iter().enumerate() {
        let seeds = [None, Some(i as u64)];
        let archs: Vec<Arch> = SIMULATED.into_iter().filter(|arch| case.is_for(*arch)).collect();
        for (n, seed) in seeds.into_iter().enumerate() {
            simulate(case, archs[(i + n * archs.len() / 2) % archs.len()], [seed]);
        }
    }
}

/// Of the first tile IR; `cells.rs` does it for the others.
#[test]
fn twenty_schedules_find_nothing() {
    let barriers = [some(cases::scatters(), 20), some(cases::scans(), 20), some(cases::top_k(), 10)];
    for case in barriers.into_iter().flatten() {
        for arch in SIMULATED.into_iter().filter(|arch| case.is_for(*arch)) {
            simulate(&case, arch, (0..20).map(Some));
        }
    }
}

#[test]
fn every_family_compiles_for_every_target_without_spills() {
    let chosen = [
        some(cases::unary_functions(), 4),
        some(cases::views(), 4),
        some(cases::gathers(), 2),
        some(cases::scatters(), 20),
        some(cases::reductions(), 12),
        some(cases::contractions(), 9),
        some(cases::convolutions(), 5),
        some(cases::windows(), 14),
        some(cases::scans(), 30),
        some(cases::top_k(), 12),
    ];
    compiles_without_spills(chosen.into_iter().flatten().collect());
}

#[test]
fn attentions_compile_for_every_target_without_spills() {
    compiles_without_spills(some(attention::attentions(), 3));
}

fn compiles_without_spills(chosen: Vec<Case>) {
    for case in chosen {
        let all = [Arch::Sm75, Arch::Sm80, Arch::Sm86, Arch::Sm89, Arch::Sm90a, Arch::Sm100, Arch::Sm120];
        for arch in all.into_iter().filter(|arch| case.is_for(*arch)) {
            let made = case.lower(arch).unwrap_or_else(|e| panic!("{e}"));
            for (kernel, compiled) in made.kernels.iter().zip(compile(&made, arch)) {
                let found = compiled.log.entry(&kernel.entry).expect("a report of the kernel's resources");
                assert!(!compiled.log.spills(), "{} on {arch}: {found:?}\n{}", kernel.entry, kernel.source);
            }
        }
    }
}

/// What a model might call its values, and C++, CUDA or the prelude calls something else.
const TAKEN: &str = "tanh rsqrt exp exp2 expf erf fabs pow atan2 fmod min max abs rint isnan isinf floor ceil trunc round sqrt log1p \
    load store Vec f16 bf16 to_f32 to_f16 odd_f32 min_of Sum warp_reduce swizzled half float4 double2 dim3 int char16_t thread_local \
    and_eq not_eq xor_eq static_cast const_cast typename register asm nullptr template operator threadIdx blockIdx warpSize \
    __syncthreads __CUDA_ARCH__ __global__ __launch_bounds__ NAN INFINITY NULL UINT_MAX CHAR_BIT M_PI M_PI_2 HUGE_VAL assert printf \
    unix linux atomicMax __shfl_xor_sync clock64 memcpy malloc std kernel fault fault_code x x_ _x 2x";

/// Functions of every float type among values that are called like them.
#[test]
fn values_may_be_called_like_anything_in_cuda() {
    let taken: Vec<&str> = TAKEN.split_whitespace().collect();
    for (i, names) in taken.chunks(4).enumerate() {
        let dtype = [DType::F64, DType::F32, DType::F16][i % 3];
        let inputs = names.iter().enumerate().map(|(n, _)| crate::common::random(dtype, &[3, 8], n as u64)).collect();
        let case = crate::common::case(names[0], kiln_fuse::Anchor::Map, 64.0, inputs, |b| {
            let mut sum = None;
            for name in names {
                let x = b.input(name, dtype, &crate::common::d(&["N", "8"]))?;
                let (t, e) = (b.tanh(x)?, b.exp(x)?);
                let y = b.max(t, e)?;
                [t, e, y].into_iter().zip(names).for_each(|(v, name)| b.set_name(v, *name));
                sum = Some(match sum {
                    Some(sum) => b.plus(sum, y)?,
                    None => y,
                });
            }
            Ok(sum.into_iter().collect())
        });
        simulate(&case, SIMULATED[i % SIMULATED.len()], [None]);
    }
}

#[test]
fn simulated_functions() {
    check(cases::unary_functions());
    check(cases::binary_functions());
}

#[test]
fn simulated_casts() {
    check(cases::casts());
    check(cases::quantization());
}

#[test]
fn simulated_views() {
    check(cases::views());
    check(cases::gathers());
    check((0..20).map(cases::random_maps).collect());
}

#[test]
fn simulated_scatters() {
    check(some(cases::scatters(), 3));
}

#[test]
fn simulated_reductions() {
    check(some(cases::reductions(), 2));
}

#[test]
fn simulated_contractions() {
    check(cases::contractions());
}

#[test]
fn simulated_attentions() {
    check(attention::attentions());
}

/// Keys that several CTAs share, with roles and without, of fewest parts and of most.
#[test]
fn attentions_in_parts() {
    let decoding = [DType::F16, DType::BF16, DType::F32].map(attention::decoding);
    let mut tried = [0; 2];
    for (n, case) in some(attention::attentions(), 3).iter().chain(&decoding).enumerate() {
        let archs: Vec<Arch> = SIMULATED.into_iter().filter(|arch| case.is_for(*arch)).collect();
        for arch in [archs[n % (archs.len() - 1)], Arch::Sm90a] {
            let offers = case.offers(arch);
            let parts = |offer: &&Offer| offer.config["parts"].as_u64();
            let special = |offer: &Offer| offer.text.contains("specialised");
            let shared = |of: bool| offers.iter().filter(move |o| o.text.contains(" parts") && special(o) == of);
            let chosen = [shared(n % 2 == 0).min_by_key(parts), shared(n % 2 == 1).max_by_key(parts)];
            for offer in chosen.into_iter().flatten() {
                println!("{} on {arch}: {}", case.region.name, offer.text);
                let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
                assert_eq!(made.kernels.len(), 2);
                let roles = special(offer);
                let seeds = if roles { 20 } else { 2 };
                simulate_made(case, &made, arch, (0..seeds).map(Some));
                tried[usize::from(roles)] += 1;
            }
        }
    }
    assert!(tried[0] > 10 && tried[1] > 0, "{tried:?}");
}

/// No sum of a row crosses lanes in the loop.
#[test]
fn sums_of_rows_meet_after_the_loop() {
    let case = attention::stream_of(128, false, "nqhd,nkhd->nhqk", 150, 333);
    let offers = case.offers(Arch::Sm90a);
    let offer = offers.iter().find(|offer| offer.text.contains("specialised")).unwrap();
    let made = implementation(offer, &offer.build().unwrap(), Arch::Sm90a, &mut |_, _, _| {}).unwrap();
    let compiled = &compile(&made, Arch::Sm90a)[0];
    // The maxima of two rows cross four lanes before the loop and in it; the sums after it.
    assert_eq!(compiled.ptx.lines().filter(|line| line.contains("shfl.sync.bfly")).count(), 12);
}

/// Those that differ from the cheapest in how results leave and who takes turns.
#[test]
fn attentions_of_one_warpgroup_after_another() {
    let cases = [
        attention::stream_of(64, true, "nqhd,nkhd->nhqk", 200, 200),
        attention::stream_of(128, false, "nqhd,nkhd->nhqk", 150, 333),
    ];
    for case in cases {
        let offers = case.offers(Arch::Sm90a);
        for [staged, turns] in [[false, false], [true, true], [false, true]] {
            let fits = |text: &str| [text.contains("staged"), text.contains("in turns")] == [staged, turns];
            let offer =
                offers.iter().find(|o| o.text.contains("128 queries") && o.text.contains("special") && fits(&o.text));
            let offer = offer.unwrap_or_else(|| panic!("staged {staged}, in turns {turns}"));
            let made = implementation(offer, &offer.build().unwrap(), Arch::Sm90a, &mut |_, _, _| {}).unwrap();
            simulate_made(&case, &made, Arch::Sm90a, (0..20).map(Some));
        }
    }
}

#[test]
fn simulated_windows() {
    check(cases::convolutions());
    check(some(cases::windows(), 3));
}

#[test]
fn simulated_lines() {
    check(some(cases::scans(), 4));
    check(some(cases::top_k(), 3));
}

/// The prelude converts 8-bit floats by hand or by `cvt`; both are `kiln_num`'s conversions, bit for bit but for the sign of a NaN.
#[test]
fn eight_bit_floats_of_the_prelude_are_those_of_the_one_codec() {
    for dtype in [DType::F8E4M3, DType::F8E5M2] {
        let codes: Vec<u8> = (0..=255).collect();
        let values: Vec<f32> = codes.iter().map(|&code| float_from_bits(dtype, code.into()) as f32).collect();
        // Every value, the middle of each two neighbours, and what lies next to it on both sides.
        let mut wide = values.clone();
        wide.extend([f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, f32::from_bits(1), -1e-20]);
        for pair in values.windows(2).filter(|pair| pair[0].is_finite() && pair[1].is_finite()) {
            let middle = (pair[0] + pair[1]) / 2.0;
            wide.extend([middle.next_down(), middle, middle.next_up()]);
        }
        let expected: Vec<u8> = wide.iter().map(|&x| float_to_bits(dtype, x.into(), true) as u8).collect();
        let packed = Tensor::new(dtype, vec![codes.len()], codes.clone().into()).unwrap();
        let unpacked = Tensor::from_slice(&[wide.len()], &wide).unwrap();
        let cast = |x: &Tensor, to: DType| {
            let name = format!("{}_to_{to}", x.dtype());
            crate::common::case(&name, kiln_fuse::Anchor::Map, 1.0, vec![x.clone()], |b| {
                let x = b.input("x", x.dtype(), &[x.len().into()])?;
                Ok(vec![b.cast_saturating(x, to)?])
            })
        };
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm89] {
            let result = |case: &Case| {
                let made = case.lower(arch).unwrap();
                sim::run(case, &made, &sim::load(&made, arch), &Options::default(), 1).remove(0)
            };
            let found = result(&cast(&packed, DType::F32)).to_vec::<f32>().unwrap();
            for ((found, value), code) in found.iter().zip(&values).zip(&codes) {
                let same = found.to_bits() == value.to_bits() || found.is_nan() && value.is_nan();
                assert!(same, "{arch} {dtype} {code:#x}: {found:e}, expected {value:e}");
            }
            for ((found, expected), x) in result(&cast(&unpacked, dtype)).data().iter().zip(&expected).zip(&wide) {
                let same = found == expected || x.is_nan() && found & 0x7f == 0x7f;
                assert!(same, "{arch} {x:e} to {dtype}: {found:#x}, expected {expected:#x}");
            }
        }
    }
}

/// Epilogues of every kind at once, prologues, operands of two types.
#[test]
fn simulated_products() {
    check(products::composed());
}

/// CTAs that hand sums on, on GPUs so small that there are more tiles than one wave has: under twenty schedules, and odd sizes under some.
#[test]
fn sums_are_handed_on_under_any_schedule() {
    let of = |name: &str, text: &str, dtype: DType, [m, n, k]: [usize; 3]| {
        let extent = |l: char| match l {
            'b' => 2,
            'm' => m,
            'n' => n,
            _ => k,
        };
        products::einsum(name, text, dtype, &extent)
    };
    let cases = [
        of("handed_on", "mk,nk->mn", DType::F16, [130, 136, 328]),
        of("handed_on_batches", "bmk,bnk->bmn", DType::BF16, [70, 64, 520]),
        of("handed_on_integers", "mk,kn->mn", DType::I8, [72, 96, 1040]),
        of("handed_on_one_row", "mk,nk->mn", DType::F16, [1, 136, 1040]),
        products::epilogue(DType::F16, [70, 520, 72]),
    ];
    let mut seen = [0; 2];
    for (n, case) in cases.iter().enumerate() {
        for arch in [Arch::Sm80, Arch::Sm90a] {
            let gpu = Gpu { sms: 5, ..Gpu::typical(arch).unwrap() };
            let offers = case.offers_on(&gpu);
            for (how, word) in ["turns", "streamed"].into_iter().enumerate() {
                let such = |roles: bool| {
                    offers.iter().find(|o| o.text.contains(word) && o.text.contains("specialised") == roles)
                };
                for offer in [such(true), such(false)].into_iter().flatten() {
                    println!("{}, {arch}: {}", case.region.name, offer.text);
                    seen[how] += 1;
                    let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
                    simulate_made(case, &made, arch, (0..if n == 0 { 20 } else { 2 }).map(Some));
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count >= 8), "{seen:?}");
}

/// Few rows whose operands meet in registers, by threads of one warp or of all.
#[test]
fn simulated_products_of_few_rows() {
    let shapes = [
        ("mk,nk->mn", DType::F16, [1, 70, 72]),
        ("mk,nk->mn", DType::BF16, [3, 33, 2080]),
        ("mk,nk->mn", DType::F32, [2, 40, 37]),
        ("mk,nk->mn", DType::F64, [1, 9, 130]),
        ("mk,nk->mn", DType::I8, [4, 24, 80]),
        ("mk,nk->mn", DType::F8E4M3, [1, 40, 272]),
        ("bmk,bnk->bmn", DType::F16, [1, 40, 24]),
        ("mk,k->m", DType::BF16, [70, 1, 1096]),
    ];
    let einsums = shapes.into_iter().map(|(text, dtype, [m, n, k])| {
        let extent = |l: char| match l {
            'b' => 2,
            'm' => m,
            'n' => n,
            _ => k,
        };
        products::einsum(&format!("few_{text}_{dtype}_{m}x{n}x{k}"), text, dtype, &extent)
    });
    let mut wide = 0;
    for (i, case) in einsums.chain([products::epilogue(DType::F16, [1, 72, 72])]).enumerate() {
        let arch = [Arch::Sm75, Arch::Sm80, Arch::Sm90a][i % 3];
        let offers = case.offers(arch);
        let found =
            |all: bool| offers.iter().find(|o| o.text.contains(" lanes") && o.text.contains(" 32 lanes") != all);
        wide += usize::from(found(true).is_some());
        let narrow = found(false).unwrap_or_else(|| panic!("{} on {arch}: no lanes", case.region.name));
        for offer in found(true).into_iter().chain([narrow]) {
            println!("{}, {arch}: {}", case.region.name, offer.text);
            let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
            simulate_made(&case, &made, arch, [None]);
        }
    }
    assert!(wide >= 2, "{wide}");
}
