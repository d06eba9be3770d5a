//! The device functions that generated code may call, each emitted only where used. No header is needed.

use kiln_num::DType;
use kiln_target::arch::Arch;

/// A piece of the prelude. The order of the variants is the order of emission, so uses come after definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each variant is the piece of its name
pub enum Helper {
    Vec,
    F16,
    Bf16,
    OddF32,
    E4m3,
    E5m2,
    Int4,
    MinMax,
    Exp2Approx,
    WarpReduce,
    BlockReduce,
    ReduceSum,
    ReduceProd,
    ReduceMin,
    ReduceMax,
    ReduceAnd,
    ReduceOr,
    Swizzle,
    CopyAsync,
    LoadMatrix,
    PackF16,
    PackBf16,
    MmaF16,
    MmaBf16,
}

impl Helper {
    /// All of them; the length follows from the last one.
    #[cfg(test)]
    pub const ALL: [Helper; Helper::MmaBf16 as usize + 1] = {
        use Helper::*;
        [
            Vec,
            F16,
            Bf16,
            OddF32,
            E4m3,
            E5m2,
            Int4,
            MinMax,
            Exp2Approx,
            WarpReduce,
            BlockReduce,
            ReduceSum,
            ReduceProd,
            ReduceMin,
            ReduceMax,
            ReduceAnd,
            ReduceOr,
            Swizzle,
            CopyAsync,
            LoadMatrix,
            PackF16,
            PackBf16,
            MmaF16,
            MmaBf16,
        ]
    };

    /// What this piece calls itself.
    pub fn needs(self) -> &'static [Helper] {
        match self {
            Helper::ReduceMin | Helper::ReduceMax => &[Helper::MinMax],
            Helper::BlockReduce => &[Helper::WarpReduce],
            Helper::PackF16 => &[Helper::F16],
            _ => &[],
        }
    }

    /// Its source for `arch`.
    pub fn source(self, arch: Arch) -> String {
        match self {
            Helper::Vec => VEC.to_owned(),
            Helper::F16 => F16.to_owned(),
            Helper::Bf16 => format!("{BF16}{}", if arch.has_bf16() { BF16_CVT } else { BF16_ROUND }),
            Helper::OddF32 => ODD_F32.to_owned(),
            Helper::E4m3 => f8(arch, "e4m3", 3, 7, "0x43e00000u /* 448 */", E4M3_DECODE),
            Helper::E5m2 => f8(arch, "e5m2", 2, 15, "0x47600000u /* 57344 */", E5M2_DECODE),
            Helper::Int4 => INT4.to_owned(),
            // The first architecture with bf16 is also the first with these.
            Helper::MinMax if arch.has_bf16() => format!("{MIN_MAX}{MIN_MAX_F32}"),
            Helper::MinMax => MIN_MAX.to_owned(),
            Helper::Exp2Approx => EXP2_APPROX.to_owned(),
            Helper::WarpReduce => WARP_REDUCE.to_owned(),
            Helper::BlockReduce => BLOCK_REDUCE.to_owned(),
            Helper::ReduceSum => functor("Sum", "a + b"),
            Helper::ReduceProd => functor("Prod", "a * b"),
            Helper::ReduceMin => functor("Min", "min_of(a, b)"),
            Helper::ReduceMax => functor("Max", "max_of(a, b)"),
            Helper::ReduceAnd => functor("And", "a & b"),
            Helper::ReduceOr => functor("Or", "a | b"),
            Helper::Swizzle => SWIZZLE.to_owned(),
            Helper::CopyAsync => COPY_ASYNC.to_owned(),
            Helper::LoadMatrix => LOAD_MATRIX.to_owned(),
            Helper::PackF16 if arch.has_bf16() => pack("f16"),
            Helper::PackF16 => PACK_F16_PAIR.to_owned(),
            Helper::PackBf16 => pack("bf16"),
            Helper::MmaF16 if arch.mma(DType::F16).is_some_and(|shape| shape.k == 8) => MMA_F16_K8.to_owned(),
            Helper::MmaF16 => mma_k16("f16"),
            Helper::MmaBf16 => mma_k16("bf16"),
        }
    }
}

fn functor(name: &str, body: &str) -> String {
    format!("struct {name} {{\n    template <class T> static __device__ T of(T a, T b) {{ return {body}; }}\n}};\n")
}

const VEC: &str = "\
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
";

