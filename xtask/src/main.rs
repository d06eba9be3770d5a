//! Set-up and chores, one file a command.
#![forbid(unsafe_code)]

mod bench;
mod cases;
mod compare;
mod demo;
mod deny;
mod fuzz;
mod generated;
mod gpu_pack;
mod onnx_suite;
mod proto;
mod python;
mod step;
mod test;

/// What went wrong, in words.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "cargo xtask COMMAND

  demo                 the main job on a public model: build an engine for all targets, run it, check it, report
  test                 everything that CI runs
  bench                Kiln against onnxruntime on this CPU, build times, memory
  cases [--check] [..] get the public models and record onnxruntime's outputs; compare the reference interpreter with them
  deny                licences, sources and bans of dependencies
  fuzz [--minutes N] [--seed S]
                       random ONNX models on the CPU and the simulator against onnxruntime, or that of one seed
  header [--check]     generate include/kiln.h, or check that it is current
  gpu-pack             collect in gpu-pack/ all that a machine with a GPU needs to check and time Kiln: gpu-pack/run.sh
  onnx-suite [--check] [..]
                       run the ONNX backend node tests, write docs/onnx-coverage.md or check that it is current
  proto [--check]      generate the ONNX message types, or check that they are current";

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["demo"] => demo::run(),
        ["test"] => test::run(),
        ["bench"] => bench::run(),
        ["cases", "--check", rest @ ..] => cases::run(true, rest),
        ["cases", rest @ ..] => cases::run(false, rest),
        ["deny"] => deny::run(),
        ["fuzz"] => fuzz::run(1, None),
        ["fuzz", "--minutes", n] => n.parse().map_err(Into::into).and_then(|n| fuzz::run(n, None)),
        ["fuzz", "--seed", n] => n.parse().map_err(Into::into).and_then(|n| fuzz::run(0, Some(n))),
        ["header"] => header(false),
        ["header", "--check"] => header(true),
        ["gpu-pack"] => gpu_pack::run(),
        ["onnx-suite", "--check"] => onnx_suite::run(true, &[]),
        ["onnx-suite", rest @ ..] => onnx_suite::run(false, rest),
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

/// Writes the C header, or with `check` only compares it.
fn header(check: bool) -> Outcome<()> {
    let source = workspace().join("crates/kiln-c/src/lib.rs");
    generated::run("headergen", &source, "include/kiln.h", "cargo xtask header", check)
}

/// The workspace folder.
fn workspace() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
