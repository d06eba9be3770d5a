// N neighbours in memory, moved by accesses of up to 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
    T at[N];
    __device__ T& operator[](int i) { return at[i]; }
    __device__ const T& operator[](int i) const { return at[i]; }
};
template <int N, class T> __device__ __forceinline__ Vec<T, N> load(const T* from) {
    return *reinterpret_cast<const Vec<T, N>*>(from);
}
template <class T, int N> __device__ __forceinline__ void store(T* to, const Vec<T, N>& value) {
    *reinterpret_cast<Vec<T, N>*>(to) = value;
}

struct bf16 { unsigned short bits; };
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// NaN if either is NaN.
template <class T> __device__ __forceinline__ T min_of(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T max_of(T a, T b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float min_of(float a, float b) {
    float least;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(a), "f"(b));
    return least;
}
__device__ __forceinline__ float max_of(float a, float b) {
    float greatest;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(greatest) : "f"(a), "f"(b));
    return greatest;
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
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a * b + bias
extern "C" __global__ void __launch_bounds__(256, 1) gemm(
    int batch,
    int m,
    int n,
    int k,
    const bf16* __restrict__ a,
    const bf16* __restrict__ b,
    const float* __restrict__ bias,
    bf16* __restrict__ c) {
    float acc[4][4][4];
    const int acc_row = threadIdx.x / 32 / 4 * 64;
    const int acc_col = threadIdx.x / 32 % 4 * 32;
    extern __shared__ __align__(16) unsigned char shared_memory[];
    bf16* const a_tile = reinterpret_cast<bf16*>(shared_memory);
    bf16* const b_tile = reinterpret_cast<bf16*>(shared_memory + 32768);
    const int block = blockIdx.x;
    const int z = block / ((m + 127) / 128 * ((n + 127) / 128));
    const int tile_m = block / ((n + 127) / 128) % ((m + 127) / 128);
    const int tile_n = block % ((n + 127) / 128);
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 4; ++i_2) {
            #pragma unroll
            for (int i_3 = 0; i_3 < 4; ++i_3) {
                acc[i][i_2][i_3] = 0.0f;
            }
        }
    }
    const int step_count = (k + 63) / 64;
    bf16 a_tile_next[32];
    bf16 b_tile_next[32];
    const auto fetch = [&](int step) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = (turn * 256 + threadIdx.x) * 8;
            const int i = element / 128;
            const int kk = element % 128;
            if (tile_m * 128 + kk < m && step * 64 + i < k) {
                const Vec<bf16, 8> a_v = load<8>(a + (long long)z * (m * k) + (step * 64 + i) * m + tile_m * 128 + kk);
                #pragma unroll
                for (int v = 0; v < 8; ++v) {
                    const float value = to_f32(a_v[v]);
                    a_tile_next[turn * 8 + v] = to_bf16(max_of(value, 0.0f));
                }
            } else {
                #pragma unroll
                for (int v = 0; v < 8; ++v) {
                    a_tile_next[turn * 8 + v] = bf16{0x0};
                }
            }
        }
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = (turn * 256 + threadIdx.x) * 8;
            const int kk = element / 128;
            const int j = element % 128;
            if (tile_n * 128 + j < n && step * 64 + kk < k) {
                const Vec<bf16, 8> b_v = load<8>(b + (long long)z * (n * k) + (step * 64 + kk) * n + tile_n * 128 + j);
                #pragma unroll
                for (int v = 0; v < 8; ++v) {
                    b_tile_next[turn * 8 + v] = b_v[v];
                }
            } else {
                #pragma unroll
                for (int v = 0; v < 8; ++v) {
                    b_tile_next[turn * 8 + v] = bf16{0x0};
                }
            }
        }
    };
    const auto put = [&](int step) __attribute__((always_inline)) {
        bf16* const a_tile_slot = a_tile + step % 2 * 8192;
        bf16* const b_tile_slot = b_tile + step % 2 * 8192;
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = (turn * 256 + threadIdx.x) * 8;
            const int i = element / 128;
            const int kk = element % 128;
            Vec<bf16, 8> a_tile_v;
            #pragma unroll
            for (int v = 0; v < 8; ++v) {
                a_tile_v[v] = a_tile_next[turn * 8 + v];
            }
            store(a_tile_slot + swizzled<128>(i, kk), a_tile_v);
        }
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = (turn * 256 + threadIdx.x) * 8;
            const int kk = element / 128;
            const int j = element % 128;
            Vec<bf16, 8> b_tile_v;
            #pragma unroll
            for (int v = 0; v < 8; ++v) {
                b_tile_v[v] = b_tile_next[turn * 8 + v];
            }
            store(b_tile_slot + swizzled<128>(kk, j), b_tile_v);
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
        bf16* const a_tile_slot = a_tile + step % 2 * 8192;
        bf16* const b_tile_slot = b_tile + step % 2 * 8192;
        #pragma unroll
        for (int kk = 0; kk < 64; kk += 16) {
            unsigned a_frag[4][4];
            unsigned b_frag[2][4];
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                load_matrix_transposed(
                    a_frag[mi],
                    a_tile_slot + swizzled<128>(kk + threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8, acc_row + mi * 16 + threadIdx.x % 32 / 8 % 2 * 8));
            }
            #pragma unroll
            for (int ni = 0; ni < 2; ++ni) {
                load_matrix_transposed(
                    b_frag[ni],
                    b_tile_slot + swizzled<128>(kk + threadIdx.x % 16, acc_col + ni * 16 + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                #pragma unroll
                for (int ni = 0; ni < 4; ++ni) {
                    mma_bf16(acc[mi][ni], a_frag[mi], b_frag[ni / 2][ni % 2 * 2], b_frag[ni / 2][ni % 2 * 2 + 1]);
                }
            }
        }
        if (step + 1 < step_count) {
            put(step + 1);
        }
        __syncthreads();
    }
    #pragma unroll
    for (int mi = 0; mi < 4; ++mi) {
        #pragma unroll
        for (int ni = 0; ni < 4; ++ni) {
            #pragma unroll
            for (int hi = 0; hi < 2; ++hi) {
                const int i = acc_row + mi * 16 + hi * 8 + threadIdx.x % 32 / 4;
                const int j = acc_col + ni * 8 + threadIdx.x % 4 * 2;
                const int row = tile_m * 128 + i;
                if (row < m && tile_n * 128 + j < n) {
                    const Vec<float, 2> bias_v = load<2>(bias + tile_n * 128 + j);
                    Vec<bf16, 2> c_v;
                    #pragma unroll
                    for (int v = 0; v < 2; ++v) {
                        c_v[v] = to_bf16(acc[mi][ni][hi * 2 + v] + bias_v[v]);
                    }
                    store(c + (long long)z * (n * m) + row * n + tile_n * 128 + j, c_v);
                }
            }
        }
    }
}
