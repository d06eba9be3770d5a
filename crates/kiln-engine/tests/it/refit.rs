//! Engines without weights, and with others.

use crate::models::{block, convnet, engine, engine_at, home};
use kiln_engine::{Engine, Error, OnMismatch, Session, Settings, graph_hash, open_device};
use kiln_graph::{Builder, DType, Dim, EinsumSpec, Graph, Op, Tensor};
use std::collections::BTreeMap;

fn bytes(engine: &Engine) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

/// The same graph with other weights: floats drawn anew, integers in the opposite order.
fn other(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for (seed, tensor) in graph.weights.values_mut().enumerate() {
        *tensor = match tensor.to_i128_vec().filter(|_| !tensor.dtype().is_float()) {
            Some(values) => {
                let turned: Vec<i128> = values.into_iter().rev().collect();
                Tensor::from_i128(tensor.dtype(), tensor.shape(), &turned).unwrap()
            }
            None => Tensor::random(tensor.dtype(), tensor.shape(), 900 + seed as u64).unwrap(),
        };
    }
    graph
}

/// Weights that folding makes others of: scaled, turned, cut, added, gathered; one in the body of a loop, one that is a result.
pub fn folds() -> Graph {
    let mut b = Builder::new("folds");
    let x = b.input("x", DType::F32, &[Dim::from(3), 24.into()]).unwrap();
    let weight = |b: &mut Builder, name: &str, shape: &[usize]| {
        let seed = name.bytes().map(u64::from).sum();
        b.weight_data(name, Tensor::random(DType::F32, shape, seed).unwrap()).unwrap()
    };
    let w = weight(&mut b, "w", &[24, 24]);
    let w = b.mul_scalar(w, 0.125).unwrap();
    let w = b.transpose(w, &[1, 0]).unwrap();
    let (p, q) = (weight(&mut b, "p", &[48]), weight(&mut b, "q", &[24]));
    let p = b.slice_axis(p, 0, &Dim::from(7), &Dim::from(24), 1).unwrap();
    let bias = b.plus(p, q).unwrap();
    let y = b.matmul(x, w).unwrap();
    let y = b.plus(y, bias).unwrap();
    let order: Vec<i128> = (0..24).map(|i| i * 7 % 24).collect();
    let order = b.weight_data("order", Tensor::from_i128(DType::I64, &[24], &order).unwrap()).unwrap();
    let y = b.gather(y, order, 1).unwrap();
    let mut body = Builder::new("body");
    body.input("i", DType::I64, &[]).unwrap();
    let go = body.input("cond", DType::Bool, &[]).unwrap();
    let s = body.input("s", DType::F32, &[3.into(), 24.into()]).unwrap();
    let v = body.input("v", DType::F32, &[24.into(), 24.into()]).unwrap();
    let v = body.transpose(v, &[1, 0]).unwrap();
    let spec = EinsumSpec { lhs: vec!['m', 'k'], rhs: vec!['k', 'n'], out: vec!['m', 'n'] };
    let next = body.contract(spec, s, v, DType::F32, DType::F32).unwrap();
    body.output("cond", go);
    body.output("s", next);
    let v = weight(&mut b, "v", &[24, 24]);
    let (trip, go) = (b.scalar_int(DType::I64, 2).unwrap(), b.scalar_int(DType::Bool, 1).unwrap());
    let op = Op::Loop { body: Box::new(body.finish()), carried: 1, trip: Some(Dim::from(2)) };
    let y = b.add1(op, &[trip, go, y, v]).unwrap();
    b.output("y", y);
    b.output("bias", bias);
    b.finish()
}

