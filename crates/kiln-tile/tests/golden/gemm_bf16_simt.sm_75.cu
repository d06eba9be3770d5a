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
    // Rounds to nearest even by hand: this architecture has no conversion.
    const unsigned bits = __float_as_uint(x);
    const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return bf16{(unsigned short)(x == x ? rounded : 0x7fffu)};
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
    float acc[4][1][4];
    const int acc_row = threadIdx.x / 16;
    const int acc_col = threadIdx.x % 16 * 4;
    __shared__ __align__(16) bf16 a_tile[2176];
    __shared__ __align__(16) bf16 b_tile[2048];
    const int block = blockIdx.x;
    const int z = block / ((m + 63) / 64 * ((n + 63) / 64));
    const int tile_m = block / ((n + 63) / 64) % ((m + 63) / 64);
    const int tile_n = block % ((n + 63) / 64);
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 1; ++i_2) {
            #pragma unroll
            for (int i_3 = 0; i_3 < 4; ++i_3) {
                acc[i][i_2][i_3] = 0.0f;
            }
        }
    }
    const int step_count = (k + 15) / 16;
    bf16 a_tile_next[4];
    bf16 b_tile_next[4];
    const auto fetch = [&](int step) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int i = element / 16;
            const int kk = element % 16;
            if (tile_m * 64 + i < m && step * 16 + kk < k) {
                a_tile_next[turn] = a[(long long)z * (k * m) + (tile_m * 64 + i) * k + step * 16 + kk];
            } else {
                a_tile_next[turn] = bf16{0x0};
            }
        }
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int kk = element / 64;
            const int j = element % 64;
            if (tile_n * 64 + j < n && step * 16 + kk < k) {
                b_tile_next[turn] = b[(long long)z * (n * k) + (step * 16 + kk) * n + tile_n * 64 + j];
            } else {
                b_tile_next[turn] = bf16{0x0};
            }
        }
    };
    const auto put = [&](int step) __attribute__((always_inline)) {
        bf16* const a_tile_slot = a_tile + step % 2 * 1088;
        bf16* const b_tile_slot = b_tile + step % 2 * 1024;
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int i = element / 16;
            const int kk = element % 16;
            a_tile_slot[i * 17 + kk] = a_tile_next[turn];
        }
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int kk = element / 64;
            const int j = element % 64;
            b_tile_slot[kk * 64 + j] = b_tile_next[turn];
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
        bf16* const a_tile_slot = a_tile + step % 2 * 1088;
        bf16* const b_tile_slot = b_tile + step % 2 * 1024;
        for (int kk = 0; kk < 16; ++kk) {
            float a_frag[4];
            float b_frag[1][4];
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                a_frag[mi] = to_f32(a_tile_slot[(acc_row + mi * 16) * 17 + kk]);
            }
            #pragma unroll
            for (int ni = 0; ni < 1; ++ni) {
                const Vec<bf16, 4> b_run = load<4>(b_tile_slot + kk * 64 + acc_col + ni * 64);
                #pragma unroll
                for (int r = 0; r < 4; ++r) {
                    b_frag[ni][r] = to_f32(b_run[r]);
                }
            }
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                #pragma unroll
                for (int ni = 0; ni < 1; ++ni) {
                    #pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        acc[mi][ni][r] += a_frag[mi] * b_frag[ni][r];
                    }
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
        for (int ni = 0; ni < 1; ++ni) {
            const int i = acc_row + mi * 16;
            const int j = acc_col + ni * 64;
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                const int row = tile_m * 64 + i;
                const int col = tile_n * 64 + j + v;
                if (row < m && col < n) {
                    c[(long long)z * (n * m) + row * n + col] = to_bf16(acc[mi][ni][v] + bias[col]);
                }
            }
        }
    }
}
