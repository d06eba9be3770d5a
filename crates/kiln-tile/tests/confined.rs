//! CUDA C and PTX are written by the printer and the table of atoms, and by nothing else of the compiler.

use std::fs;
use std::path::Path;

/// What only text for a kernel has.
const WORDS: [&str; 22] = [
    "asm volatile",
    "asm(",
    "__syncthreads",
    "__syncwarp",
    "__shared__",
    "__global__",
    "__device__",
    "__launch_bounds__",
    "__shfl",
    "threadIdx",
    "blockIdx",
    "reinterpret_cast",
    "extern \\\"C\\\"",
    ".sync.aligned",
    "ld.shared",
    "st.shared",
    "cp.async.",
    "mbarrier.",
    "wgmma.mma",
    "setmaxnreg.",
    "bar.sync",
    "griddepcontrol",
];

/// Crates through which a kernel comes to be.
const CRATES: [&str; 7] =
    ["kiln-graph", "kiln-fuse", "kiln-layout", "kiln-target", "kiln-tile", "kiln-kernels", "kiln-engine"];
/// Who may write it; the last two are the compiler of the first tile IR, until what is left of it has moved.
const MAY: [&str; 5] = [
    "kiln-target/src/atoms/",
    "kiln-tile/src/threads/cuda.rs",
    "kiln-tile/src/threads/prelude.rs",
    "kiln-tile/src/print/",
    "kiln-tile/src/pass/",
];

fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
}

/// Lines that hold such words, but for comments and tests.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| WORDS.iter().any(|word| line.contains(word)))
}

#[test]
fn only_the_printer_and_the_atoms_write_cuda_and_ptx() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = vec![];
    CRATES.iter().for_each(|name| files(&crates.join(name).join("src"), &mut all));
    let (may, others): (Vec<String>, Vec<String>) =
        all.into_iter().partition(|file| MAY.iter().any(|part| file.contains(part)));
    let mut wrong = vec![];
    for file in others {
        wrong.extend(lines(&fs::read_to_string(&file).unwrap()).map(|line| format!("{file}: {}", line.trim())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Each exception is one.
    for part in MAY {
        let own = may.iter().filter(|file| file.contains(part));
        assert!(own.map(|file| fs::read_to_string(file).unwrap()).any(|text| lines(&text).count() > 0), "{part}");
    }
}
