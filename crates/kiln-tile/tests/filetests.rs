//! Programs in files: one pass, text in, text out.
//!
//! A file of `tests/filetests` begins with `; test: PASS  target: ARCH`, where PASS is one of [`PASSES`], or `print`, or `verify`. What stands behind
//! `; check:` is the program after it, or the error. `UPDATE_EXPECT=1 cargo test -p kiln-tile --test tile filetests` accepts the present output.

use expect_test::expect_file;
use kiln_target::arch::Arch;
use kiln_tile::error::Result;
use kiln_tile::ir::{Program, verify};
use kiln_tile::passes::{Machine, PASSES};
use std::path::Path;

const MARK: &str = "\n; check:\n";

fn run(pass: &str, arch: Arch, text: &str) -> Result<String> {
    let mut program: Program = text.parse()?;
    if pass != "print" {
        verify(&program)?;
    }
    if let Some(pass) = PASSES.iter().find(|known| known.name == pass) {
        pass.run(&mut program, &Machine::new(arch))?;
        verify(&program)?;
    } else {
        assert!(matches!(pass, "print" | "verify"), "no pass is called {pass}");
    }
    let text = program.to_string();
    assert_eq!(text.parse::<Program>()?.to_string(), text, "it does not read back");
    Ok(text)
}

fn check(path: &Path) {
    let file = std::fs::read_to_string(path).unwrap();
    let (input, _) = file.split_once(MARK).unwrap_or((file.trim_end(), ""));
    let head: Vec<&str> = input.lines().next().unwrap_or_default().split_whitespace().collect();
    let [";", "test:", pass, "target:", arch] = head[..] else {
        panic!("{}: expected `; test: PASS  target: ARCH`", path.display());
    };
    let output = run(pass, arch.parse().unwrap(), input).unwrap_or_else(|err| format!("error: {err}\n"));
    expect_file![path].assert_eq(&format!("{input}{MARK}{output}"));
}

#[test]
fn files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "{} holds {} files", folder.display(), paths.len());
    paths.iter().for_each(|path| check(path));
}
