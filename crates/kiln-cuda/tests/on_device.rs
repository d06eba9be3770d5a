//! The device on a real GPU. Without one, or without its driver, each test prints why it is skipped and passes.

use std::process::Command;
use std::time::Duration;

use kiln_cuda::{
    Arg, CompileRequest, Compiled, Compiler, CudaDevice, CudaError, CudaModule, Home, KernelFunction, LaunchConfig,
    Nvrtc, setup,
};

/// GPU 0, or `None` with a printed reason.
fn gpu() -> Option<CudaDevice> {
    match CudaDevice::new(0) {
        Ok(device) => Some(device),
        Err(error @ (CudaError::NoDriver | CudaError::NoDevice { .. } | CudaError::DriverTooOld { .. })) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("there is a driver, but: {error}"),
    }
}

fn arch(device: &CudaDevice) -> String {
    let (major, minor) = device.properties().compute_capability;
    format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" })
}

fn compiled(arch: &str, source: &str) -> Compiled {
    let home = Home::from_env().unwrap();
    let nvrtc = Nvrtc::discover(&home).unwrap_or_else(|_| {
        setup::setup(&home, |_| {}).unwrap();
        Nvrtc::discover(&home).unwrap()
    });
    let request = CompileRequest {
        name: "test".to_owned(),
        source: source.to_owned(),
        arch: arch.to_owned(),
        options: Vec::new(),
        line_info: false,
    };
    Compiler::new(&nvrtc).compile(&request).unwrap()
}

fn cubin(arch: &str, source: &str) -> Vec<u8> {
    compiled(arch, source).cubin
}

fn module(device: &CudaDevice, source: &str) -> CudaModule {
    device.load_module("test", &cubin(&arch(device), source)).unwrap()
}

fn line(blocks: usize, threads: u32) -> LaunchConfig {
    LaunchConfig { grid: [blocks as u32, 1, 1], block: [threads, 1, 1], dynamic_smem: 0, cluster: None }
}

/// Floats in [-1, 1), from a seed.
fn random(mut seed: u64, n: usize) -> Vec<f32> {
    (0..n)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
}

