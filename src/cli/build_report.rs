//! What a build did, for people.

use super::out::bytes;
use kiln_engine::{BuildReport, KernelReport, TargetReport};
use miette::Result;

/// Columns that a kernel's name may take in the table of resources.
const NAME_WIDTH: usize = 48;

/// Prints a report as text.
pub fn print(report: &BuildReport) -> Result<()> {
    outln!("{}: {} ops, {} of weights", report.model, report.ops, bytes(report.weight_bytes))?;
    for target in &report.targets {
        let stages: Vec<String> = target.stages.iter().map(|s| format!("{} {:.0} ms", s.stage, s.ms)).collect();
        let arena =
            target.arena_bytes.map(|b| format!("; arena at the largest shapes {}", bytes(b))).unwrap_or_default();
        outln!(
            "{:>8}: {} ops -> {} launches of {} distinct kernels; {}{arena}",
            target.target,
            report.ops,
            target.launches,
            target.regions.len(),
            stages.join(", "),
        )?;
    }
    let (gpus, cpus): (Vec<&TargetReport>, Vec<&TargetReport>) =
        report.targets.iter().partition(|t| t.regions.iter().any(|r| !r.kernels.is_empty()));
    for target in cpus.iter().chain(gpus.first()) {
        print_regions(target)?;
    }
    if !gpus.is_empty() {
        print_resources(&gpus)?;
    }
    Ok(())
}

fn print_regions(target: &TargetReport) -> Result<()> {
    let title = if target.target == "cpu" { "CPU" } else { "GPU" };
    outln!("\n{title} regions (uses, name: what is fused in it)")?;
    for region in &target.regions {
        outln!("  {:>3}x {}: {}", region.uses, region.name, region.summary)?;
    }
    Ok(())
}

fn print_resources(gpus: &[&TargetReport]) -> Result<()> {
    outln!(
        "\nGPU kernels: registers a thread, spilled bytes, shared memory a block, cubin size, NVRTC time (* from the cache)"
    )?;
    out!("  {:NAME_WIDTH$}", "")?;
    for target in gpus {
        out!(" {:>28}", target.target)?;
    }
    outln!()?;
    let rows = |t: &TargetReport| t.regions.iter().flat_map(|r| r.kernels.clone()).collect::<Vec<KernelReport>>();
    let columns: Vec<Vec<KernelReport>> = gpus.iter().map(|t| rows(t)).collect();
    for (i, kernel) in columns[0].iter().enumerate() {
        let name = match &kernel.guard {
            Some(guard) => format!("{} if {guard}", kernel.name),
            None => kernel.name.clone(),
        };
        out!("  {:NAME_WIDTH$}", tail(&name))?;
        for k in columns.iter().filter_map(|c| c.get(i)) {
            let time = format!("{:.0}{}", k.compile_ms, if k.cached { "*" } else { "" });
            out!(
                " {:>4} {:>3} {:>7} {:>6} {:>4}",
                k.registers,
                k.spill_bytes,
                bytes(k.shared_bytes as usize).replace(' ', "").replace("iB", ""),
                bytes(k.cubin_bytes).replace(' ', "").replace("iB", ""),
                time
            )?;
        }
        outln!()?;
    }
    for (target, column) in gpus.iter().zip(&columns) {
        let spilling: Vec<&str> = column.iter().filter(|k| k.spill_bytes > 0).map(|k| k.name.as_str()).collect();
        if !spilling.is_empty() {
            outln!("  {}: registers spill in {}", target.target, spilling.join(", "))?;
        }
    }
    Ok(())
}

/// The end of a long name: the end tells kernels apart.
fn tail(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME_WIDTH {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - NAME_WIDTH + 1).collect();
    format!("…{end}")
}
