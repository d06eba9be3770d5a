//! Every rule of the tile IR: a right program, an edit that breaks the rule, and what the error says.

use kiln_layout::{RegisterLayout, SharedLayout};
use kiln_tile::ir::{BarrierId, ChannelId, Op, Place, Program, SharedId, Slot, Stage, Stmt, ValueId, verify};
use kiln_tile::{DType, Expr, TileError};

/// Level tile: a product and what follows it.
const VALUES: &str = r#"
kernel values "" level tile
param m: index in 1..=8192 multiple 8
param scale: f32
param x: f16[m, 64] strides [64, 1] read
param w: f16[64, 32] strides [32, 1] read
param y: f32[m, 32] strides [32, 1] write
param small: i4[32, 32] strides [32, 1] read_write
param err: i32[1] strides [1] read_write
schedule warps 4
grid t = (m + 31) / 32
{
  let row: index = t * 32 below m + 31
  %zero: f32[32, 32] = full 0.0
  %sum: f32[32, 32] = for k in 0..64 step 16 stages 3 carry (%acc = %zero) {
    %a: f16[32, 16] = load x[row.., k..] masked [0] fill 0.0f16
    %b: f16[16, 32] = load w[k.., 0..] fill 0.0f16
    %next: f32[32, 32] = dot %a, %b, %acc
    yield %next
  }
  %peak: f32[32, 1] = reduce max %sum axis 1
  %turned: f32[1, 32] = transpose %peak [1, 0]
  %out: f32[32, 32] = map [i, j] (s = %sum, p = %peak) {
    let v: f32 = s - p
    check v > 0.0 fault err code 3i32
    yield exp(v * scale)
  }
  %picked: f32[32, 32] = if row < 64 {
    %one: f32[32, 32] = full 1.0
    yield %one
  } else {
    yield %sum
  }
  store y[row.., 0..] masked [0] = %picked
  store y at [i, j] { yield [row + i, j] where row + i < m } = %out
  %ones: i32[1] = full 1i32
  atomic max err[0..] = %ones
}
"#;

/// Level scheduled: a role that copies, one that reads.
const ROLES: &str = r#"
kernel roles "" level scheduled
param m: index in 1..=8192
param x: f16[m, 64] strides [64, 1] read
schedule warps 4 specialise registers 40 232
persistent 1 count ctas points (m + 31) / 32
grid cta = ctas
shared a: f16[32, 16] stages 2
shared b: f16[32, 16] stages 1
channel c (a) stages 2 by tma
{
  roles {
    producer warps 4 registers 40 {
      acquire c
      copy a@c = x[cta * 32.., 0..] masked [0] by tma
      publish c
    }
    consumer warps 4 registers 232 {
      receive c
      %t: f16[32, 16] = shared_load a@c
      release c
      shared_store b[0] = %t
      sync
      %turned: f16[16, 32] = transpose %t [1, 0]
      %zero: f32[32, 32] = full 0.0
      %square: f32[32, 32] = dot b[0], %turned, %zero
    }
  }
}
"#;

/// Level async: a box that comes by a barrier.
const BARRIERS: &str = r#"
kernel barriers "" level async
param m: index in 1..=8192
param x: f16[m, 64] strides [64, 1] read
param y: f16[m, 16] strides [16, 1] write
schedule warps 4
grid t = (m + 31) / 32
shared a: f16[32, 16] stages 2 layout "SHARED" offset 0
barrier full stages 2 count 1 by thread
barrier empty stages 2 count 4 by warp
{
  var phase: index = 0 below 2
  elected {
    expect full[1] bytes 1024
    copy a[1] = x[t * 32.., 0..] masked [0] by tma on full[1]
  }
  wait full[1] parity phase
  %v: f16[32, 16] layout "REGISTERS" = shared_load a[1]
  %c: f16[32, 16] layout "REGISTERS" = convert %v
  arrive empty[1]
  wait empty[1] parity 0
  set phase = 1 - phase below 2
  named_barrier 1 threads 128 wait
  set_registers 232 increase
  elected {
    copy_out y[t * 32.., 0..] masked [0] = a[0]
    commit bulk
    wait_group bulk pending 0
  }
}
"#;

