// N neighbours in memory, moved by accesses of up to 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
    T at[N];
    __device__ T& operator[](int i) { return at[i]; }
    __device__ const T& operator[](int i) const { return at[i]; }
};
template <int N, class T> __device__ __forceinline__ Vec<T, N> load(const T* from) {
    return *reinterpret_cast<const Vec<T, N>*>(from);
}
template <class T, int N> __device__ __forceinline__ void store(T* to, const Vec<T, N>& value) {
    *reinterpret_cast<Vec<T, N>*>(to) = value;
}

// Two 4-bit elements a byte, low half first.
__device__ __forceinline__ signed char load_i4(const unsigned char* packed, long long i) {
    return (signed char)(packed[i / 2] << (i % 2 ? 0 : 4)) >> 4;
}
__device__ __forceinline__ unsigned char load_u4(const unsigned char* packed, long long i) {
    return packed[i / 2] >> (i % 2 ? 4 : 0) & 0xf;
}

// y = x as f32
extern "C" __global__ void __launch_bounds__(256) cast_i4_f32_(
    int count_,
    const unsigned char* __restrict__ x_,
    float* __restrict__ y_) {
    const int i_ = (blockIdx.x * 256 + threadIdx.x) * 4;
    if (i_ >= count_) return;
    Vec<float, 4> y_v_;
    #pragma unroll
    for (int v_ = 0; v_ < 4; ++v_) {
        y_v_[v_] = (float)load_i4(x_, i_ + v_);
    }
    store(y_ + i_, y_v_);
}
