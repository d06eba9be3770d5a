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

// y = x as bf16
extern "C" __global__ void __launch_bounds__(256) cast_f32_bf16_(
    int count_,
    const float* __restrict__ x_,
    bf16* __restrict__ y_) {
    const int i_ = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (i_ >= count_) return;
    const Vec<float, 8> x_v_ = load<8>(x_ + i_);
    Vec<bf16, 8> y_v_;
    #pragma unroll
    for (int v_ = 0; v_ < 8; ++v_) {
        y_v_[v_] = to_bf16(x_v_[v_]);
    }
    store(y_ + i_, y_v_);
}
