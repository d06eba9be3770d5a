//! `kiln sign`.

use kiln_engine::{PrivateKey, sign};
use miette::{IntoDiagnostic, miette};
use std::path::PathBuf;
use std::process::ExitCode;

/// Signs an engine with an Ed25519 key, in the place of a signature that it has. `kiln run` and `kiln check-engine` with `--verify-key` take the engine only as it was signed.
#[derive(clap::Args)]
pub struct Args {
    /// The engine.
    engine: PathBuf,
    /// The private key, as `openssl genpkey -algorithm ed25519` writes it (PEM or DER), or its 32 bytes.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The engine to write; default: in its place.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

pub fn run(args: &Args) -> miette::Result<ExitCode> {
    let output = args.output.as_ref().unwrap_or(&args.engine);
    kiln_host::destination(output).map_err(|e| miette!("cannot write {}: {e}", output.display()))?;
    super::not_over(output, [&args.key])?;
    let key = PrivateKey::load(&args.key).into_diagnostic()?;
    sign(&args.engine, &key, output).into_diagnostic()?;
    outln!("signed by {} -> {}", key.public(), output.display())?;
    Ok(ExitCode::SUCCESS)
}
