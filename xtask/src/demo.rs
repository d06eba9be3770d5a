//! `xtask demo`: the main job on a public model, as a user would do it, with every command shown.

use crate::Outcome;
use crate::cases::CASES;
use crate::step::{Steps, command, kiln};
use kiln_cuda::Home;

/// Architectures of the demo's engine, oldest first, and the CPU that runs it here.
pub const TARGETS: &str = "sm_75,sm_80,sm_86,sm_89,sm_90a,sm_100,sm_120,cpu";

/// Fetches NVRTC and magika's file-type model, builds an engine for all targets, checks it against onnxruntime and measures it.
pub fn run() -> Outcome<()> {
    let home = Home::from_env()?;
    let mut steps = Steps::new();
    let kiln = steps.run("build the kiln binary (release)", || kiln("release"))?;
    let shown = |args: &[&str]| {
        println!("$ kiln {}", args.join(" "));
        command(&kiln, args)
    };
    steps.run("fetch NVRTC", || shown(&["setup"]))?;
    let case = CASES.iter().find(|c| c.name == "magika").ok_or("no case is called magika")?;
    let model = steps.run("fetch the model: magika, file types from content", || case.model(&home))?;
    let recordings = steps.run("record what onnxruntime computes", || case.recordings(&home))?;
    let engine = home.root().join("demo").join("magika.kiln");
    std::fs::create_dir_all(home.root().join("demo"))?;
    let (model, engine) = (model.display().to_string(), engine.display().to_string());
    steps.run("build the engine", || shown(&["build", &model, "--output", &engine, "--target", TARGETS]))?;
    for recording in &recordings {
        let (inputs, outputs) = (recording.inputs.display().to_string(), recording.outputs.display().to_string());
        steps.run("run it on the CPU, compare with onnxruntime", || {
            shown(&["compare", &engine, "--input", &inputs, "--expect", &outputs])
        })?;
    }
    let inputs = recordings[0].inputs.display().to_string();
    let outputs = recordings[0].outputs.display().to_string();
    steps.run("run the sm_80 kernels on the simulator, all checks on, compare with onnxruntime", || {
        shown(&["compare", &engine, "--input", &inputs, "--expect", &outputs, "--device", "sim:sm_80"])
    })?;
    steps.run("measure it on the CPU", || shown(&["bench", &engine, "--input", &inputs]))?;
    steps.summary();
    println!(
        "\nThe engine is {engine}; look inside with `kiln inspect {engine}`,\nor read its CUDA C with `kiln inspect {engine} --cuda softmax --target sm_90a`."
    );
    Ok(())
}
