//! Engines without weights, and what is in an engine's way.

use super::onnx::{bytes, number, text};
use super::{Place, onnx};
use kiln::prelude::Tensor;
use kiln_import::safetensors;
use std::fs;

/// A model with one more f32 initializer: messages that follow each other are one.
fn with_weight(model: Vec<u8>, name: &str, dims: &[u64], values: &[f32]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|&n| number(1, n)).collect();
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = [dims, number(2, 1), text(8, name), bytes(9, &data)].concat();
    [model, bytes(7, &bytes(5, &tensor))].concat()
}

/// `y = (x + v) * w * factor` of 20 elements, and its weights.
fn model(place: &Place, name: &str, seed: u64, factor: f32) -> [Vec<f32>; 2] {
    let weights = [seed, seed + 1].map(|seed| {
        let values = Tensor::random(kiln::prelude::DType::F32, &[20], seed).unwrap().to_f64_vec();
        values.into_iter().map(|v| v as f32).collect::<Vec<_>>()
    });
    let nodes: &[(&str, &[&str], &str)] =
        &[("Add", &["x", "v"], "a"), ("Mul", &["a", "w"], "b"), ("Mul", &["b", "c"], "y")];
    let model = onnx::model(&[("x", &["20"])], &[("c", factor)], nodes, &[("y", &["20"])]);
    let model = with_weight(model, "v", &[20], &weights[0]);
    fs::write(place.path(&format!("{name}.onnx")), with_weight(model, "w", &[20], &weights[1])).unwrap();
    let tensors = ["v", "w"].map(|name| name.to_owned()).into_iter().zip(&weights);
    let tensors: Vec<_> = tensors.map(|(name, values)| (name, Tensor::from_slice(&[20], values).unwrap())).collect();
    safetensors::save(&place.path(&format!("{name}.safetensors")), &tensors).unwrap();
    weights
}

