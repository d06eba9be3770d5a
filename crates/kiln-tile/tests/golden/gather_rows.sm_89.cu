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
extern "C" __global__ void __launch_bounds__(256) embedding_word_(
    int count_,
    int vocab_,
    const float* __restrict__ table_,
    const long long* __restrict__ ids_,
    float* __restrict__ y_) {
    const int point_ = (blockIdx.x * 256 + threadIdx.x) * 4;
    if (point_ >= count_ * 384) return;
    const int i_ = point_ / 384;
    const int col_ = point_ % 384;
    const long long id_ = ids_[i_];
    const int row_ = min(max(id_ < 0 ? id_ + vocab_ : id_, 0ll), (long long)(vocab_ - 1));
    const Vec<float, 4> table_v_ = load<4>(table_ + (long long)row_ * 384 + col_);
    Vec<float, 4> y_v_;
    #pragma unroll
    for (int v_ = 0; v_ < 4; ++v_) {
        y_v_[v_] = table_v_[v_];
    }
    store(y_ + i_ * 384 + col_, y_v_);
}
