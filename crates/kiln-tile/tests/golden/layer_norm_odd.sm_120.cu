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
    const float* __restrict__ x,
    const float* __restrict__ gamma,
    const float* __restrict__ beta,
    float* __restrict__ y) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= rows) return;
    const float count = (float)cols;
    float sum_partial = 0.0f;
    for (int col = threadIdx.x % 32; col < cols; col += 32) {
        sum_partial += x[(long long)row * cols + col];
    }
    const float sum = warp_reduce<Sum>(sum_partial);
    const float mean = sum / count;
    float squares_partial = 0.0f;
    for (int col = threadIdx.x % 32; col < cols; col += 32) {
        const float centered = x[(long long)row * cols + col] - mean;
        squares_partial += centered * centered;
    }
    const float squares = warp_reduce<Sum>(squares_partial);
    const float scale = rsqrtf(squares / count + eps);
    for (int col = threadIdx.x % 32; col < cols; col += 32) {
        y[(long long)row * cols + col] = (x[(long long)row * cols + col] - mean) * scale * gamma[col] + beta[col];
    }
}