fn read(text: &str) -> Program {
    let registers = RegisterLayout::blocked(&[32, 16], 128, 4, &[0, 1]).unwrap();
    let shared = SharedLayout::row_major(&[32, 16], 2).unwrap();
    let text = text.replace("REGISTERS", &registers.to_string()).replace("SHARED", &shared.to_string());
    text.parse().unwrap_or_else(|err| panic!("{err}\n{text}"))
}

#[track_caller]
fn says(program: &Program, words: &str) {
    let message = verify(program).expect_err(&format!("accepted:\n{program}")).to_string();
    assert!(message.starts_with(&format!("kernel `{}`", program.name)), "{message}");
    for word in words.split(" / ") {
        assert!(message.contains(word), "`{word}` is missing from: {message}");
    }
}

/// Each edit of `text`, replacing one piece by another, breaks a rule whose error has these words, with ` / ` between.
#[track_caller]
fn breaks(text: &str, edits: &[(&str, &str, &str)]) {
    verify(&read(text)).unwrap();
    for (from, to, words) in edits {
        assert_eq!(text.matches(from).count(), 1, "`{from}` is not in the text once");
        says(&read(&text.replace(from, to)), words);
    }
}

#[test]
fn declarations() {
    breaks(
        VALUES,
        &[
            ("in 1..=8192", "in 9..=8", "parameter `m` / range 9..=8"),
            ("multiple 8", "multiple 0", "multiple of 0"),
            ("scale: f32", "scale: f16", "parameter `scale` / f16 / compute type"),
            ("strides [64, 1]", "strides [64]", "parameter `x` / rank 2, 1 strides"),
            ("x: f16[m, 64]", "x: f16[scale, 64]", "extent / f32 / index"),
            ("schedule warps 4", "schedule warps 0", "schedule / 0 warps"),
            ("schedule warps 4", "schedule warps 4 cluster 3", "schedule / clusters of 3 CTAs"),
            ("schedule warps 4", "schedule warps 4 cluster 16", "schedule / clusters of 16 CTAs"),
            ("schedule warps 4", "schedule warps 33", "33 warps"),
            ("schedule warps 4", "schedule warps 4 registers 40 241", "241 registers / multiple of 8"),
            ("grid t = (m + 31) / 32", "grid t = scale", "extent of `t` / f32 / index"),
            ("grid t =", "grid t: i32 =", "`t` / i32 / index"),
            ("grid t =", "persistent 1 count n points m grid t =", "persistent grid / level tile"),
            ("m + 31) / 32\n", "m + 31) / 32 shared q: f16[4] stages 1\n", "shared `q` / level tile"),
            ("m + 31) / 32\n", "m + 31) / 32 channel c () stages 1 by tma\n", "channels / level tile"),
            ("m + 31) / 32\n", "m + 31) / 32 barrier b stages 1 count 1 by warp\n", "barrier `b` / level tile"),
        ],
    );
    breaks(
        ROLES,
        &[
            ("persistent 1", "persistent 0", "persistent grid of 0"),
            ("b: f16[32, 16] stages 1", "b: i4[32, 16] stages 1", "shared `b` / i4 / share a byte"),
            ("b: f16[32, 16] stages 1", "b: f16[32, 16] stages 0", "shared `b` / 0 stages"),
            ("b: f16[32, 16] stages 1", "b: f16[4294967295, 16] stages 9", "shared `b` / 227 KiB"),
            ("b: f16[32, 16] stages 1", "b: f16[32, 16] stages 300", "shared `b` / 227 KiB"),
            ("b: f16[32, 16] stages 1", "b: f16[32, 16] stages 1 offset 0", "offset Some(0) / scheduled"),
            ("b: f16[32, 16] stages 1", "b: f16[32, 16] stages 1 layout \"SHARED\"", "a layout at level scheduled"),
            ("c (a) stages 2", "c (a) stages 3", "channel `c` / 3 stages / Some(2)"),
            ("c (a) stages 2 by tma", "c () stages 2 by tma", "channel `c` / no buffers"),
            ("c (a) stages 2 by tma", "c (a) stages 2 by tma channel d (a) stages 2 by tma", "channel `d` / another"),
            ("c (a) stages 2 by tma", "c (a) stages 2 by cp_async 12", "channel `c` / 12 bytes"),
            ("persistent 1 count ctas points (m", "persistent 1 count ctas points (m < m", "bool"),
        ],
    );
    breaks(
        BARRIERS,
        &[
            ("layout \"SHARED\"", "", "shared `a` / no layout"),
            ("a: f16[32, 16]", "a: f16[16, 32]", "shared `a` / [16, 32] / layout"),
            ("a: f16[32, 16]", "a: f32[32, 16]", "shared `a` / layout"),
            ("offset 0", "offset 231425", "offset Some(231425)"),
            ("full stages 2 count 1", "full stages 0 count 1", "barrier `full` / 0 stages"),
            ("full stages 2 count 1", "full stages 2 count 1025", "1025 arrivals"),
        ],
    );
}

