//! bf16, 8-bit floats and 4-bit integers in and out as ml_dtypes and safetensors write them (`ml_dtypes/make.py` made the files), and integers that stay integers.

use super::Place;
use kiln::engine::{BuildOptions, build};
use kiln::graph::{Builder, DType, Tensor};
use kiln_import::{npy, safetensors};
use serde_json::{Value, json};
use std::fs;

const PORTS: [(&str, DType); 5] =
    [("b", DType::BF16), ("e4", DType::F8E4M3), ("e5", DType::F8E5M2), ("i", DType::I4), ("u", DType::U4)];

fn values(name: &str) -> Value {
    match name {
        "i" => json!([-8, 7, -1, 0, 3, -5]),
        "u" => json!([0, 15, 7, 8, 11, 3]),
        _ => json!([1.0, -2.5, 0.15625, -448.0, 0.0078125, 3.0]),
    }
}

fn keep(place: &Place, name: &str, b: Builder) {
    let home = kiln_cuda::Home::at(place.path("home"));
    build(&b.finish(), &BuildOptions::new(home), &|_| {}).unwrap().0.save(place.path(name)).unwrap();
}

/// Each input as it is, and cast to f32 or i64; with the files of `ml_dtypes`.
fn place() -> Place {
    let place = Place::new();
    let mut b = Builder::new("dtypes");
    for (name, dtype) in PORTS {
        let x = b.input(name, dtype, &[2.into(), 3.into()]).unwrap();
        b.output(format!("{name}_same"), x);
        let wide = b.cast(x, if dtype.is_float() { DType::F32 } else { DType::I64 }).unwrap();
        b.output(format!("{name}_wide"), wide);
    }
    keep(&place, "m.kiln", b);
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/files_cli/ml_dtypes")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), place.path(file.file_name().to_str().unwrap())).unwrap();
    }
    place
}

fn each(folder: &str, suffix: &str) -> String {
    PORTS.map(|(name, _)| format!("--input {name}={folder}{name}{suffix}.npy")).join(" ")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_ml_dtypes_and_safetensors_write_can_be_fed() {
    let place = place();
    for inputs in [each("", ""), "--input in.npz".to_owned(), "--input in.safetensors".to_owned()] {
        let report = json(&place.run(&format!("run m.kiln {inputs} --json")).ok().out);
        for (i, (name, dtype)) in PORTS.into_iter().enumerate() {
            let [same, wide] = [0, 1].map(|k| &report["outputs"][2 * i + k]);
            assert_eq!((&same["values"], &wide["values"]), (&values(name), &values(name)), "{inputs}: {name}");
            assert_eq!((&same["name"], &same["dtype"]), (&json!(format!("{name}_same")), &json!(dtype)), "{inputs}");
            assert_eq!((&wide["shape"], &wide["truncated"]), (&json!([2, 3]), &json!(false)));
        }
    }
}

#[test]
fn what_is_saved_is_what_ml_dtypes_writes_and_comes_back() {
    let place = place();
    for out in ["out", "out.npz", "out.safetensors"] {
        place.run(&format!("run m.kiln --input in.npz -o {out}")).ok();
    }
    for (name, dtype) in PORTS {
        let [ours, theirs] =
            [format!("out/{name}_same.npy"), format!("{name}.npy")].map(|f| fs::read(place.path(&f)).unwrap());
        // ml_dtypes names float8_e5m2 `<f1`, which NumPy does not read.
        match dtype {
            DType::F8E5M2 => assert_eq!(ours[128..], theirs[128..]),
            _ => assert_eq!(ours, theirs, "{name}"),
        }
    }
    let again = json(&place.run(&format!("run m.kiln {} --json", each("out/", "_same"))).ok().out);
    for (i, (name, _)) in PORTS.into_iter().enumerate() {
        assert_eq!(again["outputs"][2 * i + 1]["values"], values(name), "{name}");
    }
    let saved = safetensors::load(&place.path("out.safetensors")).unwrap();
    for (name, dtype) in PORTS {
        let tensor = &saved[&format!("{name}_same")];
        assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &[2, 3][..]));
        let expected: Vec<f64> = values(name).as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(tensor.to_f64_vec(), expected, "{name}");
    }
    for expected in ["out.npz", "out.safetensors"] {
        let ran = place.run(&format!("compare m.kiln --input in.safetensors --expect {expected} --rtol 0 --atol 0"));
        assert_eq!(ran.ok().out.matches("agree").count(), 10, "{ran:?}");
    }
    // An input is never written over, nor is a file taken for a folder.
    place.run("run m.kiln --input in.npz -o in.npz").fails(&["it is the input in.npz"]);
    place.run("run m.kiln --input in.safetensors -o in.safetensors").fails(&["it is the input in.safetensors"]);
    place.run("run m.kiln --input in.npz -o y.npy").fails(&["expected a folder, or a .npz or .safetensors file"]);
}

