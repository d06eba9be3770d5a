struct f16 { unsigned short bits; };
__device__ __forceinline__ float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
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
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a * b + bias
extern "C" __global__ void __launch_bounds__(256, 1) gemm_(
    int batch_,
    int m_,
    int n_,
    int k_,
    const f16* __restrict__ a_,
    const f16* __restrict__ b_,
    const float* __restrict__ bias_,
    f16* __restrict__ c_) {
    float acc_[2][2][4];
    const int acc_row_ = threadIdx.x / 32 / 4 * 32;
    const int acc_col_ = threadIdx.x / 32 % 4 * 16;
    __shared__ __align__(16) f16 a_tile_[4096];
    __shared__ __align__(16) f16 b_tile_[4096];
    const int block_ = blockIdx.x;
    const int z_ = block_ / ((m_ + 63) / 64 * ((n_ + 63) / 64));
    const int tile_m_ = block_ / ((n_ + 63) / 64) % ((m_ + 63) / 64);
    const int tile_n_ = block_ % ((n_ + 63) / 64);
    #pragma unroll
    for (int i_ = 0; i_ < 2; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 2; ++i_2_) {
            #pragma unroll
            for (int i_3_ = 0; i_3_ < 4; ++i_3_) {
                acc_[i_][i_2_][i_3_] = 0.0f;
            }
        }
    }
    const int step_count_ = (k_ + 31) / 32;
    f16 a_tile_next_[8];
    f16 b_tile_next_[8];
    const auto fetch_ = [&](int step_) __attribute__((always_inline)) {
        #pragma unroll
        for (int turn_ = 0; turn_ < 8; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int i_ = element_ / 32;
            const int kk_ = element_ % 32;
            if (tile_m_ * 64 + i_ < m_ && step_ * 32 + kk_ < k_) {
                a_tile_next_[turn_] = a_[(long long)z_ * (k_ * m_) + (tile_m_ * 64 + i_) * k_ + step_ * 32 + kk_];
            } else {
                a_tile_next_[turn_] = f16{0x0};
            }
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 8; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int kk_ = element_ / 64;
            const int j_ = element_ % 64;
            if (tile_n_ * 64 + j_ < n_ && step_ * 32 + kk_ < k_) {
                b_tile_next_[turn_] = b_[(long long)z_ * (n_ * k_) + (step_ * 32 + kk_) * n_ + tile_n_ * 64 + j_];
            } else {
                b_tile_next_[turn_] = f16{0x0};
            }
        }
    };
    const auto put_ = [&](int step_) __attribute__((always_inline)) {
        f16* const a_tile_slot_ = a_tile_ + step_ % 2 * 2048;
        f16* const b_tile_slot_ = b_tile_ + step_ % 2 * 2048;
        #pragma unroll
        for (int turn_ = 0; turn_ < 8; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int i_ = element_ / 32;
            const int kk_ = element_ % 32;
            a_tile_slot_[swizzled<32>(i_, kk_)] = a_tile_next_[turn_];
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 8; ++turn_) {
            const int element_ = turn_ * 256 + threadIdx.x;
            const int kk_ = element_ / 64;
            const int j_ = element_ % 64;
            b_tile_slot_[swizzled<64>(kk_, j_)] = b_tile_next_[turn_];
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
        f16* const a_tile_slot_ = a_tile_ + step_ % 2 * 2048;
        f16* const b_tile_slot_ = b_tile_ + step_ % 2 * 2048;
        #pragma unroll
        for (int kk_ = 0; kk_ < 32; kk_ += 16) {
            unsigned a_frag_[2][4];
            unsigned b_frag_[1][4];
            #pragma unroll
            for (int mi_ = 0; mi_ < 2; ++mi_) {
                load_matrix(
                    a_frag_[mi_],
                    a_tile_slot_ + swizzled<32>(acc_row_ + mi_ * 16 + threadIdx.x % 16, kk_ + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 1; ++ni_) {
                load_matrix_transposed(
                    b_frag_[ni_],
                    b_tile_slot_ + swizzled<64>(kk_ + threadIdx.x % 16, acc_col_ + ni_ * 16 + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int mi_ = 0; mi_ < 2; ++mi_) {
                #pragma unroll
                for (int ni_ = 0; ni_ < 2; ++ni_) {
                    mma_f16(
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
    for (int mi_ = 0; mi_ < 2; ++mi_) {
        #pragma unroll
        for (int ni_ = 0; ni_ < 2; ++ni_) {
            #pragma unroll
            for (int hi_ = 0; hi_ < 2; ++hi_) {
                const int i_ = acc_row_ + mi_ * 16 + hi_ * 8 + threadIdx.x % 32 / 4;
                const int j_ = acc_col_ + ni_ * 8 + threadIdx.x % 4 * 2;
                #pragma unroll
                for (int v_ = 0; v_ < 2; ++v_) {
                    const int row_ = tile_m_ * 64 + i_;
                    const int col_ = tile_n_ * 64 + j_ + v_;
                    if (row_ < m_ && col_ < n_) {
                        c_[(long long)z_ * (n_ * m_) + row_ * n_ + col_] = to_f16(acc_[mi_][ni_][hi_ * 2 + v_] + bias_[col_]);
                    }
                }
            }
        }
    }
}
