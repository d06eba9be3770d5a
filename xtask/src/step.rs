//! Running the steps of a longer command: each is announced, timed, and stops the rest when it fails.

use crate::Outcome;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// The steps of one command.
pub struct Steps {
    times: Vec<(String, f64)>,
}

impl Steps {
    /// None yet.
    pub fn new() -> Steps {
        Steps { times: Vec::new() }
    }

    /// Runs one step.
    pub fn run<T>(&mut self, title: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        println!("\n== {title}");
        let start = Instant::now();
        let result = work().map_err(|e| format!("{title}: {e}").into());
        self.times.push((title.to_owned(), start.elapsed().as_secs_f64()));
        result
    }

    /// Prints what each step took.
    pub fn summary(&self) {
        println!("\n{:>9}  step", "seconds");
        for (title, seconds) in &self.times {
            println!("{seconds:>9.1}  {title}");
        }
    }
}

/// Runs a command in the workspace; failure is an error that quotes it.
pub fn command(program: &str, args: &[&str]) -> Outcome<()> {
    finish(Command::new(program).args(args))
}

fn finish(command: &mut Command) -> Outcome<()> {
    // What cargo says of the package that it runs, this one: build scripts that look at it (ring's) would find something else than outside, and all
    // that stands on them would be compiled again.
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        command.env_remove(name);
    }
    let status = command.current_dir(crate::workspace()).stdin(Stdio::null()).status()?;
    if status.success() {
        return Ok(());
    }
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|w| w.to_string_lossy()).collect();
    Err(format!("`{}` failed: {status}", words.join(" ")).into())
}

/// Runs cargo.
pub fn cargo(args: &[&str]) -> Outcome<()> {
    command(env!("CARGO"), args)
}

/// Runs cargo with an environment variable.
pub fn cargo_with(args: &[&str], variable: &str, value: &str) -> Outcome<()> {
    finish(Command::new(env!("CARGO")).args(args).env(variable, value))
}

/// Builds the `kiln` binary in a profile and returns its path.
pub fn kiln(profile: &str) -> Outcome<String> {
    cargo(&["build", "--profile", profile, "--package", "kiln", "--bin", "kiln"])?;
    Ok(built(profile).join("kiln").display().to_string())
}

/// The `kiln` binary that `cargo test` has built for the tests that run it: another build would have other features, and take minutes.
pub fn tested_kiln() -> Outcome<String> {
    let path = built("dev").join("kiln");
    if path.is_file() {
        return Ok(path.display().to_string());
    }
    Err(format!("`{}` is not there: `cargo test --workspace` builds it", path.display()).into())
}

/// Builds an example of the package `kiln` in a profile and returns its path.
pub fn example(profile: &str, name: &str) -> Outcome<String> {
    cargo(&["build", "--profile", profile, "--package", "kiln", "--example", name])?;
    Ok(built(profile).join("examples").join(name).display().to_string())
}

/// Where cargo puts what it builds in a profile.
fn built(profile: &str) -> PathBuf {
    let folder = if profile == "dev" { "debug" } else { profile };
    std::env::var("CARGO_TARGET_DIR").map_or_else(|_| crate::workspace().join("target"), Into::into).join(folder)
}
