//! Set-up and chores, one file a command.
#![forbid(unsafe_code)]

mod cases;
mod compare;
mod onnx_suite;
mod proto;
mod python;

/// What went wrong, in words.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "cargo xtask COMMAND

  cases [--check] [..] get the public models and record onnxruntime's outputs; compare the reference interpreter with them
  onnx-suite [..]      run the ONNX backend node tests, write docs/onnx-coverage.md
  proto [--check]      generate the ONNX message types, or check that they are current";

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["cases", "--check", rest @ ..] => cases::run(true, rest),
        ["cases", rest @ ..] => cases::run(false, rest),
        ["onnx-suite", rest @ ..] => onnx_suite::run(rest),
        ["proto"] => proto::run(false),
        ["proto", "--check"] => proto::run(true),
        [] | ["help" | "--help"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => Err(format!("unknown command `{}`\n\n{HELP}", args.join(" ")).into()),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// The workspace folder.
fn workspace() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
