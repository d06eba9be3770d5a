//! `xtask gpu-pack`: all that a machine with a GPU needs to check and time Kiln, in one folder.

use crate::cases::CASES;
use crate::{Outcome, step, workspace};
use kiln_cuda::Home;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the folder may weigh.
const LIMIT: u64 = 60 << 20;

/// Builds the programs, and collects them with the scripts of `gpu/`, the simulator's fixtures, the public models and their recordings in
/// `gpu-pack/`, whose `run.sh` does the rest.
pub fn run() -> Outcome<()> {
    let home = Home::from_env()?;
    let pack = workspace().join("gpu-pack");
    if pack.exists() {
        fs::remove_dir_all(&pack)?;
    }
    fs::create_dir_all(pack.join("models"))?;
    programs(&pack)?;
    scripts(&pack)?;
    fixtures(&pack)?;
    let mut left = LIMIT.saturating_sub(weight(&pack)?);
    for case in CASES.iter().filter(|c| !c.inputs.is_empty()) {
        let model = pack.join("models").join(format!("{}.onnx", case.name)).display().to_string();
        fs::copy(case.model(&home)?, &model)?;
        step::command("xz", &[&model])?;
        let model = format!("{model}.xz");
        let mut bytes = fs::metadata(&model)?.len();
        let mut files = Vec::new();
        for (i, recording) in case.recordings(&home)?.into_iter().enumerate() {
            files.push((recording.inputs, format!("{}-{i}.in.npz", case.name)));
            files.push((recording.outputs, format!("{}-{i}.out.npz", case.name)));
        }
        for (path, _) in &files {
            bytes += fs::metadata(path)?.len();
        }
        let mib = bytes as f64 / f64::from(1 << 20);
        if bytes > left {
            fs::remove_file(&model)?;
            println!("left out: {} ({mib:.1} MiB does not fit)", case.name);
            continue;
        }
        left -= bytes;
        println!("packed: {} ({mib:.1} MiB)", case.name);
        for (from, name) in files {
            fs::copy(from, pack.join("models").join(name))?;
        }
    }
    println!("gpu-pack/ weighs {:.1} MiB; on the machine with the GPU: gpu-pack/run.sh", mib(&pack)?);
    Ok(())
}

/// The release binaries, stripped and compressed together.
fn programs(pack: &Path) -> Outcome<()> {
    let folder = pack.join("bin");
    fs::create_dir_all(&folder)?;
    fs::copy(step::kiln("release")?, folder.join("kiln"))?;
    let tests = ["test", "--no-run", "--package", "kiln-cuda", "--test", "on_device"];
    fs::copy(executable(&tests)?, folder.join("on_device"))?;
    let kernels = ["build", "--package", "kiln", "--bench", "gpu"];
    fs::copy(executable(&kernels)?, folder.join("kernels_on_gpu"))?;
    archive(&folder)
}

/// Replaces a folder by `FOLDER.tar.xz`, which holds its files.
fn archive(folder: &Path) -> Outcome<()> {
    let from = folder.display().to_string();
    step::command("tar", &["-C", &from, "-cJf", &format!("{from}.tar.xz"), "."])?;
    Ok(fs::remove_dir_all(folder)?)
}

/// What runs there: `run.sh`, and `peers/`.
fn scripts(pack: &Path) -> Outcome<()> {
    let gpu = workspace().join("gpu");
    fs::copy(gpu.join("run.sh"), pack.join("run.sh"))?;
    fs::create_dir(pack.join("peers"))?;
    for entry in fs::read_dir(gpu.join("peers"))? {
        let path = entry?.path();
        if let (Some(name), Some("py")) = (path.file_name(), path.extension().and_then(|e| e.to_str())) {
            fs::copy(&path, pack.join("peers").join(name))?;
        }
    }
    Ok(())
}

/// The simulator's fixtures: their PTX and inputs, what is committed, what the simulator gives, and the script that records them.
fn fixtures(pack: &Path) -> Outcome<()> {
    let folder = pack.join("fixtures");
    let test = executable(&["test", "--no-run", "--package", "kiln-sim", "--test", "fixtures"])?;
    let status = Command::new(test).env("KILN_SIM_FIXTURES", &folder).stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("writing the simulator's fixtures failed: {status}").into());
    }
    let committed = workspace().join("crates/kiln-sim/tests/fixtures");
    for name in ["record.py", "recorded.txt"] {
        fs::copy(committed.join(name), folder.join(name))?;
    }
    archive(&folder)
}

/// Runs a cargo command in the release profile; the program that it made of the target named last.
fn executable(args: &[&str]) -> Outcome<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .args(["--release", "--message-format", "json-render-diagnostics"])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("`cargo {}` failed: {}", args.join(" "), output.status).into());
    }
    let messages = String::from_utf8(output.stdout)?;
    let made = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    // Cargo makes the package's own binaries too.
    let mut wanted = made.filter(|m| args.last().is_some_and(|name| m["target"]["name"] == *name));
    wanted
        .find_map(|m| m["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("`cargo {}` made no program", args.join(" ")).into())
}

/// Bytes of a folder's files.
fn weight(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { weight(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn mib(folder: &Path) -> Outcome<f64> {
    Ok(weight(folder)? as f64 / f64::from(1 << 20))
}
