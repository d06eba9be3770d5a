struct f16 { unsigned short bits; };
__device__ __forceinline__ float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Position of an element of a tile of 16-bit elements whose 16-byte chunks are permuted within each row: eight rows of one
// column of chunks lie in different banks.
template <int cols> __device__ __forceinline__ int swizzled(int row, int col) {
    constexpr int chunks = cols / 8;
    constexpr int group = (chunks & -chunks) < 8 ? (chunks & -chunks) : 8;
    const int chunk = col / 8 ^ row / (8 / group) % group;
    return row * cols + chunk * 8 + col % 8;
}

// Four 8x8 matrices of 16-bit elements from shared memory; each lane gives the address of one row.
__device__ __forceinline__ void load_matrix(unsigned (&to)[4], const void* row) {
    const unsigned address = __cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void load_matrix_transposed(unsigned (&to)[4], const void* row) {
    const unsigned address = __cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}

// c[16, 8] += a[16, 16] * b[16, 8] on the tensor cores, spread over a warp.
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a * b + bias
extern "C" __global__ void __launch_bounds__(256, 1) gemm(
    int batch,
    int m,
    int n,
    int k,
    const f16* __restrict__ a,
    const f16* __restrict__ b,
    const float* __restrict__ bias,
    f16* __restrict__ c) {
    float acc[2][2][4];
    const int acc_row = threadIdx.x / 32 / 4 * 32;
    const int acc_col = threadIdx.x / 32 % 4 * 16;
    __shared__ __align__(16) f16 a_tile[4096];
    __shared__ __align__(16) f16 b_tile[4096];
    const int block = blockIdx.x;
    const int z = block / ((m + 63) / 64 * ((n + 63) / 64));
    const int tile_m = block / ((n + 63) / 64) % ((m + 63) / 64);
    const int tile_n = block % ((n + 63) / 64);
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 2; ++i_2) {
            #pragma unroll
            for (int i_3 = 0; i_3 < 4; ++i_3) {
                acc[i][i_2][i_3] = 0.0f;
            }
        }
    }
    const int step_count = (k + 31) / 32;
    f16 a_tile_next[8];
    f16 b_tile_next[8];
    const auto fetch = [&](int step) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int i = element / 32;
            const int kk = element % 32;
            if (tile_m * 64 + i < m && step * 32 + kk < k) {
                a_tile_next[turn] = a[(long long)z * (k * m) + (tile_m * 64 + i) * k + step * 32 + kk];
            } else {
                a_tile_next[turn] = f16{0x0};
            }
        }
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int kk = element / 64;
            const int j = element % 64;
            if (tile_n * 64 + j < n && step * 32 + kk < k) {
                b_tile_next[turn] = b[(long long)z * (n * k) + (step * 32 + kk) * n + tile_n * 64 + j];
            } else {
                b_tile_next[turn] = f16{0x0};
            }
        }
    };
    const auto put = [&](int step) __attribute__((always_inline)) {
        f16* const a_tile_slot = a_tile + step % 2 * 2048;
        f16* const b_tile_slot = b_tile + step % 2 * 2048;
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int i = element / 32;
            const int kk = element % 32;
            a_tile_slot[swizzled<32>(i, kk)] = a_tile_next[turn];
        }
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int kk = element / 64;
            const int j = element % 64;
            b_tile_slot[swizzled<64>(kk, j)] = b_tile_next[turn];
        }
    };
    if (0 < step_count) {
        fetch(0);
        put(0);
    }
    __syncthreads();
    for (int step = 0; step < step_count; ++step) {
        if (step + 1 < step_count) {
            fetch(step + 1);
        }
        f16* const a_tile_slot = a_tile + step % 2 * 2048;
        f16* const b_tile_slot = b_tile + step % 2 * 2048;
        #pragma unroll
        for (int kk = 0; kk < 32; kk += 16) {
            unsigned a_frag[2][4];
            unsigned b_frag[1][4];
            #pragma unroll
            for (int mi = 0; mi < 2; ++mi) {
                load_matrix(
                    a_frag[mi],
                    a_tile_slot + swizzled<32>(acc_row + mi * 16 + threadIdx.x % 16, kk + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int ni = 0; ni < 1; ++ni) {
                load_matrix_transposed(
                    b_frag[ni],
                    b_tile_slot + swizzled<64>(kk + threadIdx.x % 16, acc_col + ni * 16 + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int mi = 0; mi < 2; ++mi) {
                #pragma unroll
                for (int ni = 0; ni < 2; ++ni) {
                    mma_f16(acc[mi][ni], a_frag[mi], b_frag[ni / 2][ni % 2 * 2], b_frag[ni / 2][ni % 2 * 2 + 1]);
                }
            }
        }
        if (step + 1 < step_count) {
            put(step + 1);
        }
        __syncthreads();
    }
    #pragma unroll
    for (int mi = 0; mi < 2; ++mi) {
        #pragma unroll
        for (int ni = 0; ni < 2; ++ni) {
            #pragma unroll
            for (int hi = 0; hi < 2; ++hi) {
                const int i = acc_row + mi * 16 + hi * 8 + threadIdx.x % 32 / 4;
                const int j = acc_col + ni * 8 + threadIdx.x % 4 * 2;
                #pragma unroll
                for (int v = 0; v < 2; ++v) {
                    const int row = tile_m * 64 + i;
                    const int col = tile_n * 64 + j + v;
                    if (row < m && col < n) {
                        c[(long long)z * (n * m) + row * n + col] = to_f16(acc[mi][ni][hi * 2 + v] + bias[col]);
                    }
                }
            }
        }
    }
}
