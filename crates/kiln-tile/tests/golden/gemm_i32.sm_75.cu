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

// c = a * b + bias
extern "C" __global__ void __launch_bounds__(128, 1) gemm(
    int batch,
    int m,
    int n,
    int k,
    const int* __restrict__ a,
    const int* __restrict__ b,
    const float* __restrict__ bias,
    int* __restrict__ c) {
    int acc[4][1][4];
    const int acc_row = threadIdx.x / 16;
    const int acc_col = threadIdx.x % 16 * 4;
    __shared__ __align__(16) int a_tile[1088];
    __shared__ __align__(16) int b_tile[2048];
    const int block = blockIdx.x;
    const int z = block / ((m + 31) / 32 * ((n + 63) / 64));
    const int tile_m = block / ((n + 63) / 64) % ((m + 31) / 32);
    const int tile_n = block % ((n + 63) / 64);
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 1; ++i_2) {
            #pragma unroll
            for (int i_3 = 0; i_3 < 4; ++i_3) {
                acc[i][i_2][i_3] = 0;
            }
        }
    }
    const int step_count = (k + 15) / 16;
    int a_tile_next[4];
    int b_tile_next[8];
    const auto fetch = [&](int step) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 128 + threadIdx.x;
            const int i = element / 16;
            const int kk = element % 16;
            if (tile_m * 32 + i < m && step * 16 + kk < k) {
                a_tile_next[turn] = a[(long long)z * (k * m) + (tile_m * 32 + i) * k + step * 16 + kk];
            } else {
                a_tile_next[turn] = 0;
            }
        }
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 128 + threadIdx.x;
            const int kk = element / 64;
            const int j = element % 64;
            if (tile_n * 64 + j < n && step * 16 + kk < k) {
                b_tile_next[turn] = b[(long long)z * (n * k) + (step * 16 + kk) * n + tile_n * 64 + j];
            } else {
                b_tile_next[turn] = 0;
            }
        }
    };
    const auto put = [&](int step) __attribute__((always_inline)) {
        int* const a_tile_slot = a_tile + step % 2 * 544;
        int* const b_tile_slot = b_tile + step % 2 * 1024;
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 128 + threadIdx.x;
            const int i = element / 16;
            const int kk = element % 16;
            a_tile_slot[i * 17 + kk] = a_tile_next[turn];
        }
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 128 + threadIdx.x;
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
        int* const a_tile_slot = a_tile + step % 2 * 544;
        int* const b_tile_slot = b_tile + step % 2 * 1024;
        for (int kk = 0; kk < 16; ++kk) {
            int a_frag[4];
            int b_frag[1][4];
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                a_frag[mi] = a_tile_slot[(acc_row + mi * 8) * 17 + kk];
            }
            #pragma unroll
            for (int ni = 0; ni < 1; ++ni) {
                const Vec<int, 4> b_run = load<4>(b_tile_slot + kk * 64 + acc_col + ni * 64);
                #pragma unroll
                for (int r = 0; r < 4; ++r) {
                    b_frag[ni][r] = b_run[r];
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
            const int i = acc_row + mi * 8;
            const int j = acc_col + ni * 64;
            #pragma unroll
            for (int v = 0; v < 4; ++v) {
                const int row = tile_m * 32 + i;
                const int col = tile_n * 64 + j + v;
                if (row < m && col < n) {
                    c[(long long)z * (n * m) + row * n + col] = acc[mi][ni][v] + (int)bias[col];
                }
            }
        }
    }
}
