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
extern "C" __global__ void __launch_bounds__(256) layer_norm(
    int rows,
    int cols,
    float eps,
    const f16* __restrict__ x,
    const float* __restrict__ gamma,
    const float* __restrict__ beta,
    f16* __restrict__ y) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= rows) return;
    const float count = (float)cols;
    float sum_partial = 0.0f;
    for (int col = threadIdx.x % 32 * 8; col < cols; col += 256) {
        const Vec<f16, 8> x_v = load<8>(x + (long long)row * cols + col);
        #pragma unroll
        for (int v = 0; v < 8; ++v) {
            sum_partial += to_f32(x_v[v]);
        }
    }
    const float sum = warp_reduce<Sum>(sum_partial);
    const float mean = sum / count;
    float squares_partial = 0.0f;
    for (int col = threadIdx.x % 32 * 8; col < cols; col += 256) {
        const Vec<f16, 8> x_v = load<8>(x + (long long)row * cols + col);
        #pragma unroll
        for (int v = 0; v < 8; ++v) {
            const float centered = to_f32(x_v[v]) - mean;
            squares_partial += centered * centered;
        }
    }
    const float squares = warp_reduce<Sum>(squares_partial);
    const float scale = rsqrtf(squares / count + eps);
    for (int col = threadIdx.x % 32 * 8; col < cols; col += 256) {
        const Vec<f16, 8> x_v = load<8>(x + (long long)row * cols + col);
        const Vec<float, 8> gamma_v = load<8>(gamma + col);
        const Vec<float, 8> beta_v = load<8>(beta + col);
        Vec<f16, 8> y_v;
        #pragma unroll
        for (int v = 0; v < 8; ++v) {
            y_v[v] = to_f16((to_f32(x_v[v]) - mean) * scale * gamma_v[v] + beta_v[v]);
        }
        store(y + (long long)row * cols + col, y_v);
    }
}