#[test]
fn refit_replays_what_the_build_made_of_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    for (graph, folded) in [(folds(), true), (block(), false), (convnet(), false)] {
        let built = engine(&graph, &["cpu"], dir.path());
        assert!(!folded || built.refit.recipes.len() >= 2, "{:?}", built.weights.keys());
        let whole = bytes(&built);
        let mut stripped = built.clone();
        stripped.strip_weights(&graph.weights).unwrap();
        let small = bytes(&stripped);
        let saved: usize = graph.weights.values().map(|t| t.data().len()).sum();
        assert!(small.len() + saved / 2 < whole.len(), "{} of {}, with {saved} of weights", small.len(), whole.len());
        let path = dir.path().join("stripped.kiln");
        stripped.save(&path).unwrap();
        let loaded = Engine::load(&path).unwrap();
        let Err(Error::Mismatch { field: "weights", fix, .. }) = Session::new(&loaded, open_device("cpu:1").unwrap())
        else {
            panic!("{} runs without weights", graph.name)
        };
        assert!(fix.contains("kiln refit"), "{fix}");
        assert!(bytes(&loaded.refit(&graph.weights).unwrap()) == whole, "{}: other bytes", graph.name);
        // With others, the engine is the one that a build with those gives; other tensors do not matter.
        let (other, mut given) = (other(&graph), other(&graph).weights);
        given.insert("of something else".into(), Tensor::random(DType::F32, &[2], 1).unwrap());
        let fresh = engine(&other, &["cpu"], dir.path());
        assert!(bytes(&fresh) != whole);
        for from in [&loaded, &built] {
            let refitted = from.refit(&given).unwrap();
            assert_eq!(refitted.graph_hash, graph_hash(&other));
            assert!(bytes(&refitted) == bytes(&fresh), "{}: not what a fresh build gives", graph.name);
            assert!(bytes(&from.refit_from(&other).unwrap()) == bytes(&fresh));
        }
    }
    let x = Tensor::random(DType::F32, &[3, 24], 4).unwrap();
    let [mut a, mut b] = [folds(), other(&folds())].map(|graph| {
        let refitted = engine(&folds(), &["cpu"], dir.path()).refit(&graph.weights).unwrap();
        let expected = kiln_graph::interpret(&graph, std::slice::from_ref(&x)).unwrap();
        let mut session = Session::new(&refitted, open_device("cpu:1").unwrap()).unwrap();
        session.poison(0xcb).unwrap();
        let found = session.run(&[("x", &x)]).unwrap();
        for (e, (name, f)) in expected.iter().zip(&found) {
            let d = kiln_engine::Tolerance { rtol: 1e-4, atol: 1e-4 }.compare(e, f);
            assert!(d.agrees(), "{name}: {d}");
        }
        found
    });
    assert_ne!(a.remove(0).1, b.remove(0).1);
}