const F16: &str = r#"struct f16 { unsigned short bits; };
__device__ __forceinline__ float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
"#;

// A shift would take the upper one of two neighbours in a word down first, and then up: one instruction more.
const BF16: &str = r#"struct bf16 { unsigned short bits; };
__device__ __forceinline__ float to_f32(bf16 x) {
    float y;
    asm("mov.b32 %0, {%1, %2};" : "=f"(y) : "h"((unsigned short)0), "h"(x.bits));
    return y;
}
"#;

const BF16_CVT: &str = r#"__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
"#;

const BF16_ROUND: &str = "\
__device__ __forceinline__ bf16 to_bf16(float x) {
    // Rounds to nearest even by hand: this architecture has no conversion.
    const unsigned bits = __float_as_uint(x);
    const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return bf16{(unsigned short)(x == x ? rounded : 0x7fffu)};
}
";

/// Boldo and Melquiond, "When double rounding is odd".
const ODD_F32: &str = "\
// To f32 toward zero, with the last bit set if anything was lost: rounding that to 16 bits or fewer rounds once.
__device__ __forceinline__ float odd(float toward_zero, bool exact) {
    return exact ? toward_zero : __uint_as_float(__float_as_uint(toward_zero) | 1u);
}
__device__ __forceinline__ float odd_f32(double x) {
    const float y = __double2float_rz(x);
    return odd(y, (double)y == x || x != x);
}
__device__ __forceinline__ float odd_f32(int x) {
    const float y = __int2float_rz(x);
    return odd(y, (int)y == x);
}
__device__ __forceinline__ float odd_f32(unsigned x) {
    const float y = __uint2float_rz(x);
    return odd(y, (unsigned)y == x);
}
__device__ __forceinline__ float odd_f32(long long x) {
    const float y = __ll2float_rz(x);
    return odd(y, (long long)y == x);
}
__device__ __forceinline__ float odd_f32(unsigned long long x) {
    const float y = __ull2float_rz(x);
    return odd(y, (unsigned long long)y == x);
}
";

/// Finite magnitudes decode by rescaling an f32 with the same fields; only the special codes differ by format.
const E4M3_DECODE: &str = "magnitude == 0x7fu ? __uint_as_float(0x7fffffffu)";
const E5M2_DECODE: &str =
    "magnitude > 0x7cu ? __uint_as_float(0x7fffffffu) : magnitude == 0x7cu ? __uint_as_float(0x7f800000u)";

fn f8(arch: Arch, name: &str, mantissa: u32, bias: i32, max: &str, special: &str) -> String {
    let shift = 23 - mantissa;
    // 2^(127 - bias): the exponent field of an 8-bit float, read as that of an f32, is too small by this much.
    let rescale = ((254 - bias) as u32) << 23;
    let mut out = format!(
        "struct {name} {{ unsigned char bits; }};
__device__ __forceinline__ float to_f32({name} x) {{
    const unsigned magnitude = x.bits & 0x7fu;
    const float y = {special} : __uint_as_float(magnitude << {shift}) * __uint_as_float({rescale:#x}u);
    return x.bits & 0x80u ? -y : y;
}}
"
    );
    if arch.has_f8_convert() {
        out += &format!(
            r#"__device__ __forceinline__ {name} to_{name}(float x) {{
    unsigned short pair;
    asm("cvt.rn.satfinite.{name}x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
    return {name}{{(unsigned char)pair}};
}}
"#
        );
    } else {
        // Adding and removing a power of two rounds to the format's quantum: 2^23 of its units fill the f32 mantissa.
        let lowest = (1 - bias + 127) as u32;
        out += &format!(
            "__device__ __forceinline__ {name} to_{name}(float x) {{
    // Rounds to nearest even by hand: this architecture has no conversion.
    const unsigned bits = __float_as_uint(x);
    const unsigned sign = bits >> 24 & 0x80u;
    const unsigned magnitude = min(bits & 0x7fffffffu, {max});
    const unsigned exponent = max(magnitude >> 23, {lowest}u);
    const float units = rintf(__uint_as_float(magnitude) * __uint_as_float(({}u - exponent) << 23));
    const unsigned code = (unsigned)units + ((exponent - {lowest}u) << {mantissa});
    return {name}{{(unsigned char)(sign | (x == x ? code : 0x7fu))}};
}}
",
            254 + mantissa
        );
    }
    out
}

