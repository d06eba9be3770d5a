//! Files that programs of their own generate: workspaces, so that other commands do not compile what those need.

use crate::python::sha256;
use crate::{Outcome, workspace};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// For each generated file a hash of what it was made of, by what, and of itself: checks compile no generator.
const RECORD: &str = "xtask/generated.json";

/// Runs the generator `xtask/NAME` on a file and writes what it prints to `to`, or with `check` only says whether that would change anything, which
/// `command` makes current.
pub fn run(name: &str, from: &Path, to: &str, command: &str, check: bool) -> Outcome<()> {
    let (root, folder) = (workspace(), workspace().join("xtask").join(name));
    let record = root.join(RECORD);
    let mut known: BTreeMap<String, String> = serde_json::from_slice(&fs::read(&record)?)?;
    let hash = || -> Outcome<String> {
        let mut all = Vec::new();
        let made_by = ["Cargo.toml", "Cargo.lock", "src/main.rs"].map(|file| folder.join(file));
        for file in made_by.iter().map(|file| file.as_path()).chain([from, &root.join(to)]) {
            let content = fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
            all.extend((content.len() as u64).to_le_bytes());
            all.extend(content);
        }
        Ok(sha256(&all))
    };
    if check {
        if known.get(to) != Some(&hash()?) {
            return Err(format!("{to} is not what {} generates of {}; run `{command}`", name, from.display()).into());
        }
        println!("{to} is current");
        return Ok(());
    }
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--")
        .arg(from)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("the generator failed: {}", output.status).into());
    }
    fs::write(root.join(to), &output.stdout)?;
    known.insert(to.to_owned(), hash()?);
    fs::write(&record, serde_json::to_string_pretty(&known)? + "\n")?;
    println!("wrote {to}");
    Ok(())
}