#[test]
fn definitions() {
    let text = read(VALUES);
    // What the text form cannot say.
    let broken = |edit: &dyn Fn(&mut Program)| {
        let mut program = text.clone();
        edit(&mut program);
        program
    };
    let stmt = |program: &Program, name: &str| program.body.iter().position(|stmt| stmt.op.name() == name).unwrap();
    let (load_block, reduce, map) = (stmt(&text, "for"), stmt(&text, "reduce"), stmt(&text, "map"));
    let inner = text.body[load_block].op.blocks()[0][0].results[0];
    says(&broken(&|p| p.name = "a b".into()), "the name `a b`");
    says(&broken(&|p| p.body.swap(reduce, load_block)), "`%sum` is used where it is not defined");
    says(&broken(&|p| p.body[reduce].op.uses_mut(&mut |v| *v = inner)), "`%a` is used where it is not defined / yield");
    says(&broken(&|p| p.body[reduce].op.uses_mut(&mut |v| *v = ValueId(99))), "tile 99 is not declared");
    says(&broken(&|p| p.body[map].results[0] = p.body[1].results[0]), "`%zero` is defined twice");
    let half = || Op::Full { value: Expr::float(DType::F16, 1.0) };
    says(&broken(&|p| p.body.push(Stmt { results: vec![inner], op: half() })), "`%a` is defined twice");
    says(&broken(&|p| p.body[reduce].results.clear()), "defines 0 tiles");
    says(&broken(&|p| p.body.push(p.body[0].clone())), "`row` is declared twice");
    says(&broken(&|p| p.next_id = 9), "has the number 9");
    says(&broken(&|p| p.params.push(p.params[2].clone())), "parameter `x` / given twice");
    says(
        &broken(&|p| p.params.retain(|param| format!("{param:?}").contains("\"w\"").eq(&false))),
        "`w` is no parameter",
    );
    // A coordinate of a map is no uniform scalar.
    let leaked = broken(&|p| {
        let Op::Map { axes, .. } = p.body[map].op.clone() else { panic!() };
        let Op::Store { to: Place::View(view), .. } =
            &mut p.body.iter_mut().find(|s| s.op.name() == "store").unwrap().op
        else {
            panic!()
        };
        view.origin[0] = Expr::var(&axes[0]);
    });
    says(&leaked, "`i` is used outside of where it is defined");
    let masks = broken(&|p| {
        let store = p.body.iter_mut().find(|s| s.op.name() == "store").unwrap();
        let Op::Store { to: Place::View(view), .. } = &mut store.op else { panic!() };
        view.masked.pop();
    });
    says(&masks, "[2, 2, 1] origins, axes and masks / rank 2");
    breaks(
        VALUES,
        &[
            ("row: index =", "row: i32 =", "value of `row` / index / i32"),
            ("below m + 31", "below scale", "bound / f32"),
            ("%zero: f32[32, 32] = full", "%zero: f32[0, 32] = full", "`%zero` / [0, 32] / positive"),
            ("%ones: i32[1] =", "%ones: i32[65536, 65536] =", "`%ones` / 2^24"),
            ("%ones: i32[1] =", "%ones: i32[1] layout \"REGISTERS\" =", "`%ones` has a layout at level tile"),
        ],
    );
    breaks(
        BARRIERS,
        &[
            ("%c: f16[32, 16] layout \"REGISTERS\"", "%c: f16[32, 16]", "`%c` has no layout"),
            ("schedule warps 4", "schedule warps 8", "`%v` / held by 256 threads / for 128"),
        ],
    );
}

