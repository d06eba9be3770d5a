//! Kernels that are wrong, one mistake each, and the finding that must name it.

use crate::support::{kernel, put};
use kiln_sim::{Arg, Device, FindingKind, LaunchConfig, Module, Options};

const FILE: &str = "broken.sm_90a";

fn findings(name: &str, grid: u32, block: u32, seed: Option<u64>) -> Vec<kiln_sim::Finding> {
    let k = kernel(FILE, name);
    let d = Device::default();
    let g = put(&d, &[0f32; 1024]);
    let options = Options { seed, budget: 200_000, ..Options::default() };
    let report = d.launch(&k, LaunchConfig::linear(grid, block), &[Arg::U64(g), Arg::I32(0)], &options);
    report.unwrap_or_else(|e| panic!("{name}: {e}")).findings
}

/// The mistake is found with the fixed schedule and with five others, and the finding names the source line.
#[track_caller]
fn expect(name: &str, grid: u32, block: u32, kind: FindingKind) {
    for seed in [None, Some(1), Some(2), Some(3), Some(4), Some(5)] {
        let found = findings(name, grid, block, seed);
        // A copy that happens to land early is still unordered with its use.
        let race = |f: &kiln_sim::Finding| {
            seed.is_some() && kind == FindingKind::AsyncPending && f.kind == FindingKind::SharedRace
        };
        let hit = found.iter().find(|f| f.kind == kind || race(f));
        let all: Vec<String> = found.iter().map(ToString::to_string).collect();
        let hit = hit.unwrap_or_else(|| panic!("{name}, seed {seed:?}: expected {kind}, found {all:#?}"));
        assert!(hit.file.ends_with("broken.cu") && hit.line > 0 && hit.kernel == name, "{hit}");
    }
}

macro_rules! broken {
    ($($name:ident: $grid:literal x $block:literal => $kind:ident;)*) => {
        $(#[test] fn $name() { expect(stringify!($name), $grid, $block, FindingKind::$kind); })*
    };
}

broken! {
    missing_barrier: 1 x 64 => SharedRace;
    missing_barrier_before_reuse: 1 x 64 => SharedRace;
    missing_barrier_in_tree: 1 x 128 => SharedRace;
    named_barrier_wrong_id: 1 x 64 => Deadlock;
    cp_missing_wait: 1 x 64 => AsyncPending;
    cp_wait_one_too_few: 1 x 64 => AsyncPending;
    cp_wait_without_barrier: 1 x 64 => SharedRace;
    cp_into_buffer_being_read: 1 x 64 => SharedRace;
    cp_without_commit: 1 x 64 => AsyncPending;
    cp_source_size_too_large: 1 x 64 => InvalidOperand;
    cp_misaligned: 1 x 64 => Misaligned;
    global_load_past_end: 1 x 64 => OutOfBounds;
    global_store_past_end: 1 x 64 => OutOfBounds;
    null_pointer: 1 x 64 => OutOfBounds;
    shared_off_by_one: 1 x 64 => OutOfBounds;
    shared_negative: 1 x 64 => OutOfBounds;
    dynamic_too_small: 1 x 64 => OutOfBounds;
    local_past_end: 1 x 64 => OutOfBounds;
    const_past_end: 1 x 64 => OutOfBounds;
    shared_pointer_as_global: 1 x 64 => OutOfBounds;
    misaligned_vector: 1 x 64 => Misaligned;
    misaligned_shared_vector: 1 x 64 => Misaligned;
    misaligned_atomic: 1 x 64 => Misaligned;
    uninitialised_shared: 1 x 64 => Uninitialized;
    uninitialised_tail: 1 x 64 => Uninitialized;
    uninitialised_byte: 1 x 64 => Uninitialized;
    two_ctas_write: 2 x 64 => GlobalRace;
    cta_reads_anothers_write: 2 x 64 => GlobalRace;
    flag_without_fence: 2 x 64 => GlobalRace;
    divergent_barrier: 1 x 64 => DivergentBarrier;
    barrier_in_both_branches: 1 x 64 => DivergentBarrier;
    thread_exits_before_barrier: 1 x 64 => ExitedBeforeBarrier;
    warp_exits_before_barrier: 1 x 64 => ExitedBeforeBarrier;
    deadlock_at_collective: 1 x 64 => Deadlock;
    deadlock_at_barrier: 1 x 64 => Deadlock;
    shuffle_outside_mask: 1 x 64 => InvalidOperand;
    shuffle_from_other_branch: 1 x 64 => InvalidOperand;
    barrier_counts_differ: 1 x 64 => InvalidOperand;
    barrier_count_not_whole_warps: 1 x 64 => InvalidOperand;
    mma_by_half_a_warp: 1 x 64 => InvalidOperand;
    ldmatrix_misaligned: 1 x 64 => Misaligned;
    ldmatrix_past_end: 1 x 64 => OutOfBounds;
    assertion: 1 x 64 => Trap;
    endless_loop: 1 x 64 => Budget;
    mbarrier_wrong_parity: 1 x 64 => AsyncPending;
    mbarrier_missing_expect: 1 x 64 => AsyncPending;
    mbarrier_wrong_bytes: 1 x 64 => Deadlock;
    mbarrier_not_initialised: 1 x 64 => Mbarrier;
    mbarrier_count_too_high: 1 x 64 => Deadlock;
    mbarrier_extra_arrival: 1 x 64 => Mbarrier;
    mbarrier_ignored: 1 x 64 => AsyncPending;
    bulk_odd_size: 1 x 64 => Misaligned;
    bulk_misaligned: 1 x 64 => Misaligned;
    missing_proxy_fence: 1 x 64 => ProxyFence;
    missing_bulk_wait: 1 x 64 => SharedRace;
    tensor_map_is_garbage: 1 x 64 => InvalidOperand;
    wgmma_missing_wait: 1 x 128 => Wgmma;
    wgmma_missing_proxy_fence: 1 x 128 => ProxyFence;
    wgmma_operand_overwritten: 1 x 128 => SharedRace;
    cluster_missing_barrier: 2 x 64 => SharedRace;
    cluster_rank_out_of_range: 2 x 64 => OutOfBounds;
    cluster_arrives_twice: 2 x 64 => InvalidOperand;
}

/// Kinds found in a kernel of one warp with registers `a`, `b`, `c`, predicate `p` (lane < 16) and address `[out]`.
fn registers(body: &str) -> Vec<(FindingKind, [u32; 3])> {
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 o) {{\n\
         .reg .b32 a, b, c, t, s<4>; .reg .b16 h<4>; .reg .b64 out, wide; .reg .pred p;\n\
         .shared .align 16 .b8 tile[1024]; .local .align 16 .b8 own[64];\n\
         ld.param.u64 out, [o]; mov.u32 t, %tid.x; setp.lt.u32 p, t, 16;\n{body}\nret; }}"
    );
    let kernel = Module::parse(&ptx).and_then(|m| m.kernel("k")).unwrap();
    let d = Device::default();
    let out = put(&d, &[0u32; 32]);
    let report = d.launch(&kernel, LaunchConfig::linear(1, 32), &[Arg::U64(out)], &Options::default()).unwrap();
    report.findings.iter().map(|f| (f.kind, f.thread)).collect()
}

