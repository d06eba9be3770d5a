//! The compiler against a real NVRTC, which `setup` fetches into `$KILN_HOME` if no other is found. No GPU is needed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_cuda::{
    CacheOutcome, CompileRequest, Compiler, CubinCache, CudaError, Home, Nvrtc, Place, Release, driver_cuda, setup,
};
use kiln_host::Cache;

fn nvrtc() -> &'static Nvrtc {
    static NVRTC: OnceLock<Nvrtc> = OnceLock::new();
    NVRTC.get_or_init(|| {
        let home = Home::from_env().expect("a home folder");
        Nvrtc::discover(&home).unwrap_or_else(|_| {
            let folder = setup::setup(&home, |_| {}).expect("kiln setup");
            assert_eq!(setup::installed(&home, Release::fitting(driver_cuda())), Some(folder));
            Nvrtc::discover(&home).expect("NVRTC")
        })
    })
}

fn request(name: &str, arch: &str, source: &str) -> CompileRequest {
    CompileRequest {
        name: name.to_owned(),
        source: source.to_owned(),
        arch: arch.to_owned(),
        options: Vec::new(),
        line_info: false,
    }
}

const AXPY: &str = r#"
extern "C" __global__ void axpy(const float* __restrict__ x, float* __restrict__ y, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"#;

/// Row sums through shared memory, so that the log has something to say.
const ROW_SUM: &str = r#"
extern "C" __global__ void row_sum(const float* __restrict__ x, float* __restrict__ y, int n) {
    __shared__ float part[256];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += 256) sum += x[(long long)blockIdx.x * n + i];
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) y[blockIdx.x] = part[0];
}
"#;

const TARGETS: [&str; 7] = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

#[test]
fn knows_its_release_and_architectures() {
    let nvrtc = nvrtc();
    let parts: Vec<u32> = nvrtc.release().split('.').map(|part| part.parse().unwrap()).collect();
    assert!(parts.len() == 3 && parts[0] >= 12, "{}", nvrtc.release());
    for arch in [75, 80, 86, 89, 90, 100, 120] {
        assert!(nvrtc.architectures().contains(&arch), "{arch} not in {:?}", nvrtc.architectures());
    }
    assert!(nvrtc.path().is_absolute());
}

#[test]
fn makes_cubin_and_ptx_for_every_target_in_parallel() {
    let requests: Vec<_> =
        TARGETS.iter().flat_map(|arch| [request("axpy", arch, AXPY), request("row_sum", arch, ROW_SUM)]).collect();
    let done = AtomicUsize::new(0);
    let results = Compiler::new(nvrtc()).compile_all(&requests, |progress| {
        assert!(progress.result.is_ok() && progress.done <= progress.total);
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.load(Ordering::Relaxed), 14);
    for (request, result) in requests.iter().zip(results) {
        let compiled = result.unwrap();
        assert_eq!((&compiled.name, &compiled.arch), (&request.name, &request.arch));
        assert_eq!(compiled.cubin[..4], *b"\x7fELF");
        // e_machine 190 is EM_CUDA.
        assert_eq!(u16::from_le_bytes([compiled.cubin[18], compiled.cubin[19]]), 190);
        assert!(compiled.ptx.contains(&format!(".target {}", request.arch)), "{}", compiled.arch);
        assert!(!compiled.ptx.ends_with('\0'));
        let log = compiled.log.entry(&request.name).unwrap();
        assert!((4..=64).contains(&log.registers), "{log:?}");
        assert_eq!(log.static_smem >= 1024, request.name == "row_sum", "{log:?}");
        assert!(!compiled.log.spills() && compiled.log.warnings.is_empty(), "{:?}", compiled.log);
        assert!(compiled.compile_time.as_micros() > 0);
        assert_eq!(compiled.cache, CacheOutcome::Off);
    }
}

#[test]
fn spills_are_reported() {
    // 96 values live across a barrier, in a kernel held to 32 registers.
    let mut source = String::from(
        "extern \"C\" __global__ void __launch_bounds__(1024, 2) many(float* x) {\n    float* p = x + threadIdx.x;\n",
    );
    for i in 0..96 {
        source += &format!("    float v{i} = p[{}];\n", i * 1024);
    }
    source += "    __syncthreads();\n";
    for i in 0..96 {
        source += &format!("    p[{}] = v{i} * v{};\n", i * 1024, (i * 7 + 3) % 96);
    }
    source += "}\n";
    let compiled = Compiler::new(nvrtc()).compile(&request("many", "sm_80", &source)).unwrap();
    assert!(compiled.log.spills() && compiled.log.spill_stores() > 0 && compiled.log.spill_loads() > 0);
    assert!(compiled.log.stack() > 0 && compiled.log.registers() <= 32, "{:?}", compiled.log);
}

#[test]
fn serialized_wgmma_is_reported() {
    // The accumulators are read between issue and wait, which forces ptxas to serialize the pipeline.
    let source = r#"
extern "C" __global__ void __launch_bounds__(128) serial(float* out, unsigned long long a, unsigned long long b) {
    float d0 = 0, d1 = 0, d2 = 0, d3 = 0;
    asm volatile("wgmma.fence.sync.aligned;");
    for (int i = 0; i < 4; ++i) {
        asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                     : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3) : "l"(a), "l"(b));
        d0 += out[i];
    }
    asm volatile("wgmma.commit_group.sync.aligned;");
    asm volatile("wgmma.wait_group.sync.aligned 0;");
    out[threadIdx.x] = d0 + d1 + d2 + d3;
}
"#;
    let compiler = Compiler::new(nvrtc());
    let compiled = compiler.compile(&request("serial", "sm_90a", source)).unwrap();
    assert!(compiled.log.wgmma_serialized(), "{:?}", compiled.log);
    // The same instruction is unknown without the suffix: the assembler's complaint must be readable.
    let error = compiler.compile(&request("serial", "sm_90", source)).unwrap_err().to_string();
    assert!(error.contains("`serial` does not compile for sm_90") && error.contains("wgmma"), "{error}");
    let marked = error.lines().find(|line| line.starts_with('>')).unwrap_or_default();
    assert!(marked.contains("wgmma.fence.sync.aligned;"), "{error}");
}