#[test]
fn values() {
    breaks(
        VALUES,
        &[
            ("full 0.0", "full 0", "element / index / f32"),
            ("fill 0.0f16\n    %b", "fill 0.0\n    %b", "fill value / f32 / f16"),
            ("%b: f16[16, 32] = load", "%b: f32[16, 32] = load", "the tile / f32 / f16"),
            ("load w[k.., 0..]", "load y[k.., 0..]", "`y` is read, but an output / read_write"),
            ("load w[k.., 0..]", "load w[k..]", "rank 2"),
            ("load w[k.., 0..]", "load w[k.., 0..] box [16, 16]", "box of extents [16, 16] / [16, 32]"),
            ("load w[k.., 0..]", "load w[k..@1, 0..@1]", "axis 1 / two"),
            ("load w[k.., 0..]", "load w[k..@2, 0..@1]", "axis 2 / rank 2"),
            ("load w[k.., 0..]", "load w[scale.., 0..]", "origin / f32 / index"),
            ("[row.., 0..] masked [0] = %picked", "[row.., 0] masked [0] = %picked", "axis Some(1) / many times"),
            ("store y[row.., 0..] masked [0]", "store x[row.., 0..] masked [0]", "`x` is written, but an input"),
            ("store y[row.., 0..] masked [0]", "store err[row..]", "axis Some(1)"),
            ("store y[row.., 0..] masked [0]", "store small[row.., 0..]", "f32 / i4"),
            ("[row + i, j] where", "[row + i] where", "1 indices of rank 2"),
            ("y at [i, j] {", "y at [i] { let j: index = 0", "1 coordinates"),
            ("yield [row + i, j]", "yield [scale, j]", "index / f32"),
            ("where row + i < m", "where row + i", "mask / index / bool"),
        ],
    );
    breaks(
        VALUES,
        &[("map [i, j]", "map [i]", "1 coordinates"), ("map [i, j]", "map [i, j: i32]", "`j` / i32 / index")],
    );
    breaks(
        VALUES,
        &[
            ("map [i, j] (s = %sum, p = %peak)", "map [i, j] (s = %sum, p: f64 = %peak)", "`p` / f64 / f32"),
            ("%out: f32[32, 32] = map", "%out: f32[32, 16] = map", "`%sum` of extents [32, 32] / [32, 16]"),
            ("%out: f32[32, 32] = map", "%out: f16[32, 32] = map", "element of `%out` / f32 / f16"),
            ("%out: f32[32, 32] = map", "%out: f32[32, 32], %more: f32[32, 32] = map", "defines 2 tiles / 1 results"),
            ("let v: f32 =", "let v: f64 =", "value of `v` / f32 / f64"),
            ("check v > 0.0", "check v", "condition of `check` / f32 / bool"),
            ("code 3i32", "code 3", "code of `check` / index / i32"),
            ("fault err", "fault small", "i4[rank 2] / i32"),
            ("fault err", "fault x", "`x` is written, but an input"),
            ("exp(v * scale)", "exp(v * 2)", "Mul / index / f32"),
            ("reduce max", "reduce and", "f32 / reduction"),
            ("axis 1\n", "axis 2\n", "axis 2 / rank 2"),
            ("%peak: f32[32, 1]", "%peak: f32[32, 5]", "[32, 5], not / [32, 1]"),
            ("%peak: f32[32, 1]", "%peak: f32[1, 32]", "[1, 32], not / [32, 32]"),
            ("%peak [1, 0]", "%peak [1, 1]", "[1, 1] / every axis once"),
            ("%peak [1, 0]", "%peak [1]", "[1] / rank 2"),
            ("%turned: f32[1, 32]", "%turned: f32[32, 1]", "[32, 1], not / [1, 32]"),
            ("atomic max err[0..] = %ones", "atomic add x[0.., 0] = %ones", "`x` is written"),
            ("atomic max err[0..] = %ones", "await err[0, 0] = row", "2 indices of `err` of rank 1"),
            ("atomic max err[0..] = %ones", "await y[0, 0] = row", "`y` is read, but an output"),
            ("atomic max err[0..] = %ones", "signal x[0, 0] = row", "`x` is written, but an input"),
            ("atomic max err[0..] = %ones", "signal err[0] = scale", "counter's value / f32 / index"),
            (
                "%ones: i32[1] = full 1i32\n  atomic max err[0..]",
                "%ones: f32[1] = full 1.0\n  atomic max y[0.., 0]",
                "atomic / f32",
            ),
        ],
    );
    let bytes = "%bits: i4[32, 32] = full 1i4 store small[0.., 0..] = %bits %ones: i32[1]";
    breaks(VALUES, &[("%ones: i32[1]", bytes, "i4 / share a byte")]);
}