const AXPY: &str = r#"
extern "C" __global__ void axpy(const float* __restrict__ x, float* __restrict__ y, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"#;
const AXPY_SIZES: [usize; 4] = [8, 8, 4, 4];

const SPREAD: &str = r#"
struct alignas(64) Map { unsigned word[32]; };
extern "C" __global__ void spread(char tag, const __grid_constant__ Map map, unsigned* out) {
    out[threadIdx.x] = map.word[threadIdx.x] + tag;
}
"#;
const REVERSE: &str = r#"
extern "C" __global__ void reverse(float* x, int n) {
    extern __shared__ float tile[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) tile[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = tile[n - 1 - i];
}
"#;
const RANK: &str = r#"
extern "C" __global__ void rank(unsigned* out) {
    unsigned rank, size;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    out[blockIdx.x] = rank + 100 * size;
}
"#;
const SPIN: &str = r#"
extern "C" __global__ void spin(long long nanoseconds) {
    long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while (now - start < nanoseconds);
}
"#;
const WILD: &str = "extern \"C\" __global__ void wild(long long at) { *(volatile int*)at = 1; }";

fn axpy(device: &CudaDevice) -> KernelFunction {
    module(device, AXPY).function("axpy", &AXPY_SIZES).unwrap()
}

/// Runs everywhere, so that the kernels below cannot rot where there is no GPU.
#[test]
fn the_kernels_compile() {
    for source in [AXPY, SPREAD, REVERSE, RANK, SPIN, WILD] {
        assert_eq!(cubin("sm_90a", source)[..4], *b"\x7fELF");
    }
}

#[test]
fn properties_are_plausible() {
    let Some(device) = gpu() else { return };
    let p = device.properties();
    println!("{p:#?}");
    assert!(p.name.contains("NVIDIA") || !p.name.is_empty());
    assert!(p.compute_capability >= (7, 5) && p.sm_count > 0 && p.memory_bytes > 1 << 30);
    assert!(p.smem_per_block >= 48 << 10 && p.smem_per_block_optin >= p.smem_per_block);
    assert!(p.max_threads_per_block == 1024 && p.max_block[2] == 64 && p.max_grid[1] == 65535);
    let (free, total) = device.memory_info().unwrap();
    assert!(free <= total && total as u64 <= p.memory_bytes);
    assert!(matches!(CudaDevice::new(9999), Err(CudaError::NoDevice { ordinal: 9999, .. })));
}

#[test]
fn a_kernel_computes_and_stays_in_its_range() {
    let Some(device) = gpu() else { return };
    computes(&device, &axpy(&device));
}

#[test]
fn the_driver_assembles_ptx_of_an_older_architecture() {
    let Some(device) = gpu() else { return };
    // The oldest architecture that Kiln compiles for.
    let ptx = compiled("sm_75", AXPY).ptx;
    let module = device.load_ptx("axpy", ptx.as_bytes()).unwrap();
    computes(&device, &module.function("axpy", &AXPY_SIZES).unwrap());

    let broken = ptx.replacen("ret;", "no.such.instruction;", 1);
    let error = device.load_ptx("axpy", broken.as_bytes()).err().unwrap().to_string();
    assert!(error.contains("`axpy`") && error.contains("'.such'"), "{error}");
    let version = ptx.lines().find(|line| line.starts_with(".version")).unwrap();
    let error =
        device.load_ptx("axpy", ptx.replacen(version, ".version 99.0", 1).as_bytes()).err().unwrap().to_string();
    assert!(error.contains("PTX 99.0") && error.contains("CUDA 103.0"), "{error}");
}

/// Checks a loaded `axpy` against the host.
fn computes(device: &CudaDevice, kernel: &KernelFunction) {
    let stream = device.stream();
    for n in [1usize, 31, 256, 1_000_003] {
        let (x, y) = (random(n as u64, n), random(7 + n as u64, n));
        let (dx, dy) = (device.alloc(n * 4).unwrap(), device.alloc(n * 4 + 64).unwrap());
        stream.fill(&dy, 0, dy.len(), 0xFF).unwrap();
        stream.upload(&dx, 0, &bytes(&x)).unwrap();
        stream.upload(&dy, 0, &bytes(&y)).unwrap();
        let args = [Arg::Ptr(dx.ptr()), Arg::Ptr(dy.ptr()), Arg::F32(0.75), Arg::I32(n as i32)];
        stream.launch(kernel, &line(n.div_ceil(128), 128), &args).unwrap();
        let mut out = vec![0u8; dy.len()];
        stream.download(&dy, 0, &mut out).unwrap();
        for (i, found) in floats(&out[..n * 4]).iter().enumerate() {
            let expected = 0.75 * f64::from(x[i]) + f64::from(y[i]);
            assert!((f64::from(*found) - expected).abs() <= 1.2e-7, "n {n}, element {i}: {found} for {expected}");
        }
        assert!(out[n * 4..].iter().all(|&byte| byte == 0xFF), "wrote past element {n}");
    }
}

#[test]
fn launches_are_checked() {
    let Some(device) = gpu() else { return };
    let module = module(&device, AXPY);
    assert!(matches!(module.function("axpy", &[8, 8, 8, 4]), Err(CudaError::BadArguments { .. })));
    assert!(matches!(module.function("axpy", &[8, 8, 4]), Err(CudaError::BadArguments { .. })));
    let error = module.function("axby", &AXPY_SIZES).err().unwrap().to_string();
    assert!(error.contains("axby"), "{error}");
    let kernel = module.function("axpy", &AXPY_SIZES).unwrap();
    assert!(kernel.registers() > 0 && kernel.max_threads() == 1024 && kernel.static_smem() == 0);
    let buffer = device.alloc(64).unwrap();
    let ptr = Arg::Ptr(buffer.ptr());
    let launch = |config, args: &[Arg<'_>]| device.stream().launch(&kernel, &config, args);
    assert!(matches!(launch(line(1, 32), &[ptr, ptr]), Err(CudaError::BadArguments { .. })));
    let long = [ptr, ptr, Arg::F64(1.0), Arg::I32(1)];
    assert!(matches!(launch(line(1, 32), &long), Err(CudaError::BadArguments { .. })));
    let right = [ptr, ptr, Arg::F32(1.0), Arg::I32(0)];
    assert!(matches!(launch(line(1, 2048), &right), Err(CudaError::BadLaunch { .. })));
    assert!(matches!(launch(line(0, 32), &right), Err(CudaError::BadLaunch { .. })));
    launch(line(1, 32), &right).unwrap();
    device.synchronize().unwrap();
}

#[test]
fn struct_arguments_arrive_whole() {
    let Some(device) = gpu() else { return };
    let kernel = module(&device, SPREAD).function("spread", &[1, 128, 8]).unwrap();
    let map: Vec<u8> = (0..32u32).flat_map(|i| (i * i * 1000).to_ne_bytes()).collect();
    let out = device.alloc(128).unwrap();
    let args = [Arg::Bytes(&[5]), Arg::Bytes(&map), Arg::Ptr(out.ptr())];
    device.stream().launch(&kernel, &line(1, 32), &args).unwrap();
    let mut found = [0u8; 128];
    device.stream().download(&out, 0, &mut found).unwrap();
    for (i, word) in found.chunks_exact(4).enumerate() {
        assert_eq!(u32::from_ne_bytes(word.try_into().unwrap()), (i * i * 1000 + 5) as u32);
    }
}

#[test]
fn large_dynamic_shared_memory_is_opted_into() {
    let Some(device) = gpu() else { return };
    let kernel = module(&device, REVERSE).function("reverse", &[8, 4]).unwrap();
    let smem = device.properties().smem_per_block_optin;
    let n = smem as usize / 4;
    let x = random(3, n);
    let buffer = device.alloc(n * 4).unwrap();
    device.stream().upload(&buffer, 0, &bytes(&x)).unwrap();
    let config = LaunchConfig { dynamic_smem: smem, ..line(1, 256) };
    let args = [Arg::Ptr(buffer.ptr()), Arg::I32(n as i32)];
    let error = device.stream().launch(&kernel, &config, &args).unwrap_err().to_string();
    assert!(error.contains("set_max_dynamic_smem"), "{error}");
    assert!(kernel.set_max_dynamic_smem(smem + 1).is_err());
    kernel.set_max_dynamic_smem(smem).unwrap();
    device.stream().launch(&kernel, &config, &args).unwrap();
    let mut out = vec![0u8; n * 4];
    device.stream().download(&buffer, 0, &mut out).unwrap();
    assert!(floats(&out).iter().eq(x.iter().rev()));
}

#[test]
fn clusters_share_their_rank() {
    let Some(device) = gpu() else { return };
    if device.properties().compute_capability.0 < 9 {
        println!("skipped: clusters need compute capability 9.0");
        return;
    }
    let kernel = module(&device, RANK).function("rank", &[8]).unwrap();
    let out = device.alloc(32 * 4).unwrap();
    for cluster in [1u32, 2, 4, 8] {
        let config = LaunchConfig { cluster: Some([cluster, 1, 1]), ..line(32, 64) };
        device.stream().launch(&kernel, &config, &[Arg::Ptr(out.ptr())]).unwrap();
        let mut found = [0u8; 128];
        device.stream().download(&out, 0, &mut found).unwrap();
        for (i, word) in found.chunks_exact(4).enumerate() {
            let word = u32::from_ne_bytes(word.try_into().unwrap());
            assert_eq!(word, i as u32 % cluster + 100 * cluster, "cluster {cluster}, block {i}");
        }
    }
}

#[test]
fn graphs_replay_what_was_captured() {
    let Some(device) = gpu() else { return };
    let n = 777;
    let (kernel, stream) = (axpy(&device), device.stream());
    let x = random(1, n);
    let (dx, dy, copy) = (device.alloc(n * 4).unwrap(), device.alloc(n * 4).unwrap(), device.alloc(n * 4).unwrap());
    stream.upload(&dx, 0, &bytes(&x)).unwrap();
    stream.fill(&dy, 0, n * 4, 0xFF).unwrap();
    let args = [Arg::Ptr(dx.ptr()), Arg::Ptr(dy.ptr()), Arg::F32(2.0), Arg::I32(n as i32)];
    let graph = stream
        .capture(|stream| {
            stream.fill(&dy, 0, n * 4, 0)?;
            for _ in 0..3 {
                stream.launch(&kernel, &line(n.div_ceil(128), 128), &args)?;
            }
            stream.copy(&copy, 0, &dy, 0, n * 4)
        })
        .unwrap();
    assert_eq!(graph.kernels(), 3);
    drop(kernel);
    let mut out = vec![0u8; n * 4];
    stream.download(&dy, 0, &mut out).unwrap();
    assert!(out.iter().all(|&byte| byte == 0xFF), "capturing must not run anything");
    for _ in 0..2 {
        graph.replay(stream).unwrap();
        stream.download(&copy, 0, &mut out).unwrap();
        for (found, x) in floats(&out).iter().zip(&x) {
            assert!((found - 6.0 * x).abs() <= 1e-5, "{found} for 6 * {x}");
        }
    }

    // A capture that fails leaves the stream usable.
    let error = stream.capture(|stream| stream.upload(&dx, 0, &[1, 2, 3])).err().unwrap().to_string();
    assert!(error.contains("being captured"), "{error}");
    stream.upload(&dx, 0, &[1, 2, 3]).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        stream.capture::<CudaError>(|_| panic!("on purpose"))
    }));
    assert!(panicked.is_err());
    stream.synchronize().unwrap();
}

