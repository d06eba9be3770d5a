//! The validator of schedules: right programs of every kind of schedule, and what it says of broken ones.

use crate::tile_programs::mutants::{blocks, mutate};
use crate::tile_programs::{attention, gemm, hopper, shared_softmax};
use kiln_target::arch::Arch;
use kiln_tile::expr::ExprKind;
use kiln_tile::interp::Arg;
use kiln_tile::ir::{Builder, Op, Place, Program, Schedule, interp, verify};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::program::Param;
use kiln_tile::validate::{Finding, validate};
use kiln_tile::{Access, Array, DType, Expr, TileError, Type};
use std::collections::BTreeMap;

fn asynchronous(mut program: Program, arch: Arch) -> Program {
    for pass in &PASSES {
        pass.run(&mut program, &Machine::new(arch)).unwrap_or_else(|e| panic!("{} for {arch}: {e}", pass.name));
    }
    program
}

fn plain() -> Schedule {
    Schedule { warps: 4, ..Schedule::default() }
}

fn overlapped() -> Schedule {
    Schedule { overlap: true, ping_pong: true, raster: 0, ..hopper(8) }
}

fn tma() -> Program {
    asynchronous(gemm(DType::BF16, [128, 128, 64], 3, hopper(8)), Arch::Sm90a)
}

fn flash() -> Program {
    asynchronous(attention(DType::BF16, 64, [128, 128, 64], 2, overlapped()), Arch::Sm90a)
}

/// `cp.async` in front of `wgmma`.
fn mixed() -> Program {
    asynchronous(gemm(DType::BF16, [64, 64, 64], 3, plain()), Arch::Sm90a)
}

fn copies() -> Program {
    asynchronous(gemm(DType::BF16, [64, 64, 32], 3, plain()), Arch::Sm80)
}

fn staged() -> Program {
    asynchronous(gemm(DType::F16, [64, 64, 32], 2, plain()), Arch::Sm75)
}

/// Two CTAs that share columns.
fn shared() -> Program {
    asynchronous(gemm(DType::BF16, [128, 128, 64], 3, Schedule { cluster: 2, ..hopper(8) }), Arch::Sm90a)
}

fn accepted(program: &Program, name: &str) {
    let started = std::time::Instant::now();
    let verdict = validate(program).unwrap_or_else(|e| panic!("{name}: {e}\n{program}"));
    assert!(verdict.launches > 1 && verdict.events > 100, "{name}: {verdict:?}");
    println!("{name}: {verdict:?} in {:?}", started.elapsed());
}

#[test]
fn accepts_specialised_products() {
    for stages in [2, 3, 4] {
        for persistent in [true, false] {
            for staged_epilogue in [true, false] {
                let schedule = Schedule { persistent, staged_epilogue, ..hopper(8) };
                let program = asynchronous(gemm(DType::BF16, [128, 128, 64], stages, schedule), Arch::Sm90a);
                accepted(&program, &format!("{stages} stages, persistent {persistent}, staged {staged_epilogue}"));
            }
        }
    }
    accepted(&asynchronous(gemm(DType::F16, [64, 96, 64], 2, hopper(4)), Arch::Sm90a), "one warpgroup");
}

/// Two groups of a role that have tiles of their own.
fn alternating(tile: [u32; 3], stages: u32, staged_epilogue: bool) -> Program {
    let schedule = Schedule { ping_pong: true, staged_epilogue, ..hopper(4) };
    asynchronous(gemm(DType::BF16, tile, stages, schedule), Arch::Sm90a)
}

#[test]
fn accepts_tiles_in_turn() {
    for (tile, stages, staged) in [([64, 96, 64], 2, true), ([128, 64, 64], 3, false), ([64, 64, 64], 5, true)] {
        let program = alternating(tile, stages, staged);
        let text = program.to_string();
        assert!(text.contains("groups group below 2") && text.contains("named_barrier group + 6"), "{text}");
        accepted(&program, &format!("{tile:?} in {stages} stages, staged {staged}"));
    }
}

/// Without turns a role may take the phase before the last for that of its slot; with one of them left out somebody waits for ever.
#[test]
fn rejects_tiles_without_turns() {
    let is = |op: &Op, waits: bool| matches!(op, Op::NamedBarrier { wait, .. } if *wait == waits);
    for (waits, passes) in [(true, true), (true, false), (false, true)] {
        let mut program = alternating([64, 96, 64], 3, true);
        let mut left_out = 0;
        let dropped = |op: &Op| waits && is(op, true) || passes && is(op, false);
        blocks(&mut program.body, &mut |block| {
            let before = block.len();
            block.retain(|stmt| !dropped(&stmt.op));
            left_out += before - block.len();
        });
        assert!(left_out >= 2);
        assert!(validate(&program).is_err(), "waits {waits}, passes {passes} left out");
    }
}

