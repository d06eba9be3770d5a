//! Launches that families of kernels ask for: tensor maps, clusters, persistent grids, semaphores, guarded variants, packed weights.

use crate::models::{engine_at, home};
use crate::own::{blocks, devices, kernel, made, ran, reloaded, replaced};
use kiln_engine::{Engine, Error, Session, SimDevice, Tolerance};
use kiln_fuse::Step;
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, ReduceOp, Tensor, interpret};
use kiln_kernels::{
    Condition, Element, Grid, Guard, Implementation, Packing, Param, Pointer, Promotion, Swizzle, TensorMap, Transform,
    Window,
};

const CLOSE: Tolerance = Tolerance { rtol: 1e-5, atol: 1e-5 };

/// `y = x * x - x` of `M x K` elements: one region.
fn polynomial() -> Graph {
    let mut b = Builder::new("polynomial");
    let shape = [b.symbol("M", 1, 256), b.symbol("K", 1, 256)];
    let x = b.input("x", DType::F32, &shape).unwrap();
    let square = b.binary(BinaryOp::Mul, x, x).unwrap();
    let y = b.binary(BinaryOp::Sub, square, x).unwrap();
    b.output("y", y);
    b.finish()
}

/// Sums of the rows of `M x K` elements.
fn row_sums() -> Graph {
    let mut b = Builder::new("sums");
    let shape = [b.symbol("M", 1, 256), b.symbol("K", 1, 4096)];
    let x = b.input("x", DType::F32, &shape).unwrap();
    let y = b.reduce(ReduceOp::Sum, x, &[1], false).unwrap();
    b.output("y", y);
    b.finish()
}

fn single(graph: &Graph, target: &str) -> Engine {
    let engine = engine_at(graph, &[target], home());
    assert_eq!(engine.targets[0].plan.regions.len(), 1, "{}", engine.targets[0].plan);
    engine
}

fn always(implementation: Implementation) -> Vec<(Guard, Implementation)> {
    vec![(Guard::always(), implementation)]
}

/// Runs `M x K` random elements and compares with the reference.
fn check(graph: &Graph, session: &mut Session, shape: [usize; 2], seed: u64) {
    let x = Tensor::random(DType::F32, &shape, seed).unwrap();
    let expected = interpret(graph, std::slice::from_ref(&x)).unwrap();
    session.poison(0xcb).unwrap();
    let found = session.run(&[("x", &x)]).unwrap();
    let d = CLOSE.compare(&expected[0], &found[0].1);
    assert!(d.agrees(), "{} {shape:?}: {d}", session.device_name());
}

/// The rows and the columns, as regions call them: by first use.
fn m() -> Dim {
    Dim::from("s0")
}

fn k() -> Dim {
    Dim::from("s1")
}

fn elements() -> Vec<Param> {
    vec![Param::Input(0), Param::Output(0), Param::I32(m()), Param::I32(k())]
}

/// A box of 8 rows of 32 floats a block through a tensor map whose rows are swizzled; `a` is -1.
const TMA: &str = r#"
struct alignas(64) Map { unsigned long long word[16]; };
__device__ unsigned shared(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
extern "C" __global__ void tma_(const __grid_constant__ Map map, float* y, int m, int k, float a) {
    __shared__ alignas(1024) float tile[8 * 32];
    __shared__ alignas(8) unsigned long long barrier;
    const int col = blockIdx.x * 32, row = blockIdx.y * 8;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared(&barrier)) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;" :: "r"(shared(&barrier)) : "memory");
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
            :: "r"(shared(tile)), "l"(&map), "r"(col), "r"(row), "r"(shared(&barrier)) : "memory");
    }
    unsigned done = 0;
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
            : "=r"(done) : "r"(shared(&barrier)) : "memory");
    for (int i = threadIdx.x; i < 8 * 32; i += 64) {
        const int at = i * 4, r = row + i / 32, c = col + i % 32;
        const float x = tile[(at ^ (at >> 7 & 7) << 4) / 4];
        if (r < m && c < k) y[r * k + c] = x * x + a * x;
    }
}
"#;

