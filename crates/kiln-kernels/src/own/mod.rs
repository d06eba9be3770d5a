//! Kernels of one's own: a tile program that names the function which it implements.
//!
//! The function, a graph of primitives, is the kernel's shape inference, its CPU path, its oracle, and the pattern by which fusion finds where it
//! applies ([`kiln_fuse::Pattern`]). A kernel has one [`Instance`] for each dtype, and an instance one tile program for each Config; the programs speak
//! of the function's symbols as their dims. Where a pattern binds a region, [`offers`] has the programs with the region's dims in their place,
//! and they go the way of any family's: passes, validator, CUDA C, engine file.

mod bind;
mod check;
mod text;
pub mod write;

pub use bind::{alone, family, offers};
pub use check::{Case, Difference, Reference, compare, inputs, interpreted, reference};
pub use text::{MOST_BYTES, VERSION, from_text, to_text};

use crate::families::dim_of;
use crate::{Error, Result};
use kiln_fuse::Pattern;
use kiln_graph::{DType, Dim, Graph, Op, TensorType};
use kiln_tile::ir::{Level, Program, Schedule, verify};
use kiln_tile::program::{Access, Param};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Display, Write};
use std::sync::Arc;

/// What a kernel of one's own decides: [`families::Config`](crate::families::Config) with its space. `#[derive(kiln::Config)]` makes all of it.
pub trait Config: crate::families::Config {
    /// All that are legal.
    fn space() -> Vec<Self>;

    /// Sets what the Config decides about the schedule: fields called as those of [`Schedule`] do.
    fn schedule(&self, schedule: &mut Schedule);
}

/// The Config of a kernel without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NoConfig {}

impl Display for NoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no Config")
    }
}

impl Config for NoConfig {
    fn space() -> Vec<NoConfig> {
        vec![NoConfig {}]
    }

    fn schedule(&self, _: &mut Schedule) {}
}

/// The program of each Config of a space.
///
/// # Errors
/// What `program` says of a Config, which is named.
pub fn candidates<C: Config>(program: impl Fn(&C) -> Result<Program>) -> Result<Vec<Candidate>> {
    let one = |config: C| {
        let program = program(&config).map_err(|e| match e {
            Error::Own { kernel, what, help } => Error::Own { kernel, what: format!("with {config}: {what}"), help },
            e => e,
        })?;
        Ok(Candidate { config: serde_json::json!(config), program })
    };
    C::space().into_iter().map(one).collect()
}

/// A kernel of one's own.
#[derive(Clone, Debug)]
pub struct Kernel {
    name: String,
    instances: Vec<Instance>,
}

/// A kernel for one choice of dtypes.
#[derive(Clone, Debug)]
pub struct Instance {
    /// What it implements: tensors in, tensors out, no weights.
    pub function: Graph,
    /// How it is found.
    pub pattern: Arc<Pattern>,
    /// The ways to make it.
    pub candidates: Vec<Candidate>,
}

/// One way to make an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The Config, as JSON.
    pub config: Value,
    /// At [`Level::Tile`]. Its scalar parameters are symbols of the function, its tensors the function's inputs, in order, and then its outputs.
    pub program: Program,
}

impl Kernel {
    /// A kernel without instances.
    ///
    /// # Errors
    /// A name that is no identifier.
    pub fn new(name: &str) -> Result<Kernel> {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(letter) {
            return Err(wrong(
                name,
                "the name is no identifier",
                "begin it with a letter, and go on with letters, digits and `_`",
            ));
        }
        Ok(Kernel { name: name.to_owned(), instances: vec![] })
    }

    /// Adds the kernel for one choice of dtypes.
    ///
    /// # Errors
    /// A function that is not of tensors alone, and programs whose parameters are not the function's.
    pub fn instance(mut self, function: Graph, candidates: Vec<Candidate>) -> Result<Kernel> {
        let what = |e: &dyn Display| {
            wrong(
                &self.name,
                &format!("the function `{}`: {e}", function.name),
                "implement a function that the pattern can be",
            )
        };
        kiln_graph::verify(&function).map_err(|e| what(&e))?;
        if function.nodes.iter().any(|node| matches!(node.op, Op::Weight { .. })) {
            return Err(what(&"it has weights of its own, and takes only tensors that it is given"));
        }
        if candidates.is_empty() {
            return Err(wrong(&self.name, "there is no Config", "let the space have one at least"));
        }
        let mut seen = BTreeSet::new();
        for candidate in &candidates {
            if !seen.insert(candidate.config.to_string()) {
                let what = format!("the Config {} is there twice", candidate.config);
                return Err(wrong(&self.name, &what, "let the space have each once"));
            }
            signature(&function, candidate).map_err(|what| {
                let what = format!("the program of {}: {what}", describe(&candidate.config));
                wrong(&self.name, &what, &format!("give it the parameters of `{}`", function.name))
            })?;
        }
        let pattern = Pattern::new(&self.name, &function).map_err(|e| what(&e))?;
        self.instances.push(Instance { function, pattern: pattern.into(), candidates });
        Ok(self)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One for each choice of dtypes.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The patterns of all instances.
    pub fn patterns(&self) -> impl Iterator<Item = Arc<Pattern>> {
        self.instances.iter().map(|instance| instance.pattern.clone())
    }
}

impl Instance {
    /// The dtype of its first tensor, by which people tell instances apart.
    pub fn dtype(&self) -> Option<DType> {
        self.function.inputs.first().map(|v| self.function.ty(*v).dtype)
    }

