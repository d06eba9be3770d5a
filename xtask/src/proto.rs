//! `xtask proto`: the message types of kiln-import from the `onnx-ml.proto` of the pinned onnx wheel.
//!
//! The generator is a workspace of its own, so that other commands do not compile it.

use crate::{Outcome, python, workspace};
use kiln_cuda::Home;
use std::fs;
use std::process::{Command, Stdio};

const SHA256: &str = "8f39d0a1ae1abef5ca648922cdb06716d6bd1573c9e972b42854c16e9e352c16";

/// Writes the generated file, or with `check` only compares it.
pub fn run(check: bool) -> Outcome<()> {
    let schema = python::ONNX.install(&Home::from_env()?)?.join("onnx/onnx-ml.proto");
    python::check_sha256(&schema, SHA256)?;
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(workspace().join("xtask/protogen/Cargo.toml"))
        .arg("--")
        .arg(&schema)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the generator failed: {}", output.status).into());
    }
    let path = workspace().join("crates/kiln-import/src/onnx/proto.rs");
    let current = fs::read(&path).unwrap_or_default();
    if current == output.stdout {
        println!("{} is current", path.display());
    } else if check {
        return Err(format!("{} is not what the schema generates; run `cargo xtask proto`", path.display()).into());
    } else {
        fs::write(&path, &output.stdout)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