#[test]
fn compile_errors_show_the_line() {
    let source = AXPY.replace("a * x[i]", "alpha * x[i]");
    let error = Compiler::new(nvrtc()).compile(&request("axpy", "sm_86", &source)).unwrap_err();
    let CudaError::Compile(failure) = &error else { panic!("{error}") };
    assert_eq!(failure.errors.len(), 1);
    assert_eq!(failure.errors[0].place, Place::Source(4));
    let text = error.to_string();
    for part in ["`axpy`", "sm_86", "line 4", "\"alpha\" is undefined", ">     4 |     if (i < n) y[i] = alpha"] {
        assert!(text.contains(part), "`{part}` missing from:\n{text}");
    }
}

#[test]
fn bad_requests_are_refused() {
    let compiler = Compiler::new(nvrtc());
    let error = |request: &CompileRequest| compiler.compile(request).unwrap_err().to_string();
    assert!(error(&request("k", "sm_37", AXPY)).contains("does not compile for `sm_37`; it has sm_"));
    for arch in ["compute_80", "80", "sm_", "sm_+80", "sm_80b"] {
        assert!(error(&request("k", arch, AXPY)).contains("is no architecture"), "{arch}");
    }
    assert!(error(&request("k", "sm_80", "a\0b")).contains("NUL"));
    let mut clash = request("k", "sm_80", AXPY);
    clash.options.push("--gpu-architecture=sm_75".to_owned());
    assert!(error(&clash).contains("set by the request's architecture"));
    clash.options = vec!["--no-such-option".to_owned()];
    assert!(error(&clash).contains("no-such-option"), "{}", error(&clash));
}

#[test]
fn the_cache_returns_what_was_compiled_and_only_that() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(folder.path());
    let compiler = Compiler::new(nvrtc()).with_cache(cache.clone());
    let first = compiler.compile(&request("axpy", "sm_80", AXPY)).unwrap();
    assert_eq!(first.cache, CacheOutcome::Stored);
    let again = compiler.compile(&request("another_name", "sm_80", AXPY)).unwrap();
    assert_eq!((again.cache, again.name.as_str()), (CacheOutcome::Hit, "another_name"));
    assert_eq!((again.cubin, again.ptx, again.log), (first.cubin.clone(), first.ptx, first.log));

    let mut variants = vec![request("axpy", "sm_86", AXPY), request("axpy", "sm_80", &AXPY.replace('+', "-"))];
    variants.push(CompileRequest { line_info: true, ..request("axpy", "sm_80", AXPY) });
    variants.push(CompileRequest { options: vec!["--use_fast_math".to_owned()], ..request("axpy", "sm_80", AXPY) });
    for variant in &variants {
        assert_eq!(compiler.compile(variant).unwrap().cache, CacheOutcome::Stored, "{variant:?}");
    }
    assert_eq!(cache.size().unwrap().entries, 5);

    // The entry of one under the names of all: it is noticed, said and replaced.
    let entries = Cache::new(folder.path(), u64::MAX).entries().unwrap();
    for other in &entries[1..] {
        std::fs::copy(&entries[0].path, &other.path).unwrap();
    }
    variants.push(request("axpy", "sm_80", AXPY));
    let outcomes: Vec<CacheOutcome> = variants.iter().map(|v| compiler.compile(v).unwrap().cache).collect();
    let replaced = |o: &&CacheOutcome| matches!(o, CacheOutcome::Replaced(why) if why.contains("kernel `axpy`"));
    assert_eq!(outcomes.iter().filter(replaced).count(), 4, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| **o == CacheOutcome::Hit).count(), 1, "{outcomes:?}");
    assert_eq!(compiler.compile(&variants[4]).unwrap().cubin, first.cubin);

    // Compiling again gives the same bytes: engines built from a cache and without one are equal.
    let fresh = Compiler::new(nvrtc()).compile(&request("axpy", "sm_80", AXPY)).unwrap();
    assert_eq!(fresh.cubin, first.cubin);

    // An unwritable cache costs time, not the result.
    let file = folder.path().join("a-file");
    std::fs::write(&file, b"in the way").unwrap();
    let blocked = Compiler::new(nvrtc()).with_cache(CubinCache::at(file));
    let compiled = blocked.compile(&request("axpy", "sm_80", AXPY)).unwrap();
    assert!(matches!(compiled.cache, CacheOutcome::NotStored(_)));
}
