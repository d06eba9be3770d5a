// sm_90a kernels for tests/hopper.rs: TMA, mbarriers, wgmma, clusters and distributed shared memory.
typedef unsigned int u32;
typedef unsigned long long u64;
struct alignas(64) Map { char bytes[128]; };

__device__ __forceinline__ u32 smem(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void bar_init(u32 bar, u32 n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(n)); }
__device__ __forceinline__ void bar_expect(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void bar_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
__device__ __forceinline__ void bar_wait(u32 bar, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(bar),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void tma_load(u32 dst, const Map* map, u32 bar, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(dst), "l"(map),
               "r"(bar), "r"(x), "r"(y)
               : "memory");
}
__device__ __forceinline__ u64 desc(u32 addr) {
  return (u64)(addr >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
__device__ __forceinline__ void wgmma64(float (&d)[32], u64 a, u64 b) {
  asm volatile(
      "{\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
      "%32, %33, 1, 1, 1, 0, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),
        "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),
        "+f"(d[31])
      : "l"(a), "l"(b));
}

// C[M,N] = A[M,K] B[N,K]^T with 64x64 tiles, K steps of 64, two stages; warps 0-3 multiply, warp 4 loads.
// The tile of C leaves through shared memory and a TMA store when `out` is used, else by plain stores.
extern "C" __global__ void __launch_bounds__(160, 1) gemm_tma(const __grid_constant__ Map a, const __grid_constant__ Map b,
                                                            const __grid_constant__ Map out, float* c, int m, int n, int k, int use_tma) {
  extern __shared__ __align__(1024) char raw[];
  __shared__ __align__(8) u64 full[2], empty[2];
  int t = threadIdx.x, warp = t / 32, lane = t % 32, row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
  u32 sa = smem(raw), sb = sa + 2 * 8192;
  if (t == 0) {
    for (int i = 0; i < 2; i++) { bar_init(smem(&full[i]), 1); bar_init(smem(&empty[i]), 128); }
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  __syncthreads();
  int steps = (k + 63) / 64;
  if (warp == 4) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (lane == 0)
      for (int s = 0; s < steps; s++) {
        u32 bar = smem(&full[s & 1]);
        if (s >= 2) bar_wait(smem(&empty[s & 1]), (s / 2 - 1) & 1);
        bar_expect(bar, 16384);
        tma_load(sa + (s & 1) * 8192, &a, bar, s * 64, row0);
        tma_load(sb + (s & 1) * 8192, &b, bar, s * 64, col0);
      }
  } else {
    float acc[32] = {};
    for (int s = 0; s < steps; s++) {
      bar_wait(smem(&full[s & 1]), s / 2 & 1);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
      for (int kk = 0; kk < 4; kk++) wgmma64(acc, desc(sa + (s & 1) * 8192 + kk * 32), desc(sb + (s & 1) * 8192 + kk * 32));
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      bar_arrive(smem(&empty[s & 1]));
    }
    if (use_tma) {
      asm volatile("bar.sync 1, 128;" ::: "memory");
      float* tile = (float*)raw;
      for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) tile[(warp * 16 + lane / 4 + i / 2 * 8) * 64 + j * 8 + lane % 4 * 2 + i % 2] = acc[j * 4 + i];
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      asm volatile("bar.sync 1, 128;" ::: "memory");
      if (t == 0) {
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&out), "r"(sa), "r"(col0), "r"(row0)
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
      }
    } else {
      for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) {
          int r = row0 + warp * 16 + lane / 4 + i / 2 * 8, q = col0 + j * 8 + lane % 4 * 2 + i % 2;
          if (r < m && q < n) c[(long)r * n + q] = acc[j * 4 + i];
        }
    }
  }
}

// Each CTA of a cluster of four sums its part of x; the ranks then add up their peers' sums through shared memory.
extern "C" __global__ void __cluster_dims__(4, 1, 1) cluster_sum(const float* x, float* out, int n) {
  __shared__ float mine;
  __shared__ float part[32];
  u32 rank, warp = threadIdx.x / 32;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  float s = 0;
  for (int i = rank * blockDim.x + threadIdx.x; i < n; i += 4 * blockDim.x) s += x[blockIdx.x / 4 * n + i];
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  if (threadIdx.x % 32 == 0) part[warp] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (u32 i = 0; i < blockDim.x / 32; i++) total += part[i];
    mine = total;
  }
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  if (threadIdx.x == 0) {
    float total = 0;
    for (u32 peer = 0; peer < 4; peer++) {
      u32 addr;
      float v;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(addr) : "r"(smem(&mine)), "r"(peer));
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(addr) : "memory");
      total += v;
    }
    out[blockIdx.x] = total;
  }
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// One CTA of each pair loads a row of 1 KiB for both by multicast; both write it out, the second reversed.
extern "C" __global__ void __cluster_dims__(2, 1, 1) multicast(const float* x, float* out) {
  __shared__ __align__(128) float row[256];
  __shared__ __align__(8) u64 bar;
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  if (threadIdx.x == 0) {
    bar_init(smem(&bar), 1);
    asm volatile("fence.mbarrier_init.release.cluster;");
    bar_expect(smem(&bar), 1024);
  }
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
  if (rank == 0 && threadIdx.x == 0)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], 1024, [%2], %3;" ::"r"(smem(row)),
                 "l"(x + blockIdx.x / 2 * 256), "r"(smem(&bar)), "h"((unsigned short)3)
                 : "memory");
  bar_wait(smem(&bar), 0);
  out[blockIdx.x * 256 + threadIdx.x] = row[rank ? 255 - threadIdx.x : threadIdx.x];
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
