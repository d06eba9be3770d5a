//! What warps of a warpgroup must do together, and grids that depend on each other: wgmma, setmaxnreg, griddepcontrol.

use crate::support::{get, put};
use kiln_sim::{Arg, Device, Finding, FindingKind, Kernel, LaunchConfig, Module, Options};

/// A kernel with the directives and the body; `t`, `warp` and `group` are the thread, its warp and its warpgroup.
fn kernel(directives: &str, body: &str) -> Kernel {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 array)\n{directives}\n{{\n\
         .reg .pred p, q; .reg .b32 t, warp, group, v; .reg .b64 a, d; .reg .f32 f<4>; .shared .align 128 .b8 tile[4096];\n\
         ld.param.u64 a, [array]; mov.u32 t, %tid.x; shr.u32 warp, t, 5; shr.u32 group, t, 7;\n{body}\nret;\n}}"
    );
    Module::parse(&text).and_then(|m| m.kernel("k")).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Findings with the fixed schedule and with five others.
fn findings(kernel: &Kernel, threads: u32) -> Vec<Vec<Finding>> {
    let run = |seed: u64| {
        let d = Device::default();
        let a = put(&d, &[0u32; 64]);
        let options = Options { seed: seed.checked_sub(1), ..Options::default() };
        d.launch(kernel, LaunchConfig::linear(1, threads), &[Arg::U64(a)], &options).unwrap().findings
    };
    (0..6).map(run).collect()
}

#[track_caller]
fn assert_clean(kernel: &Kernel, threads: u32) {
    for found in findings(kernel, threads) {
        let list: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "{list:#?}");
    }
}

#[track_caller]
fn assert_finds(kernel: &Kernel, threads: u32, kind: FindingKind, text: &str) {
    for found in findings(kernel, threads) {
        let list: Vec<String> = found.iter().map(ToString::to_string).collect();
        let hit = found.iter().any(|f| f.kind == kind && f.message.contains(text));
        assert!(hit, "expected {kind}: {text}; {list:#?}");
    }
}

/// Three warpgroups with 168 registers a thread.
const BOUNDS: &str = ".maxntid 384, 1, 1\n.minnctapersm 1";

/// The first warpgroup executes one instruction, the others another.
fn split(first: &str, others: &str) -> String {
    format!("setp.ne.u32 p, group, 0; @p bra OTHERS;\n{first}\nbra END;\nOTHERS:\n{others}\nEND:")
}

fn set(action: &str, count: u32) -> String {
    format!("setmaxnreg.{action}.sync.aligned.u32 {count};")
}

#[test]
fn registers_move_from_the_producer_to_the_consumers() {
    for (less, more) in [(40, 232), (24, 240)] {
        let body = split(&set("dec", less), &set("inc", more));
        assert_clean(&kernel(BOUNDS, &body), 384);
        assert_clean(&kernel(".maxnreg 168", &body), 384);
        assert_clean(&kernel(".reqntid 384, 1, 1\n.minnctapersm 1", &body), 384);
    }
    // Again once all have met.
    let twice = format!("{} bar.sync 1, 128; {}", set("dec", 40), set("dec", 24));
    assert_clean(&kernel(BOUNDS, &split(&twice, &set("inc", 240))), 384);
}

#[test]
fn setmaxnreg_has_limits() {
    let finds = |directives: &str, body: String, text: &str| {
        assert_finds(&kernel(directives, &body), 384, FindingKind::RegisterLimit, text);
    };
    for count in [16, 20, 44, 264, 512] {
        finds(BOUNDS, split(&set("dec", count), ""), "multiple of 8 in 24..=256");
    }
    for directives in ["", ".maxntid 384, 1, 1"] {
        finds(directives, split(&set("dec", 40), ""), "has no effect");
    }
    finds(BOUNDS, split(&set("dec", 176), ""), "dec to 176 registers a thread, which has 168");
    finds(BOUNDS, split(&set("inc", 160), ""), "inc to 160 registers a thread, which has 168");
    finds(
        ".maxntid 256, 1, 1\n.minnctapersm 2".replace("256", "384").as_str(),
        split(&set("dec", 88), ""),
        "which has 80",
    );
}

