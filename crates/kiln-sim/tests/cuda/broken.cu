// Kernels that are wrong, one mistake each, for tests/broken.rs. All take 1024 floats and a number that is 0.
typedef unsigned int u32;
typedef unsigned long long u64;
#define K extern "C" __global__ void
#define T threadIdx.x

__device__ __forceinline__ u32 smem(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void cp16(void* dst, const void* src, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem(dst)), "l"(src), "r"(bytes) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
__constant__ float table[8] = {1, 2, 3, 4, 5, 6, 7, 8};

K missing_barrier(float* g, int z) { __shared__ float s[64]; s[T] = g[T]; g[T] = s[63 - T]; }
K missing_barrier_before_reuse(float* g, int z) {
  __shared__ float s[64];
  for (int i = 0; i < 3; i++) { s[T] = g[T] + i; __syncthreads(); g[T] += s[63 - T]; }
}
K missing_barrier_in_tree(float* g, int z) {
  __shared__ float s[128];
  s[T] = g[T];
  __syncthreads();
  for (int o = 64; o; o >>= 1) { if (T < o) s[T] += s[T + o]; }
  if (T == 0) g[0] = s[0];
}
K named_barrier_wrong_id(float* g, int z) {
  if (T < 32) asm volatile("bar.sync 1, 64;"); else asm volatile("bar.sync 2, 64;");
  g[T] = 1;
}
K cp_missing_wait(float* g, int z) {
  __shared__ __align__(16) float s[256];
  cp16(&s[4 * T], &g[4 * T]); commit();
  __syncthreads();
  g[T] = s[T];
}
K cp_wait_one_too_few(float* g, int z) {
  __shared__ __align__(16) float s[512];
  cp16(&s[4 * T], &g[4 * T]); commit();
  cp16(&s[256 + 4 * T], &g[256 + 4 * T]); commit();
  wait<1>();
  __syncthreads();
  g[T] = s[256 + T];
}
K cp_wait_without_barrier(float* g, int z) {
  __shared__ __align__(16) float s[256];
  cp16(&s[4 * T], &g[4 * T]); commit(); wait<0>();
  g[T] = s[255 - T];
}
K cp_into_buffer_being_read(float* g, int z) {
  __shared__ __align__(16) float s[256];
  cp16(&s[4 * T], &g[4 * T]); commit(); wait<0>();
  __syncthreads();
  float v = s[255 - T];
  cp16(&s[4 * T], &g[256 + 4 * T]); commit(); wait<0>();
  __syncthreads();
  g[T] = v + s[T];
}
K cp_without_commit(float* g, int z) {
  __shared__ __align__(16) float s[256];
  cp16(&s[4 * T], &g[4 * T]); wait<0>();
  __syncthreads();
  g[T] = s[T];
}
K cp_source_size_too_large(float* g, int z) {
  __shared__ __align__(16) float s[256];
  cp16(&s[4 * T], &g[4 * T], 20 + z); commit(); wait<0>();
  __syncthreads();
  g[T] = s[T];
}
K cp_misaligned(float* g, int z) {
  __shared__ __align__(16) float s[256];
  cp16(&s[4 * T], &g[4 * T + 2]); commit(); wait<0>();
  __syncthreads();
  g[T] = s[T];
}
K global_load_past_end(float* g, int z) { g[T] = g[961 + T + z]; }
K global_store_past_end(float* g, int z) { g[1024 - T + z] = 1; }
K null_pointer(float* g, int z) { ((float*)(u64)z)[T] = 1; }
K shared_off_by_one(float* g, int z) { __shared__ float s[64]; s[T + 1] = g[T]; __syncthreads(); g[T] = s[T + 1 - (T == 63)]; }
K shared_negative(float* g, int z) { __shared__ float s[64]; s[T] = g[T]; __syncthreads(); g[T] = s[(int)T - 1 - z]; }
K dynamic_too_small(float* g, int z) { extern __shared__ float d[]; d[T] = g[T]; __syncthreads(); g[T] = d[T]; }
K local_past_end(float* g, int z) {
  float a[16];
  for (int i = 0; i < 16; i++) a[i] = g[i] + T;
  g[T] = a[((int)g[0] & 15) + 64 + z] + a[(T + z) & 15];
}
K const_past_end(float* g, int z) { g[T] = table[T % 8 + (T == 63) * 1000 + z]; }
K shared_pointer_as_global(float* g, int z) {
  __shared__ float s[64];
  s[T] = 1;
  float v;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"((u64)smem(&s[T])));
  g[T] = v;
}
K misaligned_vector(float* g, int z) { float4 v = *(float4*)(g + 4 * (T & 15) + 1 + z); g[T] = v.x + v.w; }
K misaligned_shared_vector(float* g, int z) {
  __shared__ __align__(16) float s[130];
  s[T] = 1; s[T + 64] = 2;
  __syncthreads();
  float2 v = *(float2*)(s + T + z);
  g[T] = v.x + v.y;
}
K misaligned_atomic(float* g, int z) { atomicAdd((u64*)(g + 1 + z), 1ull); }
K uninitialised_shared(float* g, int z) { __shared__ float s[64]; if (z) s[T] = 1; __syncthreads(); g[T] = s[T]; }
K uninitialised_tail(float* g, int z) { __shared__ float s[64]; if (T < 60) s[T] = g[T]; __syncthreads(); g[T] = s[63 - T]; }
K uninitialised_byte(float* g, int z) { __shared__ __align__(4) char s[64]; if (T != 13) s[T] = T; __syncthreads(); g[T] = ((int*)s)[T % 16]; }
K two_ctas_write(float* g, int z) { g[T] = blockIdx.x; }
K cta_reads_anothers_write(float* g, int z) { g[blockIdx.x * 64 + T] = g[(1 - blockIdx.x) * 64 + T] + 1; }
K flag_without_fence(float* g, int z) {
  if (T == 0) {
    g[64 + blockIdx.x] = 5;
    if (atomicAdd((int*)g, 1) == 1) g[32] = g[64] + g[65];
  }
}
K divergent_barrier(float* g, int z) { __shared__ float s[64]; s[T] = g[T]; if (T < 16) asm volatile("bar.sync 0;"); g[T] = s[T]; }
K barrier_in_both_branches(float* g, int z) {
  if (T & 1) { g[T] = 1; asm volatile("bar.sync 0;"); } else { g[T] = 2; asm volatile("bar.sync 0;"); g[T + 64] = 3; }
}
K thread_exits_before_barrier(float* g, int z) { __shared__ float s[64]; if (T >= 40) return; s[T] = g[T]; __syncthreads(); g[T] = s[39 - T]; }
K warp_exits_before_barrier(float* g, int z) { __shared__ float s[64]; if (T >= 32) return; s[T] = g[T]; __syncthreads(); g[T] = s[31 - T]; }
K deadlock_at_collective(float* g, int z) {
  if (T % 32 < 16) g[T] = __shfl_sync(~0u, g[T], 20);
  else asm volatile("barrier.sync 3, 128;");
}
K deadlock_at_barrier(float* g, int z) { if (T < 32) { asm volatile("bar.sync 1, 64;"); asm volatile("bar.sync 1, 64;"); } else asm volatile("bar.sync 1, 64;"); g[T] = 1; }
K shuffle_outside_mask(float* g, int z) { g[T] = __shfl_xor_sync(0xffff, g[T], 1); }
K shuffle_from_other_branch(float* g, int z) { if (T & 1) g[T] = __shfl_sync(0xaaaaaaaa, g[T], 2); else g[T] += 1; }
K barrier_counts_differ(float* g, int z) { if (T < 32) asm volatile("bar.sync 1, 64;"); else asm volatile("bar.sync 1, 96;"); g[T] = 1; }
K barrier_count_not_whole_warps(float* g, int z) { asm volatile("bar.sync 1, %0;" ::"r"(40 + z)); g[T] = 1; }
K mma_by_half_a_warp(float* g, int z) {
  float d[4] = {};
  u32 a = T;
  if (T % 32 < 16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a));
  g[T] = d[0];
}
K ldmatrix_misaligned(float* g, int z) {
  __shared__ __align__(16) float s[256];
  for (int i = T; i < 256; i += 64) s[i] = g[i];
  __syncthreads();
  u32 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r) : "r"(smem(&s[T % 8 * 5])));
  g[T] = r;
}
K ldmatrix_past_end(float* g, int z) {
  __shared__ __align__(16) float s[64];
  s[T] = g[T];
  __syncthreads();
  u32 r0, r1, r2, r3;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3) : "r"(smem(s) + T % 32 * 16));
  g[T] = r0 + r1 + r2 + r3;
}
K assertion(float* g, int z) { if (T == 5 + z) __trap(); g[T] = 1; }
K endless_loop(float* g, int z) { while (*(volatile float*)g == 0.f) ; }

