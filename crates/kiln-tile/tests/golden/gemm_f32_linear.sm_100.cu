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
extern "C" __global__ void __launch_bounds__(256, 1) gemm(
    int batch,
    int m,
    int n,
    int k,
    const float* __restrict__ a,
    const float* __restrict__ b,
    const float* __restrict__ bias,
    float* __restrict__ c) {
    float acc[4][4][1];
    const int acc_row = threadIdx.x / 16;
    const int acc_col = threadIdx.x % 16;
    __shared__ __align__(16) float a_tile[3264];
    __shared__ __align__(16) float b_tile[3264];
    const int block = blockIdx.x;
    const int z = block / ((m + 63) / 64 * ((n + 63) / 64));
    const int tile_m = block / ((n + 63) / 64) % ((m + 63) / 64);
    const int tile_n = block % ((n + 63) / 64);
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 4; ++i_2) {
            #pragma unroll
            for (int i_3 = 0; i_3 < 1; ++i_3) {
                acc[i][i_2][i_3] = 0.0f;
            }
        }
    }
    const int step_count = (k + 15) / 16;
    const auto fetch = [&](int step) __attribute__((always_inline)) {
        float* const a_tile_slot = a_tile + step % 3 * 1088;
        float* const b_tile_slot = b_tile + step % 3 * 1088;
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int i = element / 16;
            const int kk = element % 16;
            copy_async<4>(
                a_tile_slot + i * 17 + kk,
                a + (long long)z * (k * m) + (tile_m * 64 + i) * k + step * 16 + kk,
                tile_m * 64 + i < m && step * 16 + kk < k);
        }
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const int element = turn * 256 + threadIdx.x;
            const int kk = element / 16;
            const int j = element % 16;
            copy_async<4>(
                b_tile_slot + kk * 17 + j,
                b + (long long)z * (k * n) + (tile_n * 64 + kk) * k + step * 16 + j,
                tile_n * 64 + kk < n && step * 16 + j < k);
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
        float* const a_tile_slot = a_tile + step % 3 * 1088;
        float* const b_tile_slot = b_tile + step % 3 * 1088;
        for (int kk = 0; kk < 16; ++kk) {
            float a_frag[4];
            float b_frag[4][1];
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                a_frag[mi] = a_tile_slot[(acc_row + mi * 16) * 17 + kk];
            }
            #pragma unroll
            for (int ni = 0; ni < 4; ++ni) {
                b_frag[ni][0] = b_tile_slot[(acc_col + ni * 16) * 17 + kk];
            }
            #pragma unroll
            for (int mi = 0; mi < 4; ++mi) {
                #pragma unroll
                for (int ni = 0; ni < 4; ++ni) {
                    #pragma unroll
                    for (int r = 0; r < 1; ++r) {
                        acc[mi][ni][r] += a_frag[mi] * b_frag[ni][r];
                    }
                }
            }
        }
    }
    #pragma unroll
    for (int mi = 0; mi < 4; ++mi) {
        #pragma unroll
        for (int ni = 0; ni < 4; ++ni) {
            const int i = acc_row + mi * 16;
            const int j = acc_col + ni * 16;
            const int row = tile_m * 64 + i;
            const int col = tile_n * 64 + j;
            if (row < m && col < n) {
                c[(long long)z * (n * m) + row * n + col] = acc[mi][ni][0] + bias[col];
            }
        }
    }
}
