//! Times every Config of some matrix products and attentions: the cost formula's order beside the clock's.

use crate::case::{self, Case};
use crate::{Outcome, engine};
use kiln_cuda::{Compiler, CubinCache, Home, Nvrtc};
use kiln_target::Target;
use kiln_tune::{OnDevice, Options, Tuning, tune};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Device memory that a case may take.
const MOST_BYTES: usize = 16 << 30;

/// A row a case: its Configs in the formula's order, each with the median time of a run. Also how many give wrong results.
pub fn measure(device: &str) -> Outcome<(Vec<Value>, usize)> {
    let home = Home::from_env()?;
    let nvrtc = Nvrtc::discover(&home)?;
    let compiler = Compiler::new(&nvrtc).with_cache(CubinCache::in_home(&home));
    let gpu = OnDevice::gpu(device)?;
    let everything = Options { first: 64, batch: 64, share: 1.0, most: usize::MAX, ..Options::default() };
    let tuning = Tuning { budget: Duration::from_secs(600), search: everything, ..Tuning::default() };
    let (mut rows, mut failed) = (vec![], 0);
    for case in case::ranked() {
        let start = Instant::now();
        let mut engine = engine(&case.graph(case.op.lead())?, Target::Gpu(gpu.clone()))?;
        let mut on_device = OnDevice::new(device, MOST_BYTES, compiler.clone())?;
        let tuned = tune(&mut engine, &gpu, nvrtc.release(), &mut on_device, &tuning, &mut |_| {})?;
        let (row, wrong) = row(&case, &tuned.regions, start)?;
        rows.push(row);
        failed += wrong;
    }
    Ok((rows, failed))
}

fn row(case: &Case, regions: &[kiln_tune::TunedRegion], start: Instant) -> Outcome<(Value, usize)> {
    let [region] = regions else { return Err("a product is one region with several Configs".into()) };
    if let Some(failure) = &region.failure {
        return Err(format!("{}: {failure}", case.name()).into());
    }
    let (mut configs, mut unusable) = (vec![], vec![]);
    for found in &region.candidates {
        match (&found.measured_us, &found.invalid) {
            (Some(us), _) => {
                println!("{:40} {us:10.1} us: {}", case.name(), found.text);
                configs.push(
                    json!({ "config": found.config, "text": found.text, "us": us, "modelled_us": found.modelled_us }),
                );
            }
            (None, why) => {
                println!("{:40} unusable: {}: {}", case.name(), found.text, why.as_deref().unwrap_or("not measured"));
                unusable.push(json!({ "config": found.config, "why": why }));
            }
        }
    }
    let failed = unusable.len();
    let seconds = start.elapsed().as_secs_f64();
    Ok((json!({ "name": case.name(), "configs": configs, "unusable": unusable, "seconds": seconds }), failed))
}
