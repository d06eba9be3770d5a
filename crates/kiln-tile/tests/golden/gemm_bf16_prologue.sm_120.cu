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
extern "C" __global__ void __launch_bounds__(256, 1) gemm_(
    int batch_,
    int m_,
    int n_,
    int k_,
    const bf16* __restrict__ a_,
    const bf16* __restrict__ b_,
    const float* __restrict__ bias_,
    bf16* __restrict__ c_) {
    float acc_[4][4][4];
    const int acc_row_ = threadIdx.x / 32 / 4 * 64;
    const int acc_col_ = threadIdx.x / 32 % 4 * 32;
    extern __shared__ __align__(16) unsigned char shared_memory_[];
    bf16* const a_tile_ = reinterpret_cast<bf16*>(shared_memory_);
    bf16* const b_tile_ = reinterpret_cast<bf16*>(shared_memory_ + 32768);
    const int block_ = blockIdx.x;
    const int z_ = block_ / ((m_ + 127) / 128 * ((n_ + 127) / 128));
    const int tile_m_ = block_ / ((n_ + 127) / 128) % ((m_ + 127) / 128);
    const int tile_n_ = block_ % ((n_ + 127) / 128);
    #pragma unroll
    for (int i_ = 0; i_ < 4; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 4; ++i_2_) {
            #pragma unroll
            for (int i_3_ = 0; i_3_ < 4; ++i_3_) {
                acc_[i_][i_2_][i_3_] = 0.0f;
            }
        }
    }
    const int step_count_ = (k_ + 63) / 64;
    bf16 a_tile_next_[32];
    bf16 b_tile_next_[32];
    const auto fetch_ = [&](int step_) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 8;
            const int i_ = element_ / 128;
            const int kk_ = element_ % 128;
            if (tile_m_ * 128 + kk_ < m_ && step_ * 64 + i_ < k_) {
                const Vec<bf16, 8> a_v_ = load<8>(a_ + (long long)z_ * (m_ * k_) + (step_ * 64 + i_) * m_ + tile_m_ * 128 + kk_);
                #pragma unroll
                for (int v_ = 0; v_ < 8; ++v_) {
                    const float value_ = to_f32(a_v_[v_]);
                    a_tile_next_[turn_ * 8 + v_] = to_bf16(max_of(value_, 0.0f));
                }
            } else {
                #pragma unroll
                for (int v_ = 0; v_ < 8; ++v_) {
                    a_tile_next_[turn_ * 8 + v_] = bf16{0x0};
                }
            }
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 8;
            const int kk_ = element_ / 128;
            const int j_ = element_ % 128;
            if (tile_n_ * 128 + j_ < n_ && step_ * 64 + kk_ < k_) {
                const Vec<bf16, 8> b_v_ = load<8>(b_ + (long long)z_ * (n_ * k_) + (step_ * 64 + kk_) * n_ + tile_n_ * 128 + j_);
                #pragma unroll
                for (int v_ = 0; v_ < 8; ++v_) {
                    b_tile_next_[turn_ * 8 + v_] = b_v_[v_];
                }
            } else {
                #pragma unroll
                for (int v_ = 0; v_ < 8; ++v_) {
                    b_tile_next_[turn_ * 8 + v_] = bf16{0x0};
                }
            }
        }
    };
    const auto put_ = [&](int step_) __attribute__((always_inline)) {
        bf16* const a_tile_slot_ = a_tile_ + step_ % 2 * 8192;
        bf16* const b_tile_slot_ = b_tile_ + step_ % 2 * 8192;
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 8;
            const int i_ = element_ / 128;
            const int kk_ = element_ % 128;
            Vec<bf16, 8> a_tile_v_;
            #pragma unroll
            for (int v_ = 0; v_ < 8; ++v_) {
                a_tile_v_[v_] = a_tile_next_[turn_ * 8 + v_];
            }
            store(a_tile_slot_ + swizzled<128>(i_, kk_), a_tile_v_);
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 4; ++turn_) {
            const int element_ = (turn_ * 256 + threadIdx.x) * 8;
            const int kk_ = element_ / 128;
            const int j_ = element_ % 128;
            Vec<bf16, 8> b_tile_v_;
            #pragma unroll
            for (int v_ = 0; v_ < 8; ++v_) {
                b_tile_v_[v_] = b_tile_next_[turn_ * 8 + v_];
            }
            store(b_tile_slot_ + swizzled<128>(kk_, j_), b_tile_v_);
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
        bf16* const a_tile_slot_ = a_tile_ + step_ % 2 * 8192;
        bf16* const b_tile_slot_ = b_tile_ + step_ % 2 * 8192;
        #pragma unroll
        for (int kk_ = 0; kk_ < 64; kk_ += 16) {
            unsigned a_frag_[4][4];
            unsigned b_frag_[2][4];
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                load_matrix_transposed(
                    a_frag_[mi_],
                    a_tile_slot_ + swizzled<128>(kk_ + threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8, acc_row_ + mi_ * 16 + threadIdx.x % 32 / 8 % 2 * 8));
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 2; ++ni_) {
                load_matrix_transposed(
                    b_frag_[ni_],
                    b_tile_slot_ + swizzled<128>(kk_ + threadIdx.x % 16, acc_col_ + ni_ * 16 + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int mi_ = 0; mi_ < 4; ++mi_) {
                #pragma unroll
                for (int ni_ = 0; ni_ < 4; ++ni_) {
                    mma_bf16(
                        acc_[mi_][ni_],
                        a_frag_[mi_],
                        b_frag_[ni_ / 2][ni_ % 2 * 2],
                        b_frag_[ni_ / 2][ni_ % 2 * 2 + 1]);
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
        for (int ni_ = 0; ni_ < 4; ++ni_) {
            #pragma unroll
            for (int hi_ = 0; hi_ < 2; ++hi_) {
                const int i_ = acc_row_ + mi_ * 16 + hi_ * 8 + threadIdx.x % 32 / 4;
                const int j_ = acc_col_ + ni_ * 8 + threadIdx.x % 4 * 2;
                const int row_ = tile_m_ * 128 + i_;
                if (row_ < m_ && tile_n_ * 128 + j_ < n_) {
                    const Vec<float, 2> bias_v_ = load<2>(bias_ + tile_n_ * 128 + j_);
                    Vec<bf16, 2> c_v_;
                    #pragma unroll
                    for (int v_ = 0; v_ < 2; ++v_) {
                        c_v_[v_] = to_bf16(acc_[mi_][ni_][hi_ * 2 + v_] + bias_v_[v_]);
                    }
                    store(c_ + (long long)z_ * (n_ * m_) + row_ * n_ + tile_n_ * 128 + j_, c_v_);
                }
            }
        }
    }
}
