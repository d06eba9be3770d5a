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

// Combines one value of each of `lanes` neighbouring threads of a warp; all get the result.
template <class Op, int lanes = 32, class T> __device__ __forceinline__ T warp_reduce(T value) {
    #pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        value = Op::of(value, (T)__shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

// Combines one value of each thread of a block; all get the result.
template <class Op, int threads, class T> __device__ __forceinline__ T block_reduce(T value) {
    __shared__ T partial[threads / 32];
    value = warp_reduce<Op>(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = partial[0];
    #pragma unroll
    for (int warp = 1; warp < threads / 32; ++warp) value = Op::of(value, partial[warp]);
    __syncthreads();
    return value;
}

struct Sum {
    template <class T> static __device__ T of(T a, T b) { return a + b; }
};

struct Max {
    template <class T> static __device__ T of(T a, T b) { return max_of(a, b); }
};

// y = softmax(x) along the last axis
extern "C" __global__ void __launch_bounds__(128) softmax_block_(
    int rows_,
    const bf16* __restrict__ x_,
    bf16* __restrict__ y_) {
    float held_[8];
    const int row_ = blockIdx.x;
    #pragma unroll
    for (int turn_ = 0; turn_ < 1; ++turn_) {
        const int col_ = (turn_ * 128 + threadIdx.x) * 8;
        if (col_ < 1000) {
            const Vec<bf16, 8> x_v_ = load<8>(x_ + row_ * 1000 + col_);
            #pragma unroll
            for (int v_ = 0; v_ < 8; ++v_) {
                held_[turn_ * 8 + v_] = to_f32(x_v_[v_]);
            }
        }
    }
    float peak_partial_ = __int_as_float(0xff800000);
    #pragma unroll
    for (int turn_ = 0; turn_ < 1; ++turn_) {
        const int col_ = (turn_ * 128 + threadIdx.x) * 8;
        if (col_ < 1000) {
            #pragma unroll
            for (int v_ = 0; v_ < 8; ++v_) {
                peak_partial_ = max_of(peak_partial_, held_[turn_ * 8 + v_]);
            }
        }
    }
    const float peak_ = block_reduce<Max, 128>(peak_partial_);
    float total_partial_ = 0.0f;
    #pragma unroll
    for (int turn_ = 0; turn_ < 1; ++turn_) {
        const int col_ = (turn_ * 128 + threadIdx.x) * 8;
        if (col_ < 1000) {
            #pragma unroll
            for (int v_ = 0; v_ < 8; ++v_) {
                total_partial_ += expf(held_[turn_ * 8 + v_] - peak_);
            }
        }
    }
    const float total_ = block_reduce<Sum, 128>(total_partial_);
    #pragma unroll
    for (int turn_ = 0; turn_ < 1; ++turn_) {
        const int col_ = (turn_ * 128 + threadIdx.x) * 8;
        if (col_ < 1000) {
            Vec<bf16, 8> y_v_;
            #pragma unroll
            for (int v_ = 0; v_ < 8; ++v_) {
                y_v_[v_] = to_bf16(expf(held_[turn_ * 8 + v_] - peak_) / total_);
            }
            store(y_ + row_ * 1000 + col_, y_v_);
        }
    }
}
