//! What kind of content files have, by the magika model.
//!
//! ```text
//! cargo run --release --example file_type -- Cargo.toml src/lib.rs
//! ```

mod features;
#[path = "../shared/mod.rs"]
mod shared;

use features::{Config, Features, features, label};
use kiln::Model;
use kiln::graph::Tensor;
use shared::{Outcome, case, floats, run};
use std::fs::File;

fn main() -> Outcome<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        return Err("usage: file_type FILE..".into());
    }
    let path = case("magika-1.0.3", "magika/models/standard_v3_3/model.onnx")?;
    let cfg: Config = serde_json::from_slice(&std::fs::read(path.with_file_name("config.min.json"))?)?;
    if cfg.mid_size != 0 {
        return Err("this model also wants bytes from the middle of a file".into());
    }
    let mut session = kiln::jit(&Model::load(&path)?, "cpu")?;
    let width = files.iter().map(String::len).max().unwrap_or(0);
    for name in &files {
        let answer = match features(&mut File::open(name).map_err(|e| format!("{name}: {e}"))?, &cfg)? {
            Features::Known(kind) => kind.to_owned(),
            Features::Model(bytes) => {
                let input = Tensor::from_slice(&[1, bytes.len()], &bytes)?;
                let scores = floats(&run(&mut session, &[("bytes", &input)])?)?;
                let (label, score, sure) = label(&scores, &cfg).ok_or("the model gave no scores")?;
                let doubt = if sure { "" } else { ", too low to be sure" };
                format!("{label} ({:.1}%{doubt})", score * 100.0)
            }
        };
        println!("{name:width$}  {answer}");
    }
    Ok(())
}
