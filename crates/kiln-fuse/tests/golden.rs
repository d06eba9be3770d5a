//! Graph in, plan out. `UPDATE_EXPECT=1 cargo test -p kiln-fuse --test fuse golden` accepts the present output.

use expect_test::expect_file;
use kiln_fuse::{Numerics, Options, Pass, fuse_watched};
use kiln_graph::Graph;
use std::path::PathBuf;

fn check(name: &str, target: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let graph = std::fs::read_to_string(folder.join(format!("{name}.graph"))).unwrap();
    let graph: Graph = graph.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
    let options = Options { numerics: Numerics::Reassoc, ..Options::new(target.parse().unwrap()) };
    let mut passes = Vec::new();
    let plan = fuse_watched(&graph, &options, &mut |pass, _| passes.push(pass)).unwrap().plan;
    expect_file![folder.join(format!("{name}.{target}.plan"))].assert_eq(&plan.to_string());
    assert_eq!(passes, Pass::ALL);
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
