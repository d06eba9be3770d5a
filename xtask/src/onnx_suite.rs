//! `xtask onnx-suite`: the ONNX backend node tests through the importer, with pass / fail / unsupported by operator.

use crate::compare::close;
use crate::{Outcome, python, workspace};
use bytes::Bytes;
use kiln_cuda::Home;
use kiln_engine::{BuildOptions, Session, open_device};
use kiln_graph::{DType, Graph, Tensor};
use kiln_import::onnx::{self, Options};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;

#[derive(Deserialize)]
struct Index {
    onnx: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    ops: Vec<String>,
    rtol: f64,
    atol: f64,
    model: (usize, usize),
    inputs: Vec<Stored>,
    outputs: Vec<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    name: String,
    dtype: Option<String>,
    #[serde(default)]
    shape: Vec<usize>,
    #[serde(default)]
    data: (usize, usize),
}

/// What became of a case.
enum Verdict {
    /// With the number of inputs that were taken as constants.
    Pass(usize),
    Fail(String),
    Unsupported(String),
}

/// Runs the cases whose names contain one of `filters` (all if there are none). A full run writes the report, or with `check` fails if it
/// is not what the committed one says.
pub fn run(check: bool, filters: &[&str]) -> Outcome<()> {
    let home = Home::from_env()?;
    let folder = home.cases().join(format!("onnx-suite-{}", python::ONNX.version));
    if !folder.join("index.json").is_file() {
        let onnx = python::ONNX.install(&home)?;
        python::run("onnx_suite.py", &onnx, [&folder])?;
    }
    let index: Index = serde_json::from_slice(&fs::read(folder.join("index.json"))?)?;
    let data = Bytes::from(fs::read(folder.join("data.bin"))?);
    // A panic is a failure of its case; its message is in the report.
    std::panic::set_hook(Box::new(|_| {}));
    let mut results = Vec::new();
    for case in &index.cases {
        if !filters.is_empty() && !filters.iter().any(|f| case.name.contains(f)) {
            continue;
        }
        let verdict = catch_unwind(AssertUnwindSafe(|| verdict(case, &data)))
            .unwrap_or_else(|panic| Verdict::Fail(format!("panic: {}", panic_text(&*panic))));
        if !filters.is_empty() {
            match &verdict {
                Verdict::Pass(_) => println!("pass         {}", case.name),
                Verdict::Fail(why) => println!("FAIL         {}: {why}", case.name),
                Verdict::Unsupported(why) => println!("unsupported  {}: {why}", case.name),
            }
        }
        results.push((case, verdict));
    }
    let _ = std::panic::take_hook();
    let report = report(&index.onnx, &results);
    println!("{}", report.lines().find(|l| l.starts_with("**")).unwrap_or_default());
    if filters.is_empty() {
        let path = workspace().join("docs/onnx-coverage.md");
        if check {
            if verdicts(&fs::read_to_string(&path).unwrap_or_default()) != verdicts(&report) {
                return Err(format!(
                    "{} says otherwise; run `cargo xtask onnx-suite` and look at the difference",
                    path.display()
                )
                .into());
            }
        } else {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            fs::write(&path, report)?;
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}

/// A report without the numbers in its failure messages, which differ in the last digits between machines.
fn verdicts(report: &str) -> Vec<&str> {
    report
        .lines()
        .map(|l| if l.starts_with("* `test_") { l.split_once("`:").map_or(l, |(name, _)| name) } else { l })
        .collect()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("(no message)").to_owned()
}

fn verdict(case: &Case, data: &Bytes) -> Verdict {
    let mut candidates = BTreeMap::new();
    for input in &case.inputs {
        match tensor(input, data) {
            Ok(Some(t)) => {
                candidates.insert(input.name.clone(), t);
            }
            Ok(None) => {} // The importer says why it cannot take such an input.
            Err(e) => return Verdict::Fail(e),
        }
    }
    let (at, len) = case.model;
    let options = Options { candidates: candidates.clone(), ..Options::default() };
    let graph = match onnx::import_bytes(data.slice(at..at + len), &options) {
        Ok(graph) => graph,
        Err(kiln_import::Error::Unsupported(ops)) => {
            let group = &ops.groups[0];
            return Verdict::Unsupported(format!("{}: {}", group.op, group.reason));
        }
        Err(e) => return Verdict::Fail(format!("import: {e}")),
    };
    let mut inputs = Vec::new();
    for &id in &graph.inputs {
        match candidates.get(&graph.value(id).name) {
            Some(t) => inputs.push(t.clone()),
            None => return Verdict::Fail(format!("no value for input `{}`", graph.value(id).name)),
        }
    }
    let outputs = match on_cpu(&graph, &inputs) {
        Ok(outputs) => outputs,
        Err(e) => return Verdict::Fail(format!("run: {e}")),
    };
    if outputs.len() != case.outputs.len() {
        return Verdict::Fail(format!("{} outputs, expected {}", outputs.len(), case.outputs.len()));
    }
    for (found, stored) in outputs.iter().zip(&case.outputs) {
        match tensor(stored, data) {
            Ok(Some(expected)) => {
                if let Err(e) = close(found, &expected, case.rtol, case.atol) {
                    return Verdict::Fail(format!("output `{}`: {e}", stored.name));
                }
            }
            Ok(None) => {
                return Verdict::Unsupported(format!("output `{}` is not a tensor Kiln has a dtype for", stored.name));
            }
            Err(e) => return Verdict::Fail(e),
        }
    }
    Verdict::Pass(candidates.len() - inputs.len())
}

/// Builds an engine for the CPU device and runs it once, on inputs in the order of the graph's signature. The arena is poisoned first.
fn on_cpu(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let run = || -> Outcome<Vec<Tensor>> {
        let options = BuildOptions::new(Home::from_env()?);
        let (engine, _) = kiln_engine::build(graph, &options, &|_| {})?;
        let mut session = Session::new(&engine, open_device("cpu:1")?)?;
        let names: Vec<String> = session.inputs().map(|(name, _)| name.to_owned()).collect();
        let named: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(inputs).collect();
        session.run(&named)?;
        session.poison(0xcb)?;
        Ok(session.run(&named)?.into_iter().map(|(_, t)| t).collect())
    };
    run().map_err(|e| e.to_string())
}

fn tensor(stored: &Stored, data: &Bytes) -> Result<Option<Tensor>, String> {
    let Some(dtype) = &stored.dtype else { return Ok(None) };
    let dtype = DType::from_str(dtype).map_err(|e| e.to_string())?;
    let (at, len) = stored.data;
    Tensor::new(dtype, stored.shape.clone(), data.slice(at..at + len)).map(Some).map_err(|e| e.to_string())
}

/// The operator a case is about: expansions of functions are counted apart.
fn subject(case: &Case) -> String {
    match case.name.split_once("_expanded") {
        Some((name, _)) => {
            let word = name.trim_start_matches("test_").split('_').next().unwrap_or_default();
            format!("{word}.. (expanded)")
        }
        None => case.ops.iter().find(|op| *op != "Constant").or(case.ops.first()).cloned().unwrap_or_default(),
    }
}

fn report(version: &str, results: &[(&Case, Verdict)]) -> String {
    let mut by_op: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    let mut total = [0; 3];
    let mut shaped = 0;
    let (mut failures, mut unsupported) = (String::new(), BTreeMap::<&str, Vec<&str>>::new());
    for (case, verdict) in results {
        let column = match verdict {
            Verdict::Pass(constants) => {
                shaped += usize::from(*constants > 0);
                0
            }
            Verdict::Fail(why) => {
                let _ = writeln!(failures, "* `{}`: {}", case.name, why.replace('\n', " "));
                1
            }
            Verdict::Unsupported(why) => {
                unsupported.entry(why).or_default().push(&case.name);
                2
            }
        };
        by_op.entry(subject(case)).or_default()[column] += 1;
        total[column] += 1;
    }
    let mut text = format!(
        "# ONNX operator coverage\n\nThe node tests of onnx {version} (`onnx.backend.test`), imported, fused and run on the CPU device with their own inputs and tolerances. \
         Written by `cargo xtask onnx-suite`.\n\n**{} of {} pass; {} fail; {} are unsupported.**\n\n\
         An input is taken as a constant where the importer asks for one, because a shape or a branch depends on it: so in {shaped} of the passing \
         cases. Unsupported means that the importer \
         refuses the model with the reason given below.\n\n## By operator\n\n| operator | pass | fail | unsupported |\n| --- | ---: | ---: | ---: |\n",
        total[0],
        results.len(),
        total[1],
        total[2]
    );
    for (op, [pass, fail, not]) in &by_op {
        let _ = writeln!(text, "| {op} | {pass} | {fail} | {not} |");
    }
    if !failures.is_empty() {
        let _ = write!(text, "\n## Known failures\n\n{failures}");
    }
    text.push_str("\n## Unsupported\n\n");
    for (why, names) in unsupported {
        let _ = writeln!(text, "* {why}: {}", names.join(", "));
    }
    text
}
