//! `xtask proto`: the message types of kiln-import from the `onnx-ml.proto` of the pinned onnx wheel.

use crate::{Outcome, generated, python};
use kiln_cuda::Home;

const SHA256: &str = "8f39d0a1ae1abef5ca648922cdb06716d6bd1573c9e972b42854c16e9e352c16";

/// Writes the generated file, or with `check` only compares it.
pub fn run(check: bool) -> Outcome<()> {
    let schema = python::ONNX.install(&Home::from_env()?)?.join("onnx/onnx-ml.proto");
    python::check_sha256(&schema, SHA256)?;
    generated::run("protogen", &schema, "crates/kiln-import/src/onnx/proto.rs", "cargo xtask proto", check)
}
