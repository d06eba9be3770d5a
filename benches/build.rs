//! Engines of networks of real sizes, built from nothing for one GPU, which need not be there: seconds, with an empty kernel cache and again with a
//! full one, and the most memory that the process takes. `cargo bench --bench build [-- NAME..]`; a network is a process of its own.

mod common;

use common::{Fail, nets};
use kiln::engine::{BuildOptions, build};
use kiln_cuda::Home;
use std::process::Command;
use std::time::Instant;

const TARGET: &str = "h200";
/// Says which network this process builds, and where the kernel cache is.
const ONE: &str = "KILN_BENCH_BUILD";

fn main() -> Result<(), Fail> {
    if let Ok(folder) = std::env::var(ONE) {
        return one(&std::env::args().nth(1).ok_or("no network is named")?, folder.as_ref());
    }
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let names = if named.is_empty() { nets::NETS.map(str::to_owned).to_vec() } else { named };
    println!("{:14} {:>9} {:>9} {:>8} {:>12} {:>12}", "", "cold", "warm", "kernels", "weights", "most memory");
    for name in names {
        let folder = tempfile::tempdir()?;
        let status = Command::new(std::env::current_exe()?).arg(&name).env(ONE, folder.path()).status()?;
        if !status.success() {
            return Err(format!("{name}: {status}").into());
        }
    }
    Ok(())
}

fn one(name: &str, folder: &std::path::Path) -> Result<(), Fail> {
    let graph =
        nets::named(name)?.ok_or_else(|| format!("there is no network `{name}`; there are {:?}", nets::NETS))?;
    let weights: usize = graph.weights.values().map(|w| w.data().len()).sum();
    // NVRTC from where it is, cubins to a folder of their own.
    std::os::unix::fs::symlink(Home::from_env()?.root().join("nvrtc"), folder.join("nvrtc"))?;
    let options = BuildOptions { targets: vec![TARGET.parse()?], ..BuildOptions::new(Home::at(folder)) };
    let mut seconds = [0.0; 2];
    let mut kernels = 0;
    for (i, seconds) in seconds.iter_mut().enumerate() {
        let start = Instant::now();
        let (engine, report) = build(&graph, &options, &|_| {})?;
        engine.save(folder.join(format!("{i}.kiln")))?;
        *seconds = start.elapsed().as_secs_f64();
        kernels = report.targets.iter().flat_map(|target| &target.regions).map(|region| region.kernels.len()).sum();
    }
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    println!(
        "{name:14} {:>7.2} s {:>7.2} s {kernels:>8} {:>9.0} MB {:>9.0} MB",
        seconds[0],
        seconds[1],
        megabytes(weights),
        megabytes(peak()?)
    );
    Ok(())
}

/// The most memory that this process has taken, bytes.
fn peak() -> Result<usize, Fail> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(1024 * line.trim().trim_end_matches("kB").trim().parse::<usize>()?)
}