#[test]
fn accepts_clusters() {
    for (cluster, across, warps, persistent) in
        [(2, false, 8, true), (2, true, 8, true), (4, false, 8, true), (2, false, 4, true), (2, true, 8, false)]
    {
        let schedule = Schedule { cluster, across, persistent, ..hopper(warps) };
        let tile = if warps == 8 { [128, 128, 64] } else { [64, 96, 64] };
        let program = asynchronous(gemm(DType::BF16, tile, 3, schedule), Arch::Sm90a);
        let (text, name) = (program.to_string(), format!("{cluster} CTAs, across {across}, persistent {persistent}"));
        let shared = if across { "copy a[a_fill] = x" } else { "copy b[a_fill] = w" };
        let by = |line: &&str| line.contains(" by multicast ");
        assert!(text.lines().filter(by).all(|line| line.contains(shared)), "{name}:\n{text}");
        assert_eq!(text.lines().filter(by).count(), 1, "{name}:\n{text}");
        assert!(text.contains(&format!("count {} by warpgroup", cluster * warps / 4)), "{name}:\n{text}");
        accepted(&program, &name);
    }
    // Tiles of queries share keys and values, in the loop and outside of it.
    let schedule = Schedule { cluster: 2, across: true, ..overlapped() };
    let program = asynchronous(attention(DType::BF16, 64, [128, 128, 64], 2, schedule), Arch::Sm90a);
    assert_eq!(program.to_string().matches(" by multicast ").count(), 4, "{program}");
    accepted(&program, "attention");
}

#[test]
fn accepts_attention() {
    accepted(&flash(), "overlap and ping-pong");
    for (overlap, ping_pong) in [(false, false), (true, false), (false, true)] {
        let schedule = Schedule { overlap, ping_pong, ..overlapped() };
        let program = asynchronous(attention(DType::BF16, 64, [128, 128, 64], 2, schedule), Arch::Sm90a);
        accepted(&program, &format!("overlap {overlap}, ping-pong {ping_pong}"));
    }
    for (arch, dtype) in [(Arch::Sm80, DType::BF16), (Arch::Sm75, DType::F16)] {
        accepted(&asynchronous(attention(dtype, 64, [64, 32, 64], 2, plain()), arch), arch.name());
    }
}

#[test]
fn accepts_pipelines_without_roles() {
    accepted(&mixed(), "cp.async and wgmma");
    accepted(&staged(), "registers");
    for stages in [2, 3, 4] {
        accepted(&asynchronous(gemm(DType::BF16, [64, 64, 32], stages, plain()), Arch::Sm80), "cp.async");
    }
    accepted(&asynchronous(gemm(DType::F32, [32, 32, 16], 3, plain()), Arch::Sm80), "fma");
}

/// Products of tiles of rows, each as deep as memory says.
fn as_deep_as_data() -> Program {
    let mut k = Builder::new("as_deep_as_data", "y = x w, each tile to a depth of its own");
    let tiles = k.dim("tiles", 1..=1 << 10, 1);
    let (depth, rows) = (k.dim("k", 8..=1 << 20, 8), &tiles * 64);
    let depths = k.input("depths", DType::I32, std::slice::from_ref(&tiles));
    let x = k.input("x", DType::BF16, &[rows.clone(), depth.clone()]);
    let w = k.input("w", DType::BF16, &[depth.clone(), Expr::index(64)]);
    let y = k.output("y", DType::F32, &[rows, Expr::index(64)]);
    k.schedule(hopper(4));
    let tile = k.grid(&[("tile", tiles)]).remove(0);
    let own = k.bind("own", depths.at(std::slice::from_ref(&tile)).cast(Type::Index).max(0).min(&depth));
    let row = &tile * 64;
    let zero = k.full("acc", DType::F32, &[64, 64], Expr::float(DType::F32, 0.0));
    let sums = k.for_range("k0", (Expr::index(0), own, 64), Some(3), &[zero], |k, at, acc| {
        let view = k.view(&x, &[row.clone(), at.clone()], &[64, 64]);
        let a = k.load("a", view);
        let view = k.view(&w, &[at.clone(), Expr::index(0)], &[64, 64]);
        let b = k.load("b", view);
        vec![k.dot(&a, &b, &acc[0])]
    });
    let view = k.view(&y, &[row, Expr::index(0)], &[64, 64]);
    k.store(Place::View(view), &sums[0]);
    k.finish().unwrap()
}

#[test]
fn control_may_depend_on_integers_in_memory() {
    let program = asynchronous(as_deep_as_data(), Arch::Sm90a);
    accepted(&program, "as deep as data");
    // Who copies stops before who multiplies does, and the other way about.
    let edits: &[Edit] = &[
        ("the producer stops early", 1, "(depths[tile]), 0), k)", "(depths[tile]), 0), 64)", Finding::Deadlock),
        ("the consumer stops early", 1, "(depths[tile.1]), 0), k)", "(depths[tile.1]), 0), 64)", Finding::Unfinished),
    ];
    refused(&program, edits);
}