#[test]
fn dots() {
    breaks(
        VALUES,
        &[
            (
                "%b: f16[16, 32] = load w[k.., 0..]",
                "%b: f16[32, 32] = load w[k.., 0..]",
                "[32, 16] by [32, 32] / [M, K]",
            ),
            ("dot %a, %b, %acc", "dot %a, %acc, %acc", "[32, 16] by [32, 32]"),
            (
                "%b: f16[16, 32] = load w[k.., 0..] fill 0.0f16",
                "%b: f32[16, 32] = full 0.0",
                "right operand / f32 / f16",
            ),
            ("%acc = %zero", "%acc: f16[32, 32] = %zero", "what is carried / f16"),
            ("%next: f32[32, 32] =", "%next: f32[32, 16] =", "the result / [32, 16]"),
            ("dot %a, %b, %acc", "dot %a, %b, %zero", "`%zero` from outside of the loop / carry"),
            ("dot %a, %b, %acc", "dot %a, %b, %acc by \"mma\"", "an instruction at level tile"),
            (
                "yield %next",
                "%again: f32[32, 32] = dot %a, %b, %acc yield %again",
                "`%acc` is used after a dot / use the dot's result",
            ),
            ("yield %next", "yield %acc", "`%acc` is used after"),
            (
                "%peak: f32[32, 1] =",
                "%l: f16[32, 16] = full 0.0f16 %r: f16[16, 32] = full 0.0f16
                if row < 8 { %d: f32[32, 32] = dot %l, %r, %sum } else { %e: f32[32, 32] = dot %l, %r, %sum }
                %peak: f32[32, 1] =",
                "`%sum` is used after",
            ),
        ],
    );
    // Each branch may spend it.
    let branches = VALUES.replace(
        "store y[row.., 0..] masked [0] = %picked",
        "%l: f16[32, 16] = full 0.0f16 %r: f16[16, 32] = full 0.0f16
        if row < 8 { %d: f32[32, 32] = dot %l, %r, %sum } else { %e: f32[32, 32] = dot %l, %r, %sum }",
    );
    verify(&read(&branches)).unwrap();
    let sums = VALUES.replace("%zero: f32[32, 32] = full 0.0", "%zero: f64[32, 32] = full 0.0f64");
    let sums = sums.replace("%sum: f32", "%sum: f64").replace("%next: f32", "%next: f64");
    says(&read(&sums), "accumulator / f64 / compute type");
    says(&read(&ROLES.replace("level scheduled", "level selected")), "no instruction at level selected");
}