#[test]
fn registers_that_nothing_has_written() {
    let uninitialized = |lane| vec![(FindingKind::UninitializedRegister, [lane, 0, 0])];
    assert_eq!(registers("st.global.u32 [out], a;"), uninitialized(0));
    assert_eq!(registers("add.u32 b, a, 1; st.global.u32 [out], b;"), uninitialized(0));
    // Written by half of the warp only, through a branch and through a guard.
    assert_eq!(registers("@!p bra L; mov.u32 a, 1; L: st.global.u32 [out], a;"), uninitialized(16));
    assert_eq!(registers("@p mov.u32 a, 1; st.global.u32 [out], a;"), uninitialized(16));
    // A move is no use of its own, but what it moved is.
    assert_eq!(registers("mov.u32 b, a; mov.u32 c, b; st.global.u32 [out], c;"), uninitialized(0));
    assert_eq!(registers("mov.u32 b, a; mov.u32 b, 2; st.global.u32 [out], b;"), []);
    // Nor is a store what is overwritten before anybody looks at it, wherever it lies.
    for (space, at) in [("global", "out"), ("shared", "tile"), ("local", "own")] {
        let moved = |rest: &str| registers(&format!("st.{space}.v2.u32 [{at}], {{a, t}}; {rest}"));
        let global = space == "global";
        assert_eq!(moved(&format!("st.{space}.u32 [{at}], 7;")), [], "{space}");
        assert_eq!(moved(&format!("st.{space}.v2.u16 [{at}], {{h0, h0}}; st.{space}.u32 [{at}], 7;")), [], "{space}");
        assert_eq!(moved(&format!("ld.{space}.u32 b, [{at}+4]; st.global.v2.u32 [out], {{b, b}};")), [], "{space}");
        // What is left of it is used by arithmetic, by an address, by a branch, or by whoever reads the results.
        let used = |rest: &str| assert_eq!(moved(rest)[0], uninitialized(0)[0], "{space}: {rest}");
        used(&format!("ld.{space}.u32 b, [{at}]; add.u32 c, b, 1; st.global.v2.u32 [out], {{c, c}};"));
        used(&format!(
            "st.{space}.u16 [{at}], 7; ld.{space}.u32 b, [{at}]; mov.u32 c, b; not.b32 c, c; st.{space}.u32 [{at}], 1;"
        ));
        used(&format!("ld.{space}.u8 b, [{at}+3]; setp.eq.u32 p, b, 0; st.{space}.u32 [{at}], 1;"));
        used(&format!("ld.{space}.u32 b, [{at}]; st.global.v2.u32 [out], {{b, t}};"));
        assert_eq!(moved("").is_empty(), !global, "{space}: only the device's memory outlives the kernel");
    }
    // Byte by byte: half of a register is as good as its own.
    assert_eq!(
        registers(
            "mov.u16 h0, 3; mov.b32 b, {h0, h1}; mov.b32 {h2, h3}, b; add.u16 h2, h2, h0; st.global.u16 [out], h2;"
        ),
        []
    );
    assert_eq!(
        registers(
            "mov.u16 h0, 3; mov.b32 b, {h0, h1}; mov.b32 {h2, h3}, b; add.u16 h3, h3, h0; st.global.u16 [out], h2;"
        ),
        uninitialized(0)
    );
    assert_eq!(registers("mov.b64 wide, {t, a}; mov.b64 {b, c}, wide; st.global.u32 [out], b;"), []);
    assert_eq!(registers("mov.b64 wide, {t, a}; mov.b64 {b, c}, wide; st.global.u32 [out], c;"), uninitialized(0));
    // Written on every path that reads it.
    assert_eq!(registers("@p mov.u32 a, 1; @!p mov.u32 a, 2; st.global.u32 [out], a;"), []);
    assert_eq!(registers("@p mov.u32 a, 1; @!p bra L; st.global.u32 [out], a; L:"), []);
    assert_eq!(registers("mov.u32 b, 0; L: @p mov.u32 a, b; add.u32 b, b, 1; setp.lt.u32 p, b, 3; @p bra L;"), []);
}
