//! `kiln kernel check` and `list --kernels`: kernels of one's own, from files.

use super::super::model;
use kiln::Kernel;
use kiln::kernels::{Check, Checked};
use kiln_graph::DType;
use kiln_target::Target;
use miette::{IntoDiagnostic, Result, miette};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Holds kernels of one's own to the functions that they implement, over random shapes: on the tile interpreter, then compiled, on the
/// simulator with every check on. The exit code is 1 if one is not its function.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Files of kernels, as `kiln::export` wrote them.
    #[arg(long, value_name = "FILE.tile", required = true)]
    kernels: Vec<PathBuf>,
    /// Only the kernel of this name.
    #[arg(long)]
    kernel: Option<String>,
    /// Only this dtype.
    #[arg(long)]
    dtype: Option<DType>,
    /// The architecture that they are compiled for.
    #[arg(long, default_value = "sm_80")]
    target: Target,
    /// Shapes of each dtype.
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u64).range(1..))]
    shapes: u64,
    /// What shapes and inputs follow from.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// A GPU in the simulator's place, as `cuda:0`.
    #[arg(long)]
    device: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub fn check(args: &CheckArgs) -> Result<ExitCode> {
    let mut kernels = model::kernels(&args.kernels)?;
    if let Some(name) = &args.kernel {
        let there: Vec<String> = kernels.iter().map(|kernel| kernel.name().to_owned()).collect();
        kernels.retain(|kernel| kernel.name() == name);
        if kernels.is_empty() {
            return Err(miette!("no kernel is called `{name}`; there are {}", there.join(", ")));
        }
    }
    let mut check = Check::new().target(args.target.clone()).shapes(args.shapes).seed(args.seed);
    if let Some(dtype) = args.dtype {
        check = check.dtype(dtype);
    }
    if let Some(device) = &args.device {
        check = check.device(device);
    }
    let all = kernels.iter().map(|kernel| check.run(kernel).into_diagnostic()).collect::<Result<Vec<Checked>>>()?;
    if args.json {
        crate::cli::print_json(&all)?;
    } else {
        all.iter().try_for_each(print)?;
    }
    Ok(ExitCode::from(u8::from(all.iter().any(|checked| checked.failure.is_some()))))
}

fn print(checked: &Checked) -> Result<()> {
    let Checked { kernel, shapes, seed, device, compiled, left_out, failure } = checked;
    left_out.iter().for_each(|why| note!("{kernel}: left out: {why}"));
    match failure {
        Some(failure) => outln!("{kernel} is not its function: {failure}; all of it again by --seed {seed}"),
        None => {
            let shapes: Vec<String> = shapes.iter().map(|(dtype, n)| format!("{n} shapes of {dtype}")).collect();
            outln!(
                "{kernel}: {} agree, on the tile interpreter and {compiled} Configs on {device}, seed {seed}",
                shapes.join(", ")
            )
        }
    }
}

/// A kernel, as `kiln kernel list` shows it.
#[derive(Serialize)]
pub struct Listed {
    kernel: String,
    implements: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    dtypes: Vec<DType>,
    configs: usize,
    /// The values of each field.
    config: BTreeMap<String, Vec<Value>>,
}

/// The kernels of files.
pub fn listed(files: &[PathBuf]) -> Result<Vec<Listed>> {
    Ok(model::kernels(files)?.iter().filter_map(list).collect())
}

fn list(kernel: &Arc<Kernel>) -> Option<Listed> {
    let first = kernel.instances().first()?;
    let (inputs, outputs) = first.types();
    Some(Listed {
        kernel: kernel.name().to_owned(),
        implements: first.function.name.clone(),
        inputs: inputs.iter().map(ToString::to_string).collect(),
        outputs: outputs.iter().map(ToString::to_string).collect(),
        dtypes: kernel.instances().iter().filter_map(|instance| instance.dtype()).collect(),
        configs: first.candidates.len(),
        config: super::fields(first.candidates.iter().map(|candidate| &candidate.config)),
    })
}

impl Listed {
    pub fn print(&self) -> Result<()> {
        let Listed { kernel, implements, inputs, outputs, dtypes, configs, config } = self;
        outln!("{kernel}: implements {implements}, ({}) -> ({})", inputs.join(", "), outputs.join(", "))?;
        outln!("  dtypes   {}", dtypes.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(" "))?;
        outln!("  Configs  {configs}, of")?;
        super::print_fields(config)
    }
}
