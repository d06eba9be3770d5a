//! The least program that runs an engine: open, run, look at the outputs.
//!
//! ```text
//! cargo run --release --example embed -- model.kiln cpu tokens=1x128
//! ```

use kiln::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [engine, device, shapes @ ..] = args.as_slice() else {
        return Err("usage: embed ENGINE DEVICE [INPUT=1x3x64x64..]".into());
    };
    let mut session = Engine::load(engine)?.session(device)?;
    let mut inputs = Vec::new();
    for (name, ty) in session.inputs() {
        let given = shapes.iter().find_map(|s| s.strip_prefix(name)?.strip_prefix('='));
        let shape = match given {
            Some(extents) => extents.split('x').map(str::parse).collect::<Result<Vec<usize>, _>>()?,
            None => ty.const_shape().ok_or_else(|| format!("`{name}` has no fixed shape: give {name}=1x3x64x64"))?,
        };
        // Zeros and ones: also valid as indices and masks.
        inputs.push((name.to_owned(), Tensor::generate(ty.dtype, &shape, |i| (i % 2) as f64)?));
    }
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    for (name, output) in session.run(&inputs)? {
        println!("{name}: {} {:?}", output.dtype(), output.shape());
    }
    // Linux says how much memory the process needed at most.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
    Ok(())
}
