//! A kernel of one's own: checked against the function that it implements, exported, and used inside a model.
//!
//! ```text
//! cargo run --release --example kernel
//! ```

mod fused;

use kiln::prelude::*;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // It is what it says, over random shapes: on the tile interpreter, and compiled on the simulator.
    let kernel = fused::fused::kernel()?;
    let checked = kiln::kernels::Check::new().shapes(8).run(&kernel)?;
    if let Some(failure) = checked.failure {
        return Err(failure.to_string().into());
    }
    println!("{}: {:?} shapes agree on {}", checked.kernel, checked.shapes, checked.device);

    // For `kiln build --kernels`, and models that never heard of it.
    kiln::export(std::env::temp_dir().join("fused.tile"), &[kernel])?;

    let model = Model::from(fused::gate::graph()?).with_random_weights(1)?;
    let x: Vec<f16> = (0..3 * 64).map(|i| f16::from_f32((i as f32 * 0.37).sin())).collect();
    let mut results = vec![];
    for device in ["cpu", "sim:sm_80"] {
        let mut session = kiln::jit(&model, device)?;
        session.bind("x", &[3, 64], &x)?;
        session.run_bound()?;
        let mut q = [0i8; 3 * 160];
        session.read("q", &mut q)?;
        for (region, kernel) in session.implementations() {
            println!("{device}: {region} by {kernel}");
        }
        results.push(q);
    }
    let differ = results[0].iter().zip(&results[1]).filter(|(a, b)| a.abs_diff(**b) > 1).count();
    println!("{differ} of {} values differ by more than a step", results[0].len());
    if differ == 0 { Ok(()) } else { Err("the devices differ".into()) }
}
