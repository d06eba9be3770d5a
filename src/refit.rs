//! Weights for an engine from the files that models come in.

use crate::{Error, Result};
use kiln_engine::Engine;
use kiln_graph::{Graph, Tensor, widen};
use kiln_import::{onnx, safetensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// An engine with the weights of an ONNX file, or of safetensors files whose names are the model's; see [`Engine::refit`]. An ONNX file must hold the model that
/// the engine was built from but for its weights.
///
/// # Errors
/// Files that cannot be read, two tensors of one name, and what [`Engine::refit`] and [`Engine::refit_from`] report.
pub fn refit(engine: &Engine, files: &[impl AsRef<Path>]) -> Result<Engine> {
    let onnx = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    if let [file] = files
        && onnx(file.as_ref())
    {
        return Ok(engine.refit_from(&model(engine, file.as_ref())?)?);
    }
    let mut weights: BTreeMap<String, Tensor> = BTreeMap::new();
    for file in files {
        let path = file.as_ref();
        if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            return Err(Error::NoWeights { path: path.to_owned() });
        }
        for (name, tensor) in safetensors::load(path)? {
            if weights.contains_key(&name) {
                return Err(Error::Weight { name, message: format!("{} has it a second time", path.display()) });
            }
            weights.insert(name, tensor);
        }
    }
    Ok(engine.refit(&weights)?)
}

/// An ONNX model with the shapes of its inputs that the engine was built for.
fn model(engine: &Engine, path: &Path) -> Result<Graph> {
    let mut options = onnx::Options::default();
    let mut symbols = BTreeSet::new();
    for port in &engine.inputs {
        port.ty.shape.iter().for_each(|dim| dim.symbols(&mut symbols));
        options.shapes.insert(port.name.clone(), port.ty.shape.clone());
    }
    options.ranges = symbols.into_iter().map(|symbol| (symbol.clone(), engine.symbols.range(&symbol))).collect();
    let graph = onnx::load(path, &options)?;
    if kiln_engine::structure(&graph) == engine.refit.structure {
        return Ok(graph);
    }
    // Its sums may have been widened.
    let widened = widen::widen_reductions(&graph)?;
    let same = kiln_engine::structure(&widened) == engine.refit.structure;
    Ok(if same { widened } else { graph })
}
