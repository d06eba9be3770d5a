//! The checks: findings, shadow memory and happens-before.

mod clocks;
mod finding;
mod global;
mod shared;
mod undefined;

pub use finding::FindingKind;

pub(crate) use clocks::Clocks;
pub(crate) use finding::Findings;
pub(crate) use global::{GlobalShadow, GridSync};
pub(crate) use shared::SharedShadow;
pub(crate) use undefined::{Origin, Owner, UndefinedBytes};

/// A kind of access to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
    /// An asynchronous copy starts to own its destination.
    AsyncIssue,
    /// A `cp.async` lands (generic proxy).
    AsyncLand,
    /// A bulk copy lands (async proxy).
    BulkLand,
    /// A read by the async proxy.
    AsyncRead,
    /// The same by an operation that goes on until it is waited for: nobody may write until then.
    AsyncHold,
    /// Such an operation has been waited for.
    AsyncDone,
}

impl Access {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic",
            Access::AsyncIssue | Access::AsyncLand => "asynchronous copy",
            Access::BulkLand => "bulk copy",
            Access::AsyncRead | Access::AsyncHold | Access::AsyncDone => "asynchronous read",
        }
    }

    pub(crate) fn writes(self) -> bool {
        !matches!(self, Access::Read | Access::AsyncRead | Access::AsyncHold | Access::AsyncDone)
    }
}

/// A small generator for schedules and the async adversary (SplitMix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (`n` > 0).
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}