#[test]
fn weights_are_stripped_and_given_again_from_either_kind_of_file() {
    let place = Place::new();
    model(&place, "a", 1, 2.0);
    place.put("in.npy", &[20], &[0.25; 20]);
    place.run("build a.onnx -o a.kiln").ok();
    place.run("build a.onnx -o small.kiln --strip-weights").ok();
    let whole = fs::read(place.path("a.kiln")).unwrap();
    place.run("refit small.kiln a.onnx -o 1.kiln").ok();
    place.run("refit small.kiln a.safetensors -o 2.kiln").ok();
    for again in ["1.kiln", "2.kiln"] {
        assert!(fs::read(place.path(again)).unwrap() == whole, "{again} is not what was built");
    }
    assert!(place.run("inspect small.kiln").ok().out.contains("weights: stripped; `kiln refit` takes 2 tensors"));
    place.run("run small.kiln --input x=in.npy").fails(&["weights does not match", "kiln refit ENGINE WEIGHTS"]);
    // Others of equal shapes: what a build with them gives.
    let [v, w] = model(&place, "b", 7, 2.0);
    place.run("build b.onnx -o b.kiln").ok();
    place.run("refit a.kiln b.safetensors -o 3.kiln").ok();
    let ran = place.run("run 3.kiln --input x=in.npy --json");
    let out: serde_json::Value = serde_json::from_str(&ran.ok().out).unwrap();
    for (i, y) in out["outputs"][0]["values"].as_array().unwrap().iter().enumerate() {
        let expected = f64::from((0.25 + v[i]) * w[i] * 2.0);
        assert!((y.as_f64().unwrap() - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{i}: {y}, {expected}");
    }
    // A literal of the kernels is another.
    model(&place, "c", 7, 3.0);
    place.run("refit a.kiln c.onnx -o 4.kiln").fails(&["model does not match", "literals are others"]);
    assert!(!place.path("4.kiln").exists());
    let short = vec![("v".to_owned(), Tensor::from_slice(&[4, 5], &v).unwrap())];
    safetensors::save(&place.path("short.safetensors"), &short).unwrap();
    place.run("refit a.kiln short.safetensors -o 4.kiln").fails(&["weight `v`: expected f32[20], found f32[4, 5]"]);
    place.run("refit a.kiln in.npy -o 4.kiln").fails(&["in.npy: expected weights"]);
    place.run("refit a.kiln b.safetensors -o a.kiln").fails(&["it is the input"]);
    // In parts, as checkpoints come.
    let [one, two] = [("v", v), ("w", w)].map(|(name, values)| {
        let file = format!("part_{name}.safetensors");
        safetensors::save(&place.path(&file), &[(name.to_owned(), Tensor::from_slice(&[20], &values).unwrap())])
            .unwrap();
        file
    });
    place.run(&format!("refit small.kiln {one} {two} -o 5.kiln")).ok();
    assert!(fs::read(place.path("5.kiln")).unwrap() == fs::read(place.path("3.kiln")).unwrap());
    place.run(&format!("refit small.kiln {one} {one} -o 6.kiln")).fails(&["`v`", "a second time"]);
}

#[test]
fn what_is_in_an_engines_way_is_told_at_once() {
    let place = Place::new();
    model(&place, "a", 1, 2.0);
    place.run("build a.onnx -o a.kiln").ok();
    assert!(place.run("check-engine a.kiln").ok().out.contains("a.kiln runs on cpu: cpu"));
    let no = |args: &str| {
        let ran = place.run(&format!("check-engine {args}"));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        ran.out
    };
    let text = no("a.kiln --device sim:sm_80");
    assert!(text.contains("a.kiln does not run on sim:sm_80: target: expected sm_80, found cpu"), "{text}");
    let text = no("a.kiln --device tpu");
    assert!(text.contains("device: `tpu` is not a device"), "{text}");
    place.run("build a.onnx -o small.kiln --strip-weights").ok();
    let json: serde_json::Value = serde_json::from_str(&no("small.kiln --device sim:sm_80 --json")).unwrap();
    assert_eq!((&json["runs"], &json["findings"][0]["field"]), (&false.into(), &"weights".into()));
    assert_eq!(json["findings"][1]["field"], "target");
    place.run("check-engine none.kiln").fails(&["none.kiln", "check the path"]);
}

#[test]
fn an_engine_is_built_again_where_it_does_not_fit_if_that_is_wanted() {
    let place = Place::new();
    model(&place, "a", 1, 2.0);
    place.put("in.npy", &[20], &[0.25; 20]);
    place.run("build a.onnx -o a.kiln --keep-model").ok();
    let run = |args: &str| place.run(&format!("run a.kiln --input x=in.npy {args}"));
    let expected = run("").ok().out.clone();
    // Another release's format, whose fixed part is the same.
    let mut bytes = fs::read(place.path("a.kiln")).unwrap();
    bytes[8] = 200;
    fs::write(place.path("a.kiln"), bytes).unwrap();
    fs::remove_file(place.path("a.onnx")).unwrap();
    run("").fails(&["format version does not match"]);
    let again = run("--on-mismatch rebuild");
    assert!(again.ok().err.contains("a.kiln does not fit: running what was built again from it"), "{again:?}");
    let values = |out: &str| out.split(" in ").next().unwrap().to_owned();
    assert_eq!(values(&again.out), values(&expected));
    assert!(place.engine().exists());
    place.run("build a.onnx --keep-model --strip-weights").fails(&["cannot be used with"]);
}

#[test]
fn engines_are_signed_and_run_only_as_they_were_signed() {
    let place = Place::new();
    place.scale("a.onnx", 2.0);
    place.run("build a.onnx -o a.kiln").ok();
    // Keys as their 32 bytes: those of RFC 8032's first example.
    let bytes =
        |hex: &str| (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect::<Vec<_>>();
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    fs::write(place.path("key"), bytes("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")).unwrap();
    fs::write(place.path("pub"), bytes(public)).unwrap();
    place.run("run a.kiln --input x=x.npy --verify-key pub").fails(&["a.kiln: its signature", "found none"]);
    assert!(place.run("sign a.kiln --key key -o s.kiln").ok().out.contains(&format!("signed by {public} -> s.kiln")));
    assert!(place.run("run s.kiln --input x=x.npy --verify-key pub").ok().out.contains("2.000000, -4.000000"));
    place.run("check-engine s.kiln --verify-key pub").ok();
    let mut bytes = fs::read(place.path("s.kiln")).unwrap();
    bytes[5000] ^= 1;
    fs::write(place.path("s.kiln"), bytes).unwrap();
    place.run("run s.kiln --input x=x.npy --verify-key pub").fails(&["changed after it was signed"]);
    let checked = place.run("check-engine s.kiln --verify-key pub");
    assert!(checked.code == Some(1) && checked.out.contains("signature: d75a98"), "{checked:?}");
    place.run("run a.onnx --input x=x.npy --verify-key pub").fails(&["a.onnx is a model"]);
    place.run("sign a.kiln --key x.npy").fails(&["x.npy: expected an Ed25519 private key"]);
    place.run("sign a.kiln --key key -o key").fails(&["it is the input"]);
}
