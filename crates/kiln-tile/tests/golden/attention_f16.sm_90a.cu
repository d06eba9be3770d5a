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
extern "C" __global__ void __launch_bounds__(64, 1) attention(
    int batch,
    int queries,
    int keys,
    const f16* __restrict__ q,
    const f16* __restrict__ k,
    const f16* __restrict__ v,
    f16* __restrict__ o) {
    float scores[2][4][4];
    const int scores_row = threadIdx.x / 32 * 32;
    const int scores_col = 0;
    float acc[2][6][4];
    const int acc_row = threadIdx.x / 32 * 32;
    const int acc_col = 0;
    float peak[2][2];
    float total[2][2];
    float base[2][2];
    float scale[2][2];
    float found[2][2];
    __shared__ __align__(16) f16 q_tile[2048];
    __shared__ __align__(16) f16 k_tile[2048];
    __shared__ __align__(16) f16 v_tile[3072];
    const int block = blockIdx.x;
    const int z = block / ((queries + 63) / 64);
    const int tile_m = block % ((queries + 63) / 64);
    for (int element = threadIdx.x * 8; element < 2048; element += 512) {
        const int i = element / 32;
        const int d = element % 32;
        if (tile_m * 64 + i < queries) {
            const Vec<f16, 8> q_v = load<8>(q + z * (queries * 32) + (tile_m * 64 + i) * 32 + d);
            Vec<f16, 8> q_tile_v;
            #pragma unroll
            for (int v_2 = 0; v_2 < 8; ++v_2) {
                q_tile_v[v_2] = q_v[v_2];
            }
            store(q_tile + swizzled<32>(i, d), q_tile_v);
        } else {
            Vec<f16, 8> q_tile_v;
            #pragma unroll
            for (int v_2 = 0; v_2 < 8; ++v_2) {
                q_tile_v[v_2] = f16{0x0};
            }
            store(q_tile + swizzled<32>(i, d), q_tile_v);
        }
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 6; ++i_2) {
            #pragma unroll
            for (int i_3 = 0; i_3 < 4; ++i_3) {
                acc[i][i_2][i_3] = 0.0f;
            }
        }
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 2; ++i_2) {
            total[i][i_2] = 0.0f;
        }
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
        #pragma unroll
        for (int i_2 = 0; i_2 < 2; ++i_2) {
            peak[i][i_2] = __int_as_float(0xff800000);
        }
    }
    __syncthreads();
    const int step_count = (keys + 31) / 32;
    const auto fetch = [&](int step) __attribute__((always_inline)) {
        f16* const k_tile_slot = k_tile + step % 2 * 1024;
        f16* const v_tile_slot = v_tile + step % 2 * 1536;
        #pragma unroll
        for (int turn = 0; turn < 2; ++turn) {
            const int element = (turn * 64 + threadIdx.x) * 8;
            const int j = element / 32;
            const int d = element % 32;
            copy_async<16>(
                k_tile_slot + swizzled<32>(j, d),
                k + z * (keys * 32) + (step * 32 + j) * 32 + d,
                step * 32 + j < keys);
        }
        #pragma unroll
        for (int turn = 0; turn < 3; ++turn) {
            const int element = (turn * 64 + threadIdx.x) * 8;
            const int j = element / 48;
            const int d = element % 48;
            copy_async<16>(
                v_tile_slot + swizzled<48>(j, d),
                v + z * (keys * 48) + (step * 32 + j) * 48 + d,
                step * 32 + j < keys);
        }
    };
    #pragma unroll
    for (int ahead = 0; ahead < 1; ++ahead) {
        fetch(ahead);
        copy_async_commit();
    }
    for (int step = 0; step < step_count; ++step) {
        copy_async_wait<0>();
        __syncthreads();
        if (step + 1 < step_count) {
            fetch(step + 1);
        }
        copy_async_commit();
        f16* const k_tile_slot = k_tile + step % 2 * 1024;
        f16* const v_tile_slot = v_tile + step % 2 * 1536;
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            #pragma unroll
            for (int i_2 = 0; i_2 < 4; ++i_2) {
                #pragma unroll
                for (int i_3 = 0; i_3 < 4; ++i_3) {
                    scores[i][i_2][i_3] = 0.0f;
                }
            }
        }
        #pragma unroll
        for (int kk = 0; kk < 32; kk += 16) {
            unsigned a_frag[2][4];
            unsigned b_frag[2][4];
            #pragma unroll
            for (int mi = 0; mi < 2; ++mi) {
                load_matrix(
                    a_frag[mi],
                    q_tile + swizzled<32>(scores_row + mi * 16 + threadIdx.x % 16, kk + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int ni = 0; ni < 2; ++ni) {
                load_matrix(
                    b_frag[ni],
                    k_tile_slot + swizzled<32>(scores_col + ni * 16 + threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8, kk + threadIdx.x % 32 / 8 % 2 * 8));
            }
            #pragma unroll
            for (int mi = 0; mi < 2; ++mi) {
                #pragma unroll
                for (int ni = 0; ni < 4; ++ni) {
                    mma_f16(scores[mi][ni], a_frag[mi], b_frag[ni / 2][ni % 2 * 2], b_frag[ni / 2][ni % 2 * 2 + 1]);
                }
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int ni = 0; ni < 4; ++ni) {
                #pragma unroll
                for (int hi = 0; hi < 2; ++hi) {
                    const int j = scores_col + ni * 8 + threadIdx.x % 4 * 2;
                    #pragma unroll
                    for (int v_2 = 0; v_2 < 2; ++v_2) {
                        scores[mi][ni][hi * 2 + v_2] = step * 32 + j + v_2 < keys ? scores[mi][ni][hi * 2 + v_2] : __int_as_float(0xff800000);
                    }
                }
            }
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            #pragma unroll
            for (int i_2 = 0; i_2 < 2; ++i_2) {
                found[i][i_2] = __int_as_float(0xff800000);
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int ni = 0; ni < 4; ++ni) {
                #pragma unroll
                for (int hi = 0; hi < 2; ++hi) {
                    #pragma unroll
                    for (int v_2 = 0; v_2 < 2; ++v_2) {
                        found[mi][hi] = max_of(found[mi][hi], scores[mi][ni][hi * 2 + v_2]);
                    }
                }
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int hi = 0; hi < 2; ++hi) {
                found[mi][hi] = warp_reduce<Max, 4>(found[mi][hi]);
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int hi = 0; hi < 2; ++hi) {
                const float new_2 = max_of(peak[mi][hi], found[mi][hi]);
                const float finite = new_2 != __int_as_float(0xff800000) ? new_2 : 0.0f;
                scale[mi][hi] = expf(peak[mi][hi] - finite);
                base[mi][hi] = finite;
                peak[mi][hi] = new_2;
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int ni = 0; ni < 4; ++ni) {
                #pragma unroll
                for (int hi = 0; hi < 2; ++hi) {
                    #pragma unroll
                    for (int v_2 = 0; v_2 < 2; ++v_2) {
                        scores[mi][ni][hi * 2 + v_2] = expf(scores[mi][ni][hi * 2 + v_2] - base[mi][hi]);
                    }
                }
            }
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            #pragma unroll
            for (int i_2 = 0; i_2 < 2; ++i_2) {
                found[i][i_2] = 0.0f;
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int ni = 0; ni < 4; ++ni) {
                #pragma unroll
                for (int hi = 0; hi < 2; ++hi) {
                    #pragma unroll
                    for (int v_2 = 0; v_2 < 2; ++v_2) {
                        found[mi][hi] += scores[mi][ni][hi * 2 + v_2];
                    }
                }
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int hi = 0; hi < 2; ++hi) {
                found[mi][hi] = warp_reduce<Sum, 4>(found[mi][hi]);
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int hi = 0; hi < 2; ++hi) {
                total[mi][hi] = total[mi][hi] * scale[mi][hi] + found[mi][hi];
            }
        }
        #pragma unroll
        for (int mi = 0; mi < 2; ++mi) {
            #pragma unroll
            for (int ni = 0; ni < 6; ++ni) {
                #pragma unroll
                for (int hi = 0; hi < 2; ++hi) {
                    #pragma unroll
                    for (int v_2 = 0; v_2 < 2; ++v_2) {
                        acc[mi][ni][hi * 2 + v_2] *= scale[mi][hi];
                    }
                }
            }
        }
        #pragma unroll
        for (int kk = 0; kk < 32; kk += 16) {
            unsigned a_frag[2][4];
            unsigned b_frag[3][4];
            #pragma unroll
            for (int mi = 0; mi < 2; ++mi) {
                a_frag[mi][0] = pack_f16(scores[mi][kk / 8][0], scores[mi][kk / 8][1]);
                a_frag[mi][1] = pack_f16(scores[mi][kk / 8][2], scores[mi][kk / 8][3]);
                a_frag[mi][2] = pack_f16(scores[mi][kk / 8 + 1][0], scores[mi][kk / 8 + 1][1]);
                a_frag[mi][3] = pack_f16(scores[mi][kk / 8 + 1][2], scores[mi][kk / 8 + 1][3]);
            }
            #pragma unroll
            for (int ni = 0; ni < 3; ++ni) {
                load_matrix_transposed(
                    b_frag[ni],
                    v_tile_slot + swizzled<48>(kk + threadIdx.x % 16, acc_col + ni * 16 + threadIdx.x % 32 / 16 * 8));
            }
            #pragma unroll
            for (int mi = 0; mi < 2; ++mi) {
                #pragma unroll
                for (int ni = 0; ni < 6; ++ni) {
                    mma_f16(acc[mi][ni], a_frag[mi], b_frag[ni / 2][ni % 2 * 2], b_frag[ni / 2][ni % 2 * 2 + 1]);
                }
            }
        }
    }
    #pragma unroll
    for (int mi = 0; mi < 2; ++mi) {
        #pragma unroll
        for (int ni = 0; ni < 6; ++ni) {
            #pragma unroll
            for (int hi = 0; hi < 2; ++hi) {
                const int i = acc_row + mi * 16 + hi * 8 + threadIdx.x % 32 / 4;
                const int c = acc_col + ni * 8 + threadIdx.x % 4 * 2;
                const int row = tile_m * 64 + i;
                if (row < queries) {
                    Vec<f16, 2> o_v;
                    #pragma unroll
                    for (int v_2 = 0; v_2 < 2; ++v_2) {
                        o_v[v_2] = to_f16(acc[mi][ni][hi * 2 + v_2] / total[mi][hi]);
                    }
                    store(o + z * (queries * 48) + row * 48 + c, o_v);
                }
            }
        }
    }
}
