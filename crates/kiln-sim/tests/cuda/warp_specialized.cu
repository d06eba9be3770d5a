// sm_90a kernels for tests/warp_specialized.rs: one warp feeds rings of TMA copies, two warpgroups multiply with wgmma. A product whose tiles
// leave through stmatrix and TMA, alone or in clusters of two that share B by multicast; attention whose probabilities stay in registers.
// `early` gives a stage back before its wgmma has been waited for, which is wrong.
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct alignas(64) Map { char bytes[128]; };
#define DEVICE __device__ __forceinline__

DEVICE u32 smem(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE u32 pack(float lo, float hi) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
DEVICE float exp2_approx(float x) { float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
DEVICE u32 cta_rank() { u32 r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
DEVICE void cluster_sync() { asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory"); }
DEVICE void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// A ring of stages, each with a barrier for "full" and one for "empty"; both sides walk it with a stage and a parity.
template <int STAGES> struct Ring {
  u32 bars;
  int stage = 0;
  u32 parity;
  DEVICE Ring(u32 bars, u32 parity) : bars(bars), parity(parity) {}
  DEVICE u32 full(int s) const { return bars + 8 * s; }
  DEVICE u32 empty(int s) const { return bars + 8 * (STAGES + s); }
  DEVICE void init(u32 consumers) const {
    for (int s = 0; s < STAGES; s++) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(full(s)));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty(s)), "r"(consumers));
    }
  }
  DEVICE void advance() {
    if (++stage == STAGES) { stage = 0; parity ^= 1; }
  }
};
DEVICE void wait(u32 bar, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(bar), "r"(parity)
      : "memory");
}
DEVICE void expect(u32 bar, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory"); }
DEVICE void arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
DEVICE void arrive_at(u32 bar, u32 rank) {
  asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar),
               "r"(rank)
               : "memory");
}
DEVICE void load(u32 dst, const Map* map, u32 bar, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(dst), "l"(map),
               "r"(x), "r"(y), "r"(bar)
               : "memory");
}
DEVICE void load(u32 dst, const Map* map, u32 bar, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(dst), "l"(map),
               "r"(x), "r"(y), "r"(z), "r"(bar)
               : "memory");
}
DEVICE void load_multicast(u32 dst, const Map* map, u32 bar, int x, int y, u16 ctas) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(dst),
      "l"(map), "r"(x), "r"(y), "r"(bar), "h"(ctas)
      : "memory");
}
DEVICE void store(const Map* map, int x, int y, u32 src) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y), "r"(src) : "memory");
}
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// Operands swizzled by 128 bytes: 8 rows are 1024 bytes.
DEVICE u64 descriptor(u32 at, u32 leading) { return (u64)(at >> 4 & 0x3fff) | (u64)leading << 16 | (u64)64 << 32 | (u64)1 << 62; }

#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F16(i) F4(i), F4(i + 4), F4(i + 8), F4(i + 12)
#define F32(i) F16(i), F16(i + 16)
#define NAMES32 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES64 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES128 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63," \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