#[test]
fn gpu_kernels_stay_and_hold_for_the_indices_that_they_were_made_for() {
    let graph = folds();
    let targets = ["cpu", "sm_80"];
    let built = engine_at(&graph, &targets, home());
    let mut stripped = built.clone();
    stripped.strip_weights(&graph.weights).unwrap();
    assert!(bytes(&stripped.refit(&graph.weights).unwrap()) == bytes(&built), "other bytes");
    let other = other(&graph);
    assert!(bytes(&stripped.refit(&other.weights).unwrap()) == bytes(&engine_at(&other, &targets, home())));
    let named: Vec<&String> = built.refit.ranges.keys().collect();
    assert_eq!(named, ["order"]);
    let mut wrong = other.weights.clone();
    let order: Vec<i128> = (0..24).map(|i| if i == 5 { -3 } else { i }).collect();
    wrong.insert("order".into(), Tensor::from_i128(DType::I64, &[24], &order).unwrap());
    let text = stripped.refit(&wrong).unwrap_err().to_string();
    assert!(text.contains("`order`") && text.contains("0..=23") && text.contains("-3..=23"), "{text}");
    // The regions stay what they were to a tuner.
    let of = |engine: &Engine| format!("{:?}", engine.subjects("sm_80").unwrap());
    assert_eq!(of(&stripped), of(&built));
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let graph = folds();
    let engine = engine(&graph, &["cpu"], dir.path());
    let refused = |edit: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut weights = graph.weights.clone();
        edit(&mut weights);
        engine.refit(&weights).unwrap_err().to_string()
    };
    let missing = refused(&|w| drop(w.remove("q")));
    assert!(missing.contains("`q`: expected f32[24], found none of that name among 4, such as `order`"), "{missing}");
    let dtype = refused(&|w| drop(w.insert("q".into(), Tensor::random(DType::F16, &[24], 1).unwrap())));
    assert!(dtype.contains("`q`: expected f32[24], found f16[24]"), "{dtype}");
    let shape = refused(&|w| drop(w.insert("p".into(), Tensor::random(DType::F32, &[24, 2], 1).unwrap())));
    assert!(shape.contains("`p`: expected f32[48], found f32[24, 2]"), "{shape}");
    // Another model whose weights fit: a literal is another.
    let mut another = graph.clone();
    for node in &mut another.nodes {
        if let Op::Const { value } = &mut node.op
            && value.dtype() == DType::F32
        {
            *value = Tensor::full(DType::F32, value.shape(), 0.25).unwrap();
        }
    }
    let text = engine.refit_from(&another).unwrap_err().to_string();
    assert!(text.contains("model does not match") && text.contains("literals"), "{text}");
}

#[test]
fn what_cannot_be_replayed_is_an_error_of_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let branch = |seed: u64| {
        let mut b = Builder::new("branch");
        let v = b.input("v", DType::F32, &[24.into()]).unwrap();
        let w = b.weight_data("w", Tensor::random(DType::F32, &[24], seed).unwrap()).unwrap();
        let w = b.mul_scalar(w, 0.5).unwrap();
        let y = b.plus(v, w).unwrap();
        b.output("y", y);
        Box::new(b.finish())
    };
    let graph = |own: u64| {
        let mut b = Builder::new("branches");
        let x = b.input("x", DType::F32, &[24.into()]).unwrap();
        let c = b.input("c", DType::Bool, &[]).unwrap();
        let w = b.weight_data("w", Tensor::random(DType::F32, &[24], 1).unwrap()).unwrap();
        let x = b.plus(x, w).unwrap();
        let y = b.add1(Op::If { then_graph: branch(1), else_graph: branch(own) }, &[c, x]).unwrap();
        b.output("y", y);
        b.finish()
    };
    // Both branches have the model's `w`.
    let same = graph(1);
    engine(&same, &["cpu"], dir.path()).strip_weights(&same.weights).unwrap();
    // One has another under that name.
    let foreign = graph(2);
    let text = engine(&foreign, &["cpu"], dir.path()).strip_weights(&foreign.weights).unwrap_err().to_string();
    assert!(text.contains("cannot be replayed"), "{text}");
}

/// An engine's bytes with another version, as another release would write them.
fn of_version(bytes: &[u8], format: u8, kiln: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[56..56 + length].to_vec()).unwrap();
    let version = format!("\"kiln\":\"{}\"", env!("CARGO_PKG_VERSION"));
    let mut header = header.replacen(&version, &format!("\"kiln\":\"{kiln}\",\"unheard\":[1]"), 1);
    if u32::from(format) != kiln_engine::FORMAT {
        header = header.replacen("\"targets\"", "\"goals\"", 1);
    }
    let mut out = bytes[..16].to_vec();
    out[8] = format;
    out.extend((header.len() as u64).to_le_bytes());
    out.extend(blake3::hash(header.as_bytes()).as_bytes());
    out.extend(header.as_bytes());
    let sections = (56 + length).next_multiple_of(4096);
    assert!(out.len() <= sections);
    out.resize(sections, 0);
    out.extend(&bytes[sections..]);
    out
}