/// The elements of `base` as boxes of 8 rows of 32.
fn map(base: Pointer) -> TensorMap<Dim> {
    TensorMap {
        base,
        offset: 0.into(),
        element: Element::F32,
        extents: vec![k(), m()],
        strides: vec![k() * 4.into()],
        window: Window::Tiled(vec![32, 8]),
        element_strides: Vec::new(),
        swizzle: Swizzle::B128,
        promotion: Promotion::B256,
    }
}

fn tma() -> Implementation {
    let grid = Grid::Fixed([k().ceil_div(&32.into()), m().ceil_div(&8.into()), 1.into()]);
    let mut params = elements();
    params[0] = Param::TensorMap(Box::new(map(Pointer::Input(0))));
    params.push(Param::F32((-1.0f32).to_bits()));
    made(vec![kernel("tma_", TMA, grid, params)])
}

const PLAIN: &str = r#"
extern "C" __global__ void plain_(const float* x, float* y, int m, int k) {
    const int i = blockIdx.x * 64 + threadIdx.x;
    if (i < m * k) y[i] = x[i] * x[i] - x[i];
}
"#;

fn plain() -> Implementation {
    made(vec![kernel("plain_", PLAIN, blocks((m() * k()).ceil_div(&64.into())), elements())])
}

/// An engine with a tensor map where rows are aligned, and plain pointers elsewhere.
pub fn mapped() -> Engine {
    let aligned = Guard(vec![Condition::MultipleOf(k(), 4)]);
    replaced(single(&polynomial(), "sm_90a"), 0, vec![(aligned, tma()), (Guard::always(), plain())])
}

