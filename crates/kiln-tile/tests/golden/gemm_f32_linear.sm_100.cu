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
extern "C" __global__ void __launch_bounds__(256, 1) gemm_(
    int batch_,
    int m_,
    int n_,
    int k_,
    const float* __restrict__ a_,
    const float* __restrict__ b_,
    const float* __restrict__ bias_,
    float* __restrict__ c_) {
    float acc_[4][4][1];
    const int acc_row_ = threadIdx.x / 16;
    const int acc_col_ = threadIdx.x % 16;
    __shared__ __align__(16) float a_tile_[3264];
    __shared__ __align__(16) float b_tile_[3264];
    const int block_ = blockIdx.x;
    const int z_ = block_ / ((m_ + 63) / 64 * ((n_ + 63) / 64));
    const int tile_m_ = block_ / ((n_ + 63) / 64) % ((m_ + 63) / 64);
    const int tile_n_ = block_ % ((n_ + 63) / 64);
    #pragma unroll
    for (int i_ = 0; i_ < 4; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 4; ++i_2_) {
            #pragma unroll
            for (int i_3_ = 0; i_3_ < 1; ++i_3_) {
                acc_[i_][i_2_][i_3_] = 0.0f;
            }
        }
    }
    const int step_count_ = (k_ + 15) / 16;
    const auto fetch_ = [&](int step_) __attribute__((always_inline)) {
        float* const a_tile_slot_ = a_tile_ + step_ % 3 * 1088;
        float* const b_tile_slot_ = b_tile_ + step_ % 3 * 1088;
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int i_ = element_ / 16;
            const int kk_ = element_ % 16;
            copy_async<4>(
                a_tile_slot_ + i_ * 17 + kk_,
                a_ + (long long)z_ * (k_ * m_) + (tile_m_ * 64 + i_) * k_ + step_ * 16 + kk_,
                tile_m_ * 64 + i_ < m_ && step_ * 16 + kk_ < k_);
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int kk_ = element_ / 16;
            const int j_ = element_ % 16;
            copy_async<4>(
                b_tile_slot_ + kk_ * 17 + j_,
                b_ + (long long)z_ * (k_ * n_) + (tile_n_ * 64 + kk_) * k_ + step_ * 16 + j_,
                tile_n_ * 64 + kk_ < n_ && step_ * 16 + j_ < k_);
        }
    };
    #pragma unroll
    for (int ahead_ = 0; ahead_ < 2; ++ahead_) {
        if (ahead_ < step_count_) {
            fetch_(ahead_);
        }
        copy_async_commit();
    }
    for (int step_ = 0; step_ < step_count_; ++step_) {
        copy_async_wait<1>();
        __syncthreads();
        if (step_ + 2 < step_count_) {
            fetch_(step_ + 2);
        }
        copy_async_commit();
        float* const a_tile_slot_ = a_tile_ + step_ % 3 * 1088;
        float* const b_tile_slot_ = b_tile_ + step_ % 3 * 1088;
        for (int kk_ = 0; kk_ < 16; ++kk_) {
            float a_frag_[4];
            float b_frag_[4][1];
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                a_frag_[mi_] = a_tile_slot_[(acc_row_ + mi_ * 16) * 17 + kk_];
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 4; ++ni_) {
                b_frag_[ni_][0] = b_tile_slot_[(acc_col_ + ni_ * 16) * 17 + kk_];
            }
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                #pragma unroll
                for (int ni_ = 0; ni_ < 4; ++ni_) {
                    #pragma unroll
                    for (int r_ = 0; r_ < 1; ++r_) {
                        acc_[mi_][ni_][r_] += a_frag_[mi_] * b_frag_[ni_][r_];
                    }
                }
            }
        }
    }
    #pragma unroll
    for (int mi_ = 0; mi_ < 4; ++mi_) {
        #pragma unroll
        for (int ni_ = 0; ni_ < 4; ++ni_) {
            const int i_ = acc_row_ + mi_ * 16;
            const int j_ = acc_col_ + ni_ * 16;
            const int row_ = tile_m_ * 64 + i_;
            const int col_ = tile_n_ * 64 + j_;
            if (row_ < m_ && col_ < n_) {
                c_[(long long)z_ * (n_ * m_) + row_ * n_ + col_] = acc_[mi_][ni_][0] + bias_[col_];
            }
        }
    }
}