#[test]
fn an_engine_that_keeps_its_model_is_built_again_where_it_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    let graph = folds();
    let mut built = engine(&graph, &["cpu"], dir.path());
    let plain = bytes(&built).len();
    assert!(built.keep_model(&other(&graph)).is_err());
    built.keep_model(&graph).unwrap();
    let kept = bytes(&built);
    // `w`, `p` and `v` are there as constants that were made of them too, `q` and `order` once.
    let sources: usize = graph.weights.values().map(|t| t.data().len()).sum();
    assert!((plain + 2 * 24 * 24 * 4..plain + sources + 8192).contains(&kept.len()), "{plain}, {}", kept.len());
    built.save(&path).unwrap();
    assert_eq!(Engine::load(&path).unwrap().sources, graph.weights);
    // With other weights it keeps those.
    assert_eq!(built.refit(&other(&graph).weights).unwrap().sources, other(&graph).weights);
    let home = kiln_cuda::Home::at(dir.path().join("home"));
    let rebuild = OnMismatch::Rebuild(home.clone());
    let x = Tensor::random(DType::F32, &[3, 24], 4).unwrap();
    let run = |engine: &Engine| {
        let mut session = Session::new(engine, open_device("cpu:1").unwrap()).unwrap();
        session.poison(0xcb).unwrap();
        session.run(&[("x", &x)]).unwrap()
    };
    let cpu = open_device("cpu:1").unwrap();
    let open = |on: &OnMismatch| Engine::open(&path, &*cpu, None, on);
    // One that fits is left as it is.
    assert_eq!(open(&rebuild).unwrap().path, path);
    for (format, version) in [(kiln_engine::FORMAT as u8, "9.9.9"), (99, "9.9.9")] {
        std::fs::write(&path, of_version(&kept, format, version)).unwrap();
        let field = if format == 99 { "format version" } else { "Kiln version" };
        let error = open(&OnMismatch::Error).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    let again = open(&rebuild).unwrap();
    assert_eq!(
        (again.graph_hash.as_str(), &again.settings),
        (built.graph_hash.as_str(), &Settings { line_info: true, ..built.settings.clone() })
    );
    assert_eq!(run(&again), run(&built));
    // The second time it is found.
    assert_eq!(open(&rebuild).unwrap().path.parent(), Some(home.engine_cache().folder()));
    // For a device that it has no code for.
    built.save(&path).unwrap();
    let sim = open_device("sim:sm_80").unwrap();
    let Err(Error::Mismatch { field: "target", .. }) = Engine::open(&path, &*sim, None, &OnMismatch::Error) else {
        panic!("there is no code for sm_80")
    };
    let again = Engine::open(&path, &*sim, None, &OnMismatch::Rebuild(crate::models::home())).unwrap();
    let mut session = Session::new(&again, sim).unwrap();
    session.poison(0xcb).unwrap();
    for ((name, found), (_, expected)) in session.run(&[("x", &x)]).unwrap().iter().zip(&run(&built)) {
        let d = kiln_engine::Tolerance { rtol: 1e-4, atol: 1e-4 }.compare(expected, found);
        assert!(d.agrees(), "{name}: {d}");
    }
    // Without its model, and damaged, it is an error.
    let bare = engine(&graph, &["cpu"], dir.path());
    std::fs::write(&path, of_version(&bytes(&bare), 99, "9.9.9")).unwrap();
    let text = open(&rebuild).unwrap_err().to_string();
    assert!(text.contains("format version") && text.contains("--keep-model"), "{text}");
    let mut broken = of_version(&kept, 99, "9.9.9");
    let last = broken.len() - 1;
    broken[last] ^= 1;
    std::fs::write(&path, broken).unwrap();
    assert!(open(&rebuild).unwrap_err().to_string().contains("does not match its hash"));
    built.strip_weights(&graph.weights).unwrap();
    built.save(&path).unwrap();
    assert!(open(&rebuild).unwrap_err().to_string().contains("--keep-model"));
}
