//! Tensors on the command line: `name=file.npy`, `.npz` and `.safetensors` files, and random inputs for benchmarks.

use kiln_engine::{Session, numbers};
use kiln_fuse::{BufferKind, Plan};
use kiln_graph::{Bindings, DType, Dim, Graph, Op, Tensor, TensorType};
use kiln_import::{npy, safetensors};
use miette::{IntoDiagnostic, Result, miette};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Arrays named on the command line as `name=file.npy`, or as `file.npz` or `file.safetensors`. They are read once it is known which are wanted.
#[derive(Default)]
pub struct Given {
    arrays: Vec<(String, Array)>,
}

enum Array {
    File(PathBuf),
    /// An array of an archive.
    Part(PathBuf),
    /// A slice of a mapped file.
    Mapped(PathBuf, Tensor),
}

/// Names what `specs` of `option` (such as `--input`) give. Archives are opened, arrays are not read yet.
pub fn given(option: &str, specs: &[String]) -> Result<Given> {
    let mut arrays: Vec<(String, Array)> = Vec::new();
    for spec in specs {
        if spec.ends_with(".npz") && !spec.contains('=') {
            let path = PathBuf::from(spec);
            let archive = npy::Npz::open(&path).into_diagnostic()?;
            arrays.extend(archive.names().iter().map(|name| (name.clone(), Array::Part(path.clone()))));
            continue;
        }
        if spec.ends_with(".safetensors") && !spec.contains('=') {
            let tensors = safetensors::load(Path::new(spec)).into_diagnostic()?;
            arrays.extend(tensors.into_iter().map(|(name, tensor)| (name, Array::Mapped(spec.into(), tensor))));
            continue;
        }
        let expected = || miette!("`{option} {spec}`: expected name=file.npy, file.npz or file.safetensors");
        let (name, path) = spec.split_once('=').ok_or_else(expected)?;
        arrays.push((name.to_owned(), Array::File(path.into())));
    }
    let mut names = BTreeSet::new();
    match arrays.iter().find(|(name, _)| !names.insert(name)) {
        Some((name, _)) => Err(miette!("`{option}` gives `{name}` twice")),
        None => Ok(Given { arrays }),
    }
}

impl Given {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// The files that the arrays are in.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.arrays.iter().map(|(_, Array::File(path) | Array::Part(path) | Array::Mapped(path, _))| path.as_path())
    }

    /// Reads the arrays. One that is not among the model's is an error, before any is read; `what` is `input` or `output`. Dtypes that a file cannot
    /// name are the model's.
    pub fn read(self, what: &str, known: &[(String, Option<DType>)]) -> Result<Vec<(String, Tensor)>> {
        let port = |wanted: &str| known.iter().find(|(name, _)| name == wanted);
        if let Some((name, _)) = self.arrays.iter().find(|(name, _)| port(name).is_none()) {
            let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            let list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(miette!("{what} `{name}`: the model has no such {what}; it has {list}"));
        }
        let load = |(name, array): (String, Array)| {
            let expected = port(&name).and_then(|(_, dtype)| *dtype);
            let tensor = match array {
                Array::File(path) => npy::load_as(&path, expected),
                Array::Part(path) => npy::Npz::open(&path).and_then(|mut archive| archive.array_as(&name, expected)),
                Array::Mapped(_, tensor) => kiln_import::declared(tensor, expected),
            };
            Ok((name, tensor.into_diagnostic()?))
        };
        self.arrays.into_iter().map(load).collect()
    }
}

/// A file name for each output, none twice even where the file system ignores case. An output whose name can be a file's has exactly that.
pub fn file_names<'a>(outputs: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    /// Bytes of a name, which file systems limit to 255 with the extension.
    const LONGEST: usize = 200;
    let plain = |name: &str| {
        let clean = |c: char| if matches!(c, '/' | '\\') || c.is_control() { '_' } else { c };
        let mut name: String = name.chars().map(clean).collect();
        while name.len() > LONGEST {
            name.pop();
        }
        name
    };
    let folded = |name: &str| name.to_lowercase();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let exact: Vec<bool> = outputs.clone().map(|name| plain(name) == name && taken.insert(folded(name))).collect();
    let file = |(name, exact): (&str, bool)| {
        let plain = plain(name);
        let mut file = plain.clone();
        let mut n = 2;
        while !exact && !taken.insert(folded(&file)) {
            file = format!("{plain}~{n}");
            n += 1;
        }
        file + ".npy"
    };
    outputs.zip(exact).map(file).collect()
}