#[test]
fn control() {
    breaks(
        VALUES,
        &[
            ("in 0..64", "in 0..scale", "the end / f32"),
            ("step 16", "step 0", "a step of 0"),
            ("step 16", "step scale", "the step / f32"),
            ("for k in", "for k: i32 in", "`k` / i32 / index"),
            ("stages 3", "stages 0", "0 stages"),
            ("stages 3", "stages 33", "33 stages"),
            ("    yield %next\n", "", "1 tiles are carried, 0 are yielded"),
            ("yield %next", "yield %next, %next", "1 tiles are carried, 2"),
            ("yield %next", "yield %a", "`%a`, which is yielded, is f16[32, 16]"),
            ("%sum: f32[32, 32] = for", "%sum: f32[32, 16] = for", "the result / [32, 16]"),
            ("if row < 64", "if row", "condition / index / bool"),
            ("yield %one\n", "\n", "defines 1 tiles / 0 results"),
            ("    yield %one\n", "yield %peak", "`%peak`, which is yielded"),
        ],
    );
}

#[test]
fn levels() {
    let early = [
        "sync",
        "elected { }",
        "commit bulk",
        "wait_group bulk pending 0",
        "fence wgmma",
        "set_registers 40 decrease",
        "cluster_sync",
        "cluster_arrive",
        "cluster_wait",
        "named_barrier 1 threads 128 wait",
        "var v: index = 0 below 1",
        "roles { }",
        "%c: i32[1] = convert %ones",
    ];
    for stmt in early {
        let text = VALUES.replace("= %ones\n", &format!("= %ones\n{stmt}\n"));
        says(&read(&text), "at level tile / and later ones");
    }
    for stmt in ["expect q[0] bytes 8", "arrive q[0]", "wait q[0] parity 0"] {
        let mut program = read(&BARRIERS.replace("  set phase", &format!("{} set phase", stmt.replace('q', "full"))));
        program.level = kiln_tile::ir::Level::LaidOut;
        program.shared[0].offset = None;
        says(&program, "level laid_out");
    }
    let channel = "barrier full";
    let late = |stmt: &str| {
        let text = BARRIERS.replace(channel, "channel c (a) stages 2 by tma barrier full");
        read(&text.replace("  set phase", &format!("  {stmt} set phase")))
    };
    for stmt in ["acquire c", "publish c", "receive c", "release c"] {
        says(&late(stmt), "at level async / barriers");
    }
    says(&late("%w: f16[32, 16] layout \"REGISTERS\" = shared_load a@c"), "cursor / level async");
    verify(&late("")).unwrap();
}

/// Rows that clusters share.
const CLUSTERS: &str = r#"
kernel clusters "" level tile
param m: index in 1..=8192
param x: f32[m, 512] strides [512, 1] read
param y: f32[m] strides [1] write
schedule warps 4 cluster 2 across
grid row = m, part = 4
{
  %x: f32[1, 128] = load x[row.., part * 128..] fill 0.0
  %sum: f32[1, 1] = reduce sum %x axis 1
  %most: f32[1, 1] = reduce max %x axis 1
  %both: f32[1, 1], %peak: f32[1, 1] = cluster_reduce sum %sum, max %most
  store y at [i, j] { yield [row + i] where part == 0 } = %both
}
"#;

