//! The `kiln` command line.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // `kiln inspect E | head` ends quietly when `head` has seen enough; Rust would panic.
    sigpipe::reset();
    match cli::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(report) => {
            eprintln!("{report:?}");
            ExitCode::from(2)
        }
    }
}
