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

// Combines one value of each of `lanes` neighbouring threads of a warp; all get the result.
template <class Op, int lanes = 32, class T> __device__ __forceinline__ T warp_reduce(T value) {
    #pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        value = Op::of(value, (T)__shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

struct Sum {
    template <class T> static __device__ T of(T a, T b) { return a + b; }
};

struct Max {
    template <class T> static __device__ T of(T a, T b) { return max_of(a, b); }
};

// Position of an element of a tile of 16-bit elements whose 16-byte chunks are permuted within each row: eight rows of one
// column of chunks lie in different banks.
template <int cols> __device__ __forceinline__ int swizzled(int row, int col) {
    constexpr int chunks = cols / 8;
    constexpr int group = (chunks & -chunks) < 8 ? (chunks & -chunks) : 8;
    const int chunk = col / 8 ^ row / (8 / group) % group;
    return row * cols + chunk * 8 + col % 8;
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

// Two neighbours of an operand in one register, the first in the low half.
__device__ __forceinline__ unsigned pack_f16(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// c[16, 8] += a[16, 16] * b[16, 8] on the tensor cores, spread over a warp.
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// o = softmax(q k^T) v
extern "C" __global__ void __launch_bounds__(64, 1) attention_(
    int batch_,
    int queries_,
    int keys_,
    const f16* __restrict__ q_,
    const f16* __restrict__ k_,
    const f16* __restrict__ v_,
    f16* __restrict__ o_) {
    float scores_[2][4][4];
    const int scores_row_ = threadIdx.x / 32 * 32;
    const int scores_col_ = 0;
    float acc_[2][6][4];
    const int acc_row_ = threadIdx.x / 32 * 32;
    const int acc_col_ = 0;
    float peak_[2][2];
    float total_[2][2];
    float base_[2][2];
    float scale_[2][2];
    float found_[2][2];
    __shared__ __align__(16) f16 q_tile_[2048];
    __shared__ __align__(16) f16 k_tile_[2048];
    __shared__ __align__(16) f16 v_tile_[3072];
    const int block_ = blockIdx.x;
    const int z_ = block_ / ((queries_ + 63) / 64);
    const int tile_m_ = block_ % ((queries_ + 63) / 64);
    for (int element_ = threadIdx.x * 8; element_ < 2048; element_ += 512) {
        const int i_ = element_ / 32;
        const int d_ = element_ % 32;
        if (tile_m_ * 64 + i_ < queries_) {
            const Vec<f16, 8> q_v_ = load<8>(q_ + z_ * (queries_ * 32) + (tile_m_ * 64 + i_) * 32 + d_);
            Vec<f16, 8> q_tile_v_;
            #pragma unroll
            for (int v_2_ = 0; v_2_ < 8; ++v_2_) {
                q_tile_v_[v_2_] = q_v_[v_2_];
            }
            store(q_tile_ + swizzled<32>(i_, d_), q_tile_v_);
        } else {
            Vec<f16, 8> q_tile_v_;
            #pragma unroll
            for (int v_2_ = 0; v_2_ < 8; ++v_2_) {
                q_tile_v_[v_2_] = f16{0x0};
            }
            store(q_tile_ + swizzled<32>(i_, d_), q_tile_v_);
        }
    }
    #pragma unroll
    for (int i_ = 0; i_ < 2; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 6; ++i_2_) {
            #pragma unroll
            for (int i_3_ = 0; i_3_ < 4; ++i_3_) {
                acc_[i_][i_2_][i_3_] = 0.0f;
            }
        }
    }
    #pragma unroll
    for (int i_ = 0; i_ < 2; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 2; ++i_2_) {
            total_[i_][i_2_] = 0.0f;
        }
    }
    #pragma unroll
    for (int i_ = 0; i_ < 2; ++i_) {
        #pragma unroll
        for (int i_2_ = 0; i_2_ < 2; ++i_2_) {
            peak_[i_][i_2_] = __int_as_float(0xff800000);
        }
    }
    __syncthreads();
    const int step_count_ = (keys_ + 31) / 32;
    const auto fetch_ = [&](int step_) __attribute__((always_inline)) {
        f16* const k_tile_slot_ = k_tile_ + step_ % 2 * 1024;
        f16* const v_tile_slot_ = v_tile_ + step_ % 2 * 1536;
        #pragma unroll
        for (int turn_ = 0; turn_ < 2; ++turn_) {
            const int element_ = (turn_ * 64 + threadIdx.x) * 8;
            const int j_ = element_ / 32;
            const int d_ = element_ % 32;
            copy_async<16>(
                k_tile_slot_ + swizzled<32>(j_, d_),
                k_ + z_ * (keys_ * 32) + (step_ * 32 + j_) * 32 + d_,
                step_ * 32 + j_ < keys_);
        }
        #pragma unroll
        for (int turn_ = 0; turn_ < 3; ++turn_) {
            const int element_ = (turn_ * 64 + threadIdx.x) * 8;
            const int j_ = element_ / 48;
            const int d_ = element_ % 48;
            copy_async<16>(
                v_tile_slot_ + swizzled<48>(j_, d_),
                v_ + z_ * (keys_ * 48) + (step_ * 32 + j_) * 48 + d_,
                step_ * 32 + j_ < keys_);
        }
    };
    #pragma unroll
    for (int ahead_ = 0; ahead_ < 1; ++ahead_) {
        fetch_(ahead_);
        copy_async_commit();
    }
    for (int step_ = 0; step_ < step_count_; ++step_) {
        copy_async_wait<0>();
        __syncthreads();
        if (step_ + 1 < step_count_) {
            fetch_(step_ + 1);
        }
        copy_async_commit();
        f16* const k_tile_slot_ = k_tile_ + step_ % 2 * 1024;
        f16* const v_tile_slot_ = v_tile_ + step_ % 2 * 1536;
        #pragma unroll
        for (int i_ = 0; i_ < 2; ++i_) {
            #pragma unroll
            for (int i_2_ = 0; i_2_ < 4; ++i_2_) {
                #pragma unroll
                for (int i_3_ = 0; i_3_ < 4; ++i_3_) {
                    scores_[i_][i_2_][i_3_] = 0.0f;
                }
            }
        }
        #pragma unroll
        for (int kk_ = 0; kk_ < 32; kk_ += 16) {
            unsigned a_frag_[2][4];
            unsigned b_frag_[2][4];
            #pragma unroll
            for (int mi_ = 0; mi_ < 2; ++mi_) {
                load_matrix(
                    a_frag_[mi_],
                    q_tile_ + swizzled<32>(scores_row_ + mi_ * 16 + threadIdx.x % 16, kk_ + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 2; ++ni_) {
                load_matrix(
                    b_frag_[ni_],
                    k_tile_slot_ + swizzled<32>(scores_col_ + ni_ * 16 + threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8, kk_ + threadIdx.x % 32 / 8 % 2 * 8));
            }
            #pragma unroll
            for (int mi_ = 0; mi_ < 2; ++mi_) {
                #pragma unroll
                for (int ni_ = 0; ni_ < 4; ++ni_) {
                    mma_f16(
                        scores_[mi_][ni_],
                        a_frag_[mi_],
                        b_frag_[ni_ / 2][ni_ % 2 * 2],
                        b_frag_[ni_ / 2][ni_ % 2 * 2 + 1]);
                }
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int ni_ = 0; ni_ < 4; ++ni_) {
                #pragma unroll
                for (int hi_ = 0; hi_ < 2; ++hi_) {
                    const int j_ = scores_col_ + ni_ * 8 + threadIdx.x % 4 * 2;
                    #pragma unroll
                    for (int v_2_ = 0; v_2_ < 2; ++v_2_) {
                        scores_[mi_][ni_][hi_ * 2 + v_2_] = step_ * 32 + j_ + v_2_ < keys_ ? scores_[mi_][ni_][hi_ * 2 + v_2_] : __int_as_float(0xff800000);
                    }
                }
            }
        }
        #pragma unroll
        for (int i_ = 0; i_ < 2; ++i_) {
            #pragma unroll
            for (int i_2_ = 0; i_2_ < 2; ++i_2_) {
                found_[i_][i_2_] = __int_as_float(0xff800000);
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int ni_ = 0; ni_ < 4; ++ni_) {
                #pragma unroll
                for (int hi_ = 0; hi_ < 2; ++hi_) {
                    #pragma unroll
                    for (int v_2_ = 0; v_2_ < 2; ++v_2_) {
                        found_[mi_][hi_] = max_of(found_[mi_][hi_], scores_[mi_][ni_][hi_ * 2 + v_2_]);
                    }
                }
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int hi_ = 0; hi_ < 2; ++hi_) {
                found_[mi_][hi_] = warp_reduce<Max, 4>(found_[mi_][hi_]);
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int hi_ = 0; hi_ < 2; ++hi_) {
                const float new_ = max_of(peak_[mi_][hi_], found_[mi_][hi_]);
                const float finite_ = new_ != __int_as_float(0xff800000) ? new_ : 0.0f;
                scale_[mi_][hi_] = expf(peak_[mi_][hi_] - finite_);
                base_[mi_][hi_] = finite_;
                peak_[mi_][hi_] = new_;
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int ni_ = 0; ni_ < 4; ++ni_) {
                #pragma unroll
                for (int hi_ = 0; hi_ < 2; ++hi_) {
                    #pragma unroll
                    for (int v_2_ = 0; v_2_ < 2; ++v_2_) {
                        scores_[mi_][ni_][hi_ * 2 + v_2_] = expf(scores_[mi_][ni_][hi_ * 2 + v_2_] - base_[mi_][hi_]);
                    }
                }
            }
        }
        #pragma unroll
        for (int i_ = 0; i_ < 2; ++i_) {
            #pragma unroll
            for (int i_2_ = 0; i_2_ < 2; ++i_2_) {
                found_[i_][i_2_] = 0.0f;
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int ni_ = 0; ni_ < 4; ++ni_) {
                #pragma unroll
                for (int hi_ = 0; hi_ < 2; ++hi_) {
                    #pragma unroll
                    for (int v_2_ = 0; v_2_ < 2; ++v_2_) {
                        found_[mi_][hi_] += scores_[mi_][ni_][hi_ * 2 + v_2_];
                    }
                }
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int hi_ = 0; hi_ < 2; ++hi_) {
                found_[mi_][hi_] = warp_reduce<Sum, 4>(found_[mi_][hi_]);
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int hi_ = 0; hi_ < 2; ++hi_) {
                total_[mi_][hi_] = total_[mi_][hi_] * scale_[mi_][hi_] + found_[mi_][hi_];
            }
        }
        #pragma unroll
        for (int mi_ = 0; mi_ < 2; ++mi_) {
            #pragma unroll
            for (int ni_ = 0; ni_ < 6; ++ni_) {
                #pragma unroll
                for (int hi_ = 0; hi_ < 2; ++hi_) {
                    #pragma unroll
                    for (int v_2_ = 0; v_2_ < 2; ++v_2_) {
                        acc_[mi_][ni_][hi_ * 2 + v_2_] *= scale_[mi_][hi_];
                    }
                }
            }
        }
        #pragma unroll
        for (int kk_ = 0; kk_ < 32; kk_ += 16) {
            unsigned a_frag_[2][4];
            unsigned b_frag_[3][4];
            #pragma unroll
            for (int mi_ = 0; mi_ < 2; ++mi_) {
                a_frag_[mi_][0] = pack_f16(scores_[mi_][kk_ / 8][0], scores_[mi_][kk_ / 8][1]);
                a_frag_[mi_][1] = pack_f16(scores_[mi_][kk_ / 8][2], scores_[mi_][kk_ / 8][3]);
                a_frag_[mi_][2] = pack_f16(scores_[mi_][kk_ / 8 + 1][0], scores_[mi_][kk_ / 8 + 1][1]);
                a_frag_[mi_][3] = pack_f16(scores_[mi_][kk_ / 8 + 1][2], scores_[mi_][kk_ / 8 + 1][3]);
            }
            #pragma unroll
            for (int ni_ = 0; ni_ < 3; ++ni_) {
                load_matrix_transposed(
                    b_frag_[ni_],
                    v_tile_slot_ + swizzled<48>(kk_ + threadIdx.x % 16, acc_col_ + ni_ * 16 + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int mi_ = 0; mi_ < 2; ++mi_) {
                #pragma unroll
                for (int ni_ = 0; ni_ < 6; ++ni_) {
                    mma_f16(
                        acc_[mi_][ni_],
                        a_frag_[mi_],
                        b_frag_[ni_ / 2][ni_ % 2 * 2],
                        b_frag_[ni_ / 2][ni_ % 2 * 2 + 1]);
                }
            }
        }
    }
    #pragma unroll
    for (int mi_ = 0; mi_ < 2; ++mi_) {
        #pragma unroll
        for (int ni_ = 0; ni_ < 6; ++ni_) {
            #pragma unroll
            for (int hi_ = 0; hi_ < 2; ++hi_) {
                const int i_ = acc_row_ + mi_ * 16 + hi_ * 8 + threadIdx.x % 32 / 4;
                const int c_ = acc_col_ + ni_ * 8 + threadIdx.x % 4 * 2;
                const int row_ = tile_m_ * 64 + i_;
                if (row_ < queries_) {
                    Vec<f16, 2> o_v_;
                    #pragma unroll
                    for (int v_2_ = 0; v_2_ < 2; ++v_2_) {
                        o_v_[v_2_] = to_f16(acc_[mi_][ni_][hi_ * 2 + v_2_] / total_[mi_][hi_]);
                    }
                    store(o_ + z_ * (queries_ * 48) + row_ * 48 + c_, o_v_);
                }
            }
        }
    }
}
