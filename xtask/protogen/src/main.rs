//! `protogen PROTO`: prints the Rust types of one `.proto` file.
//!
//! `bytes` fields become `bytes::Bytes`, so that decoding a mapped file copies no tensor data. Comments are left out: the
//! schema's own file documents it.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: protogen PROTO")?);
    let folder = proto.parent().ok_or("the proto file has no parent folder")?;
    let descriptors = protox::compile([&proto], [folder])?;
    let out = std::env::temp_dir().join(format!("protogen-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    let generated = prost_build::Config::new()
        .bytes(["."])
        .disable_comments(["."])
        .out_dir(&out)
        .compile_fds(descriptors)
        .map_err(Into::into)
        .and_then(|()| std::fs::read(out.join("onnx.rs")));
    std::fs::remove_dir_all(&out)?;
    std::io::stdout().write_all(&generated?)?;
    Ok(())
}
