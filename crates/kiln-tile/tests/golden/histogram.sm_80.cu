// counts[x[i]] += 1
extern "C" __global__ void __launch_bounds__(256) histogram_(
    long long count_,
    const unsigned char* __restrict__ x_,
    int* __restrict__ counts_) {
    const long long i_ = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i_ >= count_) return;
    const int bin_ = x_[i_];
    atomicAdd(counts_ + bin_, 1);
}
