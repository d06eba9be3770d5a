//! `xtask fuzz`: random ONNX models, against onnxruntime.

use crate::compare::close;
use crate::{Outcome, python};
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, Session, open_device};
use kiln_graph::{DType, Graph, Tensor};
use kiln_import::{npy, onnx};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Models that one start of Python makes.
const BATCH: u64 = 50;
/// One model in so many runs on the simulator too.
const SIMULATED: u64 = 5;

/// What became of a model.
enum Verdict {
    Agrees,
    /// There is nothing to compare with.
    Refused,
    /// Kiln does, and says why.
    Unsupported(String),
    Differs(String),
}

/// Draws models for `minutes`, or only that of `seed`. A difference or a panic is an error; its seed makes it again.
pub fn run(minutes: u64, seed: Option<u64>) -> Outcome<()> {
    let home = Home::from_env()?;
    let packages = [python::ONNX.install(&home)?, python::ONNXRUNTIME.install(&home)?];
    let packages = std::env::join_paths(packages)?;
    let folder = tempfile::tempdir()?;
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut first = seed.unwrap_or(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() * BATCH);
    let (mut agree, mut refused, mut differ) = (0, 0, Vec::new());
    let mut unsupported: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    loop {
        let count = if seed.is_some() { 1 } else { BATCH };
        let args = [folder.path().display().to_string(), first.to_string(), count.to_string()];
        python::run("fuzz.py", Path::new(&packages), args)?;
        for seed in first..first + count {
            let devices: &[&str] = if count == 1 || seed % SIMULATED == 0 { &["cpu", "sim:sm_80"] } else { &["cpu"] };
            for device in devices {
                let judged = catch_unwind(AssertUnwindSafe(|| judge(folder.path(), seed, device, &home)));
                match judged.unwrap_or_else(|_| Ok(Verdict::Differs("panics".into())))? {
                    Verdict::Agrees => agree += 1,
                    Verdict::Refused => refused += 1,
                    Verdict::Unsupported(why) => unsupported.entry(why).or_default().push(seed),
                    Verdict::Differs(why) => {
                        println!("seed {seed} on {device}: {why}");
                        differ.push(seed);
                    }
                }
            }
            for end in ["onnx", "in.npz", "out.npz"] {
                let _ = std::fs::remove_file(folder.path().join(format!("{seed}.{end}")));
            }
        }
        first += count;
        if seed.is_some() || Instant::now() > end {
            break;
        }
    }
    for (why, seeds) in &unsupported {
        println!("unsupported, {} times, seed {}: {why}", seeds.len(), seeds[0]);
    }
    println!("{agree} runs agree with onnxruntime, {refused} have no peer, {} differ", differ.len());
    if differ.is_empty() {
        Ok(())
    } else {
        Err(format!("differences; each comes back with `cargo xtask fuzz --seed N`: {differ:?}").into())
    }
}

fn judge(folder: &Path, seed: u64, device: &str, home: &Home) -> Outcome<Verdict> {
    let file = |end: &str| folder.join(format!("{seed}.{end}"));
    let inputs = npy::load_npz(&file("in.npz"))?;
    let expected = file("out.npz").is_file().then(|| npy::load_npz(&file("out.npz"))).transpose()?;
    let found = onnx::load(&file("onnx"), &onnx::Options::default())
        .map_err(|e| e.to_string())
        .and_then(|graph| on_device(&graph, &inputs, device, home).map_err(|e| e.to_string()));
    Ok(match (expected, found) {
        // By onnxruntime, which lacks kernels for some dtypes.
        (None, _) => Verdict::Refused,
        (Some(_), Err(e)) => Verdict::Unsupported(e.lines().next().unwrap_or_default().to_owned()),
        (Some(expected), Ok(found)) => {
            let wrong = expected.iter().find_map(|(name, e)| {
                let Some((_, f)) = found.iter().find(|(n, _)| n == name) else { return Some(format!("no {name}")) };
                let bound = tolerance(e.dtype());
                close(f, e, bound, bound).err().map(|why| format!("{name}: {why}"))
            });
            wrong.map_or(Verdict::Agrees, Verdict::Differs)
        }
    })
}

fn on_device(graph: &Graph, inputs: &[(String, Tensor)], device: &str, home: &Home) -> Outcome<Vec<(String, Tensor)>> {
    let device = open_device(device)?;
    let options = BuildOptions { targets: vec![device.target().parse()?], ..BuildOptions::new(home.clone()) };
    let (engine, _) = kiln_engine::build(graph, &options, &|_| {})?;
    let mut session = Session::new(&engine, device)?;
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    session.poison(0xcb)?;
    Ok(session.run(&named)?)
}

/// A dozen roundings to the type, of values of order 1.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 3e-2,
        DType::F32 => 1e-3,
        DType::F64 => 1e-6,
        _ => 0.0,
    }
}
