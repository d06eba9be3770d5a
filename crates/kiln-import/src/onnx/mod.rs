//! ONNX models, opset 6 and newer.
//!
//! [`load`] maps a file, decodes it with generated message types and lowers every node onto primitives. Shape computations become
//! symbolic shapes, constants fold, model-local functions expand, an `If` on a constant is inlined, and everything that cannot be lowered is
//! reported in one error.

mod external;
mod fold;
mod lower;
mod metadata;
mod node;
mod ops;
mod order;
#[allow(missing_docs, clippy::all, reason = "generated")]
#[rustfmt::skip]
mod proto;
mod prune;
mod shape_values;
mod tensor;
mod value;

use crate::{Error, Result, mapped};
use bytes::Bytes;
use external::ExternalData;
use kiln_graph::{DType, Dim, Graph, Tensor, TensorType};
use lower::{Lower, ModelParts, OpError, Opsets};
use prost::Message;
use proto::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use value::Val;

pub use metadata::metadata;

/// What the caller knows about a model's inputs. An initializer that is an input too is a weight, unless an option names it: then it is an
/// input like any other.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Shapes that replace the declared ones, by input name. Their symbols are the caller's: the model's own never have the same name.
    pub shapes: BTreeMap<String, Vec<Dim>>,
    /// Inputs that are constants: they determine shapes, or are simply known. They are no longer inputs of the graph.
    pub constants: BTreeMap<String, Tensor>,
    /// Values that are given when the graph runs. They may be taken as constants, but only for inputs that a shape depends on.
    pub candidates: BTreeMap<String, Tensor>,
    /// Inclusive ranges of symbols; 1 to 2^29 for those not given.
    pub ranges: BTreeMap<String, (i64, i64)>,
}

/// Oldest operator set whose semantics are implemented.
const OLDEST_OPSET: i64 = 6;
/// Newest operator set known.
const NEWEST_OPSET: i64 = 28;

/// Loads an ONNX file. The file is mapped, and weights are slices of the mapping; it must not be modified while the graph lives.
///
/// # Errors
/// Any [`Error`]; [`Error::Unsupported`] lists everything that has no lowering.
pub fn load(path: &Path, options: &Options) -> Result<Graph> {
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    import(mapped::map(path)?, &name, || ExternalData::beside(path), options)
}

/// What a model names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Its inputs in their order, those that have a value of their own included; and their dtypes, where Kiln has them.
    pub inputs: Vec<(String, Option<DType>)>,
    /// The files it is read from: its own and those that hold its weights.
    pub files: BTreeSet<PathBuf>,
}

/// Reads what a model names, without importing it.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`].
pub fn outline(path: &Path) -> Result<Outline> {
    let model = ModelProto::decode(mapped::map(path)?).map_err(|e| Error::malformed("the ONNX file", e))?;
    let graph = model.graph.ok_or_else(|| Error::malformed("the ONNX file", "it has no graph"))?;
    let entries = graph.initializer.iter().flat_map(|tensor| &tensor.external_data);
    let locations = entries.filter(|e| e.key() == "location").map(|e| path.with_file_name(e.value()));
    Ok(Outline {
        inputs: graph.input.iter().map(|input| (input.name().to_owned(), declared_dtype(input))).collect(),
        files: locations.chain([path.to_owned()]).collect(),
    })
}

fn declared_dtype(input: &ValueInfoProto) -> Option<DType> {
    match input.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => tensor::dtype(t.elem_type()).ok(),
        _ => None,
    }
}

/// Imports an ONNX model held in memory; its weights are slices of `bytes`. It cannot refer to external data.
///
/// # Errors
/// As [`load`].
pub fn import_bytes(bytes: Bytes, options: &Options) -> Result<Graph> {
    import(bytes, "model", ExternalData::default, options)
}

