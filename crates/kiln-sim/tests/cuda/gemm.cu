// Tensor-core GEMMs for tests/gemm.rs: C[M,N] = A[M,K] B[N,K]^T, 64x64 tiles, cp.async in two stages, ldmatrix.
typedef unsigned int u32;

__device__ __forceinline__ u32 smem(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void ldmatrix4(u32 (&r)[4], u32 addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(addr));
}
__device__ __forceinline__ void copy16(u32 dst, const void* src, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes));
}

#define MMA_F(NAME, SHAPE, TYPES)                                                                                              \
  __device__ __forceinline__ void NAME(float (&d)[4], const u32 (&a)[4], const u32* b) {                                       \
    asm volatile("{\n.reg .b32 t;\nmov.b32 t, %4;\nmma.sync.aligned." SHAPE ".row.col." TYPES                                  \
                 " {%0,%1,%2,%3}, {t,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n}"                                                    \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                          \
  }
MMA_F(mma_f16, "m16n8k16", "f32.f16.f16.f32")
MMA_F(mma_bf16, "m16n8k16", "f32.bf16.bf16.f32")
MMA_F(mma_tf32, "m16n8k8", "f32.tf32.tf32.f32")
#if __CUDA_ARCH__ >= 890
MMA_F(mma_e4m3, "m16n8k32", "f32.e4m3.e4m3.f32")
MMA_F(mma_e5m2, "m16n8k32", "f32.e5m2.e4m3.f32")
#endif
__device__ __forceinline__ void mma_s8(int (&d)[4], const u32 (&a)[4], const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_u8(int (&d)[4], const u32 (&a)[4], const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rows of a stage are 64 bytes plus 16 of padding; a k step is 32 bytes of every row.
#define GEMM(NAME, MMA, ELEM_BYTES, ACC)                                                                                       \
  extern "C" __global__ void __launch_bounds__(128) NAME(const char* a, const char* b, ACC* c, int m, int n, int k) {          \
    __shared__ __align__(16) char sa[2][64][80], sb[2][64][80];                                                                \
    int t = threadIdx.x, warp = t / 32, lane = t % 32, row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;                         \
    long kb = (long)k * ELEM_BYTES;                                                                                            \
    ACC acc[8][4] = {};                                                                                                        \
    auto load = [&](int s, int at) {                                                                                           \
      for (int i = t; i < 256; i += 128) {                                                                                     \
        int r = i / 4, q = i % 4 * 16;                                                                                         \
        long left = kb - (at + q);                                                                                             \
        int bytes = left <= 0 ? 0 : left < 16 ? (int)left : 16;                                                                \
        int ba = row0 + r < m ? bytes : 0, bb = col0 + r < n ? bytes : 0;                                                      \
        copy16(smem(&sa[s][r][q]), ba ? a + (row0 + r) * kb + at + q : a, ba);                                                 \
        copy16(smem(&sb[s][r][q]), bb ? b + (col0 + r) * kb + at + q : b, bb);                                                 \
      }                                                                                                                        \
      asm volatile("cp.async.commit_group;");                                                                                  \
    };                                                                                                                         \
    int steps = (int)((kb + 63) / 64);                                                                                         \
    load(0, 0);                                                                                                                \
    for (int s = 0; s < steps; s++) {                                                                                          \
      if (s + 1 < steps) { load((s + 1) & 1, (s + 1) * 64); asm volatile("cp.async.wait_group 1;"); }                          \
      else asm volatile("cp.async.wait_group 0;");                                                                             \
      __syncthreads();                                                                                                         \
      for (int kk = 0; kk < 64; kk += 32) {                                                                                    \
        u32 fa[4];                                                                                                             \
        ldmatrix4(fa, smem(&sa[s & 1][warp * 16 + lane % 16][kk + lane / 16 * 16]));                                           \
        for (int j = 0; j < 4; j++) {                                                                                          \
          u32 fb[4];                                                                                                           \
          ldmatrix4(fb, smem(&sb[s & 1][j * 16 + lane % 8 + lane / 16 * 8][kk + lane / 8 % 2 * 16]));                          \
          MMA(acc[2 * j], fa, fb);                                                                                             \
          MMA(acc[2 * j + 1], fa, fb + 2);                                                                                     \
        }                                                                                                                      \
      }                                                                                                                        \
      __syncthreads();                                                                                                         \
    }                                                                                                                          \
    for (int j = 0; j < 8; j++)                                                                                                \
      for (int i = 0; i < 4; i++) {                                                                                            \
        int r = row0 + warp * 16 + lane / 4 + i / 2 * 8, q = col0 + j * 8 + lane % 4 * 2 + i % 2;                              \
        if (r < m && q < n) c[(long)r * n + q] = acc[j][i];                                                                    \
      }                                                                                                                        \
  }
GEMM(gemm_f16, mma_f16, 2, float)
GEMM(gemm_bf16, mma_bf16, 2, float)
GEMM(gemm_tf32, mma_tf32, 4, float)
GEMM(gemm_s8, mma_s8, 1, int)
GEMM(gemm_u8s8, mma_u8, 1, int)
#if __CUDA_ARCH__ >= 890
GEMM(gemm_e4m3, mma_e4m3, 1, float)
GEMM(gemm_e5m2_e4m3, mma_e5m2, 1, float)
#endif
