//! Printing, and sizes for people: a full disk or a closed terminal behind standard output is an error, not a panic.

use miette::{Result, miette};
use std::fmt::Arguments;
use std::io::Write;

/// `print!` that returns an error.
macro_rules! out {
    ($($text:tt)*) => { $crate::cli::out::write(format_args!($($text)*)) };
}

/// `println!` that returns an error.
macro_rules! outln {
    () => { out!("\n") };
    ($($text:tt)*) => { out!("{}\n", format_args!($($text)*)) };
}

/// `eprintln!` for news: what cannot be shown is not worth failing for.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::out::note(format_args!($($text)*)) };
}

/// Writes to standard output.
pub fn write(text: Arguments<'_>) -> Result<()> {
    std::io::stdout().write_fmt(text).map_err(failed)
}

/// Writes what is still buffered: it has to be asked for, since at exit nobody would hear of a failure.
pub fn flush() -> Result<()> {
    std::io::stdout().flush().map_err(failed)
}

fn failed(error: std::io::Error) -> miette::Report {
    miette!("cannot write to standard output: {error}")
}

/// Writes a line to standard error.
pub fn note(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A byte count in binary units.
pub fn bytes(n: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