#[test]
fn time_is_the_devices() {
    let Some(device) = gpu() else { return };
    let kernel = module(&device, SPIN).function("spin", &[8]).unwrap();
    let spin = |ms: i64| {
        let launch = |stream: &kiln_cuda::Stream| stream.launch(&kernel, &line(1, 1), &[Arg::I64(ms * 1_000_000)]);
        device.stream().time(launch).unwrap()
    };
    spin(1);
    // A kernel that spins for 20 ms by the device's own clock takes at least about that by the events.
    assert!(spin(20) >= Duration::from_millis(18));
    let (start, end) = (device.new_event().unwrap(), device.new_event().unwrap());
    device.stream().record(&start).unwrap();
    device.stream().record(&end).unwrap();
    assert!(end.since(&start).unwrap() < Duration::from_millis(18));
}

#[test]
fn copies_are_checked() {
    let Some(device) = gpu() else { return };
    let (a, b) = (device.alloc(100).unwrap(), device.alloc(40).unwrap());
    let stream = device.stream();
    let data: Vec<u8> = (1..=100).collect();
    stream.upload(&a, 0, &data).unwrap();
    stream.fill(&b, 0, 40, 9).unwrap();
    stream.copy(&b, 5, &a, 50, 20).unwrap();
    let mut out = vec![0; 40];
    stream.download(&b, 0, &mut out).unwrap();
    assert_eq!((&out[..5], &out[5..25], &out[25..]), (&[9; 5][..], &data[50..70], &[9; 15][..]));
    assert!(stream.upload(&b, 1, &data[..40]).is_err());
    assert!(stream.download(&b, 41, &mut []).is_err());
    assert!(stream.copy(&b, 0, &a, usize::MAX, 2).is_err());
    assert!(stream.fill(&b, 0, 41, 0).is_err());
    assert!(b.ptr_at(40).is_ok() && b.ptr_at(41).is_err());
    let empty = device.alloc(0).unwrap();
    stream.upload(&empty, 0, &[]).unwrap();
    assert!(empty.is_empty());
    let huge = device.alloc(1 << 50).err().unwrap().to_string();
    assert!(huge.contains("1125899906842624 bytes") && huge.contains("OUT_OF_MEMORY"), "{huge}");
}