#[test]
fn setmaxnreg_is_for_all_warps_of_a_warpgroup() {
    let finds = |body: String, text: &str| {
        assert_finds(&kernel(BOUNDS, &body), 384, FindingKind::RegisterLimit, text);
    };
    let some = format!("setp.eq.u32 q, warp, 3; @q bra END;\n{}", set("dec", 40));
    finds(split(&some, ""), "not by warp 3 of its warpgroup");
    let apart = format!("setp.eq.u32 q, warp, 3; @q bra LAST;\n{}\nbra END;\nLAST: {}", set("dec", 40), set("dec", 40));
    finds(split(&apart, ""), "executes the setmaxnreg at PTX line");
    finds(split(&format!("{}\n{}", set("dec", 40), set("dec", 24)), ""), "without a barrier");
    // Half of a warp.
    let half = format!("and.b32 v, t, 16; setp.ne.u32 q, v, 0; @q bra END;\n{}", set("dec", 40));
    assert_finds(&kernel(BOUNDS, &split(&half, "")), 384, FindingKind::InvalidOperand, "a warp-wide instruction");
}

#[test]
fn more_registers_than_the_cta_has_are_a_deadlock() {
    // 4 warps give 128 each; 8 want 72 each.
    let body = split(&set("dec", 40), &set("inc", 240));
    assert_finds(&kernel(BOUNDS, &body), 384, FindingKind::Deadlock, "240 registers a thread");
    let body = split("", &set("inc", 176));
    assert_finds(&kernel(BOUNDS, &body), 384, FindingKind::Deadlock, "176 registers a thread");
}

const WGMMA: &str = "fence.proxy.async.shared::cta; bar.sync 0;\nwgmma.fence.sync.aligned;\n\
    wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {f0, f1, f2, f3}, d, d, 0, 1, 1, 0, 0;\n\
    wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";

/// Zeroes the tile, then a product of it with itself, which does not depend on the layout.
fn product(before: &str, after: &str) -> Kernel {
    let tile = "mul.lo.u32 v, t, 32; cvt.u64.u32 d, v; mov.u64 a, tile; add.u64 d, d, a;\n\
        mov.f32 f0, 0f00000000; st.shared.v4.f32 [d], {f0, f0, f0, f0}; st.shared.v4.f32 [d+16], {f0, f0, f0, f0};\n\
        mov.u64 d, tile; shr.u64 d, d, 4; or.b64 d, d, 0x0000001000080000;\n";
    kernel("", &format!("{tile}{before}{WGMMA}{after}"))
}

#[test]
fn wgmma_is_for_all_warps_of_a_warpgroup() {
    assert_clean(&product("", ""), 128);
    assert_finds(&product("", ""), 96, FindingKind::Wgmma, "all four warps");
    // A descriptor of its own for one warp.
    let apart = product("setp.eq.u32 p, warp, 2; @p add.u64 d, d, 8;\n", "");
    assert_finds(&apart, 128, FindingKind::Wgmma, "other descriptors in warp");
    // One warp leaves; one warp waits elsewhere.
    let leaves = product("setp.eq.u32 p, warp, 2; @p bar.sync 0; @p ret;\n", "");
    assert_finds(&leaves, 128, FindingKind::Wgmma, "all four warps");
    let elsewhere = product("setp.eq.u32 p, warp, 2; @p bar.sync 0; @p bra LATE;\n", "LATE: bar.sync 1, 128;");
    assert_finds(&elsewhere, 128, FindingKind::Deadlock, "to which warps 2 belong too");
}

#[test]
fn a_grid_waits_for_the_one_before_it() {
    let d = Device::default();
    let a = put(&d, &[5u32; 64]);
    let writes = kernel(
        "",
        "mul.wide.u32 d, t, 4; add.u64 a, a, d; griddepcontrol.launch_dependents; mov.u32 v, %ctaid.x; setp.ne.u32 p, v, 0; @p ret; st.global.u32 [a], t; griddepcontrol.launch_dependents;",
    );
    let reads = kernel(
        "",
        "mul.wide.u32 d, t, 4; add.u64 a, a, d; griddepcontrol.wait; ld.global.u32 v, [a]; add.u32 v, v, 1; st.global.u32 [a], v;",
    );
    let options = Options { counters: true, ..Options::default() };
    let first = crate::support::run(&d, &writes, LaunchConfig::linear(3, 64), &[Arg::U64(a)], &options);
    // Once a CTA, however many of its threads say so.
    assert_eq!(first.counters.unwrap().total.dependents_launched, 3);
    let second = crate::support::run(&d, &reads, LaunchConfig::linear(1, 64), &[Arg::U64(a)], &options);
    assert_eq!(second.counters.unwrap().total.dependents_launched, 0);
    assert_eq!(get::<u32>(&d, a, 64), (1..65).collect::<Vec<u32>>());
}