/// Three CTAs add to a tile's sums one after another.
fn in_turn() -> Program {
    let mut k = Builder::new("in_turn", "sums of three parts");
    let n = k.dim("n", 1..=64, 1);
    let (parts, columns) = (Expr::index(3), Expr::index(128));
    let x = k.input("x", DType::F32, &[parts.clone(), n.clone(), columns.clone()]);
    let sums = k.tensor("sums", DType::F32, &[n.clone(), columns.clone()], Access::ReadWrite);
    let turns = k.tensor("turns", DType::I32, std::slice::from_ref(&n), Access::ReadWrite);
    let y = k.output("y", DType::F32, &[n.clone(), columns]);
    k.schedule(plain());
    let at = k.grid(&[("part", parts), ("tile", n)]);
    let (part, tile) = (at[0].clone(), at[1..].to_vec());
    let own = k.view(&x, &[part.clone(), tile[0].clone(), Expr::index(0)], &[1, 128]);
    let own = k.load("own", own);
    let [shared, result] = [&sums, &y].map(|to| k.view(to, &[tile[0].clone(), Expr::index(0)], &[1, 128]));
    let total = k.if_else(
        part.gt(0),
        |k| {
            k.wait_for(&turns, &tile, part.clone());
            let so_far = k.load("so_far", shared.clone());
            vec![k.map("total", &[1, 128], &[&so_far, &own], |_, x, _| &x[0] + &x[1])]
        },
        |_| vec![own.clone()],
    );
    k.if_else(
        part.lt(2),
        |k| {
            k.store(Place::View(shared.clone()), &total[0]);
            k.signal(&turns, &tile, &part + 1);
            vec![]
        },
        |k| {
            k.store(Place::View(result), &total[0]);
            k.signal(&turns, &tile, Expr::index(0));
            vec![]
        },
    );
    k.finish().unwrap()
}

#[test]
fn counters_are_held_in_turn() {
    use Finding::*;
    let program = asynchronous(in_turn(), Arch::Sm80);
    assert!(validate(&program).unwrap().launches > 1);
    let edits: &[Edit] = &[
        ("a value that nobody leaves", 1, "await turns[tile] = part", "await turns[tile] = part + 1", Deadlock),
        ("a value that a later CTA leaves", 1, "await turns[tile] = part", "await turns[tile] = 3 - part", Deadlock),
        ("the counter is not left zero", 1, "signal turns[tile] = 0", "signal turns[tile] = 3", Unfinished),
        ("the counter is kept", 1, "signal turns[tile] = 0\n", "", Unfinished),
        ("it is given back by who does not hold it", 1, "await turns[tile] = part\n", "", Counter),
        ("tiles share a counter", 1, "signal turns[tile] = part + 1", "signal turns[0] = part + 1", Counter),
        ("a value that another CTA takes", 1, "await turns[tile] = part", "await turns[0] = 1", Deadlock),
    ];
    refused(&program, edits);
    // The interpreter's CTAs run one after another too.
    let array = |dtype: DType, count: usize, value: i32| {
        let values = vec![kiln_tile::Scalar::Int(value.into()).cast(dtype); count];
        Arg::Array(Array::from_values(dtype, values))
    };
    let (f32, i32) = (DType::F32, DType::I32);
    let mut args = vec![Arg::dim(2), array(f32, 768, 5), array(f32, 256, 9), array(i32, 2, 0), array(f32, 256, 9)];
    interp::run(&in_turn(), &mut args).unwrap();
    assert_eq!((args[4].array().unwrap().get(255).as_f64(), args[3].array().unwrap().get(1).as_i128()), (15.0, 0));
    let mut late = in_turn();
    for stmt in &mut late.body {
        stmt.walk_mut(&mut |stmt| {
            if let Op::Await { value, .. } = &mut stmt.op {
                *value = Expr::index(7);
            }
        });
    }
    let mut args = vec![Arg::dim(1), array(f32, 384, 5), array(f32, 128, 9), array(i32, 1, 0), array(f32, 128, 9)];
    let error = interp::run(&late, &mut args).unwrap_err();
    assert!(matches!(&error, TileError::Deadlock { .. }) && error.to_string().contains("to be 7; it is 1"), "{error}");
}