#[test]
fn clusters() {
    verify(&read(CLUSTERS)).unwrap();
    let reduce = "%both: f32[1, 1], %peak: f32[1, 1] = cluster_reduce sum %sum, max %most";
    breaks(
        CLUSTERS,
        &[
            ("part = 4", "part = 3", "whole clusters of 2"),
            (" across", "", "whole clusters of 2 / across"),
            ("part = 4", "part = m", "whole clusters of 2"),
            ("warps 4 cluster", "warps 4 persistent cluster", "whole clusters of 2 / persistence"),
            ("warps 4 cluster", "warps 4 raster 2 cluster", "whole clusters of 2 / raster"),
            ("%both: f32[1, 1], %peak", "%both: f32[1, 2], %peak", "the result / [1, 2]"),
            (", max %most", "", "it defines 2 tiles / 1 results"),
            ("cluster_reduce sum", "cluster_reduce and", "`%sum` / the reduction is defined on"),
            (
                reduce,
                &format!("%both: f32[1, 1] = full 0.0 if row < 3 {{ {} }}", reduce.replace("both", "b")),
                "no loop, branch",
            ),
            (
                reduce,
                &format!("%both: f32[1, 1] = full 0.0 for i in 0..2 {{ {} }}", reduce.replace("both", "b")),
                "no loop, branch",
            ),
        ],
    );
    let mut program = read(CLUSTERS);
    program.body[0] = Stmt { results: vec![], op: Op::ClusterReduce { of: vec![] } };
    says(&program, "nothing is combined");
    let early = CLUSTERS
        .replace("level tile", "level scheduled")
        .replace("part = 4\n", "part = 4\nshared s: f32[1, 1] stages 1\n");
    says(
        &read(&early.replace("  store", "  %all: f32[1, 1] = cluster_load sum s[0]\n  store")),
        "`%all = cluster_load` / level scheduled",
    );
    let mut late = read(CLUSTERS);
    late.level = kiln_tile::ir::Level::Async;
    late.body.drain(..3);
    says(&late, "`%both = cluster_reduce` / level async");
}

#[test]
fn roles() {
    breaks(
        ROLES,
        &[
            ("producer warps 4", "producer warps 3", "role `producer` / 3 warps / 4"),
            ("producer warps 4", "producer warps 0", "0 warps"),
            ("producer warps 4", "producer warps 32", "36 warps together"),
            ("producer warps 4", "producer warps 4294967292", "warps together"),
            ("warps 4 registers 40 {", "warps 4 registers 20 {", "20 registers"),
            ("warps 4 registers 232 {", "warps 12 registers 256 {", "registers of all roles"),
            ("warps 4 registers 232", "warps 4 groups g below 0 registers 232", "role `consumer` / no group runs it"),
            ("warps 4 registers 232", "warps 4 groups g below 8 registers 232", "36 warps together"),
            ("warps 4 registers 232", "warps 4 groups g below 3 registers 232", "registers of all roles"),
            ("consumer warps", "producer warps", "two roles of one name"),
            ("  roles {", "  roles { } roles {", "twice"),
            ("      sync\n", "      roles { }\n", "inside of a statement"),
        ],
    );
}

#[test]
fn channels() {
    breaks(
        ROLES,
        &[
            ("      publish c\n", "", "channel `c` / nothing publishes"),
            ("      release c\n", "", "channel `c` / nothing releases"),
            ("      acquire c\n", "", "`copy` / filled that is not held"),
            ("      receive c\n", "", "`shared_load` / used that is not held"),
            ("publish c\n", "publish c publish c\n", "`publish` / published that is not held"),
            ("release c\n", "release c release c\n", "`release` / released that is not held"),
            ("release c\n", "release c shared_store a@c = %t\n", "`shared_store` / not held"),
            ("dot b[0]", "dot a@c", "`dot` / not held"),
            ("by tma\n      publish", "by cp_async 16\n      publish", "CpAsync(16) / Tma / alike"),
            ("copy a@c", "copy b@c", "`b` at the cursor of a channel that does not have it"),
            ("copy a@c = x", "copy a[2] = x", "stage 2 of the 2 of `a`"),
            ("a@c = x[cta * 32.., 0..]", "a@c = x[cta * 32.., 0..] box [32, 8]", "[32, 8] / [32, 16]"),
            ("%t: f16[32, 16] =", "%t: f16[16, 32] =", "the result / [16, 32]"),
            ("shared_store b[0] = %t", "shared_store b[0] = %t shared_store b[1] = %t", "stage 1 of the 1"),
            (
                "%turned: f16[16, 32] = transpose %t [1, 0]",
                "%turned: f16[16, 32] = full 0.0f16 shared_store b[0] = %turned",
                "the tile / [16, 32]",
            ),
        ],
    );
    let mut program = read(ROLES);
    let mut lost = program.clone();
    let Op::Roles(roles) = &mut program.body[0].op else { panic!() };
    let Op::Copy { to, .. } = &mut roles[0].body[1].op else { panic!() };
    *to = Slot { buffer: SharedId(7), stage: Stage::Cursor(ChannelId(0)) };
    says(&program, "shared buffer 7 is not declared");
    let Op::Roles(roles) = &mut lost.body[0].op else { panic!() };
    roles[0].body[0].op = Op::Acquire(ChannelId(7));
    says(&lost, "channel 7 is not declared");
}

