//! Device functions that instructions need, beside those of [`crate::print::prelude`]; each is emitted only where it is used.

/// A piece of the prelude, in the order of emission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each variant is the piece of its name
pub enum Piece {
    Bits,
    RoundTf32,
    RoundTf32Away,
    Pack16,
    Pack8,
    ShuffleXor,
    Shuffle,
    NamedBarrier,
    ClusterSync,
    ClusterArrive,
    ClusterWait,
    ClusterLoad,
    BarrierInit,
    BarrierExpect,
    BarrierArrive,
    BarrierArriveRemote,
    BarrierWait,
    CopyAsync,
    TensorMap,
    TmaLoad,
    TmaLoadMulticast,
    TmaLoadWindows,
    TmaStore,
    Commit,
    WaitGroup,
    WaitGroupRead,
    SetRegisters,
    CounterWait,
    CounterSet,
    Opaque,
    Pin,
}

impl Piece {
    /// Its source.
    pub fn source(self) -> String {
        match self {
            Piece::Bits => BITS.to_owned(),
            Piece::RoundTf32 => round_tf32("round_tf32", "ties to even", "rn"),
            Piece::RoundTf32Away => round_tf32("round_tf32_away", "ties away from zero", "rna"),
            Piece::Pack16 => PACK16.to_owned(),
            Piece::Pack8 => PACK8.to_owned(),
            Piece::ShuffleXor => shuffle("shuffle_xor", "whose number differs in these bits", "__shfl_xor_sync"),
            Piece::Shuffle => shuffle("shuffle", "of this number", "__shfl_sync"),
            Piece::NamedBarrier => NAMED_BARRIER.to_owned(),
            Piece::ClusterSync => {
                effect("cluster_sync()", "barrier.cluster.arrive.aligned;\\nbarrier.cluster.wait.aligned;", "")
            }
            Piece::ClusterArrive => effect("cluster_arrive()", "barrier.cluster.arrive.aligned;", ""),
            Piece::ClusterWait => effect("cluster_wait()", "barrier.cluster.wait.aligned;", ""),
            Piece::ClusterLoad => CLUSTER_LOAD.to_owned(),
            Piece::BarrierInit => effect(
                "barrier_init(unsigned barrier, unsigned count)",
                "mbarrier.init.shared::cta.b64 [%0], %1;",
                r#""r"(barrier), "r"(count)"#,
            ),
            Piece::BarrierExpect => effect(
                "barrier_expect(unsigned barrier, unsigned bytes)",
                "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;",
                r#""r"(barrier), "r"(bytes)"#,
            ),
            Piece::BarrierArrive => effect(
                "barrier_arrive(unsigned barrier)",
                "mbarrier.arrive.shared::cta.b64 _, [%0];",
                r#""r"(barrier)"#,
            ),
            Piece::BarrierArriveRemote => effect(
                "barrier_arrive_remote(unsigned barrier, unsigned rank)",
                "{\\n.reg .b32 there;\\nmapa.shared::cluster.u32 there, %0, %1;\\nmbarrier.arrive.shared::cluster.b64 _, [there];\\n}",
                r#""r"(barrier), "r"(rank)"#,
            ),
            Piece::BarrierWait => effect(
                "barrier_wait(unsigned barrier, unsigned parity)",
                "{\\n.reg .pred done;\\nAGAIN:\\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\\n@!done bra AGAIN;\\n}",
                r#""r"(barrier), "r"(parity)"#,
            ),
            Piece::CopyAsync => COPY_ASYNC.to_owned(),
            Piece::TensorMap => "struct alignas(64) TensorMap { unsigned long long words[16]; };\n".to_owned(),
            Piece::TmaLoad => (1..=5).map(|rank| tma_load(rank, false)).collect(),
            Piece::TmaLoadMulticast => (1..=5).map(|rank| tma_load(rank, true)).collect(),
            Piece::TmaLoadWindows => (3..=5).map(tma_load_windows).collect(),
            Piece::TmaStore => (1..=5).map(tma_store).collect(),
            Piece::Commit => [
                effect("commit_copies()", "cp.async.commit_group;", ""),
                effect("commit_bulk()", "cp.async.bulk.commit_group;", ""),
            ]
            .concat(),
            Piece::WaitGroup => [
                template("wait_copies()", "cp.async.wait_group %0;"),
                template("wait_bulk()", "cp.async.bulk.wait_group %0;"),
            ]
            .concat(),
            Piece::WaitGroupRead => template("wait_bulk_read()", "cp.async.bulk.wait_group.read %0;"),
            Piece::CounterWait => COUNTER_WAIT.to_owned(),
            Piece::CounterSet => COUNTER_SET.to_owned(),
            Piece::Opaque => OPAQUE.to_owned(),
            Piece::Pin => PIN.to_owned(),
            Piece::SetRegisters => [
                template("take_registers()", "setmaxnreg.inc.sync.aligned.u32 %0;"),
                template("give_registers()", "setmaxnreg.dec.sync.aligned.u32 %0;"),
            ]
            .concat(),
        }
    }
}

