//! What can be wrong with a tile program.

use crate::dtype::Type;
use crate::validate::Finding;
use kiln_target::arch::Arch;

/// Why a tile program was refused or could not be run.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum TileError {
    /// The program breaks a rule of the language.
    #[error("kernel `{kernel}`: {what} ({place}); {help}")]
    Invalid {
        /// The kernel's name.
        kernel: String,
        /// The rule that is broken, with what was found.
        what: String,
        /// Statement or expression at fault.
        place: String,
        /// What to do about it.
        help: String,
    },
    /// An operand has the wrong type.
    #[error(
        "kernel `{kernel}`: {place} has type {found}, expected {expected}; cast it where the rounding should happen"
    )]
    Type {
        /// The kernel's name.
        kernel: String,
        /// The expression at fault.
        place: String,
        /// Its type.
        found: Type,
        /// What the context needs.
        expected: String,
    },
    /// The text of a program cannot be read.
    #[error("line {line}, column {column}: expected {expected}, found {found}")]
    Text {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What could stand there.
        expected: String,
        /// What does.
        found: String,
    },
    /// The program is right, but this architecture or this compiler cannot express it.
    #[error("kernel `{kernel}` cannot be compiled for {arch}: {what}; {help}")]
    Unsupported {
        /// The kernel's name.
        kernel: String,
        /// The architecture asked for.
        arch: Arch,
        /// What is missing.
        what: String,
        /// What to do about it.
        help: String,
    },
    /// Launch arguments do not fit the parameters.
    #[error("kernel `{kernel}`: argument {position} (`{name}`): {what}")]
    Argument {
        /// The kernel's name.
        kernel: String,
        /// Position in the parameter list, from 0.
        position: usize,
        /// The parameter's name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// An access outside a buffer, seen by the interpreter.
    #[error(
        "kernel `{kernel}`: index {index:?} is outside `{buffer}` of shape {shape:?}; guard the access or fix the index"
    )]
    OutOfBounds {
        /// The kernel's name.
        kernel: String,
        /// The buffer.
        buffer: String,
        /// The index used.
        index: Vec<i128>,
        /// The buffer's extents in this run.
        shape: Vec<i128>,
    },
    /// Something read that holds nothing, seen by the interpreter.
    #[error("kernel `{kernel}`: {what}; write it before it is read")]
    Undefined {
        /// The kernel's name.
        kernel: String,
        /// What was read, and where it is known why it holds nothing.
        what: String,
    },
    /// Roles that wait for each other for ever, seen by the interpreter.
    #[error("kernel `{kernel}` has a deadlock: {}; publish and release each slot as often as it is acquired and received", waits.join(", "))]
    Deadlock {
        /// The kernel's name.
        kernel: String,
        /// For each role what it waits for.
        waits: Vec<String>,
    },
    /// A schedule that the validator refuses.
    #[error("kernel `{kernel}`: {finding}: {what} ({place}); {}", finding.help())]
    Schedule {
        /// The kernel's name.
        kernel: String,
        /// The kind of mistake.
        finding: Finding,
        /// What was expected and what was found, with the slot, barrier or phase.
        what: String,
        /// Role and statement at fault.
        place: String,
    },
    /// Arithmetic without a result, seen by the interpreter.
    #[error("kernel `{kernel}`: {what}")]
    Arithmetic {
        /// The kernel's name.
        kernel: String,
        /// What was computed.
        what: String,
    },
}

/// Result with [`TileError`].
pub type Result<T> = std::result::Result<T, TileError>;