#[test]
fn bulk_copies_through_a_tensor_map() {
    let graph = polynomial();
    let engine = reloaded(&replaced(single(&graph, "sm_90a"), 0, always(tma()))).unwrap();
    for device in devices("sm_90a") {
        let mut session = Session::new(&engine, device).unwrap();
        // Whole boxes, and boxes that reach beyond either axis.
        for (seed, shape) in [[8, 32], [1, 4], [17, 100], [3, 64]].into_iter().enumerate() {
            check(&graph, &mut session, shape, seed as u64);
        }
        // Rows that a map cannot describe.
        let x = Tensor::random(DType::F32, &[8, 30], 5).unwrap();
        let text = session.run(&[("x", &x)]).unwrap_err().to_string();
        for word in ["`tma_`", "parameter 0, a tensor map of Input(0)", "stride 1 (`4*s1`)", "16", "found 120"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn a_tensor_map_of_more_than_there_is_is_refused() {
    let graph = polynomial();
    let mut large = tma();
    let Param::TensorMap(map) = &mut large.kernels[0].launch.params[0] else { panic!("a tensor map") };
    map.extents[1] = m() + 1.into();
    let engine = replaced(single(&graph, "sm_90a"), 0, always(large));
    for device in devices("sm_90a") {
        let mut session = Session::new(&engine, device).unwrap();
        let error = session.run(&[("x", &Tensor::random(DType::F32, &[8, 32], 5).unwrap())]).unwrap_err();
        assert!(matches!(error, Error::Launch { .. }), "{error}");
        assert!(error.to_string().contains("at most byte 1024 of its memory, found byte 1152"), "{error}");
    }
}

/// Blocks change places after each run, and move where they grow: a recording with a map of the old one would read what is no longer there.
#[test]
fn tensor_maps_follow_their_blocks() {
    let graph = polynomial();
    let engine = replaced(single(&graph, "sm_90a"), 0, always(tma()));
    for device in devices("sm_90a") {
        let mut session = Session::new(&engine, device).unwrap();
        session.donate("y", "x").unwrap();
        for (seed, shape) in [[8, 32], [40, 64], [8, 32], [3, 4]].into_iter().enumerate() {
            let mut x = Tensor::random(DType::F32, &shape, seed as u64).unwrap();
            session.bind_tensor("x", &x).unwrap();
            for run in 0..5 {
                session.poison(0xcb).unwrap();
                session.run_bound().unwrap();
                let expected = interpret(&graph, &[x]).unwrap().remove(0);
                x = session.output("y").unwrap();
                let d = CLOSE.compare(&expected, &x);
                assert!(d.agrees(), "{} {shape:?}, run {run}: {d}", session.device_name());
            }
        }
    }
}

const VECTOR: &str = r#"
extern "C" __global__ void vector_(const float4* x, float4* y, int m, int k) {
    const int i = blockIdx.x * 64 + threadIdx.x;
    if (i >= m * k / 4) return;
    const float4 v = x[i];
    y[i] = make_float4(v.x * v.x - v.x, v.y * v.y - v.y, v.z * v.z - v.z, v.w * v.w - v.w);
}
"#;

fn vector() -> Implementation {
    made(vec![kernel("vector_", VECTOR, blocks((m() * k()).ceil_div(&256.into())), elements())])
}

#[test]
fn the_first_variant_runs_whose_guard_holds() {
    let graph = polynomial();
    let aligned = Condition::MultipleOf(k(), 4);
    for (target, small, name) in [("sm_80", vector(), "vector_"), ("sm_90a", tma(), "tma_")] {
        let variants = vec![
            (Guard(vec![Condition::AtMost(m(), 16), aligned.clone()]), small),
            (Guard(vec![Condition::Equal(m() * k(), 640)]), vector()),
            (Guard::always(), plain()),
        ];
        let engine = reloaded(&replaced(single(&graph, target), 0, variants)).unwrap();
        let compiled = engine.targets[0].kernels.values().next().unwrap();
        let guards: Vec<String> = compiled.variants.iter().map(|v| v.guard.to_string()).collect();
        assert_eq!(guards, ["s0 <= 16 and s1 % 4 == 0", "s0*s1 == 640", "true"]);
        for device in devices(target) {
            let mut session = Session::new(&engine, device).unwrap();
            // Shapes come back: each keeps its variant.
            for round in 0..2 {
                for (shape, expected) in [
                    ([16, 40], name),
                    ([17, 40], "plain_"),
                    ([16, 41], "plain_"),
                    ([20, 32], "vector_"),
                    ([1, 4], name),
                ] {
                    check(&graph, &mut session, shape, 20 + round);
                    assert_eq!(ran(&mut session), expected, "{target} {shape:?}");
                }
            }
        }
    }
}

/// Steps share a region's variants, and each takes the one that its own extents ask for.
#[test]
fn steps_of_one_region_take_variants_of_their_own() {
    let mut b = Builder::new("turned");
    let [rows, columns] = ["M", "K"].map(|name| b.symbol(name, 1, 256));
    let mut inputs = Vec::new();
    for (name, shape) in [("x", [rows.clone(), columns.clone()]), ("t", [columns, rows])] {
        let x = b.input(name, DType::F32, &shape).unwrap();
        let square = b.binary(BinaryOp::Mul, x, x).unwrap();
        let y = b.binary(BinaryOp::Sub, square, x).unwrap();
        b.output(format!("of {name}"), y);
        inputs.push(name);
    }
    let graph = b.finish();
    let variants = vec![
        (Guard(vec![Condition::AtMost(m(), 16), Condition::MultipleOf(k(), 4)]), vector()),
        (Guard::always(), plain()),
    ];
    let engine = reloaded(&replaced(single(&graph, "sm_80"), 0, variants)).unwrap();
    for device in devices("sm_80") {
        let mut session = Session::new(&engine, device).unwrap();
        for (seed, ([m, k], expected)) in [
            ([16, 40], ["vector_", "plain_"]),
            ([40, 16], ["plain_", "vector_"]),
            ([8, 12], ["vector_", "vector_"]),
            ([17, 18], ["plain_", "plain_"]),
        ]
        .into_iter()
        .enumerate()
        {
            let x = [[m, k], [k, m]].map(|shape| Tensor::random(DType::F32, &shape, seed as u64).unwrap());
            let wanted = interpret(&graph, &x).unwrap();
            session.poison(0xcb).unwrap();
            let found = session.run(&[(inputs[0], &x[0]), (inputs[1], &x[1])]).unwrap();
            for (wanted, (name, found)) in wanted.iter().zip(&found) {
                let d = CLOSE.compare(wanted, found);
                assert!(d.agrees(), "{name} {m}x{k}: {d}");
            }
            let steps = engine.targets[0].plan.steps.iter().map(|step| match step {
                Step::Run { inputs, .. } => engine.targets[0].plan.inputs[0] != inputs[0],
                _ => panic!("{step:?}"),
            });
            let of_x_first: Vec<&str> = steps.map(|turned| expected[usize::from(turned)]).collect();
            let took: Vec<String> = session.implementations().into_iter().map(|(_, name)| name).collect();
            assert_eq!(took, of_x_first, "{m}x{k}");
        }
    }
}

#[test]
fn a_wrong_variant_is_found_by_its_kernels() {
    let graph = polynomial();
    let wrong = PLAIN.replace("plain_", "wrong_").replace("- x[i];", "- x[i] + 0.5f;");
    let grid = blocks((m() * k()).ceil_div(&64.into()));
    let wrong = made(vec![kernel("wrong_", &wrong, grid, elements())]);
    let small = Guard(vec![Condition::AtMost(m(), 16)]);
    let engine = replaced(single(&graph, "sm_80"), 0, vec![(small, wrong), (Guard::always(), plain())]);
    let mut session = engine.session("sim:sm_80").unwrap();
    let mut departure = |rows| {
        let x = Tensor::random(DType::F32, &[rows, 40], 1).unwrap();
        kiln_engine::first_departure(&engine, &mut session, &[("x", &x)], CLOSE).unwrap()
    };
    assert_eq!(departure(16).unwrap().implementation, "wrong_");
    assert!(departure(17).is_none());
}

/// A row for each cluster of two blocks: each sums half of it, and the first adds what it reads from the second's shared memory.
const CLUSTER: &str = r#"
__device__ unsigned shared(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
extern "C" __global__ void cluster_(const float* x, float* y, int m, int k) {
    __shared__ float sums[64];
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    const int row = blockIdx.x / 2, half = (k + 1) / 2;
    const int from = rank * half, to = rank ? k : half;
    float sum = 0;
    for (int i = from + threadIdx.x; i < to; i += 64) sum += x[row * k + i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 32; step > 0; step /= 2) {
        if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    if (rank == 0 && threadIdx.x == 0) {
        unsigned at;
        float other;
        asm volatile("mapa.shared::cluster.u32 %0, %1, 1;" : "=r"(at) : "r"(shared(sums)));
        asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(other) : "r"(at) : "memory");
        y[row] = sums[0] + other;
    }
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
"#;

#[test]
fn blocks_of_a_cluster_share_their_memory() {
    let graph = row_sums();
    let mut kernel = kernel("cluster_", CLUSTER, blocks(m() * 2.into()), elements());
    kernel.launch.cluster = [2, 1, 1];
    let engine = reloaded(&replaced(single(&graph, "sm_90a"), 0, always(made(vec![kernel.clone()])))).unwrap();
    for device in devices("sm_90a") {
        let mut session = Session::new(&engine, device).unwrap();
        for (seed, shape) in [[1, 1], [3, 129], [5, 1000]].into_iter().enumerate() {
            check(&graph, &mut session, shape, seed as u64);
        }
    }
    // A row more than the cluster's blocks come to.
    kernel.launch.grid = blocks(m() * 2.into() + 1.into());
    let engine = replaced(single(&graph, "sm_90a"), 0, always(made(vec![kernel])));
    for device in devices("sm_90a") {
        let mut session = Session::new(&engine, device).unwrap();
        let x = Tensor::random(DType::F32, &[3, 8], 5).unwrap();
        let text = session.run(&[("x", &x)]).unwrap_err().to_string();
        assert!(text.contains("7 blocks along x; expected a multiple of its cluster's 2"), "{text}");
    }
}

/// Every block takes tile after tile. Where there are others than `expected` blocks the results are NaN.
const PERSISTENT: &str = r#"
extern "C" __global__ void persistent_(const float* x, float* y, int m, int k, int expected) {
    for (int tile = blockIdx.x; tile * 64 < m * k; tile += gridDim.x) {
        const int i = tile * 64 + threadIdx.x;
        const float spoiled = gridDim.x == expected ? 0.0f : __int_as_float(0x7fffffff);
        if (i < m * k) y[i] = x[i] * x[i] - x[i] + spoiled;
    }
}
"#;

#[test]
fn a_persistent_grid_has_as_many_blocks_as_run_at_once() {
    let graph = polynomial();
    let tiles = (m() * k()).ceil_div(&64.into());
    for target in ["sm_80", "sm_90a"] {
        let engine = |sms: i64| {
            let mut params = elements();
            params.push(Param::I32(tiles.minimum(&Dim::from(2 * sms))));
            let grid = Grid::Persistent { tiles: tiles.clone(), per_sm: 2 };
            let kernel = kernel("persistent_", PERSISTENT, grid, params);
            reloaded(&replaced(single(&graph, target), 0, always(made(vec![kernel])))).unwrap()
        };
        let small = SimDevice::new(target, kiln_sim::Options::default()).with_sms(3);
        let mut session = Session::new(&engine(3), Box::new(small)).unwrap();
        for (seed, shape) in [[1, 1], [5, 64], [6, 64], [40, 100]].into_iter().enumerate() {
            check(&graph, &mut session, shape, seed as u64);
        }
        for device in devices(target) {
            // The typical GPUs are an A100 and an H100.
            let sms = match device.name().starts_with("cuda") {
                true => kiln_cuda::CudaDevice::new(0).unwrap().properties().sm_count.into(),
                false if target == "sm_80" => 108,
                false => 132,
            };
            let mut session = Session::new(&engine(sms), device).unwrap();
            check(&graph, &mut session, [256, 256], 9);
            check(&graph, &mut session, [3, 100], 10);
        }
    }
}

/// Four blocks share a row. The last one to finish, which a semaphore tells, adds their sums in order, and leaves the semaphore zero if `restore`.
const SPLIT: &str = r#"
extern "C" __global__ void split_(const float* x, float* y, int m, int k, float* partial, unsigned* semaphores, int restore) {
    __shared__ float sums[64];
    __shared__ unsigned arrived;
    const int row = blockIdx.x / 4, part = blockIdx.x % 4;
    float sum = 0;
    for (int i = part * 64 + threadIdx.x; i < k; i += 256) sum += x[row * k + i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 32; step > 0; step /= 2) {
        if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sums[0];
        __threadfence();
        arrived = atomicAdd(semaphores + row, 1u);
        if (arrived == 3) {
            __threadfence();
            const volatile float* all = partial + row * 4;
            y[row] = all[0] + all[1] + all[2] + all[3];
            if (restore) atomicExch(semaphores + row, 0u);
        }
    }
}
"#;

fn split(restore: i64) -> Implementation {
    let mut params = elements();
    params.extend([Param::Scratch, Param::Zeroed, Param::I32(restore.into())]);
    let mut made = made(vec![kernel("split_", SPLIT, blocks(m() * 4.into()), params)]);
    (made.scratch_bytes, made.zeroed_bytes) = (m() * 16.into(), m() * 4.into());
    made
}

#[test]
fn semaphores_are_zero_before_every_launch() {
    let graph = row_sums();
    for target in ["sm_80", "sm_90a"] {
        let engine = reloaded(&replaced(single(&graph, target), 0, always(split(1)))).unwrap();
        for device in devices(target) {
            let mut session = Session::new(&engine, device).unwrap();
            // Fewer rows, then more than there was memory for, and the same again.
            for (seed, shape) in [[5, 1000], [1, 3], [70, 257], [5, 1000], [70, 257]].into_iter().enumerate() {
                check(&graph, &mut session, shape, seed as u64);
            }
            assert_eq!(session.memory().zeroed, 70 * 4);
        }
    }
}

#[test]
fn sessions_that_share_code_have_semaphores_of_their_own() {
    let graph = row_sums();
    for target in ["sm_80", "sm_90a"] {
        let engine = reloaded(&replaced(single(&graph, target), 0, always(split(1)))).unwrap();
        for device in devices(target) {
            let first = Session::new(&engine, device).unwrap();
            let mut sessions: Vec<Session> = (0..3).map(|_| first.fork().unwrap()).collect();
            sessions.push(first);
            std::thread::scope(|scope| {
                for (thread, mut session) in sessions.into_iter().enumerate() {
                    let graph = &graph;
                    scope.spawn(move || {
                        for (seed, shape) in [[70, 257], [5, 1000], [33, 3]].into_iter().cycle().take(6).enumerate() {
                            check(graph, &mut session, shape, (10 * thread + seed) as u64);
                        }
                    });
                }
            });
        }
    }
}

#[test]
fn a_kernel_that_leaves_its_semaphores_is_found() {
    let engine = replaced(single(&row_sums(), "sm_80"), 0, always(split(0)));
    let mut session = engine.session("sim:sm_80").unwrap();
    // It is found each time: a run that failed does not spoil the next.
    for _ in 0..2 {
        let x = Tensor::random(DType::F32, &[5, 100], 1).unwrap();
        let error = session.run(&[("x", &x)]).unwrap_err();
        assert!(matches!(&error, Error::Findings { kernel, .. } if kernel == "split_"), "{error}");
        assert!(
            error.to_string().contains("byte 0 of the memory that kernels leave zero: expected 0, found 4"),
            "{error}"
        );
    }
}

/// Rows of `w`, `K x N`, lie transposed and padded to whole vectors of four.
const PACKED: &str = r#"
extern "C" __global__ void packed_(const float* x, const float4* w, float* y, int m) {
    const int n = threadIdx.x;
    if (n >= 5) return;
    for (int row = 0; row < m; row++) {
        float sum = 0;
        for (int k = 0; k < 3; k++) {
            const float4 v = w[n * 3 + k];
            const float* at = x + row * 10 + k * 4;
            sum += at[0] * v.x + at[1] * v.y;
            if (k < 2) sum += at[2] * v.z + at[3] * v.w;
        }
        y[row * 5 + n] = sum;
    }
}
"#;

fn product(w: &Tensor) -> Graph {
    let mut b = Builder::new("product");
    let rows = b.symbol("M", 1, 64);
    let x = b.input("x", DType::F32, &[rows, 10.into()]).unwrap();
    let w = b.weight_data("w", w.clone()).unwrap();
    let y = b.matmul(x, w).unwrap();
    b.output("y", y);
    b.finish()
}

fn packed_product() -> Implementation {
    let params = vec![Param::Input(0), Param::Packed(0), Param::Output(0), Param::I32(m())];
    let mut made = made(vec![kernel("packed_", PACKED, blocks(1), params)]);
    made.packed = vec![Packing { input: 1, steps: vec![Transform::Transpose(vec![1, 0]), Transform::PadLast(4)] }];
    made
}

#[test]
fn packed_weights_are_kept_and_made_again() {
    let weight = |seed| Tensor::random(DType::F32, &[10, 5], seed).unwrap();
    let graph = product(&weight(1));
    let mut engine = reloaded(&replaced(single(&graph, "sm_80"), 0, always(packed_product()))).unwrap();
    let packed = engine.weights.iter().find(|(name, _)| name.contains('@')).unwrap();
    assert_eq!((packed.0.as_str(), packed.1.shape()), ("w@transpose[1, 0].pad[4]", &[5, 12][..]));
    for device in devices("sm_80") {
        let mut session = Session::new(&engine, device).unwrap();
        check(&graph, &mut session, [7, 10], 3);
        // The weight itself is not there: nothing reads it.
        assert_eq!(session.memory().weights, 5 * 12 * 4);
    }
    // Other weights in the same engine.
    let graph = product(&weight(2));
    let refitted = engine.refit(&graph.weights).unwrap();
    engine.weights.insert("w".into(), weight(2));
    engine.pack_weights().unwrap();
    assert_eq!(refitted.weights, engine.weights);
    for device in devices("sm_80") {
        check(&graph, &mut Session::new(&engine, device).unwrap(), [7, 10], 4);
    }
    engine.weights.insert("w@transpose[1, 0].pad[4]".into(), weight(2));
    let text = reloaded(&engine).unwrap_err().to_string();
    assert!(text.contains("expected f32[5, 12], found f32[10, 5]"), "{text}");
    engine.weights.remove("w@transpose[1, 0].pad[4]");
    let text = reloaded(&engine).unwrap_err().to_string();
    assert!(text.contains("weight `w@transpose[1, 0].pad[4]` is missing"), "{text}");
}

/// Steps that share a region read each its own weight.
#[test]
fn every_use_of_a_region_has_its_own_packed_weights() {
    let mut b = Builder::new("two");
    let rows = b.symbol("M", 1, 64);
    for (i, seed) in [(0, 1), (1, 2)] {
        let x = b.input(&format!("x{i}"), DType::F32, &[rows.clone(), 10.into()]).unwrap();
        let weight = Tensor::random(DType::F32, &[10, 5], seed).unwrap();
        let w = b.weight_data(&format!("w{i}"), weight).unwrap();
        let y = b.matmul(x, w).unwrap();
        b.output(format!("y{i}"), y);
    }
    let graph = b.finish();
    let engine = reloaded(&replaced(single(&graph, "sm_80"), 0, always(packed_product()))).unwrap();
    assert_eq!(engine.weights.keys().filter(|name| name.contains('@')).count(), 2, "{:?}", engine.weights.keys());
    for device in devices("sm_80") {
        let mut session = Session::new(&engine, device).unwrap();
        let x = [3, 4].map(|seed| Tensor::random(DType::F32, &[7, 10], seed).unwrap());
        session.poison(0xcb).unwrap();
        let found = session.run(&[("x0", &x[0]), ("x1", &x[1])]).unwrap();
        for (wanted, (name, found)) in interpret(&graph, &x).unwrap().iter().zip(&found) {
            let d = CLOSE.compare(wanted, found);
            assert!(d.agrees(), "{name}: {d}");
        }
    }
}

/// What loading an engine says whose only region has these variants.
fn refused(target: &str, variants: Vec<(Guard, Implementation)>) -> String {
    let engine = replaced(single(&polynomial(), target), 0, variants);
    reloaded(&engine).map(|_| "accepted".to_owned()).unwrap_or_else(|e| e.to_string())
}

#[test]
fn guards_that_cannot_choose_are_refused() {
    let guard = |condition| Guard(vec![condition]);
    let small = || guard(Condition::AtMost(m(), 16));
    for (guards, why) in [
        (vec![small(), Guard::always()], "accepted"),
        (vec![], "region `"),
        (vec![small()], "has the guard `s0 <= 16`; expected `true`, for it is the last"),
        (vec![small(), small()], "variant 1 of region"),
        (vec![Guard::always(), Guard::always()], "variant 0"),
        // The model's symbols are not the region's.
        (vec![guard(Condition::AtMost(Dim::from("M"), 1)), Guard::always()], "names the symbol `M`"),
        (vec![guard(Condition::MultipleOf(k(), 0)), Guard::always()], "`s1 % 0 == 0` of variant 0"),
    ] {
        let text = refused("sm_80", guards.iter().map(|guard| (guard.clone(), plain())).collect());
        assert!(text.contains(why), "expected `{why}`: {text}");
    }
}

#[test]
fn launches_that_no_gpu_takes_are_refused() {
    type Edit<'a> = &'a dyn Fn(&mut Implementation);
    let edited = |target: &str, mut made: Implementation, edit: Edit<'_>| {
        edit(&mut made);
        refused(target, always(made))
    };
    let on_map = |edit: &dyn Fn(&mut TensorMap<Dim>)| {
        edited("sm_90a", tma(), &|made| {
            let Param::TensorMap(map) = &mut made.kernels[0].launch.params[0] else { panic!("a tensor map") };
            edit(map);
        })
    };
    for (text, why) in [
        (on_map(&|_| {}), "accepted"),
        (on_map(&|map| map.extents = vec![m(); 9]), "parameter 0 is a tensor map whose rank: expected 1 to 5, found 9"),
        (on_map(&|map| map.window = Window::Tiled(vec![64, 8])), "at most the swizzle's 128 bytes, found 256"),
        (on_map(&|map| map.base = Pointer::Input(1)), "which the region lacks"),
        (on_map(&|map| map.base = Pointer::Zeroed), "which the region lacks"),
        (on_map(&|map| map.offset = Dim::from("Q")), "names the symbol `Q`"),
        (edited("sm_90a", plain(), &|made| made.kernels[0].launch.cluster = [3, 3, 1]), "its cluster is [3, 3, 1]"),
        (edited("sm_90a", plain(), &|made| made.kernels[0].launch.cluster = [0, 1, 1]), "its cluster is [0, 1, 1]"),
        (edited("sm_80", plain(), &|made| made.kernels[0].launch.cluster = [2, 1, 1]), "compute capability 9.0"),
        (
            edited("sm_80", plain(), &|made| {
                made.kernels[0].launch.params[0] = tma().kernels[0].launch.params[0].clone()
            }),
            "a tensor map, which needs compute capability 9.0",
        ),
        (edited("sm_80", plain(), &|made| made.kernels[0].launch.block = [1 << 16, 1 << 16, 1]), "its block is"),
        (edited("sm_80", plain(), &|made| made.kernels[0].launch.dynamic_shared = 163 * 1024 + 1), "at most 166912"),
        (edited("sm_80", plain(), &|made| made.kernels[0].launch.grid = blocks("Q")), "names the symbol `Q`"),
        (
            edited("sm_80", plain(), &|made| {
                made.kernels[0].launch.grid = Grid::Persistent { tiles: m(), per_sm: 0 };
            }),
            "0 blocks an SM",
        ),
        (edited("sm_80", plain(), &|made| made.kernels[0].launch.params[0] = Param::Zeroed), "which the region lacks"),
        (
            edited("sm_80", plain(), &|made| made.kernels[0].launch.params[0] = Param::Packed(0)),
            "which the region lacks",
        ),
    ] {
        assert!(text.contains(why), "expected `{why}`: {text}");
    }
}

#[test]
fn only_weights_are_packed() {
    let mut engine = single(&polynomial(), "sm_80");
    let compiled = engine.targets[0].kernels.values_mut().next().unwrap();
    compiled.variants[0].implementation.packed = vec![Packing { input: 0, steps: vec![Transform::PadLast(4)] }];
    let text = engine.pack_weights().unwrap_err().to_string();
    assert!(text.contains("input 0 is packed; expected a weight"), "{text}");
    let text = reloaded(&engine).unwrap_err().to_string();
    assert!(text.contains("input 0 is packed; expected a weight"), "{text}");
}