/// A function of one instruction.
fn effect(head: &str, instruction: &str, operands: &str) -> String {
    let inputs = if operands.is_empty() { String::new() } else { format!(" {operands} ") };
    format!(
        "__device__ __forceinline__ void {head} {{\n    asm volatile(\"{instruction}\" ::{inputs}: \"memory\");\n}}\n"
    )
}

/// A function of one instruction that takes a number as part of it.
fn template(head: &str, instruction: &str) -> String {
    format!(
        "template <int n> __device__ __forceinline__ void {head} {{\n    asm volatile(\"{instruction}\" :: \"n\"(n) : \"memory\");\n}}\n"
    )
}

const BITS: &str = "\
// The bits of a vector of four bytes.
template <class T> __device__ __forceinline__ unsigned bits_of(const T& x) {
    static_assert(sizeof(T) == 4, \"four bytes\");
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
";

fn round_tf32(name: &str, ties: &str, mode: &str) -> String {
    format!(
        "\
// The bits of a float rounded to TF32, {ties}.
__device__ __forceinline__ unsigned {name}(unsigned bits) {{
    unsigned rounded;
    asm(\"cvt.{mode}.tf32.f32 %0, %1;\" : \"=r\"(rounded) : \"f\"(__uint_as_float(bits)));
    return rounded;
}}
"
    )
}

const PACK16: &str = "\
// Two numbers of 16 bits in one register, the first in the low half.
__device__ __forceinline__ unsigned pack(unsigned short first, unsigned short second) {
    return first | (unsigned)second << 16;
}
";

const PACK8: &str = "\
// Four bytes in one register, the first lowest.
__device__ __forceinline__ unsigned pack(unsigned char a, unsigned char b, unsigned char c, unsigned char d) {
    return a | (unsigned)b << 8 | (unsigned)c << 16 | (unsigned)d << 24;
}
";

fn shuffle(name: &str, whose: &str, intrinsic: &str) -> String {
    format!(
        "\
// The value that the thread of the warp {whose} has.
template <class T> __device__ __forceinline__ T {name}(T value, int who) {{
    unsigned words[(sizeof(T) + 3) / 4] = {{}};
    memcpy(words, &value, sizeof(T));
    #pragma unroll
    for (int i = 0; i < (int)(sizeof(T) + 3) / 4; ++i) words[i] = {intrinsic}(0xffffffffu, words[i], who);
    memcpy(&value, words, sizeof(T));
    return value;
}}
"
    )
}

const NAMED_BARRIER: &str = r#"__device__ __forceinline__ void barrier_sync(unsigned id, unsigned threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void barrier_pass(unsigned id, unsigned threads) {
    asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(threads) : "memory");
}
"#;

const CLUSTER_LOAD: &str = r#"// What another CTA of the cluster has at an address of its shared memory.
template <class T> __device__ __forceinline__ T cluster_load(unsigned address, unsigned cta) {
    unsigned there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(cta));
    T value;
    if (sizeof(T) == 8) {
        unsigned long long bits;
        asm volatile("ld.shared::cluster.b64 %0, [%1];" : "=l"(bits) : "r"(there) : "memory");
        memcpy(&value, &bits, sizeof(T));
    } else if (sizeof(T) == 4) {
        unsigned bits;
        asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(bits) : "r"(there) : "memory");
        memcpy(&value, &bits, sizeof(T));
    } else if (sizeof(T) == 2) {
        unsigned short bits;
        asm volatile("ld.shared::cluster.b16 %0, [%1];" : "=h"(bits) : "r"(there) : "memory");
        memcpy(&value, &bits, sizeof(T));
    } else {
        unsigned bits;
        asm volatile("ld.shared::cluster.u8 %0, [%1];" : "=r"(bits) : "r"(there) : "memory");
        memcpy(&value, &bits, sizeof(T));
    }
    return value;
}
"#;

