// y = transpose(x)
extern "C" __global__ void __launch_bounds__(256) transpose_(
    int rows_,
    int cols_,
    const float* __restrict__ x_,
    float* __restrict__ y_) {
    __shared__ __align__(16) float tile_[1056];
    const int block_ = blockIdx.x;
    const int tile_row_ = block_ / ((cols_ + 31) / 32);
    const int tile_col_ = block_ % ((cols_ + 31) / 32);
    for (int element_ = threadIdx.x; element_ < 1024; element_ += 256) {
        const int i_ = element_ / 32;
        const int j_ = element_ % 32;
        const int row_ = tile_row_ * 32 + i_;
        const int col_ = tile_col_ * 32 + j_;
        if (row_ < rows_ && col_ < cols_) {
            tile_[i_ * 33 + j_] = x_[row_ * cols_ + col_];
        }
    }
    __syncthreads();
    for (int element_ = threadIdx.x; element_ < 1024; element_ += 256) {
        const int i_ = element_ / 32;
        const int j_ = element_ % 32;
        const int row_ = tile_row_ * 32 + j_;
        const int col_ = tile_col_ * 32 + i_;
        if (row_ < rows_ && col_ < cols_) {
            y_[col_ * rows_ + row_] = tile_[j_ * 33 + i_];
        }
    }
}
