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

// Starts a copy to shared memory; writes zeros if the source does not exist.
template <int bytes> __device__ __forceinline__ void copy_async(void* to, const void* from, bool exists) {
    const unsigned address = __cvta_generic_to_shared(to);
    if (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(exists ? 16 : 0) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(bytes), "r"(exists ? bytes : 0) : "memory");
    }
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of the committed groups are unfinished.
template <int pending> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// c = a * b + bias
extern "C" __global__ void __launch_bounds__(64, 1) gemm(
    int batch,
    int m,
    int n,
    int k,
    const double* __restrict__ a,
    const double* __restrict__ b,
    const float* __restrict__ bias,
    double* __restrict__ c) {
    double acc[4][2][2];
    const int acc_row = threadIdx.x / 8;
    const int acc_col = threadIdx.x % 8 * 2;
    __shared__ __align__(16) double a_tile[1632];
    __shared__ __align__(16) double b_tile[1536];
    const int block = blockIdx.x;
    const int z = block / ((m + 31) / 32 * ((n + 31) / 32));
    const int tile_m = block / ((n + 31) / 32) % ((m + 31) / 32);
    const int tile_n = block % ((n + 31) / 32);
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 2; ++i_2) {
            #pragma unroll
            for (int i_3 = 0; i_3 < 2; ++i_3) {
                acc[i][i_2][i_3] = 0.0;
            }
        }
    }
    const int step_count = (k + 15) / 16;
    const auto fetch = [&](int step) __attribute__((always_inline)) {
        double* const a_tile_slot = a_tile + step % 3 * 544;
        double* const b_tile_slot = b_tile + step % 3 * 512;
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 64 + threadIdx.x;
            const int i = element / 16;
            const int kk = element % 16;
            copy_async<8>(
                a_tile_slot + i * 17 + kk,
                a + (long long)z * (k * m) + (tile_m * 32 + i) * k + step * 16 + kk,
                tile_m * 32 + i < m && step * 16 + kk < k);
        }
        #pragma unroll
        for (int turn = 0; turn < 8; ++turn) {
            const int element = turn * 64 + threadIdx.x;
            const int kk = element / 32;
            const int j = element % 32;
            copy_async<8>(
                b_tile_slot + kk * 32 + j,
                b + (long long)z * (n * k) + (step * 16 + kk) * n + tile_n * 32 + j,
                tile_n * 32 + j < n && step * 16 + kk < k);
        }
    };
    #pragma unroll
    for (int ahead = 0; ahead < 2; ++ahead) {
        if (ahead < step_count) {
            fetch(ahead);
        }
        copy_async_commit();
    }
    for (int step = 0; step < step_count; ++step) {
        copy_async_wait<1>();
        __syncthreads();
        if (step + 2 < step_count) {
            fetch(step + 2);
        }
        copy_async_commit();
        double* const a_tile_slot = a_tile + step % 3 * 544;
        double* const b_tile_slot = b_tile + step % 3 * 512;
        for (int kk = 0; kk < 16; ++kk) {
            double a_frag[4];
            double b_frag[2][2];
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                a_frag[mi] = a_tile_slot[(acc_row + mi * 8) * 17 + kk];
            }
            #pragma unroll
            for (int ni = 0; ni < 2; ++ni) {
                const Vec<double, 2> b_run = load<2>(b_tile_slot + kk * 32 + acc_col + ni * 16);
                #pragma unroll
                for (int r = 0; r < 2; ++r) {
                    b_frag[ni][r] = b_run[r];
                }
            }
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                #pragma unroll
                for (int ni = 0; ni < 2; ++ni) {
                    #pragma unroll
                    for (int r = 0; r < 2; ++r) {
                        acc[mi][ni][r] += a_frag[mi] * b_frag[ni][r];
                    }
                }
            }
        }
    }
    #pragma unroll
    for (int mi = 0; mi < 4; ++mi) {
        #pragma unroll
        for (int ni = 0; ni < 2; ++ni) {
            const int i = acc_row + mi * 8;
            const int j = acc_col + ni * 16;
            #pragma unroll
            for (int v = 0; v < 2; ++v) {
                const int row = tile_m * 32 + i;
                const int col = tile_n * 32 + j + v;
                if (row < m && col < n) {
                    c[(long long)z * (n * m) + row * n + col] = acc[mi][ni][v] + (double)bias[col];
                }
            }
        }
    }
}