const COUNTER_WAIT: &str = r#"// Waits until a counter has a value, and sees what was stored before it was set.
__device__ __forceinline__ void counter_wait(int* counter, int value) {
    int found;
    do {
        asm volatile("atom.acquire.gpu.global.cas.b32 %0, [%1], %2, %2;" : "=r"(found) : "l"(counter), "r"(value) : "memory");
    } while (found != value);
}
"#;

const COUNTER_SET: &str = r#"// Sets a counter, after everything that was stored before.
__device__ __forceinline__ void counter_set(int* counter, int value) {
    int before;
    asm volatile("atom.release.gpu.global.exch.b32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(value) : "memory");
}
"#;

const OPAQUE: &str = r#"// The same number, of which the compiler knows nothing.
__device__ __forceinline__ int opaque(int number) {
    asm volatile("" : "+r"(number));
    return number;
}
"#;

const PIN: &str = r#"// The value is made here and no later.
__device__ __forceinline__ void pin(float& value) { asm volatile("" : "+f"(value)); }
__device__ __forceinline__ void pin(int& value) { asm volatile("" : "+r"(value)); }
"#;

const COPY_ASYNC: &str = r#"// Starts a copy to shared memory; writes zeros if the source does not exist.
template <int bytes> __device__ __forceinline__ void copy_async(unsigned to, unsigned long long from, bool exists) {
    if (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" :: "r"(to), "l"(from), "n"(bytes), "r"(exists ? bytes : 0) : "memory");
    }
}
"#;

/// `int x0, int x1...` and `"r"(x0), "r"(x1)...` of the coordinates of a box, and their places from `first` on.
fn coordinates(rank: u32, first: u32) -> (String, String, String) {
    let list = |of: &dyn Fn(u32) -> String| (0..rank).map(of).collect::<Vec<_>>().join(", ");
    (
        list(&|axis| format!("int x{axis}")),
        list(&|axis| format!("\"r\"(x{axis})")),
        list(&|axis| format!("%{}", first + axis)),
    )
}

fn tma_load(rank: u32, multicast: bool) -> String {
    let (params, operands, places) = coordinates(rank, if multicast { 4 } else { 3 });
    let (name, suffix, mask, param, operand) = if multicast {
        ("tma_load_multicast", ".multicast::cluster", ", %3", "unsigned short ctas, ", "\"h\"(ctas), ")
    } else {
        ("tma_load", "", "", "", "")
    };
    format!(
        "__device__ __forceinline__ void {name}(unsigned to, const TensorMap& map, unsigned barrier, {param}{params}) {{\n    \
         asm volatile(\"cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes{suffix} [%0], [%1, {{{places}}}], [%2]{mask};\"\n                 \
         :: \"r\"(to), \"l\"(&map), \"r\"(barrier), {operand}{operands} : \"memory\");\n}}\n"
    )
}

fn tma_load_windows(rank: u32) -> String {
    let (params, operands, places) = coordinates(rank, 3);
    let list = |of: &dyn Fn(u32) -> String| (0..rank - 2).map(of).collect::<Vec<_>>().join(", ");
    let (offsets, shorts) = (list(&|axis| format!("unsigned short o{axis}")), list(&|axis| format!("\"h\"(o{axis})")));
    let within = list(&|axis| format!("%{}", 3 + rank + axis));
    format!(
        "__device__ __forceinline__ void tma_load_im2col(unsigned to, const TensorMap& map, unsigned barrier, {params}, {offsets}) {{\n    \
         asm volatile(\"cp.async.bulk.tensor.{rank}d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {{{places}}}], [%2], {{{within}}};\"\n                 \
         :: \"r\"(to), \"l\"(&map), \"r\"(barrier), {operands}, {shorts} : \"memory\");\n}}\n"
    )
}

fn tma_store(rank: u32) -> String {
    let (params, operands, places) = coordinates(rank, 2);
    format!(
        "__device__ __forceinline__ void tma_store(const TensorMap& map, unsigned from, {params}) {{\n    \
         asm volatile(\"cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group [%0, {{{places}}}], [%1];\"\n                 \
         :: \"l\"(&map), \"r\"(from), {operands} : \"memory\");\n}}\n"
    )
}
