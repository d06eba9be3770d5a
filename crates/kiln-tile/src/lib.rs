#![forbid(unsafe_code)]
//! Tile programs: the language kernels are written in, its compiler to CUDA C, and its interpreter.
//!
//! This crate knows memory scopes, scalar types, threads and GPU architectures. It must not know tensor operations, models
//! or graphs: those become tile programs in `kiln-kernels`.
//!
//! # The language
//!
//! A [`Program`] is one kernel: parameters (global arrays and scalars), a *domain* (the grid: every point of a product of
//! axes is executed once), a [`Worker`] that executes a point, and statements. It is explicit about memory (global,
//! shared, fragment) and silent about threads.
//!
//! | worker | a point of the domain is executed by | body |
//! | --- | --- | --- |
//! | [`Worker::Thread`] | one thread | scalar code: maps, gathers, pooling, direct convolution, scans |
//! | [`Worker::Warp`] | 32 threads | [`parallel`](Builder::parallel) and [`reduce`](Builder::reduce) over short rows |
//! | [`Worker::Block`] | a block | the same over long rows; shared tiles, [`copy`](Builder::copy), [`gemm`](Builder::gemm) |
//!
//! Rules of thumb:
//!
//! * Arithmetic is on compute types (`bool i32 u32 i64 u64 f32 f64 index`). Cast what is loaded (`x.at(ix).cast(F32)`);
//!   [`Builder::store`] casts back. Rounding happens where a cast is written.
//! * Indices have the type [`Type::Index`]: exact, 32 or 64 bits as their range needs. Give dimensions true ranges
//!   ([`Builder::dim`]) and divisors ([`Builder::dim_multiple_of`]); both buy speed.
//! * Wide (128-bit) accesses are automatic when the last axis is contiguous, its extent and all strides are provably
//!   multiples, and the body is straight-line: binds, stores, at most one uniform condition at the end. Collapse axes where
//!   you can.
//! * `select` evaluates only the chosen side, so `inside.select(&x.at(..), 0.0)` guards a load.
//! * Global arrays start at multiples of 16 bytes. Different parameters do not overlap.
//! * Values computed once for use in several places are named by [`Builder::bind`]; an expression used twice without it is
//!   computed twice.
//! * A fragment under a warp or block is indexed by exactly the variables of a loop over exactly its extents. Under
//!   [`Worker::Thread`] it is a private array, indexed freely.
//! * [`Builder::reduce_rows`] combines the rows of an accumulator into a fragment with an element a row, which loops over the accumulator
//!   then load by its first variable, and loops over the rows change; an f32 accumulator can be the left operand of a next product.
//! * Stores stand inside `parallel` (except under [`Worker::Thread`]). Barriers are inserted by the compiler.
//!
//! # Example: a row softmax
//!
//! ```
//! use kiln_target::arch::Arch;
//! use kiln_tile::interp::{self, Arg};
//! use kiln_tile::{Array, Builder, DType, Expr, ReduceOp, Worker, compile};
//!
//! let mut k = Builder::new("softmax", "y = softmax(x) along the last axis");
//! let rows = k.dim("rows", 1..=1 << 20); // a runtime argument and its range
//! let cols = k.dim_multiple_of("cols", 1..=1 << 16, 8); // rows are whole 16-byte vectors of f16
//! let x = k.input("x", DType::F16, &[rows.clone(), cols.clone()]);
//! let y = k.output("y", DType::F16, &[rows.clone(), cols.clone()]);
//! k.for_each(Worker::Warp, &[("row", rows)], |k, ix| {
//!     let at = |col: &Expr| x.at([&ix[0], col]).cast(DType::F32);
//!     let axes = [("col", cols.clone())];
//!     let peak = k.reduce("peak", ReduceOp::Max, &axes, |_, c| at(&c[0]));
//!     let total = k.reduce("total", ReduceOp::Sum, &axes, |_, c| (at(&c[0]) - &peak).exp());
//!     k.parallel(&axes, |k, c| {
//!         k.store(&y, [&ix[0], &c[0]], (at(&c[0]) - &peak).exp() / &total);
//!     });
//! });
//! let program = k.finish()?;
//!
//! // CUDA C for one architecture, and the launch geometry for given arguments.
//! let kernel = compile(&program, Arch::Sm80)?;
//! assert!(kernel.source.contains("warp_reduce<Max>"));
//! assert_eq!(kernel.grid(&[Some(100), Some(64), None, None])?, 13); // 8 warps a block
//!
//! // The same program on the CPU.
//! let x = Array::from_f64(DType::F16, (0..16).map(|i| f64::from(i % 5)));
//! let mut args = [Arg::dim(2), Arg::dim(8), Arg::Array(x), Arg::Array(Array::zeros(DType::F16, 16))];
//! interp::run(&program, &mut args)?;
//! let y = args[3].array().unwrap().to_f64();
//! assert!((y[..8].iter().sum::<f64>() - 1.0).abs() < 1e-3);
//! # Ok::<(), kiln_tile::TileError>(())
//! ```
//!
//! # From program to CUDA C
//!
//! [`verify`](verify::verify), then the passes of [`pass`] (layout, sync, lower) give the thread-level IR of [`thread`], which
//! [`mod@print`] writes down. [`interp`] runs the program itself: the oracle between the graph interpreter and the GPU.

mod builder;
mod compile;
pub mod dtype;
pub mod error;
pub mod expr;
mod function;
pub mod interp;
pub mod ir;
pub mod lower;
pub mod math;
pub mod pass;
pub mod passes;
pub mod print;
pub mod program;
pub mod thread;
pub mod threads;
pub mod validate;
pub mod verify;

pub use builder::{Builder, identifier};
pub use compile::{Kernel, KernelParam, compile, compile_watched};
pub use dtype::{Array, DType, Scalar, Type};
pub use error::TileError;
pub use expr::{Expr, Var};
pub use kiln_num::Round;
pub use program::{Access, AtomicOp, Buffer, Program, ReduceOp, Worker};
