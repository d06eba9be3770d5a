// NaN if either is NaN.
template <class T> __device__ __forceinline__ T min_of(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T max_of(T a, T b) { return a > b || a != a ? a : b; }

// y = max over 3x3 windows of x, stride 2, padding 1
extern "C" __global__ void __launch_bounds__(256) max_pool(
    int planes,
    int h,
    int w,
    const float* __restrict__ x,
    float* __restrict__ y) {
    const long long point = (long long)blockIdx.x * 256 + threadIdx.x;
    if (point >= (long long)planes * ((h + 1) / 2) * ((w + 1) / 2)) return;
    const int plane = point / ((h + 1) / 2 * ((w + 1) / 2));
    const int p = point / ((w + 1) / 2) % ((h + 1) / 2);
    const int q = point % ((w + 1) / 2);
    float best = __int_as_float(0xff800000);
    #pragma unroll
    for (int r = 0; r < 3; ++r) {
        #pragma unroll
        for (int s = 0; s < 3; ++s) {
            const int row = p * 2 - 1 + r;
            const int col = q * 2 - 1 + s;
            if (row >= 0 && row < h && col >= 0 && col < w) {
                best = max_of(best, x[(long long)plane * (w * h) + row * w + col]);
            }
        }
    }
    y[(long long)plane * ((w + 1) / 2 * ((h + 1) / 2)) + p * ((w + 1) / 2) + q] = best;
}
