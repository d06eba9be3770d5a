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

// y[i, :] = table[ids[i], :]
extern "C" __global__ void __launch_bounds__(256) embedding_word(
    int count,
    int vocab,
    const float* __restrict__ table,
    const long long* __restrict__ ids,
    float* __restrict__ y) {
    const int point = (blockIdx.x * 256 + threadIdx.x) * 4;
    if (point >= count * 384) return;
    const int i = point / 384;
    const int col = point % 384;
    const long long id = ids[i];
    const int row = min(max(id < 0 ? id + vocab : id, 0ll), (long long)(vocab - 1));
    const Vec<float, 4> table_v = load<4>(table + (long long)row * 384 + col);
    Vec<float, 4> y_v;
    #pragma unroll
    for (int v = 0; v < 4; ++v) {
        y_v[v] = table_v[v];
    }
    store(y + i * 384 + col, y_v);
}
