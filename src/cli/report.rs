//! A build report for people.

use kiln_engine::{BuildReport, TargetReport};

/// Prints a report as text.
pub fn print(report: &BuildReport) {
    println!("{}: {} ops, {} of weights", report.model, report.ops, bytes(report.weight_bytes));
    for target in &report.targets {
        print_target(report, target);
    }
}

fn print_target(report: &BuildReport, target: &TargetReport) {
    let stages: Vec<String> = target.stages.iter().map(|s| format!("{} {:.0} ms", s.stage, s.ms)).collect();
    let arena = target.arena_bytes.map(|b| format!("; arena at the largest shapes {}", bytes(b))).unwrap_or_default();
    println!(
        "\n{}: {} ops -> {} launches of {} distinct kernels; {}{arena}",
        target.target,
        report.ops,
        target.launches,
        target.regions.len(),
        stages.join(", "),
    );
    let compiled = target.regions.iter().any(|r| !r.kernels.is_empty());
    if compiled {
        println!(
            "  {:>4} {:>4} {:>5} {:>7} {:>7} {:>8}  kernel",
            "uses", "regs", "spill", "shared", "cubin", "compile"
        );
    } else {
        println!("  {:>4}  region", "uses");
    }
    for region in &target.regions {
        if region.kernels.is_empty() {
            println!("  {:>4}  {}: {}", region.uses, region.name, region.summary);
        }
        for kernel in &region.kernels {
            let time = if kernel.cached { "cached".to_owned() } else { format!("{:.0} ms", kernel.compile_ms) };
            println!(
                "  {:>4} {:>4} {:>5} {:>7} {:>7} {:>8}  {}: {}",
                region.uses,
                kernel.registers,
                kernel.spill_bytes,
                bytes(kernel.shared_bytes as usize),
                bytes(kernel.cubin_bytes),
                time,
                kernel.name,
                region.summary,
            );
        }
    }
}

/// A byte count in binary units.
pub fn bytes(n: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
