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

// y = (x - mean) * rsqrt(var + eps) * gamma + beta
extern "C" __global__ void __launch_bounds__(256) layer_norm_(
    int rows_,
    int cols_,
    float eps_,
    const f16* __restrict__ x_,
    const float* __restrict__ gamma_,
    const float* __restrict__ beta_,
    f16* __restrict__ y_) {
    const int row_ = blockIdx.x * 8 + threadIdx.x / 32;
    if (row_ >= rows_) return;
    const float count_ = (float)cols_;
    float sum_partial_ = 0.0f;
    for (int col_ = threadIdx.x % 32 * 8; col_ < cols_; col_ += 256) {
        const Vec<f16, 8> x_v_ = load<8>(x_ + (long long)row_ * cols_ + col_);
        #pragma unroll
        for (int v_ = 0; v_ < 8; ++v_) {
            sum_partial_ += to_f32(x_v_[v_]);
        }
    }
    const float sum_ = warp_reduce<Sum>(sum_partial_);
    const float mean_ = sum_ / count_;
    float squares_partial_ = 0.0f;
    for (int col_ = threadIdx.x % 32 * 8; col_ < cols_; col_ += 256) {
        const Vec<f16, 8> x_v_ = load<8>(x_ + (long long)row_ * cols_ + col_);
        #pragma unroll
        for (int v_ = 0; v_ < 8; ++v_) {
            const float centered_ = to_f32(x_v_[v_]) - mean_;
            squares_partial_ += centered_ * centered_;
        }
    }
    const float squares_ = warp_reduce<Sum>(squares_partial_);
    const float scale_ = rsqrtf(squares_ / count_ + eps_);
    for (int col_ = threadIdx.x % 32 * 8; col_ < cols_; col_ += 256) {
        const Vec<f16, 8> x_v_ = load<8>(x_ + (long long)row_ * cols_ + col_);
        const Vec<float, 8> gamma_v_ = load<8>(gamma_ + col_);
        const Vec<float, 8> beta_v_ = load<8>(beta_ + col_);
        Vec<f16, 8> y_v_;
        #pragma unroll
        for (int v_ = 0; v_ < 8; ++v_) {
            y_v_[v_] = to_f16((to_f32(x_v_[v_]) - mean_) * scale_ * gamma_v_[v_] + beta_v_[v_]);
        }
        store(y_ + (long long)row_ * cols_ + col_, y_v_);
    }
}