const INT4: &str = "\
// Two 4-bit elements a byte, low half first.
__device__ __forceinline__ signed char load_i4(const unsigned char* packed, long long i) {
    return (signed char)(packed[i / 2] << (i % 2 ? 0 : 4)) >> 4;
}
__device__ __forceinline__ unsigned char load_u4(const unsigned char* packed, long long i) {
    return packed[i / 2] >> (i % 2 ? 4 : 0) & 0xf;
}
";

const MIN_MAX: &str = "\
// NaN if either is NaN.
template <class T> __device__ __forceinline__ T min_of(T a, T b) { return a < b || a != a ? a : b; }
template <class T> __device__ __forceinline__ T max_of(T a, T b) { return a > b || a != a ? a : b; }
";

const MIN_MAX_F32: &str = r#"__device__ __forceinline__ float min_of(float a, float b) {
    float least;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(a), "f"(b));
    return least;
}
__device__ __forceinline__ float max_of(float a, float b) {
    float greatest;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(greatest) : "f"(a), "f"(b));
    return greatest;
}
"#;

const EXP2_APPROX: &str = r#"// 2 to the power x; what is below 2^-126 is 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
"#;

const WARP_REDUCE: &str = "\
// Combines one value of each of `lanes` neighbouring threads of a warp; all get the result.
template <class Op, int lanes = 32, class T> __device__ __forceinline__ T warp_reduce(T value) {
    #pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        value = Op::of(value, (T)__shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}
";

const BLOCK_REDUCE: &str = "\
// Combines one value of each thread of a block; all get the result.
template <class Op, int threads, class T> __device__ __forceinline__ T block_reduce(T value) {
    __shared__ T partial[threads / 32];
    value = warp_reduce<Op>(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = partial[0];
    #pragma unroll
    for (int warp = 1; warp < threads / 32; ++warp) value = Op::of(value, partial[warp]);
    __syncthreads();
    return value;
}
";

const SWIZZLE: &str = "\
// Position of an element of a tile of 16-bit elements whose 16-byte chunks are permuted within each row: eight rows of one
// column of chunks lie in different banks.
template <int cols> __device__ __forceinline__ int swizzled(int row, int col) {
    constexpr int chunks = cols / 8;
    constexpr int group = (chunks & -chunks) < 8 ? (chunks & -chunks) : 8;
    const int chunk = col / 8 ^ row / (8 / group) % group;
    return row * cols + chunk * 8 + col % 8;
}
";

const COPY_ASYNC: &str = r#"// Starts a copy to shared memory; writes zeros if the source does not exist.
template <int bytes> __device__ __forceinline__ void copy_async(void* to, const void* from, bool exists) {
    const unsigned address = __cvta_generic_to_shared(to);
    if (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(exists ? 16 : 0) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(bytes), "r"(exists ? bytes : 0) : "memory");
    }
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of the committed groups are unfinished.
template <int pending> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
"#;

const LOAD_MATRIX: &str = r#"// Four 8x8 matrices of 16-bit elements from shared memory; each lane gives the address of one row.
__device__ __forceinline__ void load_matrix(unsigned (&to)[4], const void* row) {
    const unsigned address = __cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void load_matrix_transposed(unsigned (&to)[4], const void* row) {
    const unsigned address = __cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}
"#;

fn pack(ty: &str) -> String {
    format!(
        r#"// Two neighbours of an operand in one register, the first in the low half.
__device__ __forceinline__ unsigned pack_{ty}(float low, float high) {{
    unsigned pair;
    asm("cvt.rn.{ty}x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}}
"#
    )
}

const PACK_F16_PAIR: &str = "\
// Two neighbours of an operand in one register, the first in the low half.
__device__ __forceinline__ unsigned pack_f16(float low, float high) {
    return to_f16(low).bits | (unsigned)to_f16(high).bits << 16;
}
";

fn mma_k16(ty: &str) -> String {
    format!(
        r#"// c[16, 8] += a[16, 16] * b[16, 8] on the tensor cores, spread over a warp.
__device__ __forceinline__ void mma_{ty}(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.{ty}.{ty}.f32 {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}}
"#
    )
}

const MMA_F16_K8: &str = r#"// c[16, 8] += a[16, 16] * b[16, 8] on the tensor cores, spread over a warp, in two halves of the depth.
__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
}
"#;
