//! Reading an engine: every length and offset is checked against the file before it is used.

use super::header::{Header, KernelRecord, Portable, Section, VariantRecord, WeightEntry};
use super::{FORMAT, HEADER_AT, MAGIC, PAGE, PublicKey, TENSOR, map};
use crate::engine::{Compiled, Engine, Image, Settings, TargetImage, Variant};
use crate::refit::Refit;
use crate::{Error, Result, packed, validate};
use bytes::Bytes;
use kiln_graph::{Graph, Op, Tensor};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;

/// Maps an engine and reads its header only.
pub fn read_header(path: &Path) -> Result<Header> {
    let file = map::map(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    header(&file, path)
}

impl Engine {
    /// Maps an engine. Weights stay in the mapped file; every section is checked against its hash.
    pub fn load(path: impl AsRef<Path>) -> Result<Engine> {
        let path = path.as_ref();
        let file = map::map(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        parse(&file, path)
    }

    /// [`Engine::load`] for an engine that `key` signed: its signature is checked before anything else of the file is looked at.
    ///
    /// # Errors
    /// [`Error::Signature`], and what loading reports.
    pub fn load_signed(path: impl AsRef<Path>, key: &PublicKey) -> Result<Engine> {
        let path = path.as_ref();
        let file = map::map(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        key.verify(&file, path)?;
        parse(&file, path)
    }
}

fn corrupt(path: &Path, message: impl Into<String>) -> Error {
    Error::Corrupt { path: path.to_owned(), message: message.into() }
}

/// An unsigned little-endian number of the fixed part of a file.
fn word(file: &[u8], at: usize, n: usize) -> u64 {
    file.iter().skip(at).take(n).rev().fold(0u64, |v, &b| v << 8 | u64::from(b))
}

/// Checks that the file is an engine of this version of the format.
pub(crate) fn format(file: &[u8], path: &Path) -> Result<()> {
    if file.len() < HEADER_AT || !file.starts_with(MAGIC) {
        return Err(corrupt(
            path,
            format!("expected the magic bytes KILNENG at the start, in a file of {} bytes", file.len()),
        ));
    }
    let format = word(file, 8, 4);
    if format != u64::from(FORMAT) {
        return Err(Error::Mismatch {
            path: path.to_owned(),
            field: "format version",
            expected: FORMAT.to_string(),
            found: format.to_string(),
            fix: "build the engine again with this version of Kiln, or use the version that built it".into(),
        });
    }
    Ok(())
}

/// What is wanted of the header of a file, whatever version of Kiln wrote it.
pub(crate) fn header_of<T: DeserializeOwned>(file: &[u8], path: &Path) -> Result<T> {
    let length = usize::try_from(word(file, 16, 8)).unwrap_or(usize::MAX);
    let Some(json) = HEADER_AT.checked_add(length).and_then(|end| file.get(HEADER_AT..end)) else {
        return Err(corrupt(
            path,
            format!("the header has {length} bytes, the whole file {}; it is truncated", file.len()),
        ));
    };
    let hash = blake3::hash(json);
    if hash.as_bytes()[..] != file[24..56] {
        return Err(corrupt(path, "the header does not match its hash"));
    }
    serde_json::from_slice(json).map_err(|e| corrupt(path, format!("header: {e}")))
}

/// Checks that this version of Kiln wrote the file.
pub(crate) fn version(header: &Header, path: &Path) -> Result<()> {
    if header.stamp.kiln == env!("CARGO_PKG_VERSION") {
        return Ok(());
    }
    Err(Error::Mismatch {
        path: path.to_owned(),
        field: "Kiln version",
        expected: env!("CARGO_PKG_VERSION").into(),
        found: header.stamp.kiln.clone(),
        fix: "build the engine again with this version of Kiln, or use the version that built it".into(),
    })
}

fn header(file: &Bytes, path: &Path) -> Result<Header> {
    format(file, path)?;
    let header: Header = header_of(file, path)?;
    version(&header, path)?;
    Ok(header)
}

/// Reads an engine from bytes, which its weights then share; `path` is for messages.
pub fn parse(file: &Bytes, path: &Path) -> Result<Engine> {
    let _span = tracing::info_span!("load", path = %path.display()).entered();
    let header = header(file, path)?;
    let mut sections = Vec::with_capacity(header.sections.len());
    for section in &header.sections {
        sections.push(contents(file, section, path)?);
    }
    assemble(header, sections, path)
}

/// An engine of the contents of its header's sections.
pub(crate) fn assemble(header: Header, contents: Vec<Bytes>, path: &Path) -> Result<Engine> {
    let mut sections: BTreeMap<&str, Bytes> = BTreeMap::new();
    for (section, contents) in header.sections.iter().zip(contents) {
        if sections.insert(&section.name, contents).is_some() {
            return Err(corrupt(path, format!("section `{}` occurs twice", section.name)));
        }
    }
    let get =
        |name: &str| sections.get(name).cloned().ok_or_else(|| corrupt(path, format!("section `{name}` is missing")));
    let mut targets = Vec::new();
    for t in &header.targets {
        let plan: kiln_fuse::Plan =
            serde_json::from_slice(&get(&t.plan)?).map_err(|e| corrupt(path, format!("section `{}`: {e}", t.plan)))?;
        let kernels = match (&t.kernels, &t.code) {
            (Some(kernels), Some(code)) => {
                let (json, code) = (get(kernels)?, get(code)?);
                let records: Vec<KernelRecord> =
                    serde_json::from_slice(&json).map_err(|e| corrupt(path, format!("section `{kernels}`: {e}")))?;
                let mut found = BTreeMap::new();
                for record in records {
                    let region = record.region;
                    if found.insert(region, compiled(record, &code, path)?).is_some() {
                        return Err(corrupt(path, format!("{}: the kernels of region {region} occur twice", t.target)));
                    }
                }
                found
            }
            _ => BTreeMap::new(),
        };
        validate::plan(&plan, &t.target, &kernels).map_err(|message| corrupt(path, message))?;
        validate::signature(&plan, &header.inputs, &header.outputs).map_err(|message| corrupt(path, message))?;
        let image =
            TargetImage { target: t.target.clone(), gpu: t.gpu.clone(), toolchain: t.toolchain.clone(), plan, kernels };
        if targets.iter().any(|other: &TargetImage| other.label() == image.label()) {
            return Err(corrupt(path, format!("target {} occurs twice", image.label())));
        }
        targets.push(image);
    }
    validate::symbols(&header.symbols).map_err(|message| corrupt(path, message))?;
    let refit: Refit =
        serde_json::from_slice(&get("refit")?).map_err(|e| corrupt(path, format!("section `refit`: {e}")))?;
    refit.check().map_err(|message| corrupt(path, message))?;
    let data = if header.stripped { Bytes::new() } else { get("weights")? };
    if header.stripped && !header.weights.is_empty() {
        return Err(corrupt(path, "it is without weights, and says where they are"));
    }
    let weights = tensors(&header.weights, &data, path)?;
    let sources = tensors(&header.sources, &data, path)?;
    if !sources.is_empty() {
        refit.expect(&sources).map_err(|e| corrupt(path, e.to_string()))?;
    }
    for target in targets.iter().filter(|_| !header.stripped) {
        validate::weights(&target.plan, &weights).map_err(|message| corrupt(path, message))?;
        packed::check(&target.plan, &target.kernels, &weights).map_err(|message| corrupt(path, message))?;
    }
    let graph_text =
        String::from_utf8(get("graph")?.to_vec()).map_err(|e| corrupt(path, format!("section `graph`: {e}")))?;
    Ok(Engine {
        model: header.model,
        kiln: header.stamp.kiln,
        graph_hash: header.stamp.graph_hash,
        settings: header.stamp.settings,
        graph_text,
        inputs: header.inputs,
        outputs: header.outputs,
        symbols: header.symbols,
        targets,
        weights,
        sources,
        stripped: header.stripped,
        refit,
        path: path.to_owned(),
    })
}

/// The tensors that lie in a section.
fn tensors(entries: &[WeightEntry], data: &Bytes, path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut all = BTreeMap::new();
    for w in entries {
        let bytes = w.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).and_then(|n| w.dtype.bytes_for(n));
        if w.offset % TENSOR != 0 {
            return Err(corrupt(
                path,
                format!("weight `{}` lies at {}; expected a multiple of {TENSOR}", w.name, w.offset),
            ));
        }
        let range = bytes.and_then(|b| Some(w.offset..w.offset.checked_add(b)?)).filter(|r| r.end <= data.len());
        let Some(range) = range else {
            return Err(corrupt(path, format!("weight `{}` leaves its section of {} bytes", w.name, data.len())));
        };
        let tensor = Tensor::new(w.dtype, w.shape.clone(), data.slice(range))?;
        if all.insert(w.name.clone(), tensor).is_some() {
            return Err(corrupt(path, format!("weight `{}` occurs twice", w.name)));
        }
    }
    Ok(all)
}

/// The model that an engine of any version keeps, and how it was built; `None` if it keeps none.
pub(crate) fn model(file: &Bytes, path: &Path) -> Result<Option<(Graph, Settings)>> {
    if file.len() < HEADER_AT || !file.starts_with(MAGIC) {
        format(file, path)?;
    }
    let Portable { stamp, sources, sections } = header_of(file, path)?;
    let section = |name: &str| match sections.iter().find(|section| section.name == name) {
        Some(section) => contents(file, section, path),
        None => Err(corrupt(path, format!("section `{name}` is missing"))),
    };
    let text = section("graph")?;
    let text = std::str::from_utf8(&text).map_err(|e| corrupt(path, format!("section `graph`: {e}")))?;
    let mut graph: Graph = text.parse().map_err(|e| corrupt(path, format!("section `graph`: {e}")))?;
    let weighs = graph.nodes.iter().any(|node| matches!(node.op, Op::Weight { .. }));
    if weighs && sources.is_empty() {
        return Ok(None);
    }
    if !sources.is_empty() {
        graph.weights = tensors(&sources, &section("weights")?, path)?;
    }
    kiln_graph::verify(&graph).map_err(|e| corrupt(path, format!("section `graph`: {e}")))?;
    Ok(Some((graph, stamp.settings)))
}

/// The bytes of a section, checked against its hash.
pub(crate) fn contents(file: &Bytes, section: &Section, path: &Path) -> Result<Bytes> {
    let Section { name, offset, length, blake3 } = section;
    let Some(end) = offset.checked_add(*length).filter(|&end| end <= file.len()) else {
        return Err(corrupt(
            path,
            format!("section `{name}` has {length} bytes at {offset}, the whole file {}; it is truncated", file.len()),
        ));
    };
    let data = file.slice(*offset..end);
    if offset % PAGE != 0 {
        return Err(corrupt(path, format!("section `{name}` lies at {offset}; expected a multiple of {PAGE}")));
    }
    let found = blake3::Hasher::new().update_rayon(&data).finalize().to_hex();
    if found.as_str() != blake3 {
        return Err(corrupt(
            path,
            format!("section `{name}` does not match its hash: expected {blake3}, found {found}"),
        ));
    }
    Ok(data)
}

fn compiled(record: KernelRecord, code: &Bytes, path: &Path) -> Result<Compiled> {
    let cut = |(at, length): (usize, usize)| {
        at.checked_add(length).filter(|&end| end <= code.len()).map(|end| code.slice(at..end)).ok_or_else(|| {
            corrupt(path, format!("a kernel's code at {at}, {length} bytes, leaves its section of {}", code.len()))
        })
    };
    let variant = |VariantRecord { guard, implementation, images }: VariantRecord| {
        let images = images
            .iter()
            .map(|i| Ok(Image { cubin: cut(i.cubin)?, ptx: cut(i.ptx)?, resources: i.resources }))
            .collect::<Result<Vec<_>>>()?;
        Ok(Variant { guard, implementation, images })
    };
    Ok(Compiled { variants: record.variants.into_iter().map(variant).collect::<Result<_>>()? })
}
