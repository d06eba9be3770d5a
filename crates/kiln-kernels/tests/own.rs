//! Kernels of one's own given as tile programs: where they bind, for which sizes, and what their dims become.

use kiln_fuse::{Options, Region, fuse};
use kiln_graph::{Bindings, Builder, DType, Dim, Graph, Symbols};
use kiln_kernels::Argument;
use kiln_kernels::families::{Built, Subject};
use kiln_kernels::own::{Candidate, Kernel, from_text, offers, to_text};
use kiln_target::{Gpu, arch::Arch};
use kiln_tile::Expr;
use kiln_tile::ir::{self, Place, Program};
use std::sync::Arc;

/// `3 relu(x)` of two axes.
fn function(m: Dim, n: Dim, declare: impl Fn(&mut Builder)) -> Graph {
    let mut b = Builder::new("tripled");
    declare(&mut b);
    let x = b.input("x", DType::F32, &[m, n]).unwrap();
    let positive = b.relu(x).unwrap();
    let three = b.scalar(DType::F32, 3.0).unwrap();
    let y = b.mul(positive, three).unwrap();
    b.output("y", y);
    b.finish()
}

fn declare(b: &mut Builder) {
    b.symbol("M", 1, i64::MAX);
    b.symbol("N", 1, i64::MAX);
}

/// Tiles of 1 by 128, for rows of 8 to 4096 elements, a multiple of 8.
fn program(names: [&str; 2]) -> Program {
    let mut k = ir::Builder::new("tripled", "three times what is positive");
    let m = k.dim(names[0], 1..=1 << 40, 1);
    let n = k.dim(names[1], 8..=4096, 8);
    let x = k.input("x", DType::F32, &[m.clone(), n.clone()]);
    let y = k.output("y", DType::F32, &[m.clone(), n.clone()]);
    let at = k.grid(&[("row", m), ("tile", n.ceil_div(128))]);
    let origin = [at[0].clone(), &at[1] * 128];
    let view = k.view(&x, &origin, &[1, 128]);
    let tile = k.load("x", view);
    let tripled = k.map("y", &[1, 128], &[&tile], |_, x, _| x[0].max(0.0) * 3.0);
    let view = k.view(&y, &origin, &[1, 128]);
    k.store(Place::View(view), &tripled);
    k.finish().unwrap()
}

fn candidate(names: [&str; 2]) -> Candidate {
    Candidate { config: serde_json::json!({ "tile": 128 }), program: program(names) }
}

fn kernel() -> Arc<Kernel> {
    let graph = function("M".into(), "N".into(), declare);
    Kernel::new("tripled").unwrap().instance(graph, vec![candidate(["M", "N"])]).unwrap().into()
}

fn region(graph: &Graph) -> Region {
    let plan = fuse(graph, &Options::new("sm_80".parse().unwrap())).unwrap().plan;
    assert_eq!(plan.regions.len(), 1, "{}", graph.name);
    plan.regions[0].clone()
}

/// What the kernel offers for a model with these extents.
fn bound(m: Dim, n: Dim, declare: impl Fn(&mut Builder)) -> Option<(Built, Symbols)> {
    let region = region(&function(m, n, declare));
    let symbols = region.graph.symbols.clone();
    let subject = Arc::new(Subject::new(&region, &symbols, &[], &Bindings::new()));
    let mut found = offers(&[kernel()], &subject, &Gpu::typical(Arch::Sm80).unwrap());
    assert!(found.len() <= 1);
    let offer = found.pop()?;
    assert_eq!((&*offer.family, &*offer.text), ("kernel tripled", "tile 128"));
    assert!(offer.estimate.seconds > 0.0 && offer.estimate.seconds < 1.0);
    Some((offer.build().unwrap(), symbols))
}

#[test]
fn sizes_that_a_program_is_not_made_for_are_its_guard() {
    let (built, _) = bound("A".into(), "B".into(), |b| {
        b.symbol("A", 1, 1 << 20);
        b.symbol("B", 1, 1 << 20);
    })
    .unwrap();
    let dims: Vec<Dim> = built.launches[0]
        .arguments
        .iter()
        .filter_map(|argument| if let Argument::Dim(dim) = argument { Some(dim.clone()) } else { None })
        .collect();
    assert_eq!(dims.len(), 2);
    let names: Vec<String> = dims.iter().map(Dim::to_string).collect();
    let holds = |n: i64| {
        let bindings = Bindings::from([(names[0].clone(), 5), (names[1].clone(), n)]);
        built.guard.holds(&bindings).unwrap()
    };
    assert!(holds(8) && holds(4096) && !holds(4) && !holds(12) && !holds(4104), "{}", built.guard);
}

#[test]
fn known_extents_become_literals_and_multiples_are_known() {
    // Rows of 64: nothing is left to guard, and a row's distance is a number.
    let (built, _) = bound("A".into(), Dim::from(64), |b| {
        b.symbol("A", 1, 1 << 20);
    })
    .unwrap();
    assert!(built.guard.is_always(), "{}", built.guard);
    let text = built.launches[0].program.to_string();
    assert!(text.contains("strides [64, 1]") && !text.contains("param N"), "{text}");
    // 8 times a symbol is a multiple of 8.
    let (built, _) = bound("A".into(), Dim::from("B") * Dim::from(8), |b| {
        b.symbol("A", 1, 1 << 20);
        b.symbol("B", 1, 512);
    })
    .unwrap();
    assert!(built.guard.is_always(), "{}", built.guard);
    // Rows of 60 and of 8000 are others' business.
    for n in [60, 8000] {
        assert!(
            bound("A".into(), Dim::from(n), |b| {
                b.symbol("A", 1, 16);
            })
            .is_none(),
            "{n}"
        );
    }
}

#[test]
fn a_program_has_the_parameters_of_its_function() {
    let graph = || function("M".into(), "N".into(), declare);
    let kernel =
        |candidates| Kernel::new("tripled").unwrap().instance(graph(), candidates).map(|_| ()).unwrap_err().to_string();
    assert!(kernel(vec![]).contains("no Config"));
    assert!(kernel(vec![candidate(["M", "N"]), candidate(["M", "N"])]).contains("is there twice"));
    let swapped = kernel(vec![candidate(["N", "M"])]);
    assert!(swapped.contains("expected f32[M, N] for `x`"), "{swapped}");
    let unknown = kernel(vec![candidate(["M", "Q"])]);
    assert!(unknown.contains("`Q`") && unknown.contains("M, N"), "{unknown}");
    let mut scalar = candidate(["M", "N"]);
    scalar.program.params.pop();
    assert!(kernel(vec![scalar]).contains("kernel `tripled`"));
    assert!(Kernel::new("1st").is_err());
    // What a program says of a tensor that it only reads.
    let mut k = ir::Builder::new("tripled", "no output");
    let (m, n) = (k.dim("M", 1..=9, 1), k.dim("N", 1..=9, 1));
    k.input("x", DType::F32, &[m.clone(), n.clone()]);
    k.input("y", DType::F32, &[m, n]);
    k.grid(&[("i", Expr::index(1))]);
    let read = Candidate { config: serde_json::json!({}), program: k.finish().unwrap() };
    assert!(kernel(vec![read]).contains("expected Write for `y`"));
}

#[test]
fn text_reads_back() {
    let text = to_text(&[kernel()]);
    let read = from_text(&text).unwrap();
    assert_eq!(to_text(&read), text);
    assert_eq!(read[0].instances()[0].candidates, kernel().instances()[0].candidates);
}
