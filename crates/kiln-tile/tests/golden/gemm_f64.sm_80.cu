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
extern "C" __global__ void __launch_bounds__(64, 1) gemm_(
    int batch_,
    int m_,
    int n_,
    int k_,
    const double* __restrict__ a_,
    const double* __restrict__ b_,
    const float* __restrict__ bias_,
    double* __restrict__ c_) {
    double acc_[4][2][2];
    const int acc_row_ = threadIdx.x / 8;
    const int acc_col_ = threadIdx.x % 8 * 2;
    __shared__ __align__(16) double a_tile_[1632];
    __shared__ __align__(16) double b_tile_[1536];
    const int block_ = blockIdx.x;
    const int z_ = block_ / ((m_ + 31) / 32 * ((n_ + 31) / 32));
    const int tile_m_ = block_ / ((n_ + 31) / 32) % ((m_ + 31) / 32);
    const int tile_n_ = block_ % ((n_ + 31) / 32);
    #pragma unroll
    for (int i_ = 0; i_ < 4; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 2; ++i_2_) {
            #pragma unroll
            for (int i_3_ = 0; i_3_ < 2; ++i_3_) {
                acc_[i_][i_2_][i_3_] = 0.0;
            }
        }
    }
    const int step_count_ = (k_ + 15) / 16;
    const auto fetch_ = [&](int step_) __attribute__((always_inline)) {
        double* const a_tile_slot_ = a_tile_ + step_ % 3 * 544;
        double* const b_tile_slot_ = b_tile_ + step_ % 3 * 512;
        #pragma unroll
        for (int turn_ = 0; turn_ < 8; ++turn_) {
            const int element_ = turn_ * 64 + threadIdx.x;
            const int i_ = element_ / 16;
            const int kk_ = element_ % 16;
            copy_async<8>(
                a_tile_slot_ + i_ * 17 + kk_,
                a_ + (long long)z_ * (k_ * m_) + (tile_m_ * 32 + i_) * k_ + step_ * 16 + kk_,
                tile_m_ * 32 + i_ < m_ && step_ * 16 + kk_ < k_);
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 8; ++turn_) {
            const int element_ = turn_ * 64 + threadIdx.x;
            const int kk_ = element_ / 32;
            const int j_ = element_ % 32;
            copy_async<8>(
                b_tile_slot_ + kk_ * 32 + j_,
                b_ + (long long)z_ * (n_ * k_) + (step_ * 16 + kk_) * n_ + tile_n_ * 32 + j_,
                tile_n_ * 32 + j_ < n_ && step_ * 16 + kk_ < k_);
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
        double* const a_tile_slot_ = a_tile_ + step_ % 3 * 544;
        double* const b_tile_slot_ = b_tile_ + step_ % 3 * 512;
        for (int kk_ = 0; kk_ < 16; ++kk_) {
            double a_frag_[4];
            double b_frag_[2][2];
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                a_frag_[mi_] = a_tile_slot_[(acc_row_ + mi_ * 8) * 17 + kk_];
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 2; ++ni_) {
                const Vec<double, 2> b_run_ = load<2>(b_tile_slot_ + kk_ * 32 + acc_col_ + ni_ * 16);
                #pragma unroll
                for (int r_ = 0; r_ < 2; ++r_) {
                    b_frag_[ni_][r_] = b_run_[r_];
                }
            }
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                #pragma unroll
                for (int ni_ = 0; ni_ < 2; ++ni_) {
                    #pragma unroll
                    for (int r_ = 0; r_ < 2; ++r_) {
                        acc_[mi_][ni_][r_] += a_frag_[mi_] * b_frag_[ni_][r_];
                    }
                }
            }
        }
    }
    #pragma unroll
    for (int mi_ = 0; mi_ < 4; ++mi_) {
        #pragma unroll
        for (int ni_ = 0; ni_ < 2; ++ni_) {
            const int i_ = acc_row_ + mi_ * 8;
            const int j_ = acc_col_ + ni_ * 16;
            #pragma unroll
            for (int v_ = 0; v_ < 2; ++v_) {
                const int row_ = tile_m_ * 32 + i_;
                const int col_ = tile_n_ * 32 + j_ + v_;
                if (row_ < m_ && col_ < n_) {
                    c_[(long long)z_ * (n_ * m_) + row_ * n_ + col_] = acc_[mi_][ni_][v_] + (double)bias_[col_];
                }
            }
        }
    }
}