fn import(bytes: Bytes, name: &str, external: impl Fn() -> ExternalData, options: &Options) -> Result<Graph> {
    let _span = tracing::info_span!("import", model = name, bytes = bytes.len()).entered();
    // Every node takes some bytes of the file, so this bounds the work by its size.
    let node_budget = 100_000 + bytes.len() / 8;
    let model = ModelProto::decode(bytes).map_err(|e| Error::malformed("the ONNX file", e))?;
    let graph = model.graph.as_ref().ok_or_else(|| Error::malformed("the ONNX file", "it has no graph"))?;
    let opsets = opsets(&model.opset_import)?;
    let mut functions = BTreeMap::new();
    for f in &model.functions {
        functions.insert((lower::domain(f.domain()), f.name(), f.overload()), f);
    }
    let parts = ModelParts { functions, external: external(), node_budget };
    let mut constants = options.constants.clone();
    check_names(graph, options)?;
    check_unique("graph input", graph.input.iter().map(ValueInfoProto::name))?;
    check_unique("graph output", graph.output.iter().map(ValueInfoProto::name))?;
    loop {
        let lower = lower_model(&parts, graph, name, &opsets, options, &constants)?;
        if lower.unsupported.groups.is_empty() {
            return finish(lower);
        }
        // Values that shapes depend on turn into constants, and the import starts over.
        let promoted: BTreeSet<&String> = lower.needed.iter().filter(|n| !constants.contains_key(*n)).collect();
        if promoted.is_empty() || !promoted.iter().all(|n| options.candidates.contains_key(*n)) {
            return Err(Error::Unsupported(lower.unsupported));
        }
        let promoted: Vec<_> = promoted.into_iter().map(|n| (n.clone(), options.candidates[n].clone())).collect();
        constants.extend(promoted);
    }
}

/// The versions of the operator sets a model or function imports.
fn opsets(imports: &[OperatorSetIdProto]) -> Result<Opsets> {
    let mut opsets = BTreeMap::new();
    for o in imports {
        let domain = lower::domain(o.domain());
        if domain.is_empty() && !(OLDEST_OPSET..=NEWEST_OPSET).contains(&o.version()) && o.version() != 1 {
            return Err(Error::OperatorSet { found: o.version(), oldest: OLDEST_OPSET, newest: NEWEST_OPSET });
        }
        opsets.insert(domain.to_owned(), o.version());
    }
    Ok(Rc::new(opsets))
}

/// Options must name inputs of the model.
fn check_names(graph: &GraphProto, options: &Options) -> Result<()> {
    let inputs: BTreeSet<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
    for name in options.shapes.keys().chain(options.constants.keys()) {
        if !inputs.contains(name.as_str()) {
            let list = inputs.iter().map(|i| format!("`{i}`")).collect::<Vec<_>>().join(", ");
            return Err(Error::Option(format!("the model has no input `{name}`; it has {list}")));
        }
    }
    Ok(())
}

/// No two inputs, and no two outputs, have one name: which value is meant could not be said.
fn check_unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::malformed(format!("{what} `{name}`"), "another has the same name"));
        }
    }
    Ok(())
}

fn lower_model<'m>(
    parts: &'m ModelParts<'m>,
    proto: &'m GraphProto,
    name: &str,
    opsets: &Opsets,
    options: &Options,
    constants: &BTreeMap<String, Tensor>,
) -> Result<Lower<'m>> {
    let mut graph = Graph::new(name);
    for (symbol, (low, high)) in &options.ranges {
        graph.symbols.declare(symbol, *low, *high);
    }
    let mut lower = Lower::new(parts, graph, opsets.clone());
    let initialized: BTreeMap<&str, &TensorProto> = proto.initializer.iter().map(|t| (t.name(), t)).collect();
    let mut symbols = SymbolNames::default();
    options.shapes.values().flatten().for_each(|dim| dim.symbols(&mut symbols.used));
    for input in &proto.input {
        if let Some(initializer) = initialized.get(input.name()) {
            // Its value is a default: one that the caller gives takes its place.
            let name = input.name();
            let given = |t: &BTreeMap<String, Tensor>| t.contains_key(name);
            if !given(constants) && !given(&options.candidates) && !options.shapes.contains_key(name) {
                continue;
            }
            lower.overridden.insert(initializer.name());
        }
        let default = initialized.get(input.name()).map(|t| t.dims.as_slice());
        let ty = match input_type(input, options, default, &mut symbols) {
            Ok(ty) => ty,
            Err(reason) => {
                lower.unsupported.push("graph input", input.name(), reason);
                lower.bind(input.name(), None);
                continue;
            }
        };
        let val = match constants.get(input.name()) {
            Some(tensor) => {
                let found = TensorType::new(tensor.dtype(), tensor.shape().iter().copied());
                let fits = |(d, f): (&Dim, &Dim)| d.as_const().is_none() || d == f;
                if ty.dtype != found.dtype || ty.rank() != found.rank() || !ty.shape.iter().zip(&found.shape).all(fits)
                {
                    return Err(Error::Option(format!(
                        "input `{}` is {ty}, and the constant is {found}",
                        input.name()
                    )));
                }
                Val::constant(tensor.clone())
            }
            None => {
                for dim in &ty.shape {
                    declare(lower.graph_mut(), dim);
                }
                let id = lower.input(input.name(), ty.dtype, &ty.shape)?;
                lower.run(id)
            }
        };
        lower.bind(input.name(), Some(val));
    }
    match lower.graph_body(proto) {
        Ok(outputs) => {
            for (output, val) in proto.output.iter().zip(outputs) {
                let id = lower.value(&val).map_err(|e| output_error(output.name(), e))?;
                lower.output(output.name(), id);
            }
        }
        Err(OpError::Poisoned) if !lower.unsupported.groups.is_empty() => {}
        Err(e) => return Err(output_error("", e)),
    }
    Ok(lower)
}

