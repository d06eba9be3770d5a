//! Times that come with Kiln: kernels of well-known networks, measured on GPUs that its authors have. Whoever builds one of them for such a GPU
//! with the same compiler need not measure again.

use crate::Times;
use flate2::read::GzDecoder;
use kiln_target::Gpu;
use std::io::Read;

/// GPUs by [`Gpu::key`], and a timing cache of each, which `gpu/run.sh timings` writes.
const MEASURED: [(&str, &[u8]); 1] = [("h200", include_bytes!("../data/h200.jsonl.gz"))];

/// What comes with Kiln of a GPU.
pub fn shipped(gpu: &Gpu) -> Times {
    let mut times = Times::default();
    for (_, packed) in MEASURED.iter().filter(|(key, _)| *key == gpu.key()) {
        let mut bytes = vec![];
        match GzDecoder::new(*packed).read_to_end(&mut bytes) {
            Ok(_) => times.read(&bytes),
            // A test reads them all.
            Err(_) => times.damaged += 1,
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_comes_with_kiln_can_be_read() {
        for (key, _) in MEASURED {
            let gpu = Gpu::named(key).unwrap();
            let times = shipped(&gpu);
            assert_eq!(times.damaged, 0, "{key}");
            assert!(times.records().count() > 100, "{key}");
            let own = |p: &crate::Problem| p.arch == gpu.arch.name() && p.kiln == env!("CARGO_PKG_VERSION");
            assert!(times.records().all(|record| own(&record.problem)), "{key}");
        }
    }
}
