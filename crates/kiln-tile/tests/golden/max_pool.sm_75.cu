// NaN if either is NaN.
template <class T> __device__ __forceinline__ T min_of(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T max_of(T a, T b) { return a > b || a != a ? a : b; }

// y = max over 3x3 windows of x, stride 2, padding 1
extern "C" __global__ void __launch_bounds__(256) max_pool_(
    int planes_,
    int h_,
    int w_,
    const float* __restrict__ x_,
    float* __restrict__ y_) {
    const long long point_ = (long long)blockIdx.x * 256 + threadIdx.x;
    if (point_ >= (long long)planes_ * ((h_ + 1) / 2) * ((w_ + 1) / 2)) return;
    const int plane_ = point_ / ((h_ + 1) / 2 * ((w_ + 1) / 2));
    const int p_ = point_ / ((w_ + 1) / 2) % ((h_ + 1) / 2);
    const int q_ = point_ % ((w_ + 1) / 2);
    float best_ = __int_as_float(0xff800000);
    #pragma unroll
    for (int r_ = 0; r_ < 3; ++r_) {
        #pragma unroll
        for (int s_ = 0; s_ < 3; ++s_) {
            const int row_ = p_ * 2 - 1 + r_;
            const int col_ = q_ * 2 - 1 + s_;
            if (row_ >= 0 && row_ < h_ && col_ >= 0 && col_ < w_) {
                best_ = max_of(best_, x_[(long long)plane_ * (w_ * h_) + row_ * w_ + col_]);
            }
        }
    }
    y_[(long long)plane_ * ((w_ + 1) / 2 * ((h_ + 1) / 2)) + p_ * ((w_ + 1) / 2) + q_] = best_;
}