fn output_error(name: &str, e: OpError) -> Error {
    match e {
        OpError::Fatal(e) => e,
        OpError::Graph(e) => Error::Graph(e),
        OpError::Invalid(message) | OpError::Unsupported(message) => {
            Error::malformed(format!("graph output `{name}`"), message)
        }
        OpError::Poisoned | OpError::NotConstant | OpError::NeedsValue { .. } => {
            Error::malformed(format!("graph output `{name}`"), "it is not computed")
        }
    }
}

fn finish(mut lower: Lower<'_>) -> Result<Graph> {
    let frame = lower.frames.swap_remove(0);
    Ok(frame.finish())
}

/// Largest extent assumed of an input axis whose range the options leave open. A bound, so that the limits models write for "all of it" are
/// seen to be above it.
const MAX_EXTENT: i64 = 1 << 29;

/// Symbols of input shapes have at least one element unless the options say otherwise.
fn declare(graph: &mut Graph, dim: &Dim) {
    let mut names = BTreeSet::new();
    dim.symbols(&mut names);
    for name in names {
        let declared = graph.symbols.iter().any(|(n, _)| n == name);
        if !declared {
            graph.symbols.declare(&name, 1, MAX_EXTENT);
        }
    }
}

/// Symbol names for the free-form names of ONNX dimensions.
#[derive(Default)]
struct SymbolNames {
    by_param: BTreeMap<String, String>,
    used: BTreeSet<String>,
}

impl SymbolNames {
    fn unique(&mut self, wanted: &str) -> String {
        let clean = |c: char| if c.is_ascii_alphanumeric() || "_.$".contains(c) { c } else { '_' };
        let mut name: String = wanted.chars().map(clean).collect();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert(0, '_');
        }
        while !self.used.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    fn of(&mut self, param: &str) -> String {
        if let Some(name) = self.by_param.get(param) {
            return name.clone();
        }
        let name = self.unique(param);
        self.by_param.insert(param.to_owned(), name.clone());
        name
    }
}

/// The type of a graph input, dims without a known extent as symbols. An input without a shape has that of its default.
fn input_type(
    input: &ValueInfoProto,
    options: &Options,
    default: Option<&[i64]>,
    symbols: &mut SymbolNames,
) -> Result<TensorType, String> {
    use tensor_shape_proto::dimension::Value;
    let Some(type_proto::Value::TensorType(t)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err("is not a tensor; sequences, maps, optionals and sparse tensors are not supported".into());
    };
    let dtype = tensor::dtype(t.elem_type())?;
    let shape = match (options.shapes.get(input.name()), &t.shape) {
        (Some(shape), _) => shape.clone(),
        (None, None) => match default {
            Some(dims) => dims.iter().map(|&d| Dim::from(d)).collect(),
            None => return Err("has no declared rank; give its shape".into()),
        },
        (None, Some(declared)) => {
            let dim = |(axis, d): (usize, &tensor_shape_proto::Dimension)| match &d.value {
                Some(Value::DimValue(n)) if *n >= 0 => Dim::from(*n),
                Some(Value::DimParam(p)) if !p.is_empty() && p != "?" => Dim::sym(symbols.of(p)),
                _ => Dim::sym(symbols.unique(&format!("{}_d{axis}", input.name()))),
            };
            declared.dim.iter().enumerate().map(dim).collect()
        }
    };
    Ok(TensorType { dtype, shape })
}

#[cfg(test)]
mod tests;
