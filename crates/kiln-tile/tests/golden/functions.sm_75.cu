// NaN if either is NaN.
template <class T> __device__ __forceinline__ T min_of(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T max_of(T a, T b) { return a > b || a != a ? a : b; }

// every function of one or two values
extern "C" __global__ void __launch_bounds__(256) functions(
    int count,
    const float* __restrict__ x,
    float* __restrict__ y) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const float a = x[i];
    const float b = a * 0.5f + 0.25f;
    y[i] = -a;
    y[count + i] = fabsf(a);
    y[count * 2 + i] = expf(a);
    y[count * 3 + i] = exp2f(a);
    y[count * 4 + i] = expm1f(a);
    y[count * 5 + i] = logf(a);
    y[count * 6 + i] = log2f(a);
    y[count * 7 + i] = log1pf(a);
    y[count * 8 + i] = sqrtf(a);
    y[count * 9 + i] = rsqrtf(a);
    y[count * 10 + i] = sinf(a);
    y[count * 11 + i] = cosf(a);
    y[count * 12 + i] = tanf(a);
    y[count * 13 + i] = asinf(a);
    y[count * 14 + i] = acosf(a);
    y[count * 15 + i] = atanf(a);
    y[count * 16 + i] = sinhf(a);
    y[count * 17 + i] = coshf(a);
    y[count * 18 + i] = tanhf(a);
    y[count * 19 + i] = asinhf(a);
    y[count * 20 + i] = acoshf(a);
    y[count * 21 + i] = atanhf(a);
    y[count * 22 + i] = erff(a);
    y[count * 23 + i] = floorf(a);
    y[count * 24 + i] = ceilf(a);
    y[count * 25 + i] = truncf(a);
    y[count * 26 + i] = rintf(a);
    y[count * 27 + i] = a + b;
    y[count * 28 + i] = a - b;
    y[count * 29 + i] = a * b;
    y[count * 30 + i] = a / b;
    y[count * 31 + i] = fmodf(a, b);
    y[count * 32 + i] = min_of(a, b);
    y[count * 33 + i] = max_of(a, b);
    y[count * 34 + i] = powf(a, b);
    y[count * 35 + i] = atan2f(a, b);
    y[count * 36 + i] = (float)isnan(a);
    y[count * 37 + i] = (float)isinf(a);
    y[count * 38 + i] = (float)(a <= b && !(a < 0.0f));
}
