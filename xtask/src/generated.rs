//! Files that programs of their own generate: workspaces, so that other commands do not compile what those need.

use crate::{Outcome, workspace};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the generator `xtask/NAME` on a file and writes what it prints to `to`, or with `check` only compares. `command` makes it current.
pub fn run(name: &str, from: &Path, to: &str, command: &str, check: bool) -> Outcome<()> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(workspace().join("xtask").join(name).join("Cargo.toml"))
        .arg("--")
        .arg(from)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the generator failed: {}", output.status).into());
    }
    let path = workspace().join(to);
    let current = fs::read(&path).unwrap_or_default();
    if current == output.stdout {
        println!("{} is current", path.display());
    } else if check {
        return Err(format!("{} is not what {} generates; run `{command}`", path.display(), from.display()).into());
    } else {
        fs::write(&path, &output.stdout)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