#[test]
fn images_that_are_not_whole_or_not_for_this_gpu_are_refused() {
    let Some(device) = gpu() else { return };
    let image = cubin(&arch(&device), AXPY);
    for len in [0, 10, 64, image.len() / 2, image.len() - 1] {
        let error = device.load_module("short", &image[..len]).err().unwrap().to_string();
        assert!(error.contains("`short`"), "{error}");
    }
    // An odd address is fine.
    let mut shifted = vec![0u8];
    shifted.extend_from_slice(&image);
    device.load_module("shifted", &shifted[1..]).unwrap();
    let other = if device.properties().compute_capability == (7, 5) { "sm_80" } else { "sm_75" };
    let error = device.load_module("foreign", &cubin(other, AXPY)).err().unwrap().to_string();
    assert!(error.contains("compute capability"), "{error}");
}

#[test]
fn several_threads_may_share_a_device() {
    let Some(device) = gpu() else { return };
    let kernel = axpy(&device);
    std::thread::scope(|scope| {
        for seed in 0..4u64 {
            let (device, kernel) = (&device, &kernel);
            scope.spawn(move || {
                let n = 5000 + seed as usize;
                let x = random(seed, n);
                let stream = device.new_stream().unwrap();
                let (dx, dy) = (device.alloc(n * 4).unwrap(), device.alloc(n * 4).unwrap());
                stream.upload(&dx, 0, &bytes(&x)).unwrap();
                stream.fill(&dy, 0, n * 4, 0).unwrap();
                let args = [Arg::Ptr(dx.ptr()), Arg::Ptr(dy.ptr()), Arg::F32(1.0), Arg::I32(n as i32)];
                for _ in 0..8 {
                    stream.launch(kernel, &line(n.div_ceil(128), 128), &args).unwrap();
                }
                let mut out = vec![0u8; n * 4];
                stream.download(&dy, 0, &mut out).unwrap();
                for (found, x) in floats(&out).iter().zip(&x) {
                    assert!((found - 8.0 * x).abs() <= 1e-5, "{found} for 8 * {x}");
                }
            });
        }
    });
}

/// A fault loses the process's context, so it is provoked in a process of its own.
#[test]
fn a_fault_names_the_kernel() {
    if gpu().is_none() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "fault_in_this_process"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("fault: ") && text.contains("`wild`"), "{text}");
}

#[test]
#[ignore = "run by a_fault_names_the_kernel in a process of its own"]
fn fault_in_this_process() {
    let Some(device) = gpu() else { return };
    let kernel = module(&device, WILD).function("wild", &[8]).unwrap();
    device.set_sync_each_launch(true);
    let error = device.stream().launch(&kernel, &line(1, 1), &[Arg::I64(0x10)]).unwrap_err();
    assert!(matches!(error, CudaError::DeviceFault { .. }), "{error}");
    println!("fault: {error}");
}