#[test]
fn bytes_without_a_dtype_are_refused_where_nothing_says_what_they_are() {
    let place = place();
    let others = "--input e4=e4.npy --input e5=e5.npy --input u=u.npy";
    place.run(&format!("run m.kiln --input b=e4.npy --input i=i.npy {others}")).fails(&["V1", "bf16 is expected"]);
    place
        .run(&format!("run m.kiln --input b=b.npy --input i=b.npy {others}"))
        .fails(&["`i`", "expected i4[2, 3], found bf16[2, 3]"]);
    npy::save(&place.path("wide.npy"), &Tensor::from_slice(&[2, 3], &[0i8, 1, 2, 3, 8, 5]).unwrap()).unwrap();
    let ran = place.run(&format!("run m.kiln --input b=b.npy --input i=wide.npy {others}"));
    ran.fails(&["holds 8, which is no i4: -8 to 7"]);
}

#[test]
fn integers_stay_integers_and_large_outputs_are_cut_and_summed_up() {
    let place = Place::new();
    let mut b = Builder::new("integers");
    let n = b.symbol("N", 1, 2000);
    let x = b.input("x", DType::I64, std::slice::from_ref(&n)).unwrap();
    let f = b.input("f", DType::F32, &[n]).unwrap();
    let y = b.mul_scalar(x, -1.0).unwrap();
    b.output("y", y);
    let odd = b.compare_scalar(kiln_graph::CompareOp::Gt, y, 0.0).unwrap();
    b.output("positive", odd);
    b.output("f", f);
    keep(&place, "m.kiln", b);
    let large = (1i64 << 53) + 1;
    npy::save(&place.path("i.npy"), &Tensor::from_slice(&[3], &[-large, large + 1, 0]).unwrap()).unwrap();
    place.put("f.npy", &[3], &[f32::NAN, 0.1, f32::NEG_INFINITY]);
    let ran = place.run("run m.kiln --input x=i.npy --input f=f.npy");
    let text = &ran.ok().out;
    assert!(
        text.contains(
            "y: i64[3] = [9007199254740993, -9007199254740994, 0] min -9007199254740994, max 9007199254740993"
        ),
        "{text}"
    );
    assert!(text.contains("positive: bool[3] = [1, 0, 0]"), "{text}");
    assert!(
        text.contains("f: f32[3] = [NaN, 0.100000, -inf] min 0.100000, max 0.100000, mean 0.100000, 1 NaN, 1 infinite"),
        "{text}"
    );
    let report = json(&place.run("run m.kiln --input x=i.npy --input f=f.npy --json").ok().out);
    assert_eq!(report["outputs"][0]["values"], json!([large, -large - 1, 0]));
    assert_eq!(report["outputs"][2]["values"], json!(["NaN", 0.1, "-inf"]));
    let statistics = json!({ "min": -large - 1, "max": large, "mean": -1.0 / 3.0, "nan": 0, "infinite": 0 });
    assert_eq!(report["outputs"][0]["statistics"], statistics);

    // One element off by one, beyond what f64 can tell.
    npy::save(&place.path("y.npy"), &Tensor::from_slice(&[3], &[large - 1, -large - 1, 0]).unwrap()).unwrap();
    let ran = place.run("compare m.kiln --input x=i.npy --input f=f.npy --expect y=y.npy --rtol 0 --atol 0");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("at 0: expected 9007199254740992, found 9007199254740993"), "{ran:?}");

    let many: Vec<i64> = (0..1001).map(|i| 3 - i).collect();
    npy::save(&place.path("many.npy"), &Tensor::from_slice(&[1001], &many).unwrap()).unwrap();
    place.put("zeros.npy", &[1001], &[0.5; 1001]);
    let report = json(&place.run("run m.kiln --input x=many.npy --input f=zeros.npy --json").ok().out);
    let y = &report["outputs"][0];
    assert_eq!((y["values"].as_array().unwrap().len(), &y["truncated"]), (1000, &json!(true)));
    assert_eq!((&report["values_limit"], &y["values"][999]), (&json!(1000), &json!(996)));
    assert_eq!((&y["statistics"]["max"], &y["statistics"]["mean"]), (&json!(997), &json!(497.0)));
}