    /// The types of all inputs, and of all outputs.
    pub fn types(&self) -> (Vec<&TensorType>, Vec<&TensorType>) {
        let graph = &self.function;
        let inputs = graph.inputs.iter().map(|v| graph.ty(*v)).collect();
        (inputs, graph.outputs.iter().map(|(_, v)| graph.ty(*v)).collect())
    }
}

/// A Config for people: `bm 64, bn 128`.
pub fn describe(config: &Value) -> String {
    let Some(fields) = config.as_object() else { return config.to_string() };
    let mut text = String::new();
    for (name, value) in fields {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{name} {value}");
    }
    text
}

fn wrong(kernel: &str, what: &str, help: &str) -> Error {
    Error::Own { kernel: kernel.to_owned(), what: what.to_owned(), help: help.to_owned() }
}

/// Checks that a program has the parameters of a function: dims that are its symbols, its inputs in order, then its outputs.
fn signature(function: &Graph, candidate: &Candidate) -> std::result::Result<(), String> {
    let program = &candidate.program;
    if program.level != Level::Tile {
        return Err(format!("it is at level {}, expected {}", program.level.name(), Level::Tile.name()));
    }
    verify(program).map_err(|e| e.to_string())?;
    let known: BTreeSet<&str> = function.symbols.iter().map(|(name, _)| name).collect();
    let mut dims: HashMap<u32, Dim> = HashMap::new();
    let mut names = BTreeSet::new();
    let mut tensors = vec![];
    for param in &program.params {
        match param {
            Param::Scalar { var, .. } => {
                if var.ty.element().is_some() || !known.contains(&*var.name) || !names.insert(&*var.name) {
                    let known: Vec<&str> = known.iter().copied().collect();
                    return Err(format!(
                        "the parameter `{}` is {}, expected each of the dims {} once at most",
                        var.name,
                        var.ty,
                        known.join(", ")
                    ));
                }
                dims.insert(var.id, Dim::sym(&*var.name));
            }
            Param::Buffer { buffer, access } => tensors.push((buffer, *access)),
        }
    }
    let inputs = function.inputs.iter().map(|v| (function.input_name(*v), *v, Access::Read));
    let outputs = function.outputs.iter().map(|(name, v)| (name.clone(), *v, Access::Write));
    let expected: Vec<_> = inputs.chain(outputs).collect();
    if tensors.len() != expected.len() {
        return Err(format!("{} tensors, expected {}", tensors.len(), expected.len()));
    }
    let dims: HashMap<u32, &Dim> = dims.iter().map(|(id, dim)| (*id, dim)).collect();
    for ((buffer, access), (name, v, how)) in tensors.into_iter().zip(expected) {
        let ty = function.ty(v);
        let shape: Option<Vec<Dim>> = buffer.shape.iter().map(|e| dim_of(e, &dims)).collect();
        let strides: Option<Vec<Dim>> = buffer.strides.iter().map(|e| dim_of(e, &dims)).collect();
        let found = shape.clone().map(|shape| TensorType { dtype: buffer.dtype, shape });
        if found.as_ref() != Some(ty) {
            let found = found.map_or("of another shape".to_owned(), |ty| ty.to_string());
            return Err(format!("the tensor `{}` is {found}, expected {ty} for `{name}`", buffer.name));
        }
        let dense = (0..ty.rank()).map(|axis| ty.shape[axis + 1..].iter().fold(Dim::from(1), |n, d| n * d.clone()));
        if strides.is_none_or(|strides| !strides.into_iter().eq(dense)) {
            return Err(format!("the tensor `{}` is not row-major", buffer.name));
        }
        if access != how {
            return Err(format!("the tensor `{}` is {access:?}, expected {how:?} for `{name}`", buffer.name));
        }
    }
    Ok(())
}
