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
__device__ __forceinline__ float to_f32(bf16 x) {
    float y;
    asm("mov.b32 %0, {%1, %2};" : "=f"(y) : "h"((unsigned short)0), "h"(x.bits));
    return y;
}
__device__ __forceinline__ bf16 to_bf16(float x) {
    // Rounds to nearest even by hand: this architecture has no conversion.
    const unsigned bits = __float_as_uint(x);
    const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return bf16{(unsigned short)(x == x ? rounded : 0x7fffu)};
}

// c = a * b + bias
extern "C" __global__ void __launch_bounds__(256, 1) gemm_(
    int batch_,
    int m_,
    int n_,
    int k_,
    const bf16* __restrict__ a_,
    const bf16* __restrict__ b_,
    const float* __restrict__ bias_,
    bf16* __restrict__ c_) {
    float acc_[4][1][4];
    const int acc_row_ = threadIdx.x / 16;
    const int acc_col_ = threadIdx.x % 16 * 4;
    __shared__ __align__(16) bf16 a_tile_[2176];
    __shared__ __align__(16) bf16 b_tile_[2048];
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
    bf16 a_tile_next_[4];
    bf16 b_tile_next_[4];
    const auto fetch_ = [&](int step_) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int i_ = element_ / 16;
            const int kk_ = element_ % 16;
            if (tile_m_ * 64 + i_ < m_ && step_ * 16 + kk_ < k_) {
                a_tile_next_[turn_] = a_[(long long)z_ * (k_ * m_) + (tile_m_ * 64 + i_) * k_ + step_ * 16 + kk_];
            } else {
                a_tile_next_[turn_] = bf16{0x0};
            }
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int kk_ = element_ / 64;
            const int j_ = element_ % 64;
            if (tile_n_ * 64 + j_ < n_ && step_ * 16 + kk_ < k_) {
                b_tile_next_[turn_] = b_[(long long)z_ * (n_ * k_) + (step_ * 16 + kk_) * n_ + tile_n_ * 64 + j_];
            } else {
                b_tile_next_[turn_] = bf16{0x0};
            }
        }
    };
    const auto put_ = [&](int step_) __attribute__((always_inline)) {
        bf16* const a_tile_slot_ = a_tile_ + step_ % 2 * 1088;
        bf16* const b_tile_slot_ = b_tile_ + step_ % 2 * 1024;
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int i_ = element_ / 16;
            const int kk_ = element_ % 16;
            a_tile_slot_[i_ * 17 + kk_] = a_tile_next_[turn_];
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int kk_ = element_ / 64;
            const int j_ = element_ % 64;
            b_tile_slot_[kk_ * 64 + j_] = b_tile_next_[turn_];
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
        bf16* const a_tile_slot_ = a_tile_ + step_ % 2 * 1088;
        bf16* const b_tile_slot_ = b_tile_ + step_ % 2 * 1024;
        for (int kk_ = 0; kk_ < 16; ++kk_) {
            float a_frag_[4];
            float b_frag_[1][4];
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                a_frag_[mi_] = to_f32(a_tile_slot_[(acc_row_ + mi_ * 16) * 17 + kk_]);
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 1; ++ni_) {
                const Vec<bf16, 4> b_run_ = load<4>(b_tile_slot_ + kk_ * 64 + acc_col_ + ni_ * 64);
                #pragma unroll
                for (int r_ = 0; r_ < 4; ++r_) {
                    b_frag_[ni_][r_] = to_f32(b_run_[r_]);
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
            #pragma unroll
            for (int v_ = 0; v_ < 4; ++v_) {
                const int row_ = tile_m_ * 64 + i_;
                const int col_ = tile_n_ * 64 + j_ + v_;
                if (row_ < m_ && col_ < n_) {
                    c_[(long long)z_ * (n_ * m_) + row_ * n_ + col_] = to_bf16(acc_[mi_][ni_][v_] + bias_[col_]);
                }
            }
        }
    }
}