/// What CTAs of a cluster read of each other.
#[test]
fn clusters_meet_before_they_read_write_and_end() {
    use Finding::*;
    for cluster in [2, 4, 8] {
        let program = asynchronous(shared_softmax(DType::F32, cluster, 256), Arch::Sm90a);
        let verdict = validate(&program).unwrap_or_else(|e| panic!("{e}\n{program}"));
        assert!(verdict.launches > 0 && verdict.events >= 7 * cluster as usize, "{verdict:?}");
    }
    let program = asynchronous(shared_softmax(DType::F32, 4, 256), Arch::Sm90a);
    let branch = "if part == 0 {\n cluster_sync\n }";
    let all_but = "if part < 3 {\n cluster_sync\n }";
    let one_more = "cluster_wait\n if part == 0 {\n cluster_sync\n }";
    let all_but_the_last = "if part < 3 {\n cluster_arrive\n }";
    let load = "cluster_load max peak[0]";
    let edits: &[Edit] = &[
        ("nobody waits for what the others store first", 1, "cluster_sync\n", "", Unwritten),
        ("nor for what they store then", 2, "cluster_sync\n", "", Unwritten),
        ("a CTA may end while others read", 1, "cluster_wait\n", "", Cluster),
        (
            "a CTA lets others end before it has read",
            1,
            "%sum.1: f32[1, 1]",
            "cluster_arrive\n %sum.1: f32[1, 1]",
            NamedBarrier,
        ),
        ("it waits for what it has not arrived at", 1, "cluster_arrive\n", "", NamedBarrier),
        ("threads of a CTA wait for each other alone", 1, "cluster_sync\n", "sync\n", Unwritten),
        ("at the end too", 1, "cluster_wait\n", "sync\n", Cluster),
        ("one CTA comes to the barrier", 1, "cluster_sync\n", branch, ReadEarly),
        ("one CTA comes to one more", 1, "cluster_wait\n", one_more, Deadlock),
        ("one CTA does not come to the second barrier", 2, "cluster_sync\n", all_but, Unwritten),
        ("one CTA does not come to the last", 1, "cluster_arrive\n", all_but_the_last, NamedBarrier),
        ("nothing is stored", 1, "shared_store peak[0] = %peak\n", "", Unwritten),
        (
            "one CTA stores nothing",
            1,
            "shared_store peak[0] = %peak\n",
            "if part > 0 { shared_store peak[0] = %peak }\n",
            Unwritten,
        ),
        (
            "a buffer is used again while others read it",
            1,
            "shared_store sum[0] = %sum\n",
            "shared_store peak[0] = %sum\n shared_store sum[0] = %sum\n",
            ReadEarly,
        ),
        (
            "it is stored to after the barrier",
            1,
            load,
            "cluster_load max peak[0]\n shared_store peak[0] = %peak\n",
            ReadEarly,
        ),
    ];
    refused(&program, edits);
    // An exchange in a loop: one buffer, which the next iteration stores to.
    let twice = edit(&program.to_string(), 1, "shared_store peak[0]", "for turn in 0..2 {\n shared_store peak[0]");
    let twice = edit(&twice, 1, "%peak.1: f32[1, 1]", "%p: f32[1, 1]");
    let end = |with: &str| {
        let text = edit(&twice, 1, "cluster_load max peak[0]\n", &format!("cluster_load max peak[0]\n {with} }}\n"));
        let text = edit(&text, 1, "= %peak.1", "= %peak");
        text.parse::<Program>().unwrap_or_else(|e| panic!("{e}\n{text}"))
    };
    validate(&end("cluster_sync")).unwrap();
    let error = validate(&end("")).unwrap_err();
    assert!(matches!(error, TileError::Schedule { finding: ReadEarly | WrittenEarly, .. }), "{error}");
    // With a barrier between, a buffer may be used again.
    let again = edit(
        &program.to_string(),
        1,
        "shared_store sum[0] = %sum\n",
        "cluster_sync\n shared_store peak[0] = %sum\n shared_store sum[0] = %sum\n",
    );
    validate(&again.parse().unwrap()).unwrap();
}

