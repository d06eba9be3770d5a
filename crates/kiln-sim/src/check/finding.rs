//! Findings, collected without repeats.

use std::collections::BTreeMap;

use crate::decode::Inst;
use crate::module::Kernel;
use crate::report::Finding;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// An access outside the memory it names.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A read of shared memory that nothing has written.
    Uninitialized,
    /// A use of a register that nothing has written. To move it, to store it and to load it again is no use yet.
    UninitializedRegister,
    /// Two unordered accesses to shared memory by different warps.
    SharedRace,
    /// Two unordered accesses to global memory by different CTAs.
    GlobalRace,
    /// The destination of an asynchronous copy is used before the copy was waited for.
    AsyncPending,
    /// The async proxy reads what the generic proxy wrote, without a proxy fence.
    ProxyFence,
    /// An aligned barrier reached by a part of a warp.
    DivergentBarrier,
    /// A thread left the kernel while others wait for it at a barrier.
    ExitedBeforeBarrier,
    /// No warp can run.
    Deadlock,
    /// Wrong use of an mbarrier.
    Mbarrier,
    /// wgmma registers or groups used out of order.
    Wgmma,
    /// Wrong use of setmaxnreg.
    RegisterLimit,
    /// An operand that the instruction does not allow.
    InvalidOperand,
    /// The kernel executed `trap`, or an assertion failed.
    Trap,
    /// The instruction budget is used up.
    Budget,
    /// The time is used up.
    Timeout,
}

impl FindingKind {
    /// Whether the launch ends with it.
    pub(crate) fn fatal(self) -> bool {
        matches!(self, FindingKind::Trap | FindingKind::Budget | FindingKind::Timeout)
    }
}

impl std::fmt::Display for FindingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FindingKind::OutOfBounds => "out of bounds",
            FindingKind::Misaligned => "misaligned access",
            FindingKind::Uninitialized => "uninitialised shared memory",
            FindingKind::UninitializedRegister => "uninitialised register",
            FindingKind::SharedRace => "shared-memory race",
            FindingKind::GlobalRace => "cross-CTA race",
            FindingKind::AsyncPending => "asynchronous copy not waited for",
            FindingKind::ProxyFence => "missing proxy fence",
            FindingKind::DivergentBarrier => "divergent barrier",
            FindingKind::ExitedBeforeBarrier => "exit before a barrier",
            FindingKind::Deadlock => "deadlock",
            FindingKind::Mbarrier => "mbarrier misuse",
            FindingKind::Wgmma => "wgmma misuse",
            FindingKind::RegisterLimit => "setmaxnreg misuse",
            FindingKind::InvalidOperand => "invalid operand",
            FindingKind::Trap => "trap",
            FindingKind::Budget => "instruction budget exceeded",
            FindingKind::Timeout => "time limit exceeded",
        })
    }
}

struct Record {
    line: u32,
    loc: (u32, u32),
    block: [u32; 3],
    thread: [u32; 3],
    at: Option<(&'static str, u64)>,
    message: String,
    count: u64,
}

/// Findings by instruction and kind.
#[derive(Default)]
pub(crate) struct Findings(BTreeMap<(u32, FindingKind), Record>);

impl Findings {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn add(
        &mut self,
        kind: FindingKind,
        pc: u32,
        inst: &Inst,
        block: [u32; 3],
        thread: [u32; 3],
        at: Option<(&'static str, u64)>,
        message: String,
    ) {
        self.0.entry((pc, kind)).and_modify(|r| r.count += 1).or_insert_with(|| Record {
            line: inst.line,
            loc: inst.loc,
            block,
            thread,
            at,
            message,
            count: 1,
        });
    }

    /// Keeps the occurrence of the lowest CTA and thread, so that the result does not depend on scheduling.
    pub(crate) fn merge(&mut self, other: Findings) {
        for (key, mut r) in other.0 {
            match self.0.entry(key) {
                std::collections::btree_map::Entry::Vacant(v) => {
                    v.insert(r);
                }
                std::collections::btree_map::Entry::Occupied(mut o) => {
                    let old = o.get_mut();
                    let count = old.count + r.count;
                    let rank = |r: &Record| (r.block[2], r.block[1], r.block[0], r.thread[2], r.thread[1], r.thread[0]);
                    if rank(&r) < rank(old) {
                        std::mem::swap(old, &mut r);
                    }
                    old.count = count;
                }
            }
        }
    }

    pub(crate) fn into_list(self, kernel: &Kernel) -> Vec<Finding> {
        let list = self.0.into_iter().map(|((_, kind), r)| {
            let (file, line) = kernel.source(r.loc);
            Finding {
                kind,
                kernel: kernel.name().to_string(),
                file,
                line,
                ptx_line: r.line,
                block: r.block,
                thread: r.thread,
                address: r.at.map(|(space, a)| (space.to_string(), a)),
                message: r.message,
                count: r.count,
            }
        });
        list.collect()
    }
}