template <int N> DEVICE void multiply(float* d, u64 a, u64 b, int add);
template <> DEVICE void multiply<64>(float* d, u64 a, u64 b, int add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
               : F32(0)
               : "l"(a), "l"(b), "r"(add));
}
template <> DEVICE void multiply<128>(float* d, u64 a, u64 b, int add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NAMES64 "}, %64, %65, p, 1, 1, 0, 0;\n}"
               : F32(0), F32(32)
               : "l"(a), "l"(b), "r"(add));
}
template <> DEVICE void multiply<256>(float* d, u64 a, u64 b, int add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" NAMES128 "}, %128, %129, p, 1, 1, 0, 0;\n}"
               : F32(0), F32(32), F32(64), F32(96)
               : "l"(a), "l"(b), "r"(add));
}
// A from registers, B with N innermost.
DEVICE void multiply_registers(float* d, const u32* a, u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : F32(0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// C[m, n] = A[m, k] B[n, k]^T in tiles of 128 x COLS x 64. CTAs of a cluster take tiles below each other and load a part of B each, for all.
template <int COLS, int CLUSTER, int STAGES, bool EARLY>
DEVICE void gemm(const Map* a, const Map* b, const Map* c, int m, int n, int k) {
  constexpr int A_BYTES = 128 * 64 * 2, B_BYTES = COLS * 64 * 2, STAGE = A_BYTES + B_BYTES;
  extern __shared__ __align__(1024) unsigned char dynamic[];
  __shared__ __align__(8) u64 bars[2 * STAGES];
  const u32 base = (smem(dynamic) + 1023) & ~1023u;
  const int t = threadIdx.x, group = t >> 7;
  const u32 rank = CLUSTER > 1 ? cta_rank() : 0;
  const int across = (n + COLS - 1) / COLS, down = (m + 128 * CLUSTER - 1) / (128 * CLUSTER), deep = (k + 63) / 64;
  Ring<STAGES> ring(smem(bars), group == 0 ? 1 : 0);
  if (t == 0) {
    ring.init(2 * CLUSTER);
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  if constexpr (CLUSTER > 1) cluster_sync(); else __syncthreads();
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (t == 0) {
      for (int tile = blockIdx.x / CLUSTER; tile < across * down; tile += gridDim.x / CLUSTER) {
        const int row = (tile % down * CLUSTER + rank) * 128, col = tile / down * COLS;
        for (int i = 0; i < deep; i++, ring.advance()) {
          const u32 full = ring.full(ring.stage), to = base + ring.stage * STAGE;
          wait(ring.empty(ring.stage), ring.parity);
          expect(full, STAGE);
          load(to, a, full, i * 64, row);
          if constexpr (CLUSTER > 1)
            load_multicast(to + A_BYTES + rank * (B_BYTES / CLUSTER), b, full, i * 64, col + rank * (COLS / CLUSTER), (1 << CLUSTER) - 1);
          else
            load(to + A_BYTES, b, full, i * 64, col);
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int mine = group - 1, lane = t & 31, warp = t >> 5 & 3;
    const bool lead = (t & 127) == 0;
    const u32 staged = base + STAGES * STAGE + mine * (64 * COLS * 2);
    float d[COLS / 2];
    auto release = [&](int stage) {
      if constexpr (CLUSTER > 1) {
        if ((t & 127) < CLUSTER) arrive_at(ring.empty(stage), t & 127);
      } else if (lead) {
        arrive(ring.empty(stage));
      }
    };
    for (int tile = blockIdx.x / CLUSTER; tile < across * down; tile += gridDim.x / CLUSTER) {
      int before = -1;
      for (int i = 0; i < deep; i++, ring.advance()) {
        const u32 from = base + ring.stage * STAGE;
        wait(ring.full(ring.stage), ring.parity);
        const u64 da = descriptor(from + mine * 8192, 1), db = descriptor(from + A_BYTES, 1);
        wgmma_fence();
#pragma unroll
        for (int x = 0; x < 4; x++) multiply<COLS>(d, da + 2 * x, db + 2 * x, i | x);
        wgmma_commit();
        if constexpr (EARLY) {
          if (before >= 0) release(before);
          wgmma_wait<1>();
        } else if (before >= 0) {
          wgmma_wait<1>();
          release(before);
        }
        before = ring.stage;
      }
      wgmma_wait<0>();
      release(before);
      const int row = (tile % down * CLUSTER + rank) * 128 + mine * 64, col = tile / down * COLS;
      if (lead) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
      named_sync(group, 128);
      const int r = warp * 16 + (lane & 15);
#pragma unroll
      for (int j = 0; j < COLS / 16; j++) {
        // 16 columns, in blocks of 64 that are swizzled as the store wants them.
        const int chunk = 2 * j + (lane >> 4);
        const u32 at = staged + (chunk >> 3) * 8192 + r * 128 + (((chunk & 7) ^ (r & 7)) << 4);
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(pack(d[8 * j], d[8 * j + 1])),
                     "r"(pack(d[8 * j + 2], d[8 * j + 3])), "r"(pack(d[8 * j + 4], d[8 * j + 5])), "r"(pack(d[8 * j + 6], d[8 * j + 7]))
                     : "memory");
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      named_sync(group, 128);
      if (lead) {
        for (int j = 0; j < COLS / 64; j++) store(c, col + 64 * j, row, staged + j * 8192);
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      }
    }
    if (lead) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
  // A CTA must not leave while its peer may still write to it or arrive at its barriers.
  if constexpr (CLUSTER > 1) cluster_sync();
}
#define GEMM(name, cols, cluster, stages, early)                                                                                            \
  extern "C" __global__ void __launch_bounds__(384, 1) name(const __grid_constant__ Map a, const __grid_constant__ Map b,                   \
                                                            const __grid_constant__ Map c, int m, int n, int k) {                            \
    gemm<cols, cluster, stages, early>(&a, &b, &c, m, n, k);                                                                                 \
  }
GEMM(gemm_128, 128, 1, 3, false)
GEMM(gemm_256_cluster, 256, 2, 3, false)
GEMM(early, 128, 1, 2, true)

// Softmax(scale Q K^T) V of heads of 64, 128 queries a CTA, 64 keys a stage, from the last keys to the first. The warpgroups take turns: one
// multiplies while the other has its softmax. The next Q K^T is issued before P V.
template <bool CAUSAL> DEVICE void attention(const Map* q, const Map* k, const Map* v, u16* out, int length, float scale) {
  constexpr int STAGES = 2, KEYS = 64, BYTES = KEYS * 64 * 2;
  extern __shared__ __align__(1024) unsigned char dynamic[];
  __shared__ __align__(8) u64 bars[4 * STAGES + 1];
  const u32 base = (smem(dynamic) + 1023) & ~1023u, keys = base + 128 * 64 * 2, values = keys + STAGES * BYTES;
  const int t = threadIdx.x, group = t >> 7, first = blockIdx.x * 128, head = blockIdx.y;
  const u32 q_full = smem(bars + 4 * STAGES);
  const int last = CAUSAL ? min(length, first + 128) : length, tiles = (last + KEYS - 1) / KEYS;
  const u32 parity = group == 0 ? 1 : 0;
  Ring<STAGES> kr(smem(bars), parity), vr(smem(bars + 2 * STAGES), parity);
  if (t == 0) {
    kr.init(2);
    vr.init(2);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(q_full));
    asm volatile("fence.mbarrier_init.release.cluster;");
  }
  __syncthreads();
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (t == 0) {
      expect(q_full, 128 * 64 * 2);
      load(base, q, q_full, 0, first, head);
      for (int i = tiles - 1; i >= 0; i--) {
        wait(kr.empty(kr.stage), kr.parity);
        expect(kr.full(kr.stage), BYTES);
        load(keys + kr.stage * BYTES, k, kr.full(kr.stage), 0, i * KEYS, head);
        kr.advance();
        wait(vr.empty(vr.stage), vr.parity);
        expect(vr.full(vr.stage), BYTES);
        load(values + vr.stage * BYTES, v, vr.full(vr.stage), 0, i * KEYS, head);
        vr.advance();
      }
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  const int mine = group - 1, lane = t & 31, warp = t >> 5 & 3;
  const bool lead = (t & 127) == 0;
  const int row = first + mine * 64 + warp * 16 + (lane >> 2);
  float s[32], o[32] = {}, top[2] = {-1e30f, -1e30f}, sum[2] = {};
  u32 p[16];
  const u64 dq = descriptor(base + mine * 8192, 1);
  auto scores = [&]() {
    const u64 dk = descriptor(keys + kr.stage * BYTES, 1);
#pragma unroll
    for (int x = 0; x < 4; x++) multiply<64>(s, dq + 2 * x, dk + 2 * x, x);
    wgmma_commit();
  };
  auto accumulate = [&]() {
    const u32 at = values + vr.stage * BYTES;
#pragma unroll
    for (int x = 0; x < 4; x++) multiply_registers(o, p + 4 * x, descriptor(at + x * 2048, BYTES / 16));
    wgmma_commit();
  };
  // What the weights so far are to be multiplied by goes to `shrink`.
  auto softmax = [&](int tile, float* shrink) {
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const int col = tile * KEYS + i / 4 * 8 + (lane & 3) * 2 + (i & 1), at = row + (i & 2) * 4;
      if (col >= length || CAUSAL && col > at) s[i] = -1e30f;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float high = top[h];
#pragma unroll
      for (int j = 0; j < 8; j++) high = fmaxf(high, fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
      for (int step = 1; step < 4; step *= 2) high = fmaxf(high, __shfl_xor_sync(~0u, high, step));
      shrink[h] = exp2_approx((top[h] - high) * scale);
      top[h] = high;
      sum[h] *= shrink[h];
#pragma unroll
      for (int j = 0; j < 16; j++) {
        float& e = s[4 * (j / 2) + 2 * h + j % 2];
        e = exp2_approx((e - high) * scale);
        sum[h] += e;
      }
    }
  };
  auto probabilities = [&]() {
#pragma unroll
    for (int i = 0; i < 16; i++) p[i] = pack(s[2 * i], s[2 * i + 1]);
  };
  float shrink[2];
  if (mine == 1) named_arrive(1, 256);
  wait(q_full, 0);
  wait(kr.full(kr.stage), kr.parity);
  named_sync(1 + mine, 256);
  wgmma_fence();
  scores();
  named_arrive(2 - mine, 256);
  wgmma_wait<0>();
  if (lead) arrive(kr.empty(kr.stage));
  kr.advance();
  softmax(tiles - 1, shrink);
  probabilities();
  for (int i = tiles - 2; i >= 0; i--) {
    wait(kr.full(kr.stage), kr.parity);
    named_sync(1 + mine, 256);
    wgmma_fence();
    scores();
    wait(vr.full(vr.stage), vr.parity);
    accumulate();
    named_arrive(2 - mine, 256);
    wgmma_wait<1>();
    if (lead) arrive(kr.empty(kr.stage));
    kr.advance();
    softmax(i, shrink);
    wgmma_wait<0>();
    if (lead) arrive(vr.empty(vr.stage));
    vr.advance();
#pragma unroll
    for (int j = 0; j < 32; j++) o[j] *= shrink[j >> 1 & 1];
    probabilities();
  }
  if (mine == 0) named_sync(1, 256);
  wait(vr.full(vr.stage), vr.parity);
  wgmma_fence();
  accumulate();
  wgmma_wait<0>();
#pragma unroll
  for (int h = 0; h < 2; h++) {
    for (int step = 1; step < 4; step *= 2) sum[h] += __shfl_xor_sync(~0u, sum[h], step);
    const int at = row + 8 * h;
    if (at >= length) continue;
    u32* to = (u32*)(out + ((size_t)head * length + at) * 64 + (lane & 3) * 2);
#pragma unroll
    for (int j = 0; j < 8; j++) to[4 * j] = pack(o[4 * j + 2 * h] / sum[h], o[4 * j + 2 * h + 1] / sum[h]);
  }
}
#define ATTENTION(name, causal)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(384, 1) name(const __grid_constant__ Map q, const __grid_constant__ Map k,                   \
                                                            const __grid_constant__ Map v, u16* out, int length, float scale) {              \
    attention<causal>(&q, &k, &v, out, length, scale);                                                                                       \
  }
ATTENTION(attention_full, false)
ATTENTION(attention_causal, true)
