//! The example is as short as it says, and runs.
#![allow(missing_docs)]

use std::process::Command;

#[test]
fn one_dependency_and_less_than_forty_lines() {
    let manifest = include_str!("../Cargo.toml");
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split('[').next().unwrap();
    assert_eq!(dependencies.trim().lines().count(), 1, "{dependencies}");
    assert!(include_str!("../src/main.rs").lines().count() < 40);
}

#[test]
fn it_runs_twice_the_second_time_from_what_was_kept() {
    let home = std::env::temp_dir().join(format!("kiln-quickstart-{}", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let outputs = [1, 2].map(|_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
        let output = command.env("KILN_HOME", &home).env("TMPDIR", &home).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    });
    assert!(outputs[0].contains("the saved engine agrees"), "{}", outputs[0]);
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(
        std::fs::read_dir(home.join("engines"))
            .unwrap()
            .filter(|e| { e.as_ref().unwrap().path().extension().is_some_and(|e| e == "kiln") })
            .count(),
        1
    );
    std::fs::remove_dir_all(&home).unwrap();
}