/// Writes outputs where `-o` says: to a `.npz` or `.safetensors` file, else as `NAME.npy` to a folder. None of `sources` is written over. Returns the files.
pub fn save(to: &Path, outputs: &[(String, Tensor)], sources: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let kind = to.extension().and_then(|extension| extension.to_str());
    if let Some("npz" | "safetensors") = kind {
        super::not_over(to, sources)?;
        let save = if kind == Some("npz") { npy::save_npz } else { safetensors::save };
        save(to, outputs).into_diagnostic()?;
        return Ok(vec![to.to_owned()]);
    }
    if let Some("npy") = kind {
        return Err(miette!("`-o {}`: expected a folder, or a .npz or .safetensors file", to.display()));
    }
    std::fs::create_dir_all(to).map_err(|e| miette!("cannot write to {}: {e}", to.display()))?;
    let names = file_names(outputs.iter().map(|(name, _)| name.as_str()));
    let files: Vec<PathBuf> = names.into_iter().map(|file| to.join(file)).collect();
    files.iter().try_for_each(|file| super::not_over(file, sources))?;
    for (file, (_, tensor)) in files.iter().zip(outputs) {
        npy::save(file, tensor).into_diagnostic()?;
    }
    Ok(files)
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

/// Shapes of inputs by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Shapes given as `name=1x3x64x64`.
pub fn parse_shapes(specs: &[String]) -> Result<Shapes> {
    specs
        .iter()
        .map(|spec| {
            // A name may have any sign in it.
            let (name, shape) =
                spec.rsplit_once('=').ok_or_else(|| miette!("`--shape {spec}`: expected name=1x3x64x64"))?;
            Ok((name.to_owned(), parse_shape(shape)?))
        })
        .collect()
}

/// The symbols of a plan as some inputs' shapes bind them; those that none does are left out.
pub fn bind(plan: &Plan, shapes: &Shapes) -> Result<Bindings> {
    let mut known = Graph::new(plan.name.clone());
    known.symbols = plan.symbols.clone();
    let mut given = Vec::new();
    for buffer in plan.inputs.iter().map(|id| &plan.buffers[id.index()]) {
        let BufferKind::Input(name) = &buffer.kind else { continue };
        if let Some(shape) = shapes.get(name) {
            let ty = &buffer.ty;
            known.push_node(Op::Input { name: name.clone(), ty: ty.clone() }, &[], vec![ty.clone()], name);
            given.push(shape.clone());
        }
    }
    if let Some(name) = shapes.keys().find(|name| !known.inputs.iter().any(|&id| known.input_name(id) == **name)) {
        return Err(miette!("`--shape {name}=…`: the model has no such input"));
    }
    kiln_graph::bind_symbols(&known, &given).into_diagnostic()
}

/// Bytes of random inputs: drawing as many takes a minute, and more than that was never meant.
const MOST_RANDOM: usize = 16 << 30;

/// Random inputs (seeded) for a session: given shapes, and for other inputs the smallest of the profile.
pub fn random(session: &Session, shapes: &Shapes, seed: u64) -> Result<Vec<(String, Tensor)>> {
    let ports: Vec<(String, TensorType)> = session.inputs().map(|(n, t)| (n.to_owned(), t.clone())).collect();
    for name in shapes.keys() {
        if !ports.iter().any(|(n, _)| n == name) {
            return Err(miette!("`--shape {name}=…`: the model has no such input"));
        }
    }
    let mut total = 0usize;
    let mut wanted = Vec::new();
    for (name, ty) in ports {
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
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        total = total.saturating_add(elements.and_then(|n| ty.dtype.bytes_for(n)).unwrap_or(usize::MAX));
        let refused = match kiln_host::check_memory(total) {
            Ok(()) if total <= MOST_RANDOM => None,
            Ok(()) => Some(format!("more than {MOST_RANDOM} bytes of random values are not drawn")),
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = refused {
            return Err(miette!(
                help = "give smaller shapes with `--shape`, or the values with `--input`",
                "input `{name}` is {}{shape:?}: {why}",
                ty.dtype
            ));
        }
        wanted.push((name, ty.dtype, shape));
    }
    let random = |(i, (name, dtype, shape)): (usize, (String, _, Vec<usize>))| {
        let tensor = Tensor::random(dtype, &shape, seed.wrapping_add(i as u64)).into_diagnostic()?;
        Ok((name, tensor))
    };
    wanted.into_iter().enumerate().map(random).collect()
}

/// The first few values, for people.
pub fn preview(tensor: &Tensor) -> String {
    let shown: Vec<String> = numbers(tensor).take(6).map(|v| v.brief()).collect();
    format!("[{}{}]", shown.join(", "), if tensor.len() > 6 { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_outputs_share_a_file() {
        let names = |list: &[&str]| file_names(list.iter().copied());
        assert_eq!(names(&["a/b", "a_b"]), ["a_b~2.npy", "a_b.npy"]);
        assert_eq!(names(&["a/b", "c", "a\\b", "a_b~2"]), ["a_b.npy", "c.npy", "a_b~3.npy", "a_b~2.npy"]);
        assert_eq!(names(&["Y", "y", ".."]), ["Y.npy", "y~2.npy", "...npy"]);
        let long = ["x".repeat(300), "x".repeat(301)];
        let long = names(&[&long[0], &long[1]]);
        assert!(long[0] != long[1] && long.iter().all(|n| n.len() < 255), "{long:?}");
        // Whatever the names, there are as many files as outputs.
        let mut rng = kiln_graph::Rng::new(9);
        for _ in 0..2000 {
            let mut name = || -> String {
                let length = rng.range(0, 4);
                (0..length).map(|_| ['a', 'A', '/', '\\', '_', '~', '2'][rng.range(0, 6) as usize]).collect()
            };
            let outputs: BTreeSet<String> = (0..6).map(|_| name()).collect();
            let files: BTreeSet<String> =
                file_names(outputs.iter().map(String::as_str)).iter().map(|f| f.to_lowercase()).collect();
            assert_eq!(files.len(), outputs.len(), "{outputs:?}");
            assert!(files.iter().all(|f| !f.contains(['/', '\\'])));
        }
    }
}
