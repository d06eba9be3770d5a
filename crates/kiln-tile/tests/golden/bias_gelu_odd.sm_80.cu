// y = gelu(x + bias), x: [rows, cols]
extern "C" __global__ void __launch_bounds__(256) bias_gelu_(
    int rows_,
    const float* __restrict__ x_,
    const float* __restrict__ bias_,
    float* __restrict__ y_) {
    const int point_ = blockIdx.x * 256 + threadIdx.x;
    if (point_ >= rows_ * 77) return;
    const int row_ = point_ / 77;
    const int col_ = point_ % 77;
    const float sum_ = x_[row_ * 77 + col_] + bias_[col_];
    y_[row_ * 77 + col_] = sum_ * 0.5f * (erff(sum_ * 0.70710677f) + 1.0f);
}
