//! The text form of the tile IR, of every level: what [`Display`](std::fmt::Display) writes, [`FromStr`](std::str::FromStr) reads.
//!
//! ```text
//! kernel gemm "y = x w" level tile
//! param M: index in 1..=8192 multiple 8
//! param x: f16[M, 1024] strides [1024, 1] read
//! schedule warps 8 specialise persistent
//! grid m = (M + 127) / 128
//! {
//!   let row: index = m * 128
//!   %zero: f32[128, 64] = full 0.0
//!   %sum: f32[128, 64] = for k in 0..1024 step 64 stages 4 carry (%acc = %zero) {
//!     %a: f16[128, 64] = load x[row.., k..] masked [0] fill 0.0f16
//!     ...
//!     yield %next
//!   }
//!   %y: f16[128, 64] = map [i, j] (s = %sum) { yield f16(max(s, 0.0)) }
//!   store y[row.., 0..] masked [0] = %y
//! }
//! ```
//!
//! * A tile's name begins with `%`, without a space. Names that are alike end in `.1`, `.2`.. and read back to the name without that.
//! * `x[row.., k..]` is a box: the tile's axes walk from `row` and from `k`, in their order unless `..@1` says which; an axis without `..` is
//!   one index. `masked` lists the axes of the tensor along which it may reach outside.
//! * `b@c` is the slot of the shared buffer `b` at the cursor of the channel `c`, `b[e]` its stage `e`.
//! * Literals: `3` is an index, `3.0` an `f32`, others have their type behind them: `3i32`, `0.5f16`, `inf_bf16`. Expressions are read as they are
//!   written: nothing is folded.
//! * `dot a, b, acc tf32 even` rounds f32 to TF32 before it multiplies them, ties to even; `away`: ties away from zero.
//! * `;` starts a comment. Line ends and indentation mean nothing.
//!
//! What is read is well formed, not yet right: see [`verify`](super::verify()).

mod lex;
mod parse;
mod parse_expr;
mod parse_stmt;
mod print;

pub(crate) use print::statement;

use super::{Arriver, Fence, Group, Level, Op, Turn};
use crate::program::{Access, AtomicOp, ReduceOp};
use kiln_num::Round;

type Words<T, const N: usize> = [(T, &'static str); N];

const LEVELS: Words<Level, 5> = [
    (Level::Tile, "tile"),
    (Level::Scheduled, "scheduled"),
    (Level::Selected, "selected"),
    (Level::LaidOut, "laid_out"),
    (Level::Async, "async"),
];
const ACCESSES: Words<Access, 3> =
    [(Access::Read, "read"), (Access::Write, "write"), (Access::ReadWrite, "read_write")];
/// To nearest, and where ties go.
const ROUNDINGS: Words<Round, 2> = [(Round::Nearest, "even"), (Round::NearestAway, "away")];
const REDUCTIONS: Words<ReduceOp, 6> = [
    (ReduceOp::Sum, "sum"),
    (ReduceOp::Prod, "prod"),
    (ReduceOp::Min, "min"),
    (ReduceOp::Max, "max"),
    (ReduceOp::And, "and"),
    (ReduceOp::Or, "or"),
];
const ATOMICS: Words<AtomicOp, 3> = [(AtomicOp::Add, "add"), (AtomicOp::Min, "min"), (AtomicOp::Max, "max")];
const GROUPS: Words<Group, 4> =
    [(Group::CpAsync, "cp_async"), (Group::Wgmma, "wgmma"), (Group::BulkRead, "bulk_read"), (Group::Bulk, "bulk")];
const TURNS: Words<Turn, 4> = [(Turn::Start, "start"), (Turn::Wait, "wait"), (Turn::Pass, "pass"), (Turn::End, "end")];
const ARRIVERS: Words<Arriver, 3> =
    [(Arriver::Thread, "thread"), (Arriver::Warp, "warp"), (Arriver::Warpgroup, "warpgroup")];
const FENCES: Words<Fence, 3> =
    [(Fence::ProxyAsync, "proxy_async"), (Fence::Wgmma, "wgmma"), (Fence::BarrierInit, "barrier_init")];

fn word<T: PartialEq>(words: &[(T, &'static str)], value: &T) -> &'static str {
    words.iter().find(|row| row.0 == *value).map_or("?", |row| row.1)
}

impl Level {
    /// Its name in the text form.
    pub fn name(self) -> &'static str {
        word(&LEVELS, &self)
    }
}

impl Op {
    /// The word that it starts with in the text form.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Bind { .. } => "let",
            Op::Full { .. } => "full",
            Op::Load { .. } => "load",
            Op::Map { .. } => "map",
            Op::Reduce { .. } => "reduce",
            Op::ClusterReduce { .. } => "cluster_reduce",
            Op::Transpose { .. } => "transpose",
            Op::Dot { .. } => "dot",
            Op::Store { .. } => "store",
            Op::Atomic { .. } => "atomic",
            Op::Await { .. } => "await",
            Op::Signal { .. } => "signal",
            Op::For { .. } => "for",
            Op::If { .. } => "if",
            Op::Roles(_) => "roles",
            Op::Acquire(_) => "acquire",
            Op::Copy { .. } => "copy",
            Op::Publish(_) => "publish",
            Op::Receive(_) => "receive",
            Op::Release(_) => "release",
            Op::Skip { .. } => "skip",
            Op::SharedLoad { .. } => "shared_load",
            Op::SharedStore { .. } => "shared_store",
            Op::CopyOut { .. } => "copy_out",
            Op::Turn(_) => "turn",
            Op::Sync => "sync",
            Op::Convert { .. } => "convert",
            Op::Assign { .. } => "set",
            Op::Elected(_) => "elected",
            Op::Expect { .. } => "expect",
            Op::Arrive { .. } => "arrive",
            Op::Wait { .. } => "wait",
            Op::Commit(_) => "commit",
            Op::WaitGroup { .. } => "wait_group",
            Op::Fence(_) => "fence",
            Op::NamedBarrier { .. } => "named_barrier",
            Op::SetRegisters { .. } => "set_registers",
            Op::ClusterSync => "cluster_sync",
            Op::ClusterArrive => "cluster_arrive",
            Op::ClusterWait => "cluster_wait",
            Op::ClusterLoad { .. } => "cluster_load",
        }
    }
}
