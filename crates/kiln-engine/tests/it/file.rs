use crate::models::{block, convnet, engine, engine_at, home};
use kiln_engine::{Engine, Error, Session, Settings, graph_hash, open_device, read_header};
use kiln_fuse::Numerics;
use kiln_graph::{Builder, DType, Dim, Graph, Tensor};

#[test]
fn a_loaded_engine_gives_the_same_bits_and_equal_builds_equal_bytes() {
    for graph in [block(), convnet()] {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.kiln"), dir.path().join("b.kiln"));
        let engine_a = engine(&graph, &["cpu"], dir.path());
        engine_a.save(&a).unwrap();
        engine(&graph, &["cpu"], dir.path()).save(&b).unwrap();
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap(), "builds differ");
        let loaded = Engine::load(&a).unwrap();
        assert_eq!(loaded.weights, engine_a.weights);
        assert_eq!(loaded.targets[0].plan.regions, engine_a.targets[0].plan.regions);
        let shape = if graph.name == "block" { vec![2, 7, 24] } else { vec![1, 3, 9, 13] };
        let x = Tensor::random(DType::F32, &shape, 4).unwrap();
        let mut results = [&engine_a, &loaded].map(|e| {
            let mut s = Session::new(e, open_device("cpu:1").unwrap()).unwrap();
            let name = s.inputs().next().unwrap().0.to_owned();
            s.run(&[(&name, &x)]).unwrap()
        });
        let last = results[1].clone();
        assert_eq!(std::mem::take(&mut results[0]), last);
    }
}

/// Attention for which architectures choose differently, between weights that folding makes others of.
fn attention() -> Graph {
    let mut b = Builder::new("attention");
    let dims = |s: &[usize]| s.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>();
    let q = b.input("q", DType::F16, &dims(&[1, 4, 32, 64])).unwrap();
    let [k, v] = ["k", "v"].map(|n| b.input(n, DType::F16, &dims(&[1, 4, 2048, 64])).unwrap());
    let w = b.weight_data("w", Tensor::random(DType::F16, &[64, 64], 1).unwrap()).unwrap();
    let w = b.mul_scalar(w, 0.125).unwrap();
    let q = b.matmul(q, w).unwrap();
    let y = b.attention(q, k, v, None, None, None).unwrap();
    b.output("y", y);
    b.finish()
}

#[test]
fn a_target_is_the_same_whatever_stands_beside_it() {
    let (graph, dir) = (attention(), tempfile::tempdir().unwrap());
    let parts = |targets: &[&str]| {
        let path = dir.path().join("e.kiln");
        engine_at(&graph, targets, home()).save(&path).unwrap();
        let header = read_header(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let section = |name: &String| {
            let section = header.sections.iter().find(|s| s.name == *name).unwrap();
            bytes[section.offset..section.offset + section.length].to_vec()
        };
        let parts = header.targets.iter().map(|t| {
            let sections: Vec<Vec<u8>> =
                [Some(&t.plan), t.kernels.as_ref(), t.code.as_ref()].into_iter().flatten().map(section).collect();
            // Equal sections are one, under the name of the first target that has it.
            (t.target.clone(), (t.toolchain.clone(), t.config_hash.clone(), sections))
        });
        parts.collect::<std::collections::BTreeMap<_, _>>()
    };
    let [a, b] = [["sm_87", "cpu", "sm_90a"], ["sm_90a", "sm_87", "cpu"]].map(|targets| parts(&targets));
    for (target, part) in &a {
        assert!(*part == b[target], "{target}: the order of targets decides what it is");
    }
    for (target, alone) in &a {
        assert!(parts(&[target])[target] == *alone, "{target} alone is another");
    }
}

#[test]
fn weights_are_slices_of_the_mapped_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine(&block(), &["cpu"], dir.path()).save(&path).unwrap();
    let loaded = Engine::load(&path).unwrap();
    for (name, tensor) in &loaded.weights {
        assert_eq!(tensor.data().as_ptr().align_offset(64), 0, "{name} is not aligned");
    }
    let mut addresses: Vec<usize> = loaded.weights.values().map(|t| t.data().as_ptr() as usize).collect();
    addresses.sort_unstable();
    let span = addresses.last().unwrap() - addresses[0];
    assert!(span < std::fs::metadata(&path).unwrap().len() as usize, "weights are not in one mapping");
}

#[test]
fn other_targets_formats_and_versions_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine(&block(), &["cpu"], dir.path()).save(&path).unwrap();
    let text = Engine::load(&path).unwrap().target("sm_90a").unwrap_err().to_string();
    assert!(
        text.contains("target") && text.contains("sm_90a") && text.contains("cpu") && text.contains("--target"),
        "{text}"
    );
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 99;
    std::fs::write(&path, &bytes).unwrap();
    let error = Engine::load(&path).unwrap_err();
    assert!(matches!(error, Error::Mismatch { field: "format version", .. }), "{error}");
    assert!(error.to_string().contains("99"));
    bytes[8] = kiln_engine::FORMAT as u8;
    // Another Kiln version with a right hash, as another release would write.
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[56..56 + length].to_vec()).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let other = header.replacen(&format!("\"kiln\":\"{version}\""), "\"kiln\":\"9.9.9\"", 1);
    assert_eq!(other.len(), header.len());
    bytes[56..56 + length].copy_from_slice(other.as_bytes());
    let hash = *blake3::hash(other.as_bytes()).as_bytes();
    bytes[24..56].copy_from_slice(&hash);
    std::fs::write(&path, &bytes).unwrap();
    let text = Engine::load(&path).unwrap_err().to_string();
    assert!(text.contains("Kiln version") && text.contains("9.9.9") && text.contains(version), "{text}");
}

#[test]
fn an_engine_says_what_it_was_built_from_and_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    let (graph, other) = (block(), convnet());
    engine(&graph, &["cpu"], dir.path()).save(&path).unwrap();
    let loaded = Engine::load(&path).unwrap();
    let (hash, settings) = (graph_hash(&graph), loaded.settings.clone());
    loaded.check(&hash, &settings, "cpu").unwrap();
    let exact = Settings { numerics: Numerics::Exact, ..settings.clone() };
    let sized = Settings { sizes: [("S".to_owned(), 9)].into(), ..settings.clone() };
    let lines = Settings { line_info: !settings.line_info, ..settings.clone() };
    for (result, field) in [
        (loaded.check(&graph_hash(&other), &settings, "cpu"), "graph hash"),
        (loaded.check(&hash, &exact, "cpu"), "settings"),
        (loaded.check(&hash, &sized, "cpu"), "settings"),
        (loaded.check(&hash, &lines, "cpu"), "settings"),
        (loaded.check(&hash, &settings, "sm_80"), "target"),
    ] {
        assert!(matches!(result, Err(Error::Mismatch { field: f, .. }) if f == field), "{field}");
    }
}
