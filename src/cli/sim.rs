//! `kiln sim`: a kernel of any PTX file, Kiln's or not, on the simulator.

use super::kernel_args::{self, Saved};
use super::out::bytes;
use kiln_sim::{Checks, Device, LaunchConfig, Module, Options, Report};
use miette::{Context, IntoDiagnostic, Result, miette};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Runs a kernel of a PTX file on the simulator and prints what its checks find, one finding a line. The exit code is 1 if there are any.
#[derive(clap::Args)]
pub struct Args {
    /// PTX text, of any compiler.
    file: PathBuf,
    /// Print the file's kernels, their parameters and shared memory instead.
    #[arg(long, conflicts_with_all = ["entry", "grid", "block", "cluster", "shared", "arg", "seed"])]
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
    /// CTAs of a cluster along x, y, z, for kernels that leave it to the launch; those left out are 1. The grid must be a multiple.
    #[arg(long, value_name = "X,Y,Z", value_parser = parse_extents)]
    cluster: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// A kernel argument, in the kernel's order:
    ///   i32:5                         a number
    ///   f32:in.npy                    the address of an array
    ///   out:f32:2x3:out.npy           the address of memory filled with NaNs, saved afterwards
    ///   inout:f32:in.npy:out.npy      the address of an array, saved afterwards
    ///   tma:f16:in.npy:box=64x32      a tensor map of an array, passed by value; also tma:out:… and tma:inout:…
    /// A tensor map's box is given as NumPy gives shapes, innermost extent last. After it may follow `:swizzle=none|32|64|128` (none),
    /// `:fill=zero|nan` (zero) for what lies outside the array, and `:step=2x1`, the element strides (1).
    #[arg(long, value_name = "ARG", verbatim_doc_comment)]
    arg: Vec<String>,
    /// Which checks run; bounds and alignment always do.
    #[arg(long, default_value = "all")]
    check: Check,
    /// Shuffle the order in which warps run.
    #[arg(long)]
    seed: Option<u64>,
    /// Warp instructions after which the launch is stopped.
    #[arg(long, value_name = "N", default_value_t = Options::default().budget)]
    max_instructions: u64,
    /// Seconds after which the launch is stopped.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    timeout: Duration,
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
    let device = Device::default();
    let (values, saved) = kernel_args::place(&device, &args.arg)?;
    let config = LaunchConfig { grid, block, shared: args.shared, cluster: args.cluster };
    let checks = match args.check {
        Check::All => Checks::all(),
        Check::None => Checks::none(),
    };
    let options = Options {
        checks,
        seed: args.seed,
        counters: args.json,
        budget: args.max_instructions,
        timeout: Some(args.timeout),
    };
    let report = device.launch(&kernel, config, &values, &options).into_diagnostic()?;
    for output in &saved {
        output.save(&device)?;
    }
    if args.json {
        super::print_json(&report)?;
    } else {
        print(entry, &report, &saved)?;
    }
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print(entry: &str, report: &Report, saved: &[Saved]) -> Result<()> {
    for finding in &report.findings {
        outln!("{finding}")?;
    }
    for output in saved {
        outln!("{output}")?;
    }
    match report.findings.len() {
        0 => outln!("`{entry}`: nothing found in {} warp instructions", report.instructions),
        n => outln!("`{entry}`: {n} findings in {} warp instructions", report.instructions),
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
    outln!("PTX {} for {}", module.version(), module.target())?;
    for (kernel, entry) in &entries {
        match kernel {
            Ok(k) => outln!(
                "{}: {} of static shared memory, {} of local memory a thread",
                entry.name,
                bytes(k.static_shared() as usize),
                bytes(k.local_bytes() as usize)
            )?,
            Err(e) => outln!("{}: cannot run: {e}", entry.name)?,
        }
        for limit in [("at most", entry.max_threads), ("exactly", entry.required_threads)] {
            if let (words, Some([x, y, z])) = limit {
                outln!("  {words} {x},{y},{z} threads a CTA")?;
            }
        }
        if let Some([x, y, z]) = entry.cluster {
            outln!("  clusters of {x},{y},{z} CTAs")?;
        }
        for param in &entry.params {
            outln!("  {} bytes, aligned to {}: {}", param.size, param.align, param.name)?;
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

fn parse_seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_left_out_are_one() {
        assert_eq!(parse_extents("7"), Ok([7, 1, 1]));
        assert_eq!(parse_extents("7,2,3"), Ok([7, 2, 3]));
        assert!(parse_extents("7,2,3,4").is_err() && parse_extents("x").is_err() && parse_extents("-1").is_err());
    }
}
