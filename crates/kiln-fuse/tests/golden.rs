//! Graph in, plan out. `KILN_BLESS=1 cargo test -p kiln-fuse --test golden` accepts the present output.

use kiln_fuse::{Numerics, Options, fuse};
use kiln_graph::Graph;
use std::path::{Path, PathBuf};

fn check(name: &str, target: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let graph: Graph = read(&folder.join(format!("{name}.graph"))).parse().unwrap_or_else(|e| panic!("{name}: {e}"));
    let options = Options { numerics: Numerics::Reassoc, ..Options::new(target.parse().unwrap()) };
    let plan = fuse(&graph, &options).unwrap().plan.to_string();
    let path = folder.join(format!("{name}.{target}.plan"));
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(&path, &plan).unwrap();
        return;
    }
    assert!(read(&path) == plan, "{} differs from:\n{plan}\nrun with KILN_BLESS=1 to accept", path.display());
}

#[test]
fn attention() {
    check("attention", "sm_90a");
    check("attention", "cpu");
}

#[test]
fn layer_norm_between_products() {
    check("mlp", "sm_80");
}

#[test]
fn convolution_and_pooling() {
    check("conv", "sm_80");
}

#[test]
fn control_flow() {
    check("branch", "cpu");
}
