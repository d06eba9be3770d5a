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
