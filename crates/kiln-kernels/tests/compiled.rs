//! The CUDA C of every family: compiled by NVRTC for every target, and its PTX run in the simulator against the reference
//! interpreter. NVRTC is fetched into `$KILN_HOME` if no other is found. No GPU is needed.

mod common;

use common::{Case, attention, cases, products, shapes};
use kiln_cuda::{CompileRequest, Compiled, Compiler, CubinCache, Home, Nvrtc, setup};
use kiln_graph::number::{float_from_bits, float_to_bits};
use kiln_graph::{DType, Tensor};
use kiln_kernels::families::implementation;
use kiln_kernels::{Implementation, Param, Pointer, TensorMap, Window};
use kiln_sim::{Arg, Device, LaunchConfig, Mix, Module, Options, Swizzle, TensorType};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use std::sync::OnceLock;

fn compiler() -> &'static Compiler {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    COMPILER.get_or_init(|| {
        let home = Home::from_env().expect("a home folder");
        let nvrtc = Nvrtc::discover(&home).unwrap_or_else(|_| {
            setup::setup(&home, |_| {}).expect("kiln setup");
            Nvrtc::discover(&home).expect("NVRTC")
        });
        Compiler::new(&nvrtc).with_cache(CubinCache::in_home(&home))
    })
}

fn compile(made: &Implementation, arch: Arch) -> Vec<Compiled> {
    let compile = |kernel: &kiln_kernels::Kernel| {
        let request = CompileRequest {
            name: kernel.entry.clone(),
            source: kernel.source.clone(),
            arch: arch.name().to_owned(),
            options: vec![],
            line_info: false,
        };
        compiler().compile(&request).unwrap_or_else(|e| panic!("{e}\n{}", kernel.source))
    };
    made.kernels.iter().map(compile).collect()
}

/// Runs the PTX for `arch` in the simulator with all checks on, once for each schedule, and compares the results.
fn simulate(case: &Case, arch: Arch, seeds: impl IntoIterator<Item = Option<u64>>) {
    let made = case.lower(arch).unwrap_or_else(|e| panic!("{}: {e}", case.region.name));
    simulate_made(case, &made, arch, seeds);
}

