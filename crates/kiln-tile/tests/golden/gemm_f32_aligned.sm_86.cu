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
extern "C" __global__ void __launch_bounds__(256, 1) gemm_(
    int batch_,
    int m_,
    int n_,
    int k_,
    const float* __restrict__ a_,
    const float* __restrict__ b_,
    const float* __restrict__ bias_,
    float* __restrict__ c_) {
    float acc_[4][1][4];
    const int acc_row_ = threadIdx.x / 16;
    const int acc_col_ = threadIdx.x % 16 * 4;
    __shared__ __align__(16) float a_tile_[2176];
    __shared__ __align__(16) float b_tile_[2048];
    const int block_ = blockIdx.x;
    const int z_ = block_ / ((m_ + 63) / 64 * ((n_ + 63) / 64));
    const int tile_m_ = block_ / ((n_ + 63) / 64) % ((m_ + 63) / 64);
    const int tile_n_ = block_ % ((n_ + 63) / 64);
    #pragma unroll
    for (int i_ = 0; i_ < 4; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 1; ++i_2_) {
            #pragma unroll
            for (int i_3_ = 0; i_3_ < 4; ++i_3_) {
                acc_[i_][i_2_][i_3_] = 0.0f;
            }
        }
    }
    const int step_count_ = (k_ + 15) / 16;
    float a_tile_next_[4];
    float b_tile_next_[4];
    const auto fetch_ = [&](int step_) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn_ = 0; turn_ < 1; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 4;
            const int i_ = element_ / 16;
            const int kk_ = element_ % 16;
            if (tile_m_ * 64 + i_ < m_ && step_ * 16 + kk_ < k_) {
                const Vec<float, 4> a_v_ = load<4>(a_ + (long long)z_ * (k_ * m_) + (tile_m_ * 64 + i_) * k_ + step_ * 16 + kk_);
                #pragma unroll
                for (int v_ = 0; v_ < 4; ++v_) {
                    a_tile_next_[turn_ * 4 + v_] = a_v_[v_];
                }
            } else {
                #pragma unroll
                for (int v_ = 0; v_ < 4; ++v_) {
                    a_tile_next_[turn_ * 4 + v_] = 0.0f;
                }
            }
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 1; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 4;
            const int kk_ = element_ / 64;
            const int j_ = element_ % 64;
            if (tile_n_ * 64 + j_ < n_ && step_ * 16 + kk_ < k_) {
                const Vec<float, 4> b_v_ = load<4>(b_ + (long long)z_ * (n_ * k_) + (step_ * 16 + kk_) * n_ + tile_n_ * 64 + j_);
                #pragma unroll
                for (int v_ = 0; v_ < 4; ++v_) {
                    b_tile_next_[turn_ * 4 + v_] = b_v_[v_];
                }
            } else {
                #pragma unroll
                for (int v_ = 0; v_ < 4; ++v_) {
                    b_tile_next_[turn_ * 4 + v_] = 0.0f;
                }
            }
        }
    };
    const auto put_ = [&](int step_) __attribute__((always_inline)) {
        float* const a_tile_slot_ = a_tile_ + step_ % 2 * 1088;
        float* const b_tile_slot_ = b_tile_ + step_ % 2 * 1024;
        #pragma unroll
        for (int turn_ = 0; turn_ < 1; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 4;
            const int i_ = element_ / 16;
            const int kk_ = element_ % 16;
            #pragma unroll
            for (int v_ = 0; v_ < 4; ++v_) {
                a_tile_slot_[i_ * 17 + kk_ + v_] = a_tile_next_[turn_ * 4 + v_];
            }
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 1; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 4;
            const int kk_ = element_ / 64;
            const int j_ = element_ % 64;
            Vec<float, 4> b_tile_v_;
            #pragma unroll
            for (int v_ = 0; v_ < 4; ++v_) {
                b_tile_v_[v_] = b_tile_next_[turn_ * 4 + v_];
            }
            store(b_tile_slot_ + kk_ * 64 + j_, b_tile_v_);
        }
    };
    if (0 < step_count_) {
        fetch_(0);
        put_(0);
    }
    __syncthreads();
    for (int step_ = 0; step_ < step_count_; ++step_) {
        if (step_ + 1 < step_count_) {
            fetch_(step_ + 1);
        }
        float* const a_tile_slot_ = a_tile_ + step_ % 2 * 1088;
        float* const b_tile_slot_ = b_tile_ + step_ % 2 * 1024;
        for (int kk_ = 0; kk_ < 16; ++kk_) {
            float a_frag_[4];
            float b_frag_[1][4];
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                a_frag_[mi_] = a_tile_slot_[(acc_row_ + mi_ * 16) * 17 + kk_];
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 1; ++ni_) {
                const Vec<float, 4> b_run_ = load<4>(b_tile_slot_ + kk_ * 64 + acc_col_ + ni_ * 64);
                #pragma unroll
                for (int r_ = 0; r_ < 4; ++r_) {
                    b_frag_[ni_][r_] = b_run_[r_];
                }
            }
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                #pragma unroll
                for (int ni_ = 0; ni_ < 1; ++ni_) {
                    #pragma unroll
                    for (int r_ = 0; r_ < 4; ++r_) {
                        acc_[mi_][ni_][r_] += a_frag_[mi_] * b_frag_[ni_][r_];
                    }
                }
            }
        }
        if (step_ + 1 < step_count_) {
            put_(step_ + 1);
        }
        __syncthreads();
    }
    #pragma unroll
    for (int mi_ = 0; mi_ < 4; ++mi_) {
        #pragma unroll
        for (int ni_ = 0; ni_ < 1; ++ni_) {
            const int i_ = acc_row_ + mi_ * 16;
            const int j_ = acc_col_ + ni_ * 64;
            const int row_ = tile_m_ * 64 + i_;
            if (row_ < m_ && tile_n_ * 64 + j_ < n_) {
                const Vec<float, 4> bias_v_ = load<4>(bias_ + tile_n_ * 64 + j_);
                Vec<float, 4> c_v_;
                #pragma unroll
                for (int v_ = 0; v_ < 4; ++v_) {
                    c_v_[v_] = acc_[mi_][ni_][v_] + bias_v_[v_];
                }
                store(c_ + (long long)z_ * (n_ * m_) + row_ * n_ + tile_n_ * 64 + j_, c_v_);
            }
        }
    }
}