/// `text` with another text for the `nth` occurrence, from 1, of one.
fn edit(text: &str, nth: usize, from: &str, to: &str) -> String {
    let (at, _) = text.match_indices(from).nth(nth - 1).unwrap_or_else(|| panic!("no {nth}. `{from}` in\n{text}"));
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

type Edit = (&'static str, usize, &'static str, &'static str, Finding);

fn refused(program: &Program, edits: &[Edit]) {
    let text = program.to_string();
    let mut wrong = vec![];
    for (what, nth, from, to, expected) in edits {
        let broken = edit(&text, *nth, from, to);
        let broken: Program = broken.parse().unwrap_or_else(|e| panic!("{what}: {e}"));
        verify(&broken).unwrap_or_else(|e| panic!("{what}: {e}"));
        match validate(&broken) {
            Err(TileError::Schedule { finding, .. }) if finding == *expected => {}
            other => wrong.push(format!("{what}: expected {expected:?}, found {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn refuses_broken_products() {
    use Finding::*;
    let fill = "set a_phase = select(a_fill == 2, 1 - a_phase, a_phase) below 2\n";
    let edits: &[Edit] = &[
        ("empty slots are not waited for", 1, "wait a_empty[a_fill] parity a_phase\n", "", Phase),
        ("full slots are not waited for", 1, "wait a_full[a_read] parity a_phase.1\n", "", ReadEarly),
        ("slots of the loop are not released", 1, "arrive a_empty[a_last]\n", "", Deadlock),
        ("the last slot is not released", 2, "arrive a_empty[a_last]\n", "", Deadlock),
        ("slots are released under their product", 1, "wgmma pending 1", "wgmma pending 2", WrittenEarly),
        ("slots are released without a wait", 1, "wait_group wgmma pending 1\n", "", WrittenEarly),
        ("the reader's parity", 1, "parity a_phase.1", "parity 1 - a_phase.1", ReadEarly),
        ("the writer's parity", 1, "parity a_phase\n", "parity 1 - a_phase\n", Deadlock),
        ("the writer's first phase", 1, "var a_phase: index = 1", "var a_phase: index = 0", Deadlock),
        ("the reader's first phase", 1, "var a_phase.1: index = 0", "var a_phase.1: index = 1", ReadEarly),
        ("the phase does not flip", 1, fill, "", Phase),
        ("no bytes are expected", 1, "expect a_full[a_fill] bytes 32768\n", "", Bytes),
        ("too many bytes are expected", 1, "bytes 32768", "bytes 65536", Bytes),
        ("too few bytes are expected", 1, "bytes 32768", "bytes 24576", Bytes),
        ("bytes of one copy of two", 1, "bytes 32768", "bytes 16384", Phase),
        (
            "one copy of two",
            1,
            "copy b[a_fill] = w[tile_n * 128..@1, k0..@0] masked [0, 1] by tma on a_full[a_fill]\n",
            "",
            Bytes,
        ),
        ("no proxy fence", 1, "fence proxy_async\n", "", ProxyFence),
        ("no fence before products", 1, "fence wgmma\n", "", ProductFence),
        ("products are not committed", 1, "commit wgmma\n", "", Registers),
        ("one product too many may run", 1, "wgmma pending 0", "wgmma pending 1", Registers),
        ("the last product is not waited for", 1, "wait_group wgmma pending 0\n", "", Registers),
        ("a bulk store may still read", 1, "wait_group bulk_read pending 0\n", "", WrittenEarly),
        ("one bulk store too many may read", 1, "bulk_read pending 0", "bulk_read pending 1", WrittenEarly),
        ("the wait for bulk stores stays in one thread", 1, "named_barrier 2 threads 256 wait\n", "", WrittenEarly),
        ("a bulk store of what others still write", 2, "named_barrier 2 threads 256 wait\n", "", ReadEarly),
        ("who stores only arrives", 2, "threads 256 wait", "threads 256 arrive", ReadEarly),
        (
            "half of the threads at a barrier",
            1,
            "named_barrier 2 threads 256",
            "named_barrier 2 threads 128",
            NamedBarrier,
        ),
        ("more threads than come", 2, "named_barrier 2 threads 256", "named_barrier 2 threads 384", Deadlock),
        ("the last bulk store is not waited for", 1, "wait_group bulk pending 0\n", "", Unfinished),
        ("bulk stores are not committed", 1, "commit bulk\n", "", Unfinished),
        ("registers are not given up", 1, "set_registers 40 decrease\n", "", RegisterCount),
        (
            "registers are given up too late",
            1,
            "set_registers 40 decrease\n",
            "elected { wait a_full[0] parity 0 }\n set_registers 40 decrease\n",
            RegisterCount,
        ),
        (
            "registers are given up twice",
            1,
            "set_registers 40 decrease\n",
            "set_registers 40 decrease\n set_registers 40 decrease\n",
            RegisterCount,
        ),
        ("more registers than there are", 1, "set_registers 232 increase", "set_registers 240 increase", RegisterCount),
        ("fewer registers, called an increase", 1, "232 increase", "160 increase", RegisterCount),
        ("a count above the arrivals", 1, "count 2 by warpgroup", "count 3 by warpgroup", Unfinished),
        ("a count below the arrivals", 1, "count 2 by warpgroup", "count 1 by warpgroup", Phase),
        ("every warp arrives", 1, "count 2 by warpgroup", "count 2 by warp", Arrivals),
        (
            "the cursor passes the end",
            1,
            "select(a_fill == 2, 0, a_fill + 1)",
            "select(a_fill == 3, 0, a_fill + 1)",
            Place,
        ),
        ("a slot that was released is read", 1, "dot a[a_read]", "dot a[a_last]", WrittenEarly),
    ];
    refused(&tma(), edits);
}

#[test]
fn refuses_broken_clusters() {
    use Finding::*;
    let edits: &[Edit] = &[
        (
            "slots of the loop are not released elsewhere",
            1,
            "arrive a_empty[a_last] everywhere",
            "arrive a_empty[a_last]",
            Deadlock,
        ),
        (
            "the last slot is not released elsewhere",
            2,
            "arrive a_empty[a_last] everywhere",
            "arrive a_empty[a_last]",
            Unfinished,
        ),
        ("the other CTA's consumers are not counted", 1, "count 4 by warpgroup", "count 2 by warpgroup", Phase),
        ("a consumer too many is counted", 1, "count 4 by warpgroup", "count 5 by warpgroup", Unfinished),
        ("CTAs do not meet at the start", 1, "  cluster_sync\n", "", Cluster),
        ("CTAs do not meet at the end", 2, "  cluster_sync\n", "", Cluster),
        ("one role does not meet the others", 1, "  cluster_sync\n", "  elected { commit bulk }\n", Cluster),
        ("each brings all, for itself", 1, "by multicast", "by tma", Phase),
        ("rows are not shared", 1, "by tma on", "by multicast on", Cluster),
        ("bytes of the own part alone", 1, "bytes 32768", "bytes 24576", Unwritten),
        ("empty slots are not waited for", 1, "wait a_empty[a_fill] parity a_phase\n", "", Arrivals),
        ("slots are released under their product", 1, "wgmma pending 1", "wgmma pending 2", WrittenEarly),
        ("one CTA copies less", 1, "for k0 in 0..k step 64", "for k0 in 0..k - rank * 64 step 64", Bytes),
    ];
    refused(&shared(), edits);
    // Each CTA fills both when its own consumers are done.
    let text = shared().to_string();
    let alone = text.replace(" everywhere", "").replace("count 4 by", "count 2 by");
    let error = validate(&alone.parse::<Program>().unwrap()).unwrap_err();
    assert!(matches!(error, TileError::Schedule { finding: WrittenEarly | Phase, .. }), "{error}");
    let error = edit(&text, 1, "arrive a_empty[a_last] everywhere", "arrive a_empty[a_last]");
    let error = validate(&error.parse::<Program>().unwrap()).unwrap_err().to_string();
    assert!(error.contains("`a_empty[0]` of CTA 0") && error.contains("2 of 4 arrivals"), "{error}");
}

/// CTAs of a cluster bring halves of a table to both, and read what the other has found.
const BOTH: &str = r#"
kernel both "the greatest of rows beside a table" level async
param m: index in 1..=64
param x: f32[m, 256] strides [256, 1] read
param table: f32[32, 32] strides [32, 1] read
param y: f32[m, 2] strides [2, 1] write
param z: f32[32, 32] strides [32, 1] write
schedule warps 4 cluster 2 across
grid cta = m * 2
shared t: f32[16, 32] stages 1 layout "4B{16:32 | 32:1}" offset 0
shared most: f32[1, 1] stages 1 layout "4B{ | }" offset 2048
barrier full stages 1 count 1 by thread
{
  let row: index = cta / 2 below m
  let part: index = cta % 2 below 2
  cluster_sync
  elected {
    expect full[0] bytes 2048
    copy t[0] = table[0.., 0..] by multicast on full[0]
  }
  %x: f32[1, 128] layout "1x128{ | 128:1@1}" = load x[row.., part * 128..] fill 0.0
  %most: f32[1, 1] layout "1x1{ | 128:0}" = reduce max %x axis 1
  shared_store most[0] = %most
  cluster_sync
  %all: f32[1, 1] layout "1x1{ | 128:0}" = cluster_load max most[0]
  wait full[0] parity 0
  %t: f32[16, 32] layout "16x32{4:1@0 | 32:1@1 4:4@0}" = shared_load t[0]
  cluster_arrive
  store y[row.., part..] = %all
  store z[part * 16.., 0..] = %t
  cluster_wait
}
"#;

#[test]
fn clusters_share_what_they_load_and_what_they_find() {
    use Finding::*;
    let program: Program = BOTH.parse().unwrap();
    validate(&program).unwrap();
    let stored = "%s: f32[16, 32] layout \"16x32{4:1@0 | 32:1@1 4:4@0}\" = full 0.0
      shared_store t[0] = %s
      cluster_sync\n";
    let edits: &[Edit] = &[
        ("CTAs do not meet at the start", 1, "cluster_sync\n", "", Cluster),
        ("nobody waits for what the other stores", 2, "cluster_sync\n", "", Unwritten),
        ("a CTA may end while the other reads", 1, "cluster_wait\n", "", Cluster),
        ("a CTA may end before its halves have come", 1, "wait full[0] parity 0\n", "", ReadEarly),
        ("boxes differ", 1, "table[0..", "table[part * 16..", Cluster),
        ("bytes of the own part alone", 1, "bytes 2048", "bytes 1024", Phase),
        ("halves come onto what was stored", 1, "cluster_sync\n", stored, ProxyFence),
    ];
    refused(&program, edits);
    let text = program.to_string();
    let error = validate(&edit(&text, 1, "cluster_wait\n", "").parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("= cluster_load max most[0]`"), "{error}");
}

#[test]
fn refuses_broken_attention() {
    use Finding::*;
    let edits: &[Edit] = &[
        ("nobody has the first turn", 1, "turn start\n", "", Deadlock),
        ("a turn is not passed", 1, "turn pass\n", "", Deadlock),
        ("the last turn is not taken back", 1, "turn end\n", "", Unfinished),
        ("scores in flight are read", 1, "wgmma pending 1", "wgmma pending 2", Registers),
        ("an accumulator in flight is overwritten", 2, "wait_group wgmma pending 0\n", "", Registers),
        (
            "the query is not released",
            1,
            "arrive query_empty[query_read]\n",
            "if queries < 0 { arrive query_empty[query_read] }\n",
            Deadlock,
        ),
        ("the query is not waited for", 1, "wait query_full[query_read] parity query_phase.1\n", "", ReadEarly),
        ("no fence after the weights", 2, "fence wgmma\n", "", ProductFence),
    ];
    refused(&flash(), edits);
}

#[test]
fn refuses_broken_pipelines() {
    use Finding::*;
    refused(
        &copies(),
        &[
            ("copies of other threads are not waited for", 1, "    sync\n", "", WrittenEarly),
            ("one group too many may run", 1, "cp_async pending 1", "cp_async pending 2", ReadEarly),
            ("groups are not waited for", 1, "wait_group cp_async pending 1\n", "", ReadEarly),
            ("a group of the loop is not committed", 3, "commit cp_async\n", "", ReadEarly),
            ("a copy to the slot that is read", 3, "copy a[a_fill]", "copy a[a_read]", ReadEarly),
            ("a slot that is not written yet is read", 1, "var a_read: index = 0", "var a_read: index = 2", Unwritten),
        ],
    );
    refused(
        &staged(),
        &[
            ("stores of other threads are not waited for", 1, "    sync\n", "", WrittenEarly),
            ("one slot for two", 1, "k0 / 32 % 2 below 2", "k0 / 32 % 1 below 2", ReadEarly),
            ("buffers that share bytes", 1, "offset 8192", "offset 4096", Place),
            ("a buffer that is not stored to", 1, "shared_store b[turn] = %b.2\n", "", Unwritten),
        ],
    );
    refused(
        &mixed(),
        &[
            ("no proxy fence after copies", 1, "fence proxy_async\n", "", ProxyFence),
            (
                "a proxy fence before the copies have ended",
                1,
                "wait_group cp_async pending 1\n    fence proxy_async\n",
                "fence proxy_async\n    wait_group cp_async pending 1\n",
                ProxyFence,
            ),
            ("products are not waited for", 1, "wait_group wgmma pending 0\n", "", Registers),
        ],
    );
}

#[test]
fn control_by_data_is_refused() {
    let mut program = staged();
    let buffer = program.params.iter().find_map(|param| match param {
        Param::Buffer { buffer, .. } => Some(buffer.clone()),
        Param::Scalar { .. } => None,
    });
    let buffer = buffer.unwrap();
    let data = Expr::new(buffer.dtype, ExprKind::Load(buffer, vec![Expr::index(0), Expr::index(0)])).cast(Type::Index);
    let mut changed = 0;
    for stmt in &mut program.body {
        if let Op::For { end, .. } = &mut stmt.op {
            *end = data.clone();
            changed += 1;
        }
    }
    assert_eq!(changed, 1);
    let error = validate(&program).unwrap_err();
    assert!(matches!(error, TileError::Schedule { finding: Finding::Control, .. }), "{error}");
}

#[test]
fn messages_say_where() {
    let text = edit(&tma().to_string(), 1, "wait_group wgmma pending 1", "wait_group wgmma pending 2");
    let error = validate(&text.parse::<Program>().unwrap()).unwrap_err().to_string();
    for part in [
        "kernel `gemm`",
        "slot written while it is in use",
        "`a[0]`",
        "after `%acc.3",
        "role `producer`",
        "`copy a[a_fill]",
        "k = ",
        "wait until",
    ] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
    let text = edit(&tma().to_string(), 1, "arrive a_empty[a_last]\n", "");
    let error = validate(&text.parse::<Program>().unwrap()).unwrap_err().to_string();
    for part in ["producer waits for phase 0 of `a_empty[0]`", "0 of 2 arrivals", "consumer waits for phase"] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
}

/// Mutants that are right, and the programs in which they are: they swap what commutes, wait twice or for longer, release later, drop a wait or a
/// fence that another one covers, or change values and not their order. `mutants.rs` of `kiln-kernels` runs mutants in the simulator.
const HARMLESS: &[(&str, &str)] = &[
    ("double cluster_sync", "shared"),
    ("double commit Bulk", "flash shared tma"),
    ("double commit CpAsync", "copies mixed"),
    ("double commit Wgmma", "flash mixed shared tma"),
    ("double commit Wgmma after the loop", "flash"),
    ("double copy_out", "flash shared tma"),
    ("double fence ProxyAsync", "mixed"),
    ("double fence ProxyAsync after the loop", "flash mixed shared tma"),
    ("double fence Wgmma", "flash mixed shared tma"),
    ("double fence Wgmma after the loop", "flash"),
    ("double named_barrier after the loop", "flash shared tma"),
    ("double set_registers", "flash shared tma"),
    ("double sync", "copies mixed staged"),
    ("double sync after the loop", "copies mixed staged"),
    ("double wait", "flash shared tma"),
    ("double wait after the loop", "flash"),
    ("double wait_group Bulk", "flash shared tma"),
    ("double wait_group BulkRead", "flash shared tma"),
    ("double wait_group CpAsync", "copies mixed"),
    ("double wait_group CpAsync after the loop", "copies mixed"),
    ("double wait_group Wgmma", "flash mixed shared tma"),
    ("double wait_group Wgmma after the loop", "flash shared tma"),
    ("drop copy_out", "flash shared tma"),
    ("drop fence ProxyAsync after the loop", "mixed"),
    ("drop fence Wgmma", "flash"),
    ("drop set_registers", "flash shared tma"),
    ("drop sync after the loop", "copies mixed staged"),
    ("drop wait_group CpAsync after the loop", "copies mixed"),
    // A product's wait has held the warpgroup together there; the barrier is for launches without products.
    ("drop named_barrier after the loop", "flash"),
    ("swap named_barrier, arrive after the loop", "flash"),
    ("swap arrive, if", "flash"),
    ("swap arrive, map", "flash"),
    ("swap arrive, map after the loop", "flash"),
    ("swap arrive, set after the loop", "flash"),
    ("swap commit CpAsync, set", "copies mixed"),
    ("swap commit Wgmma, let", "flash"),
    ("swap commit Wgmma, set", "mixed"),
    ("swap commit Wgmma, turn Pass", "flash"),
    ("swap commit Wgmma, turn Pass after the loop", "flash"),
    ("swap copy, copy", "copies mixed shared tma"),
    ("swap copy, set", "flash shared tma"),
    ("swap copy, set after the loop", "flash"),
    ("swap expect, copy", "flash shared tma"),
    ("swap expect, copy after the loop", "flash"),
    ("swap fence ProxyAsync, named_barrier after the loop", "flash shared tma"),
    ("swap fence ProxyAsync, sync", "mixed"),
    ("swap fence ProxyAsync, sync after the loop", "mixed"),
    ("swap fence Wgmma, dot", "flash"),
    ("swap set_registers, set", "flash shared tma"),
    ("swap shared_store, shared_store", "staged"),
    ("swap sync, if", "mixed"),
    ("swap sync, load", "staged"),
    ("swap sync, map after the loop", "copies mixed staged"),
    ("swap sync, set after the loop", "copies mixed"),
    ("swap turn End, elected after the loop", "flash"),
    ("swap turn Pass, let", "flash"),
    ("swap turn Pass, let after the loop", "flash"),
    ("swap turn Wait, fence Wgmma", "flash"),
    ("swap turn Wait, fence Wgmma after the loop", "flash"),
    ("swap wait, expect", "flash"),
    ("swap wait, fence Wgmma", "flash shared tma"),
    ("swap wait, turn Wait", "flash"),
    ("swap wait, turn Wait after the loop", "flash"),
    ("swap wait, wait", "flash"),
    ("swap wait_group CpAsync, fence ProxyAsync after the loop", "mixed"),
    ("swap wait_group CpAsync, sync after the loop", "copies"),
];

#[test]
fn mutants_are_refused_or_harmless() {
    let total = std::env::var("KILN_MUTANTS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let mut random = fastrand::Rng::with_seed(7);
    let programs = [
        ("tma", tma()),
        ("flash", flash()),
        ("mixed", mixed()),
        ("copies", copies()),
        ("staged", staged()),
        ("shared", shared()),
    ];
    let (mut tried, mut refused) = (0, 0);
    let mut survivors: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..total {
        let (name, program) = &programs[i % programs.len()];
        let mut mutant = program.clone();
        let Some(what) = mutate(&mut mutant, &mut random) else { continue };
        tried += 1;
        match validate(&mutant) {
            Ok(_) if HARMLESS.iter().any(|(known, of)| *known == what && of.split(' ').any(|of| of == *name)) => {}
            Ok(_) => *survivors.entry(format!("{name}: {what}")).or_default() += 1,
            Err(TileError::Schedule { .. }) => refused += 1,
            Err(e) => panic!("{name}, {what}: {e}"),
        }
    }
    println!("{refused} of {tried} refused");
    assert!(survivors.is_empty(), "{refused} of {tried} refused; accepted: {survivors:#?}");
    assert!(refused * 5 > tried * 2, "{refused} of {tried}");
}