#if __CUDA_ARCH__ >= 900
struct alignas(64) Map { char bytes[128]; };
__device__ __forceinline__ void bar_init(u32 b, u32 n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void bar_expect(u32 b, u32 n) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void bar_arrive(u32 b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory"); }
__device__ __forceinline__ void bar_wait(u32 b, u32 parity) {
  asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra WAIT;\n}" ::"r"(b), "r"(parity) : "memory");
}
__device__ __forceinline__ void bulk_load(void* dst, const void* src, u32 bytes, u32 bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem(dst)), "l"(src), "r"(bytes), "r"(bar) : "memory");
}
__device__ __forceinline__ void bulk_store(void* dst, const void* src, u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(dst), "r"(smem(src)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#define LOAD(INIT, EXPECT, PARITY)                                     \
  __shared__ __align__(128) float s[64];                               \
  __shared__ __align__(8) u64 bar;                                     \
  if (T == 0) { INIT; }                                                \
  __syncthreads();                                                     \
  if (T == 0) { EXPECT; bulk_load(s, g, 256, smem(&bar)); }            \
  bar_wait(smem(&bar), PARITY);                                        \
  g[512 + T] = s[T];
K mbarrier_wrong_parity(float* g, int z) { LOAD(bar_init(smem(&bar), 1), bar_expect(smem(&bar), 256), 1) }
K mbarrier_missing_expect(float* g, int z) { LOAD(bar_init(smem(&bar), 1), bar_arrive(smem(&bar)), 0) }
K mbarrier_wrong_bytes(float* g, int z) { LOAD(bar_init(smem(&bar), 1), bar_expect(smem(&bar), 512), 0) }
K mbarrier_not_initialised(float* g, int z) { LOAD(, bar_expect(smem(&bar), 256), 0) }
K mbarrier_count_too_high(float* g, int z) { LOAD(bar_init(smem(&bar), 2), bar_expect(smem(&bar), 256), 0) }
K mbarrier_extra_arrival(float* g, int z) { LOAD(bar_init(smem(&bar), 1), bar_expect(smem(&bar), 256); bar_arrive(smem(&bar)), 0) }
K mbarrier_ignored(float* g, int z) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(8) u64 bar;
  if (T == 0) { bar_init(smem(&bar), 1); bar_expect(smem(&bar), 256); bulk_load(s, g, 256, smem(&bar)); }
  __syncthreads();
  g[512 + T] = s[T];
}
K bulk_odd_size(float* g, int z) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(8) u64 bar;
  if (T == 0) { bar_init(smem(&bar), 1); bulk_load(s, g, 100 + z, smem(&bar)); }
}
K bulk_misaligned(float* g, int z) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(8) u64 bar;
  if (T == 0) { bar_init(smem(&bar), 1); bar_expect(smem(&bar), 64); bulk_load(s + 1, g, 64, smem(&bar)); }
}
K missing_proxy_fence(float* g, int z) {
  __shared__ __align__(128) float s[64];
  s[T] = T;
  __syncthreads();
  if (T == 0) { bulk_store(g, s, 256); asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory"); }
}
K missing_bulk_wait(float* g, int z) {
  __shared__ __align__(128) float s[64];
  s[T] = T;
  proxy_fence();
  __syncthreads();
  if (T == 0) { bulk_store(g, s, 256); asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
  __syncthreads();
  s[T] = -1.f;
}
K tensor_map_is_garbage(float* g, int z) {
  __shared__ __align__(128) float s[64];
  __shared__ __align__(8) u64 bar;
  if (T == 0) {
    bar_init(smem(&bar), 1);
    asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];" ::"r"(smem(s)), "l"(g), "r"(smem(&bar)), "r"(z) : "memory");
  }
}
__device__ __forceinline__ void wgmma8(float (&d)[4], u64 a, u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
}
#define WGMMA(FENCE, WAIT, AFTER)                                                        \
  __shared__ __align__(128) float s[1024];                                               \
  for (int i = T; i < 1024; i += 128) s[i] = 0;                                          \
  FENCE;                                                                                 \
  __syncthreads();                                                                       \
  float d[4] = {};                                                                       \
  u64 desc = (u64)(smem(s) >> 4) | (u64)(128 >> 4) << 16 | (u64)(256 >> 4) << 32;        \
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");                                \
  wgmma8(d, desc, desc);                                                                 \
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");                         \
  WAIT;                                                                                  \
  AFTER;                                                                                 \
  g[T] = d[0] + d[3];
#define WAIT0 asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory")
K wgmma_missing_wait(float* g, int z) { WGMMA(proxy_fence(), , ) }
K wgmma_missing_proxy_fence(float* g, int z) { WGMMA(, WAIT0, ) }
K wgmma_operand_overwritten(float* g, int z) { WGMMA(proxy_fence(), s[T] = 1.f, WAIT0) }
K __cluster_dims__(2, 1, 1) cluster_missing_barrier(float* g, int z) {
  __shared__ float s[64];
  u32 rank, at;
  float v;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  s[T] = rank;
  __syncthreads();
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(smem(&s[T])), "r"(1 - rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
  g[blockIdx.x * 64 + T] = v;
}
K __cluster_dims__(2, 1, 1) cluster_rank_out_of_range(float* g, int z) {
  __shared__ float s[64];
  u32 at;
  float v;
  s[T] = 1;
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(smem(&s[T])), "r"(2));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
  g[blockIdx.x * 64 + T] = v;
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
K __cluster_dims__(2, 1, 1) cluster_arrives_twice(float* g, int z) {
  if (blockIdx.x & 1) asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  g[512 * (blockIdx.x & 1) + T] = 1;
}
#endif
