//! Tests of a crate are modules of one program: those that its `main.rs` does not list would never run.

use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

#[test]
fn every_file_of_tests_is_part_of_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let (mut listed, mut missing) = (0, vec![]);
    for folder in crates.chain([root.to_owned()]) {
        let Ok(main) = read_to_string(folder.join("tests/main.rs")) else { continue };
        let programs = read_to_string(folder.join("Cargo.toml")).unwrap();
        let files: Vec<PathBuf> = read_dir(folder.join("tests")).unwrap().map(|entry| entry.unwrap().path()).collect();
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
            let name = file.file_stem().unwrap().to_str().unwrap();
            let own = programs.contains(&format!("path = \"tests/{name}.rs\""));
            let module = main.lines().any(|line| line == format!("mod {name};"));
            match own || module {
                true => listed += 1,
                false => missing.push(file.clone()),
            }
        }
    }
    assert!(listed > 50 && missing.is_empty(), "{listed} listed; in no program: {missing:?}");
}