/// [`simulate`] of one implementation.
fn simulate_made(case: &Case, made: &Implementation, arch: Arch, seeds: impl IntoIterator<Item = Option<u64>>) {
    let name = &case.region.name;
    let compiled = compile(made, arch);
    let entry = |(kernel, compiled): (&kiln_kernels::Kernel, &Compiled)| {
        let module = Module::parse(&compiled.ptx).unwrap_or_else(|e| panic!("{name}: {e}"));
        module.kernel(&kernel.entry).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let entries: Vec<_> = made.kernels.iter().zip(&compiled).map(entry).collect();
    for seed in seeds {
        // CUDA's functions are a few units in the last place off; see the mathematical functions appendix of its guide.
        case.compare(&run(case, made, &entries, &Options { seed, ..Options::default() }), 4.0);
    }
}

fn run(case: &Case, made: &Implementation, entries: &[kiln_sim::Kernel], options: &Options) -> Vec<Tensor> {
    run_counted(case, made, entries, options, &mut |_| {})
}

/// [`run`], showing `counted` the counters of each kernel.
fn run_counted(
    case: &Case,
    made: &Implementation,
    entries: &[kiln_sim::Kernel],
    options: &Options,
    counted: &mut dyn FnMut(Mix),
) -> Vec<Tensor> {
    let name = &case.region.name;
    let bindings = case.bindings();
    let device = Device::new(1 << 24);
    let upload = |t: &Tensor| {
        let address = device.alloc(t.data().len().max(1) as u64).unwrap();
        device.upload(address, t.data()).unwrap();
        address
    };
    let inputs: Vec<u64> = case.inputs.iter().map(upload).collect();
    let poisoned = case.poisoned();
    let outputs: Vec<u64> = poisoned.iter().map(upload).collect();
    let fault = device.alloc(4).unwrap();
    device.upload(fault, &[0; 4]).unwrap();
    let scratch = device.alloc((made.scratch_bytes.eval(&bindings).unwrap() as u64).max(1)).unwrap();
    let zeros = vec![0; (made.zeroed_bytes.eval(&bindings).unwrap() as usize).max(1)];
    let zeroed = device.alloc(zeros.len() as u64).unwrap();
    device.upload(zeroed, &zeros).unwrap();
    let address = |base: Pointer| match base {
        Pointer::Input(i) => inputs[i],
        Pointer::Output(i) => outputs[i],
        Pointer::Scratch => scratch,
        Pointer::Zeroed => zeroed,
        other => panic!("{name}: {other:?} was not asked for"),
    };
    for (kernel, entry) in made.kernels.iter().zip(entries) {
        let args: Vec<Arg> = kernel
            .launch
            .params
            .iter()
            .map(|param| match param {
                Param::Input(_) | Param::Output(_) | Param::Scratch | Param::Zeroed => {
                    Arg::U64(address(param.pointer().unwrap()))
                }
                Param::TensorMap(map) => {
                    let map = map.resolve(&bindings).unwrap().unwrap_or_else(|e| panic!("{name}: {e}"));
                    Arg::Bytes(encoded(&map, address(map.base)))
                }
                Param::Fault => Arg::U64(fault),
                Param::FaultCode => Arg::I32(1),
                Param::I32(dim) => Arg::I32(i32::try_from(dim.eval(&bindings).unwrap()).unwrap()),
                Param::I64(dim) => Arg::I64(dim.eval(&bindings).unwrap()),
                other => panic!("{name}: {other:?} was not asked for"),
            })
            .collect();
        let launch = &kernel.launch;
        let grid = launch.grid.blocks(&bindings, 1, launch.cluster).unwrap().map(|blocks| blocks as u32);
        if grid.contains(&0) {
            continue;
        }
        let config = LaunchConfig { grid, block: launch.block, shared: launch.dynamic_shared, cluster: None };
        let report = device.launch(entry, config, &args, options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(report.clean(), "{name}: {:?}\n{}", report.findings, kernel.source);
        report.counters.iter().for_each(|counters| counted(counters.total));
    }
    let mut left = zeros.clone();
    device.download(zeroed, &mut left).unwrap();
    assert_eq!(left, zeros, "{name}: counters are not left zero");
    let mut code = [0; 4];
    device.download(fault, &mut code).unwrap();
    assert_eq!(code, [0; 4], "{name}: a check failed");
    let download = |(t, &address): (&Tensor, &u64)| {
        let mut bytes = vec![0; t.data().len()];
        device.download(address, &mut bytes).unwrap();
        Tensor::new(t.dtype(), t.shape().to_vec(), bytes.into()).unwrap()
    };
    poisoned.iter().zip(&outputs).map(download).collect()
}

/// A tensor map, as kernels of the simulator read it.
fn encoded(map: &TensorMap<u64>, address: u64) -> Vec<u8> {
    let Window::Tiled(box_dims) = &map.window else { panic!("an im2col tensor map") };
    let bits = match map.element.bytes() {
        1 => TensorType::U8,
        2 => TensorType::U16,
        4 => TensorType::U32,
        _ => TensorType::U64,
    };
    let swizzle = match map.swizzle {
        kiln_kernels::Swizzle::None => Swizzle::None,
        kiln_kernels::Swizzle::B32 => Swizzle::B32,
        kiln_kernels::Swizzle::B64 => Swizzle::B64,
        kiln_kernels::Swizzle::B128 => Swizzle::B128,
    };
    let map = kiln_sim::TensorMap {
        dtype: bits,
        address,
        dims: map.extents.clone(),
        strides: map.strides.clone(),
        box_dims: box_dims.clone(),
        element_strides: map.steps(),
        swizzle,
        nan_fill: false,
    };
    map.encode().unwrap().to_vec()
}

/// Every `step`-th case.
fn some(cases: Vec<Case>, step: usize) -> Vec<Case> {
    cases.into_iter().step_by(step).collect()
}

/// The oldest architecture has no bf16 conversions, the newest has all of them.
const SIMULATED: [Arch; 4] = [Arch::Sm75, Arch::Sm80, Arch::Sm89, Arch::Sm90a];

fn check(cases: Vec<Case>) {
    for (i, case) in cases.iter().enumerate() {
        for (arch, seed) in SIMULATED.into_iter().zip([None, Some(i as u64), None, Some(!i as u64)]) {
            if case.is_for(arch) {
                simulate(case, arch, [seed]);
            }
        }
    }
}

#[test]
fn twenty_schedules_find_nothing() {
    let barriers = [
        some(cases::scatters(), 20),
        some(cases::reductions(), 6),
        some(cases::contractions(), 4),
        some(attention::attentions(), 4),
        some(cases::convolutions(), 12),
        some(cases::scans(), 20),
        some(cases::top_k(), 10),
    ];
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
    compiles_without_spills(attention::attentions());
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
        let inputs = names.iter().enumerate().map(|(n, _)| common::random(dtype, &[3, 8], n as u64)).collect();
        let case = common::case(names[0], kiln_fuse::Anchor::Map, 64.0, inputs, |b| {
            let mut sum = None;
            for name in names {
                let x = b.input(name, dtype, &common::d(&["N", "8"]))?;
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
fn simulated_shapes() {
    let seed = shapes::fresh_seed();
    println!("seeds from {seed}");
    for i in 0..60 {
        let (arch, seed) = ([Arch::Sm75, Arch::Sm80, Arch::Sm90a][i as usize % 3], seed.wrapping_add(i));
        let case = if i < 30 { shapes::map(seed) } else { shapes::rows(seed) };
        simulate(&case, arch, [Some(seed)]);
    }
}

/// Aligned shapes go through memory once, 16 bytes a lane at a time.
#[test]
fn aligned_maps_and_rows_move_their_bytes_once_and_wide() {
    for case in shapes::aligned() {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90a] {
            let (name, made) = (&case.region.name, case.lower(arch).unwrap());
            let compiled = compile(&made, arch);
            let module = Module::parse(&compiled[0].ptx).unwrap();
            let entry = module.kernel(&made.kernels[0].entry).unwrap();
            let mut counted = Mix::default();
            let options = Options { counters: true, ..Options::default() };
            let found = run_counted(&case, &made, &[entry], &options, &mut |counters| counted = counters);
            case.compare(&found, 4.0);
            let floor: usize = case.inputs.iter().chain(&found).map(|t| t.data().len()).sum();
            let (floor, moved) = (floor as f64, 32.0 * counted.global_sectors as f64);
            assert!(
                moved <= 1.05 * floor,
                "{name} on {arch}: {moved} bytes, {floor} at least\n{}",
                made.kernels[0].source
            );
            // A warp's request is 512 bytes.
            let requests = counted.global_requests as f64;
            let (config, source) = (&made.config, &made.kernels[0].source);
            assert!(requests <= 1.05 * floor / 512.0, "{name} on {arch}: {requests} requests of {config}\n{source}");
        }
    }
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

/// Whatever the cheapest are: those with roles, and those without.
#[test]
fn simulated_attentions_of_every_kind() {
    let mut roles = 0;
    for (n, case) in attention::attentions().iter().enumerate() {
        let offers = case.offers(Arch::Sm90a);
        let special = offers.iter().position(|offer| offer.text.contains("specialised"));
        let plain =
            offers.iter().rposition(|offer| !offer.text.contains("specialised") && offer.text.contains("64 keys"));
        roles += usize::from(special.is_some());
        for offer in special.into_iter().chain(plain.filter(|_| n % 3 == 0)).map(|i| &offers[i]) {
            println!("{}: {}", case.region.name, offer.text);
            let made = implementation(offer, &offer.build().unwrap(), Arch::Sm90a, &mut |_, _, _| {}).unwrap();
            simulate_made(case, &made, Arch::Sm90a, [None, Some(n as u64)]);
        }
    }
    assert!(roles > 10);
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
            common::case(&name, kiln_fuse::Anchor::Map, 1.0, vec![x.clone()], |b| {
                let x = b.input("x", x.dtype(), &[x.len().into()])?;
                Ok(vec![b.cast_saturating(x, to)?])
            })
        };
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm89] {
            let result = |case: &Case| {
                let made = case.lower(arch).unwrap();
                let module = Module::parse(&compile(&made, arch)[0].ptx).unwrap();
                let entry = module.kernel(&made.kernels[0].entry).unwrap();
                run(case, &made, &[entry], &Options::default()).remove(0)
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

/// Products of every orientation and type: the cheapest Config, and of each kind of Config the cheapest.
#[test]
fn simulated_products() {
    let said = ["specialised", "swapped", "parts", "turns", "streamed", "lanes"];
    let mut failed = vec![];
    for (n, case) in products::simulated().iter().enumerate() {
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90a] {
            let offers = case.offers(arch);
            let mut chosen = vec![0, (7 * n + 3) % offers.len()];
            chosen.extend(said.iter().filter_map(|word| offers.iter().position(|offer| offer.text.contains(word))));
            chosen.sort_unstable();
            chosen.dedup();
            for offer in chosen.into_iter().map(|i| &offers[i]) {
                let name = format!("{}, {arch}: {}", case.region.name, offer.text);
                let run = || {
                    let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
                    simulate_made(case, &made, arch, [Some(n as u64)]);
                };
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                    println!("FAILED {name}");
                    failed.push(name);
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
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

/// Some Configs of a large product, more of those that have warpgroups of their own for copies.
#[test]
fn products_of_large_tiles_do_not_spill() {
    let shape = |l: char| match l {
        'm' => 512,
        'n' => 768,
        _ => 512,
    };
    let mut spilled = vec![];
    for (dtype, every) in [(DType::F16, 32), (DType::F32, 12), (DType::I8, 48)] {
        let case = products::einsum("large", "mk,nk->mn", dtype, &shape);
        for arch in [Arch::Sm75, Arch::Sm80, Arch::Sm90a] {
            for (i, offer) in case.offers(arch).iter().enumerate() {
                let roles = dtype == DType::F16 && offer.text.contains("8 warps") && offer.text.contains("specialised");
                let whole = !["parts", "turns", "streamed"].iter().any(|word| offer.text.contains(word));
                let streamed = offer.text.contains("streamed");
                if i % every != 0 && !(roles && (whole && i % 2 == 0 || streamed && i % 8 == 0)) {
                    continue;
                }
                let made = implementation(offer, &offer.build().unwrap(), arch, &mut |_, _, _| {}).unwrap();
                for (kernel, compiled) in made.kernels.iter().zip(compile(&made, arch)) {
                    compiled.log.entry(&kernel.entry).expect("a report of the kernel's resources");
                    if compiled.log.spills() {
                        spilled.push(format!("{dtype} {arch}: {}", offer.text));
                    }
                }
            }
        }
    }
    assert!(spilled.is_empty(), "{spilled:#?}");
}
