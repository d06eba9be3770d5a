//! `kiln sim`: a kernel of any PTX file, Kiln's or not, on the simulator.

use super::report::bytes;
use super::tensors::parse_shape;
use kiln_graph::{DType, Tensor};
use kiln_import::npy;
use kiln_sim::{Arg, Checks, Device, LaunchConfig, Module, Options, Report};
use miette::{Context, IntoDiagnostic, Result, miette};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs a kernel of a PTX file on the simulator and prints what its checks find, one finding a line. The exit code is 1 if there are any.
#[derive(clap::Args)]
pub struct Args {
    /// PTX text, of any compiler.
    file: PathBuf,
    /// Print the file's kernels, their parameters and shared memory instead.
    #[arg(long, conflicts_with_all = ["entry", "grid", "block", "shared", "arg", "seed"])]
    list: bool,
    /// The kernel.
    #[arg(long, required_unless_present = "list")]
    entry: Option<String>,
    /// CTAs along x, y, z; those left out are 1.
    #[arg(long, value_name = "X,Y,Z", value_parser = parse_extents, required_unless_present = "list")]
    grid: Option<[u32; 3]>,
    /// Threads of a CTA along x, y, z; those left out are 1.
    #[arg(long, value_name = "X,Y,Z", value_parser = parse_extents, required_unless_present = "list")]
    block: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// A kernel argument, in the kernel's order: `i32:5` a number; `f32:in.npy` the address of an array; `out:f32:2x3:out.npy` the address of
    /// memory filled with NaNs, saved afterwards; `inout:f32:in.npy:out.npy` both.
    #[arg(long, value_name = "ARG", verbatim_doc_comment)]
    arg: Vec<String>,
    /// Which checks run; bounds and alignment always do.
    #[arg(long, default_value = "all")]
    check: Check,
    /// Shuffle the order in which warps run.
    #[arg(long)]
    seed: Option<u64>,
    /// Print findings and counters as JSON.
    #[arg(long)]
    json: bool,
}

/// [`Checks`] as a command-line value.
#[derive(clap::ValueEnum, Clone, Copy)]
enum Check {
    /// Races, uninitialised memory, asynchronous copies, proxy fences.
    All,
    /// None of these.
    None,
}

/// One kernel argument as it was written.
#[derive(Clone, Debug, PartialEq)]
enum Spec {
    Number(Arg),
    Array { dtype: DType, from: PathBuf, to: Option<PathBuf> },
    Output { dtype: DType, shape: Vec<usize>, to: PathBuf },
}

/// Device memory to be saved after the launch.
struct Saved {
    address: u64,
    dtype: DType,
    shape: Vec<usize>,
    bytes: usize,
    to: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let file = || args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).into_diagnostic().wrap_err_with(file)?;
    let module = Module::parse(&text).into_diagnostic().wrap_err_with(file)?;
    if args.list {
        return list(&module, args.json);
    }
    let (Some(entry), Some(grid), Some(block)) = (&args.entry, args.grid, args.block) else {
        return Err(miette!("`--entry`, `--grid` and `--block` are needed to run a kernel"));
    };
    let kernel = module.kernel(entry).into_diagnostic().wrap_err_with(file)?;
    let specs = args.arg.iter().map(|text| parse_arg(text)).collect::<Result<Vec<_>>>()?;
    let device = Device::default();
    let mut saved = Vec::new();
    let values = specs.into_iter().map(|spec| place(&device, spec, &mut saved)).collect::<Result<Vec<_>>>()?;
    let config = LaunchConfig { grid, block, shared: args.shared, cluster: None };
    let checks = match args.check {
        Check::All => Checks::all(),
        Check::None => Checks::none(),
    };
    let options = Options { checks, seed: args.seed, counters: args.json, ..Options::default() };
    let report = device.launch(&kernel, config, &values, &options).into_diagnostic()?;
    for output in &saved {
        let mut data = vec![0; output.bytes];
        device.download(output.address, &mut data).into_diagnostic()?;
        let tensor = Tensor::new(output.dtype, output.shape.clone(), data.into()).into_diagnostic()?;
        npy::save(&output.to, &tensor).into_diagnostic()?;
    }
    if args.json {
        super::print_json(&report)?;
    } else {
        print(entry, &report, &saved);
    }
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print(entry: &str, report: &Report, saved: &[Saved]) {
    for finding in &report.findings {
        println!("{finding}");
    }
    for output in saved {
        println!("{}{:?} -> {}", output.dtype, output.shape, output.to.display());
    }
    match report.findings.len() {
        0 => println!("`{entry}`: nothing found in {} warp instructions", report.instructions),
        n => println!("`{entry}`: {n} findings in {} warp instructions", report.instructions),
    }
}

