//! Functions that somebody has written kernels for are found in models that never heard of them.

mod common;

use common::options;
use kiln_fuse::{Bound, Numerics, Pattern, Plan, fuse};
use kiln_graph::{Builder, DType, Dim, Graph, Result, Symbols, ValueId};

const F: DType = DType::F32;

fn dim(text: &str) -> Dim {
    text.parse().unwrap()
}

/// `gelu(x w' + b)` of `x[M, K]`, `w[N, K]`, `b[N]`.
fn linear_gelu() -> Graph {
    let mut b = Builder::new("linear_gelu");
    let [m, k, n] = ["M", "K", "N"].map(|s| b.symbol(s, 1, 1 << 20));
    let x = b.input("x", F, &[m, k.clone()]).unwrap();
    let w = b.input("w", F, &[n.clone(), k]).unwrap();
    let bias = b.input("b", F, &[n]).unwrap();
    let y = b.linear(x, w, Some(bias), true).unwrap();
    let y = b.gelu(y).unwrap();
    b.output("y", y);
    b.finish()
}

fn pattern(graph: &Graph) -> Pattern {
    Pattern::new(&graph.name, graph).unwrap()
}

/// The first region of a plan that is an instance of the pattern.
fn bound(plan: &Plan, pattern: &Pattern) -> Option<Bound> {
    plan.regions.iter().find_map(|r| pattern.bind(r, &r.graph.symbols))
}

fn model(name: &str, make: impl FnOnce(&mut Builder) -> Result<Vec<(&'static str, ValueId)>>) -> Graph {
    let mut b = Builder::new(name);
    for (name, v) in make(&mut b).unwrap() {
        b.output(name, v);
    }
    b.finish()
}

#[test]
fn a_region_that_is_the_function_binds_with_the_models_dims() {
    let pattern = pattern(&linear_gelu());
    let graph = model("at_sizes", |b| {
        let s = b.symbol("S", 1, 512);
        let w = b.input("kernel", F, &[40.into(), 24.into()])?;
        let x = b.input("hidden", F, &[s, 24.into()])?;
        let bias = b.input("bias", F, &[40.into()])?;
        let y = b.linear(x, w, Some(bias), true)?;
        Ok(vec![("y", b.gelu(y)?)])
    });
    let plan = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap().plan;
    let found = bound(&plan, &pattern).expect("the only region is the function");
    let region = &plan.regions[0];
    let of = |i: usize| region.graph.ty(region.graph.inputs[found.inputs[i]]).to_string();
    assert_eq!([of(0), of(1), of(2)], ["f32[s0, 24]", "f32[40, 24]", "f32[40]"]);
    assert_eq!(found.outputs, [0]);
    let dims: Vec<(&str, Dim)> = found.dims.iter().map(|(s, d)| (s.as_str(), d.clone())).collect();
    assert_eq!(dims, [("K", dim("24")), ("M", dim("s0")), ("N", dim("40"))]);
    // The rows of the region may be more than the kernel takes.
    let mut wide = Symbols::default();
    wide.declare("s0", 1, 1 << 21);
    assert_eq!(pattern.bind(region, &wide), None);
}
