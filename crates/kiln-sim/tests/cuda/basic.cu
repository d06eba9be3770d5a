// Kernels for tests/basic.rs.
typedef unsigned int u32;
typedef unsigned long long u64;

__constant__ float table[4] = {1.f, 2.f, 3.f, 4.f};
__device__ int hits = 7;

__device__ __noinline__ float horner(float x, int n) {
  float s = 0;
  for (int i = 0; i < n; i++) s = s * x + i;
  return s;
}

extern "C" __global__ void saxpy(const float* __restrict__ x, float* y, int n, float a) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}

// Sum of squares of each row, any row length, one CTA a row.
extern "C" __global__ void row_norm(const float* x, float* out, int cols) {
  __shared__ float part[32];
  float s = 0;
  for (int c = threadIdx.x; c < cols; c += blockDim.x) { float v = x[blockIdx.x * cols + c]; s += v * v; }
  for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x < 32) {
    s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
    for (int o = 16; o; o >>= 1) s += __shfl_down_sync(~0u, s, o);
    if (threadIdx.x == 0) out[blockIdx.x] = sqrtf(s);
  }
}

// Divergent control flow, a call, local memory, a constant table and an atomic on a module variable.
extern "C" __global__ void mixture(const int* a, float* out, int* count, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float local[8];
  for (int k = 0; k < 8; k++) local[k] = k * 0.5f + i;
  int v = a[i];
  float r;
  switch (v & 7) {
    case 0: r = horner(0.5f, v & 15); break;
    case 1: r = local[(v >> 3) & 7]; break;
    case 2: r = table[(v >> 3) & 3]; break;
    case 3: { r = 0; for (int k = 0; k < (v & 31); k++) r += k; break; }
    case 4: r = (float)(v / 7) + (float)(v % 7); break;
    case 5: r = (float)__popc(v) + (float)__clz(v) * 100.f; break;
    case 6: r = (float)((u64)v * 3000000000ull >> 32); break;
    default: r = __int_as_float(v) != 0.f ? -1.f : 1.f; break;
  }
  out[i] = r;
  atomicAdd(&hits, 1);
  atomicMax(count, v);
  atomicAdd(count + 1, 1);
}

// Math functions with their whole range reductions and fixups.
extern "C" __global__ void maths(const float* x, float* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  out[i] = expf(v);
  out[n + i] = tanhf(v);
  out[2 * n + i] = erff(v);
  out[3 * n + i] = sinf(v * 1000.f);
  out[4 * n + i] = logf(fabsf(v));
  out[5 * n + i] = 1.f / v;
  out[6 * n + i] = rsqrtf(fabsf(v));
  out[7 * n + i] = powf(fabsf(v), 1.7f);
  out[8 * n + i] = fmodf(v, 0.37f);
  out[9 * n + i] = __fdiv_rz(v, 3.f);
  out[10 * n + i] = __fadd_rd(v, 1e-3f);
}

extern "C" __global__ void collectives(const u32* x, u32* out) {
  u32 t = threadIdx.x, v = x[t];
  out[t] = __ballot_sync(~0u, v & 1);
  out[32 + t] = __shfl_up_sync(~0u, v, 3);
  out[64 + t] = __shfl_sync(~0u, v, v & 31, 8);
  out[96 + t] = __match_any_sync(~0u, v & 3);
  out[128 + t] = __reduce_max_sync(~0u, v);
  u32 r = 0;
  if (t & 1) r = __shfl_xor_sync(0xaaaaaaaau, v, 2) + __activemask();
  else r = __popc(__ballot_sync(0x55555555u, v > 100));
  out[160 + t] = r;
  out[192 + t] = __any_sync(~0u, v == 12345u) * 2 + __all_sync(~0u, v < 1000u);
}

extern "C" __global__ void integers(const u32* x, const u32* y, u32* out, int n) {
  int i = threadIdx.x;
  if (i >= n) return;
  u32 a = x[i], b = y[i];
  out[i] = __byte_perm(a, b, 0x6420);
  out[n + i] = __dp4a((int)a, (int)b, 5);
  out[2 * n + i] = __funnelshift_l(a, b, b & 31);
  out[3 * n + i] = __brev(a) ^ __mulhi((int)a, (int)b);
  out[4 * n + i] = __usad(a, b, 1u) + __sad((int)a, (int)b, 2u);
  u64 p = (u64)a * b + ((u64)b << 20);
  out[5 * n + i] = (u32)(p / (a | 1)) ^ (u32)(p % (b | 1));
  out[6 * n + i] = __vadd4(a, b) ^ __vmaxs2(a, b);
  out[7 * n + i] = (u32)__float2int_rn(__uint2float_rz(a) * 1e-3f) + (unsigned short)(a + b) + (signed char)b;
  out[8 * n + i] = (a & b) | (~a ^ (b << 3));
}
