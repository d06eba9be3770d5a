//! `kiln inspect --counters`: an engine's kernels on the simulator, counted.

use super::tensors;
use kiln_engine::{Engine, Session, SimDevice};
use kiln_graph::Tensor;
use kiln_sim::{CounterReport, Mix, Options};
use miette::{IntoDiagnostic, Result};
use serde::Serialize;
use std::sync::mpsc;

/// What a kernel did in all its launches of one run.
#[derive(Serialize)]
pub struct KernelCounters {
    kernel: String,
    launches: usize,
    #[serde(flatten)]
    counts: Mix,
    sectors_per_request: Option<f64>,
    wavefronts_per_request: Option<f64>,
    divergent_share: Option<f64>,
    /// Passes over the banks beyond those that the distinct words need.
    bank_conflicts: u64,
}

/// Runs the engine once and adds the counters up by kernel, in the order of first launch.
pub fn collect(engine: &Engine, target: &str, inputs: &[(String, Tensor)]) -> Result<Vec<KernelCounters>> {
    let (sender, launches) = mpsc::channel();
    let device = SimDevice::new(target, Options::fast()).with_counters(sender);
    let mut session = Session::new(engine, Box::new(device)).into_diagnostic()?;
    session.run(&tensors::borrow(inputs)).into_diagnostic()?;
    Ok(add_up(launches.try_iter()))
}

/// Adds the counters of launches up by kernel.
pub fn add_up(launches: impl Iterator<Item = (String, CounterReport)>) -> Vec<KernelCounters> {
    let mut rows: Vec<KernelCounters> = Vec::new();
    for (kernel, report) in launches {
        match rows.iter_mut().find(|r| r.kernel == kernel) {
            Some(row) => {
                row.launches += 1;
                row.counts += report.total;
            }
            None => rows.push(KernelCounters {
                kernel,
                launches: 1,
                counts: report.total,
                sectors_per_request: None,
                wavefronts_per_request: None,
                divergent_share: None,
                bank_conflicts: 0,
            }),
        }
    }
    for row in &mut rows {
        let c = row.counts;
        row.sectors_per_request = ratio(c.global_sectors, c.global_requests);
        row.wavefronts_per_request = ratio(c.shared_wavefronts, c.shared_requests);
        row.divergent_share = ratio(c.divergent, c.instructions);
        row.bank_conflicts = c.shared_wavefronts.saturating_sub(c.shared_ideal_wavefronts);
    }
    rows
}

/// Prints the counters for people.
pub fn print(rows: &[KernelCounters]) -> Result<()> {
    outln!(
        "{:>8} {:>14} {:>15} {:>18} {:>9} {:>14}  kernel",
        "launches",
        "instructions",
        "sectors/request",
        "wavefronts/request",
        "divergent",
        "mma flops"
    )?;
    let number = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.2}"));
    for row in rows {
        outln!(
            "{:>8} {:>14} {:>15} {:>18} {:>9} {:>14}  {}",
            row.launches,
            row.counts.instructions,
            number(row.sectors_per_request),
            number(row.wavefronts_per_request),
            row.divergent_share.map_or("-".to_owned(), |v| format!("{:.1}%", v * 100.0)),
            row.counts.mma_flops,
            row.kernel
        )?;
    }
    Ok(())
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
