// counts[x[i]] += 1
extern "C" __global__ void __launch_bounds__(256) histogram(
    long long count,
    const unsigned char* __restrict__ x,
    int* __restrict__ counts) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const int bin = x[i];
    atomicAdd(counts + bin, 1);
}
