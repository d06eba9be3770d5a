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
extern "C" __global__ void __launch_bounds__(256) bias_gelu(
    int rows,
    const f16* __restrict__ x,
    const f16* __restrict__ bias,
    f16* __restrict__ y) {
    const int point = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (point >= rows * 768) return;
    const int row = point / 768;
    const int col = point % 768;
    const Vec<f16, 8> x_v = load<8>(x + row * 768 + col);
    const Vec<f16, 8> bias_v = load<8>(bias + col);
    Vec<f16, 8> y_v;
    #pragma unroll
    for (int v = 0; v < 8; ++v) {
        const float sum = to_f32(x_v[v]) + to_f32(bias_v[v]);
        y_v[v] = to_f16(sum * 0.5f * (erff(sum * 0.70710677f) + 1.0f));
    }
    store(y + row * 768 + col, y_v);
}
