//! Tensors on the command line: `name=file.npy`, `.npz` files, and random inputs for benchmarks.

use kiln_engine::Session;
use kiln_graph::{Dim, Tensor, TensorType};
use kiln_import::npy;
use miette::{IntoDiagnostic, Result, miette};
use std::collections::BTreeMap;
use std::path::Path;

/// Loads inputs given as `name=file.npy` or as `file.npz`, whose arrays are the inputs.
pub fn load(specs: &[String]) -> Result<Vec<(String, Tensor)>> {
    let mut inputs = Vec::new();
    for spec in specs {
        if spec.ends_with(".npz") && !spec.contains('=') {
            inputs.extend(npy::load_npz(Path::new(spec)).into_diagnostic()?);
            continue;
        }
        let (name, path) =
            spec.split_once('=').ok_or_else(|| miette!("`--input {spec}`: expected name=file.npy or file.npz"))?;
        inputs.push((name.to_owned(), npy::load(Path::new(path)).into_diagnostic()?));
    }
    Ok(inputs)
}

/// References in the form that [`Session::run`] takes.
pub fn borrow(inputs: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

/// `1x3x64x64` as extents.
pub fn parse_shape(text: &str) -> Result<Vec<usize>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split('x')
        .map(|d| {
            d.parse()
                .map_err(|_| miette!("`{text}` is not a shape; expected extents joined by x, for instance 1x3x64x64"))
        })
        .collect()
}

/// Shapes given as `name=1x3x64x64`.
pub fn parse_shapes(specs: &[String]) -> Result<BTreeMap<String, Vec<usize>>> {
    specs
        .iter()
        .map(|spec| {
            let (name, shape) =
                spec.split_once('=').ok_or_else(|| miette!("`--shape {spec}`: expected name=1x3x64x64"))?;
            Ok((name.to_owned(), parse_shape(shape)?))
        })
        .collect()
}

/// Random inputs (seeded) for a session: given shapes, and for other inputs the smallest of the profile.
pub fn random(session: &Session, shapes: &BTreeMap<String, Vec<usize>>, seed: u64) -> Result<Vec<(String, Tensor)>> {
    let ports: Vec<(String, TensorType)> = session.inputs().map(|(n, t)| (n.to_owned(), t.clone())).collect();
    for name in shapes.keys() {
        if !ports.iter().any(|(n, _)| n == name) {
            return Err(miette!("`--shape {name}=…`: the model has no such input"));
        }
    }
    ports
        .into_iter()
        .enumerate()
        .map(|(i, (name, ty))| {
            let shape = match shapes.get(&name) {
                Some(shape) => shape.clone(),
                None => ty.const_shape().ok_or_else(|| {
                    let dims: Vec<String> = ty.shape.iter().map(Dim::to_string).collect();
                    miette!(
                        "input `{name}` is [{}]: give its shape, for instance `--shape {name}=1x3x64x64`",
                        dims.join(", ")
                    )
                })?,
            };
            let tensor = Tensor::random(ty.dtype, &shape, seed.wrapping_add(i as u64)).into_diagnostic()?;
            Ok((name, tensor))
        })
        .collect()
}

/// The tensors without those that the model took as constants when it was built.
pub fn without(inputs: Vec<(String, Tensor)>, folded: &[String]) -> Vec<(String, Tensor)> {
    inputs.into_iter().filter(|(name, _)| !folded.contains(name)).collect()
}

/// The first few values, for people.
pub fn preview(tensor: &Tensor) -> String {
    let values = tensor.to_f64_vec();
    let shown: Vec<String> = values.iter().take(6).map(|v| format!("{v:.6}")).collect();
    format!("[{}{}]", shown.join(", "), if values.len() > 6 { ", …" } else { "" })
}
