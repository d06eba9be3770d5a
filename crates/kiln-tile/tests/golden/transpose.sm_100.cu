// y = transpose(x)
extern "C" __global__ void __launch_bounds__(256) transpose(
    int rows,
    int cols,
    const float* __restrict__ x,
    float* __restrict__ y) {
    __shared__ __align__(16) float tile[1056];
    const int block = blockIdx.x;
    const int tile_row = block / ((cols + 31) / 32);
    const int tile_col = block % ((cols + 31) / 32);
    for (int element = threadIdx.x; element < 1024; element += 256) {
        const int i = element / 32;
        const int j = element % 32;
        const int row = tile_row * 32 + i;
        const int col = tile_col * 32 + j;
        if (row < rows && col < cols) {
            tile[i * 33 + j] = x[row * cols + col];
        }
    }
    __syncthreads();
    for (int element = threadIdx.x; element < 1024; element += 256) {
        const int i = element / 32;
        const int j = element % 32;
        const int row = tile_row * 32 + j;
        const int col = tile_col * 32 + i;
        if (row < rows && col < cols) {
            y[col * rows + row] = tile[j * 33 + i];
        }
    }
}
