//! Kernels in the simulator, with all checks on. NVRTC is fetched into `$KILN_HOME` if no other is found. No GPU is needed.

use super::Case;
use kiln_cuda::{CompileRequest, Compiled, Compiler, CubinCache, Home, Nvrtc, setup};
use kiln_graph::Tensor;
use kiln_kernels::{Element, Implementation, Kernel, Param, Pointer, TensorMap, Window};
use kiln_sim::{Arg, CounterReport, Device, LaunchConfig, Module, Options, Swizzle, TensorType};
use kiln_target::arch::Arch;
use std::sync::OnceLock;

pub fn compiler() -> &'static Compiler {
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

fn request(kernel: &Kernel, arch: Arch) -> CompileRequest {
    CompileRequest {
        name: kernel.entry.clone(),
        source: kernel.source.clone(),
        arch: arch.name().to_owned(),
        options: vec![],
        line_info: false,
    }
}

/// Machine code and what the assembler says of it.
pub fn compile(made: &Implementation, arch: Arch) -> Vec<Compiled> {
    let compile = |kernel: &Kernel| {
        compiler().compile(&request(kernel, arch)).unwrap_or_else(|e| panic!("{e}\n{}", kernel.source))
    };
    made.kernels.iter().map(compile).collect()
}

/// Kernels as the simulator runs them.
pub fn load(made: &Implementation, arch: Arch) -> Vec<kiln_sim::Kernel> {
    let load = |kernel: &Kernel| {
        let ptx = compiler().ptx(&request(kernel, arch)).unwrap_or_else(|e| panic!("{e}\n{}", kernel.source));
        let module = Module::parse(&ptx).unwrap_or_else(|e| panic!("{}: {e}", kernel.entry));
        module.kernel(&kernel.entry).unwrap_or_else(|e| panic!("{}: {e}", kernel.entry))
    };
    made.kernels.iter().map(load).collect()
}

/// Compiles for `arch`, runs once for each schedule, and compares the results.
pub fn simulate(case: &Case, arch: Arch, seeds: impl IntoIterator<Item = Option<u64>>) {
    let made = case.lower(arch).unwrap_or_else(|e| panic!("{}: {e}", case.region.name));
    simulate_made(case, &made, arch, seeds);
}

/// [`simulate`] of one implementation.
pub fn simulate_made(case: &Case, made: &Implementation, arch: Arch, seeds: impl IntoIterator<Item = Option<u64>>) {
    let entries = load(made, arch);
    for seed in seeds {
        // CUDA's functions are a few units in the last place off; see the mathematical functions appendix of its guide.
        case.compare(&run(case, made, &entries, &Options { seed, ..Options::default() }, 1), 4.0);
    }
}

/// The results of one run, in which outputs were poisoned and nothing may be found wrong. Persistent grids have `sms` CTAs.
pub fn run(
    case: &Case,
    made: &Implementation,
    entries: &[kiln_sim::Kernel],
    options: &Options,
    sms: u32,
) -> Vec<Tensor> {
    counted(case, made, entries, options, sms).0
}

/// [`run`], and the counters of each kernel where they were asked for.
pub fn counted(
    case: &Case,
    made: &Implementation,
    entries: &[kiln_sim::Kernel],
    options: &Options,
    sms: u32,
) -> (Vec<Tensor>, Vec<CounterReport>) {
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
    let mut counters = vec![];
    for (kernel, entry) in made.kernels.iter().zip(entries) {
        let arg = |param: &Param| match param {
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
        };
        let launch = &kernel.launch;
        let grid = launch.grid.blocks(&bindings, sms, launch.cluster).unwrap().map(|blocks| blocks as u32);
        if grid.contains(&0) {
            continue;
        }
        let args: Vec<Arg> = launch.params.iter().map(arg).collect();
        let config = LaunchConfig { grid, block: launch.block, shared: launch.dynamic_shared, cluster: None };
        let report = device.launch(entry, config, &args, options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(report.clean(), "{name}: {:?}\n{}", report.findings, kernel.source);
        counters.extend(report.counters);
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
    (poisoned.iter().zip(&outputs).map(download).collect(), counters)
}

/// A tensor map, as kernels of the simulator read it.
fn encoded(map: &TensorMap<u64>, address: u64) -> Vec<u8> {
    let dtype = match map.element.bytes() {
        _ if map.element == Element::Tf32 => TensorType::Tf32,
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
    let (dims, strides, element_strides) = (map.extents.clone(), map.strides.clone(), map.steps());
    let encoded = match &map.window {
        Window::Tiled(box_dims) => kiln_sim::TensorMap {
            dtype,
            address,
            dims,
            strides,
            box_dims: box_dims.clone(),
            element_strides,
            swizzle,
            nan_fill: false,
        }
        .encode(),
        Window::Im2col { lower, upper, channels, pixels } => kiln_sim::Im2colMap {
            dtype,
            address,
            dims,
            strides,
            lower_corner: lower.clone(),
            upper_corner: upper.clone(),
            channels_per_pixel: *channels,
            pixels_per_column: *pixels,
            element_strides,
            swizzle,
            nan_fill: false,
        }
        .encode(),
    };
    encoded.unwrap().to_vec()
}
