//! Random graphs through inference, verifier, text form, canonical bytes and the interpreter.

use crate::generate::generate;
use kiln_graph::*;
use std::collections::BTreeMap;

/// The interpreter compares every value with its inferred type, so running is the test of inference.
#[test]
fn inferred_types_are_what_the_interpreter_computes() {
    let mut ran: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..400 {
        let g = generate(seed, 40);
        verify(&g.graph).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", g.graph));
        match interpret_all(&g.graph, &g.inputs) {
            Ok(values) => {
                assert_eq!(values.len(), g.graph.values.len());
                let last = interpret(&g.graph, &g.inputs).unwrap();
                for ((_, id), found) in g.graph.outputs.iter().zip(last) {
                    assert_eq!(found, values[id.index()], "seed {seed}: {}", g.graph);
                }
                for node in &g.graph.nodes {
                    *ran.entry(node.op.name()).or_default() += 1;
                }
            }
            // Data-dependent, or not provable at build time: said in so many words.
            Err(e) => {
                let e = e.to_string();
                let expected = ["outside", "needs `", "has only", "is empty", "longer", "negative"];
                assert!(expected.iter().any(|m| e.contains(m)), "seed {seed}: {e}\n{}", g.graph);
            }
        }
    }
    for name in ops().into_iter().flat_map(|row| row.mnemonics) {
        // No generated graph has a weight or host op; bools have no windows; what may fail on data is left out.
        let absent = ["weight", "host", "window_all", "window_any", "div", "mod", "rem", "pow", "atan2"];
        if !absent.contains(&name) {
            assert!(ran.get(name).copied().unwrap_or(0) >= 3, "`{name}` ran {:?} times", ran.get(name));
        }
    }
}

#[test]
fn text_parses_back_to_the_same_graph() {
    for seed in 1000..1200 {
        let g = generate(seed, 30).graph;
        let text = g.to_string();
        let back: Graph = text.parse().unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert_eq!(back, g, "seed {seed}: {text}");
        assert_eq!(back.to_string(), text);
        assert_eq!(back.structural_bytes(), g.structural_bytes());
        let json = serde_json::to_string(&g).unwrap();
        assert_eq!(serde_json::from_str::<Graph>(&json).unwrap(), g);
        assert!(g.to_dot().starts_with("digraph {"));
    }
}

#[test]
fn damaged_text_is_an_error_and_never_a_panic() {
    let mut rng = Rng::new(5);
    let mut errors = 0;
    for seed in 0..40 {
        let text: Vec<char> = generate(seed, 20).graph.to_string().chars().collect();
        for _ in 0..60 {
            let mut damaged = text.clone();
            let at = rng.range(0, damaged.len() as i64 - 1) as usize;
            match rng.range(0, 3) {
                0 => damaged.truncate(at),
                1 => drop(damaged.remove(at)),
                2 => damaged[at] = char::from(rng.range(32, 126) as u8),
                _ => damaged.insert(at, *[')', '[', '9', '-', '"', '{', '%'].get(rng.range(0, 6) as usize).unwrap()),
            }
            let damaged: String = damaged.into_iter().collect();
            match damaged.parse::<Graph>() {
                Ok(g) => drop(verify(&g)),
                Err(e) => {
                    errors += 1;
                    assert!(e.to_string().starts_with("line "), "{e}");
                }
            }
        }
    }
    assert!(errors > 1000, "{errors}");
}

#[test]
fn deep_nesting_and_huge_counts_are_refused() {
    let deep = "graph \"g\" { loop carried=0 body ".repeat(100_000);
    assert!(deep.parse::<Graph>().unwrap_err().to_string().contains("nest"));
    let huge = "graph \"g\" { %0 = const [1] : f32[4000000000, 4000000000] }";
    assert!(huge.parse::<Graph>().unwrap_err().to_string().starts_with("line 1"));
}

#[test]
fn structure_ignores_names_and_order_but_nothing_else() {
    let build = |names: [&str; 2], swapped: bool, scale: f64| {
        let mut b = Builder::new(names[0]);
        let x = b.input(names[0], DType::F32, &[Dim::from(4)]).unwrap();
        let y = b.input(names[1], DType::F32, &[Dim::from(4)]).unwrap();
        let (p, q) = if swapped {
            let q = b.mul_scalar(y, scale).unwrap();
            (b.exp(x).unwrap(), q)
        } else {
            let p = b.exp(x).unwrap();
            (p, b.mul_scalar(y, scale).unwrap())
        };
        let r = b.sub(p, q).unwrap();
        b.output(names[1], r);
        b.finish()
    };
    let base = build(["a", "b"], false, 2.0);
    assert_eq!(base.structural_bytes(), build(["c", "d"], true, 2.0).structural_bytes());
    assert_ne!(base.structural_bytes(), build(["a", "b"], false, 3.0).structural_bytes());
    assert_ne!(base.interface_bytes(), build(["c", "d"], false, 2.0).interface_bytes());
    assert_eq!(base.interface_bytes(), build(["a", "b"], true, 2.0).interface_bytes());
}

#[test]
fn damaged_serialized_graphs_do_not_get_past_the_verifier_by_panic() {
    let mut rng = Rng::new(8);
    let (mut refused, mut passed) = (0, 0);
    for seed in 0..30 {
        let json = serde_json::to_string(&generate(seed, 15).graph).unwrap().into_bytes();
        let digits: Vec<usize> = (0..json.len()).filter(|&i| json[i].is_ascii_digit()).collect();
        for _ in 0..60 {
            let mut damaged = json.clone();
            for _ in 0..rng.range(1, 3) {
                let at = digits[rng.range(0, digits.len() as i64 - 1) as usize];
                match rng.range(0, 3) {
                    0 => drop(damaged.splice(at..at, std::iter::repeat_n(b'9', 17))),
                    _ => damaged[at] = rng.range(48, 57) as u8,
                }
            }
            match serde_json::from_slice::<Graph>(&damaged).map(|g| verify(&g)) {
                Ok(Ok(())) => passed += 1,
                _ => refused += 1,
            }
        }
    }
    assert!(refused > 200 && passed > 200, "{refused} refused, {passed} passed");
}
