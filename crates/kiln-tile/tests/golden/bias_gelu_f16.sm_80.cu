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

// y = gelu(x + bias), x: [rows, cols]
extern "C" __global__ void __launch_bounds__(256) bias_gelu_(
    int rows_,
    const f16* __restrict__ x_,
    const f16* __restrict__ bias_,
    f16* __restrict__ y_) {
    const int point_ = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (point_ >= rows_ * 768) return;
    const int row_ = point_ / 768;
    const int col_ = point_ % 768;
    const Vec<f16, 8> x_v_ = load<8>(x_ + row_ * 768 + col_);
    const Vec<f16, 8> bias_v_ = load<8>(bias_ + col_);
    Vec<f16, 8> y_v_;
    #pragma unroll
    for (int v_ = 0; v_ < 8; ++v_) {
        const float sum_ = to_f32(x_v_[v_]) + to_f32(bias_v_[v_]);
        y_v_[v_] = to_f16(sum_ * 0.5f * (erff(sum_ * 0.70710677f) + 1.0f));
    }
    store(y_ + row_ * 768 + col_, y_v_);
}
