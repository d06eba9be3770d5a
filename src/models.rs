//! Models: a graph and its weights.

use crate::{Error, Result};
use kiln_graph::{Graph, Op, Tensor, TensorType};
use kiln_import::{hf, onnx, safetensors};
use std::path::Path;

/// A graph and its weights, ready to be built.
///
/// It comes from a file ([`Model::load`]), or from a function with [`#[kiln::model]`](macro@crate::model): `Model::from(mlp::graph()?)`.
#[derive(Clone, Debug)]
pub struct Model {
    graph: Graph,
}

impl From<Graph> for Model {
    fn from(graph: Graph) -> Model {
        Model { graph }
    }
}

impl Model {
    /// Imports an ONNX file, or a folder with a BERT encoder's `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// What the importer says, or that there is none for this path.
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        if path.is_dir() {
            return Ok(hf::bert::load(path)?.into());
        }
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("onnx") => {
                Model::load_onnx(path, &onnx::Options::default())
            }
            _ => Err(Error::NoModel { path: path.to_owned() }),
        }
    }

    /// Imports an ONNX file with shapes of inputs and ranges of their symbols.
    ///
    /// # Errors
    /// What the importer says.
    pub fn load_onnx(path: impl AsRef<Path>, options: &onnx::Options) -> Result<Model> {
        Ok(onnx::load(path.as_ref(), options)?.into())
    }

    /// Takes its weights from a safetensors file. Tensors of other names are left out.
    ///
    /// # Errors
    /// A file that cannot be read, and weights of another type or shape.
    pub fn with_weights(mut self, path: impl AsRef<Path>) -> Result<Model> {
        let mut tensors = safetensors::load(path.as_ref())?;
        for (name, _) in self.missing_weights() {
            if let Some(tensor) = tensors.remove(&name) {
                self.set_weight(&name, tensor)?;
            }
        }
        Ok(self)
    }

    /// Gives a weight its value.
    ///
    /// # Errors
    /// No such weight, or one of another type or shape.
    pub fn set_weight(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        let failed = |message: String| Err(Error::Weight { name: name.to_owned(), message });
        let Some(ty) = self.weights().find(|w| w.0 == name).map(|w| w.1) else {
            return failed("the model has no such weight".into());
        };
        if ty.dtype != tensor.dtype() || ty.const_shape().as_deref() != Some(tensor.shape()) {
            return failed(format!("expected {ty}, found {}{:?}", tensor.dtype(), tensor.shape()));
        }
        self.graph.weights.insert(name.to_owned(), tensor);
        Ok(())
    }

    /// Gives the weights that have no value random ones, of a size that keeps activations of about the size of the inputs: for trying a model
    /// and timing it.
    ///
    /// # Errors
    /// Weights too large for memory.
    pub fn with_random_weights(mut self, seed: u64) -> Result<Model> {
        for (i, (name, ty)) in self.missing_weights().into_iter().enumerate() {
            let shape = ty.const_shape().unwrap_or_default();
            let values = Tensor::random(ty.dtype, &shape, seed.wrapping_add(i as u64))?;
            // Of a matrix, the sums that it takes part in are as long as its second axis, and of a convolution's as those after the first.
            let scale = 1.0 / (shape.iter().skip(1).product::<usize>().max(1) as f64).sqrt();
            let scaled = match ty.dtype.is_float() {
                true => Tensor::from_f64(
                    ty.dtype,
                    &shape,
                    &values.to_f64_vec().iter().map(|v| v * scale).collect::<Vec<_>>(),
                )?,
                false => values,
            };
            self.graph.weights.insert(name, scaled);
        }
        Ok(self)
    }

    /// Its weights: name and type.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.graph.nodes.iter().filter_map(|node| match &node.op {
            Op::Weight { name, ty } => Some((name.as_str(), ty)),
            _ => None,
        })
    }

    /// Its inputs: name and type.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.graph.nodes.iter().filter_map(|node| match &node.op {
            Op::Input { name, ty } => Some((name.as_str(), ty)),
            _ => None,
        })
    }

    /// Its outputs: name and type.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.graph.outputs.iter().map(|(name, id)| (name.as_str(), self.graph.ty(*id)))
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn missing_weights(&self) -> Vec<(String, TensorType)> {
        let missing = self.weights().filter(|(name, _)| !self.graph.weights.contains_key(*name));
        missing.map(|(name, ty)| (name.to_owned(), ty.clone())).collect()
    }
}
