//! The `kiln` command line.
// They panic where the output cannot be written; `cli::out` has what does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // `kiln inspect E | head` ends quietly when `head` has seen enough; Rust would panic.
    sigpipe::reset();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        // `--help` and `--version` too: they are an error only where they cannot be shown.
        Err(message) => {
            let shown = message.print().and_then(|()| std::io::stdout().flush());
            return ExitCode::from(if shown.is_ok() { message.exit_code() as u8 } else { 2 });
        }
    };
    match cli::run(cli) {
        Ok(code) => code,
        Err(report) => {
            // Where nobody can read it, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "{report:?}");
            ExitCode::from(2)
        }
    }
}