#[test]
fn barriers() {
    breaks(
        BARRIERS,
        &[
            ("expect full[1] bytes 1024", "expect full[2] bytes 1024", "barrier 2 of the 2 of `full`"),
            ("expect full[1] bytes 1024", "expect full[1] bytes 0", "0 bytes"),
            ("expect full[1] bytes 1024", "expect full[1] bytes 1048576", "1048576 bytes"),
            (" on full[1]", "", "`copy` / no barrier"),
            ("by tma on", "by registers on", "a barrier"),
            ("wait full[1] parity phase", "wait full[true] parity phase", "index / bool"),
            ("wait full[1] parity phase", "wait full[1] parity 2", "parity of 2"),
            ("wait full[1] parity phase", "wait full[1] parity true", "parity / bool / index"),
            ("by tma on", "by multicast on", "a copy for a cluster of one CTA"),
            ("  arrive empty[1]\n", "", "barrier `empty` / nothing arrives"),
            ("named_barrier 1", "named_barrier 16", "named barrier 16"),
            ("threads 128", "threads 48", "48 threads of 128"),
            ("threads 128", "threads 160", "160 threads of 128"),
            ("set_registers 232", "set_registers 230", "230 registers"),
            ("var phase: index = 0", "var phase: i32 = 0", "value of `phase` / index / i32"),
            ("commit bulk", "named_barrier 1 threads 128 wait", "one thread alone runs `named_barrier`"),
            ("commit bulk", "%n: f16[32, 16] layout \"REGISTERS\" = shared_load a[0]", "one thread alone"),
            ("copy_out y[t * 32.., 0..]", "copy_out x[t * 32.., 0..]", "`x` is written"),
            ("strides [16, 1] write", "strides [16, 1] read_write", "a box of `y` / which is read too / counter"),
            ("%c: f16[32, 16]", "%c: f32[32, 16]", "the result / f32"),
        ],
    );
    // A variable ends with the block that declares it.
    let mut program = read(BARRIERS);
    let declared = program.body.remove(0);
    let Op::Elected(block) = &mut program.body[0].op else { panic!() };
    block.insert(0, declared);
    says(&program, "`phase` is used outside");
    let mut program = read(BARRIERS);
    let set = program.body.iter().position(|stmt| matches!(&stmt.op, Op::Wait { barrier: BarrierId(0), .. })).unwrap();
    let Op::Wait { barrier, .. } = &mut program.body[set].op else { panic!() };
    *barrier = BarrierId(5);
    says(&program, "barrier 5 is not declared");
    let mut program = read(BARRIERS);
    let Op::Assign { var, .. } = program.body[0].op.clone() else { panic!() };
    program.body[0].op = Op::Bind { var, value: Expr::index(0), below: None };
    says(&program, "`phase` is set / no variable that changes");
}

#[test]
fn the_builder_verifies() {
    let mut k = kiln_tile::ir::Builder::new("k", "");
    let one = k.full("one", DType::F32, &[8, 8], Expr::float(DType::F32, 1.0));
    k.reduce("sum", kiln_tile::ReduceOp::Sum, &one, 2);
    let err = k.finish().unwrap_err();
    assert!(matches!(&err, TileError::Invalid { what, .. } if what.contains("axis 2")), "{err}");
}
