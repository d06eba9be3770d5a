// NaN if either is NaN.
template <class T> __device__ __forceinline__ T min_of(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T max_of(T a, T b) { return a > b || a != a ? a : b; }

// every function of one or two values
extern "C" __global__ void __launch_bounds__(256) functions_(
    int count_,
    const float* __restrict__ x_,
    float* __restrict__ y_) {
    const int i_ = blockIdx.x * 256 + threadIdx.x;
    if (i_ >= count_) return;
    const float a_ = x_[i_];
    const float b_ = a_ * 0.5f + 0.25f;
    y_[i_] = -a_;
    y_[count_ + i_] = fabsf(a_);
    y_[count_ * 2 + i_] = expf(a_);
    y_[count_ * 3 + i_] = exp2f(a_);
    y_[count_ * 4 + i_] = expm1f(a_);
    y_[count_ * 5 + i_] = logf(a_);
    y_[count_ * 6 + i_] = log2f(a_);
    y_[count_ * 7 + i_] = log1pf(a_);
    y_[count_ * 8 + i_] = sqrtf(a_);
    y_[count_ * 9 + i_] = rsqrtf(a_);
    y_[count_ * 10 + i_] = sinf(a_);
    y_[count_ * 11 + i_] = cosf(a_);
    y_[count_ * 12 + i_] = tanf(a_);
    y_[count_ * 13 + i_] = asinf(a_);
    y_[count_ * 14 + i_] = acosf(a_);
    y_[count_ * 15 + i_] = atanf(a_);
    y_[count_ * 16 + i_] = sinhf(a_);
    y_[count_ * 17 + i_] = coshf(a_);
    y_[count_ * 18 + i_] = tanhf(a_);
    y_[count_ * 19 + i_] = asinhf(a_);
    y_[count_ * 20 + i_] = acoshf(a_);
    y_[count_ * 21 + i_] = atanhf(a_);
    y_[count_ * 22 + i_] = erff(a_);
    y_[count_ * 23 + i_] = floorf(a_);
    y_[count_ * 24 + i_] = ceilf(a_);
    y_[count_ * 25 + i_] = truncf(a_);
    y_[count_ * 26 + i_] = rintf(a_);
    y_[count_ * 27 + i_] = a_ + b_;
    y_[count_ * 28 + i_] = a_ - b_;
    y_[count_ * 29 + i_] = a_ * b_;
    y_[count_ * 30 + i_] = a_ / b_;
    y_[count_ * 31 + i_] = fmodf(a_, b_);
    y_[count_ * 32 + i_] = min_of(a_, b_);
    y_[count_ * 33 + i_] = max_of(a_, b_);
    y_[count_ * 34 + i_] = powf(a_, b_);
    y_[count_ * 35 + i_] = atan2f(a_, b_);
    y_[count_ * 36 + i_] = (float)isnan(a_);
    y_[count_ * 37 + i_] = (float)isinf(a_);
    y_[count_ * 38 + i_] = (float)(a_ <= b_ && !(a_ < 0.0f));
}
