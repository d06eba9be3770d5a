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
    const float* __restrict__ x_,
    const float* __restrict__ gamma_,
    const float* __restrict__ beta_,
    float* __restrict__ y_) {
    const int row_ = blockIdx.x * 8 + threadIdx.x / 32;
    if (row_ >= rows_) return;
    const float count_ = (float)cols_;
    float sum_partial_ = 0.0f;
    for (int col_ = threadIdx.x % 32; col_ < cols_; col_ += 32) {
        sum_partial_ += x_[(long long)row_ * cols_ + col_];
    }
    const float sum_ = warp_reduce<Sum>(sum_partial_);
    const float mean_ = sum_ / count_;
    float squares_partial_ = 0.0f;
    for (int col_ = threadIdx.x % 32; col_ < cols_; col_ += 32) {
        const float centered_ = x_[(long long)row_ * cols_ + col_] - mean_;
        squares_partial_ += centered_ * centered_;
    }
    const float squares_ = warp_reduce<Sum>(squares_partial_);
    const float scale_ = rsqrtf(squares_ / count_ + eps_);
    for (int col_ = threadIdx.x % 32; col_ < cols_; col_ += 32) {
        y_[(long long)row_ * cols_ + col_] = (x_[(long long)row_ * cols_ + col_] - mean_) * scale_ * gamma_[col_] + beta_[col_];
    }
}