fn list(module: &Module, json: bool) -> Result<ExitCode> {
    // Shared memory is known once a kernel is decoded, which an instruction that is not supported prevents.
    let entries: Vec<_> = module.entries().into_iter().map(|e| (module.kernel(&e.name), e)).collect();
    if json {
        let entries = entries.iter().map(|(kernel, entry)| {
            serde_json::json!({
                "entry": entry,
                "static_shared_bytes": kernel.as_ref().map(|k| k.static_shared()).ok(),
                "error": kernel.as_ref().err().map(ToString::to_string),
            })
        });
        let entries: Vec<_> = entries.collect();
        super::print_json(
            &serde_json::json!({ "target": module.target(), "version": module.version(), "entries": entries }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("PTX {} for {}", module.version(), module.target());
    for (kernel, entry) in &entries {
        match kernel {
            Ok(k) => println!(
                "{}: {} of static shared memory, {} of local memory a thread",
                entry.name,
                bytes(k.static_shared() as usize),
                bytes(k.local_bytes() as usize)
            ),
            Err(e) => println!("{}: cannot run: {e}", entry.name),
        }
        for limit in [("at most", entry.max_threads), ("exactly", entry.required_threads)] {
            if let (words, Some([x, y, z])) = limit {
                println!("  {words} {x},{y},{z} threads a CTA");
            }
        }
        if let Some([x, y, z]) = entry.cluster {
            println!("  clusters of {x},{y},{z} CTAs");
        }
        for param in &entry.params {
            println!("  {} bytes, aligned to {}: {}", param.size, param.align, param.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_extents(text: &str) -> std::result::Result<[u32; 3], String> {
    let mut extents = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("expected at most three numbers joined by commas".into());
    }
    for (extent, part) in extents.iter_mut().zip(parts) {
        *extent = part.parse().map_err(|e| format!("`{part}`: {e}"))?;
    }
    Ok(extents)
}

fn parse_arg(text: &str) -> Result<Spec> {
    let wrong = |why: String| {
        miette!(
            help = "write `i32:5`, `f32:in.npy`, `out:f32:2x3:out.npy` or `inout:f32:in.npy:out.npy`",
            "`--arg {text}`: {why}"
        )
    };
    let dtype = |name: &str| name.parse::<DType>().map_err(wrong);
    let savable = |dtype: DType| match dtype {
        DType::BF16 | DType::F8E4M3 | DType::F8E5M2 | DType::I4 | DType::U4 => Err(wrong(format!(
            "NumPy has no dtype for {dtype}; name the unsigned integer of its width to move its bits"
        ))),
        _ => Ok(dtype),
    };
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    match parts[..] {
        ["out", ty, shape, to] => {
            Ok(Spec::Output { dtype: savable(dtype(ty)?)?, shape: parse_shape(shape)?, to: to.into() })
        }
        ["inout", ty, from, to] => {
            Ok(Spec::Array { dtype: savable(dtype(ty)?)?, from: from.into(), to: Some(to.into()) })
        }
        ["out" | "inout", ..] => Err(wrong("parts are missing".into())),
        [ty, value] if value.ends_with(".npy") => {
            Ok(Spec::Array { dtype: savable(dtype(ty)?)?, from: value.into(), to: None })
        }
        [ty, value] => Ok(Spec::Number(number(dtype(ty)?, value).map_err(wrong)?)),
        _ => Err(wrong("not an argument".into())),
    }
}

/// A number passed by value, as the bytes that the parameter holds.
fn number(dtype: DType, text: &str) -> std::result::Result<Arg, String> {
    let Some((min, max)) = dtype.int_range() else {
        let value: f64 = text.parse().map_err(|_| format!("`{text}` is neither a number nor a .npy file"))?;
        // Read at the parameter's own width: rounding by way of f64 would round twice.
        if dtype == DType::F32 {
            return text.parse().map(Arg::F32).map_err(|e| format!("`{text}`: {e}"));
        }
        let tensor = Tensor::from_f64(dtype, &[], &[value]).map_err(|e| e.to_string())?;
        return Ok(Arg::Bytes(tensor.data().to_vec()));
    };
    let value: i128 = text.parse().map_err(|_| format!("`{text}` is neither an integer nor a .npy file"))?;
    if dtype.bits() < 8 || value < min || value > max {
        return Err(format!("{value} is not a value that a {dtype} parameter can hold"));
    }
    Ok(Arg::Bytes(value.to_le_bytes()[..dtype.bits() / 8].to_vec()))
}

/// Puts an argument's memory on the device.
fn place(device: &Device, spec: Spec, saved: &mut Vec<Saved>) -> Result<Arg> {
    match spec {
        Spec::Number(value) => Ok(value),
        Spec::Array { dtype, from, to } => {
            let tensor = load(dtype, &from)?;
            let address = device.alloc(tensor.data().len() as u64).into_diagnostic()?;
            device.upload(address, tensor.data()).into_diagnostic()?;
            if let Some(to) = to {
                let (shape, bytes) = (tensor.shape().to_vec(), tensor.data().len());
                saved.push(Saved { address, dtype, shape, bytes, to });
            }
            Ok(Arg::U64(address))
        }
        Spec::Output { dtype, shape, to } => {
            let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            let bytes = elements
                .and_then(|n| dtype.bytes_for(n))
                .ok_or_else(|| miette!("{}: {dtype}{shape:?} is too large", to.display()))?;
            // The device fills what it allocates with NaNs, so a value that the kernel leaves out shows.
            let address = device.alloc(bytes as u64).into_diagnostic()?;
            saved.push(Saved { address, dtype, shape, bytes, to });
            Ok(Arg::U64(address))
        }
    }
}

fn load(dtype: DType, path: &Path) -> Result<Tensor> {
    let tensor = npy::load(path).into_diagnostic()?;
    if tensor.dtype() != dtype {
        return Err(miette!("{}: holds {}, the argument says {dtype}", path.display(), tensor.dtype()));
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_written() {
        assert_eq!(parse_arg("i32:-5").unwrap(), Spec::Number(Arg::Bytes((-5i32).to_le_bytes().to_vec())));
        assert_eq!(parse_arg("u64:18446744073709551615").unwrap(), Spec::Number(Arg::Bytes(vec![0xff; 8])));
        assert_eq!(parse_arg("f32:0.1").unwrap(), Spec::Number(Arg::F32(0.1)));
        assert_eq!(parse_arg("f16:-2").unwrap(), Spec::Number(Arg::Bytes(vec![0x00, 0xc0])));
        assert_eq!(
            parse_arg("out:f16:2x3:a:b.npy").unwrap(),
            Spec::Output { dtype: DType::F16, shape: vec![2, 3], to: "a:b.npy".into() }
        );
        assert_eq!(
            parse_arg("inout:u8:a.npy:b.npy").unwrap(),
            Spec::Array { dtype: DType::U8, from: "a.npy".into(), to: Some("b.npy".into()) }
        );
        for wrong in [
            "",
            "5",
            "i32:",
            "i32:2147483648",
            "u8:-1",
            "i32:1.5",
            "i4:1",
            "q7:1",
            "out:f32:2x3",
            "bf16:a.npy",
            "out:bf16:2:a.npy",
        ] {
            assert!(parse_arg(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn extents_left_out_are_one() {
        assert_eq!(parse_extents("7"), Ok([7, 1, 1]));
        assert_eq!(parse_extents("7,2,3"), Ok([7, 2, 3]));
        assert!(parse_extents("7,2,3,4").is_err() && parse_extents("x").is_err() && parse_extents("-1").is_err());
    }
}
