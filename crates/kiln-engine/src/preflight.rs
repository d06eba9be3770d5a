//! Whether an engine would run on a device, seen before anything is loaded: all that is in its way, not the first of it.

use crate::choose::{Code, for_device};
use crate::device::Device;
use crate::engine::{Engine, TargetImage};
use crate::file::{Header, assemble, contents, format, header_of, map, version};
use crate::schedule::activation_bytes;
use crate::{Error, PublicKey, Result, packed};
use bytes::Bytes;
use kiln_fuse::{Buffer, BufferKind};
use kiln_graph::Bindings;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Something that keeps an engine from running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What does not fit: `file`, `signature`, `format version`, `header`, `Kiln version`, `section NAME`, `contents`, `weights`, `target`, `driver`, `device memory`.
    pub field: String,
    /// What was expected and found, and what to do.
    pub message: String,
}

impl Finding {
    /// Of what an error says.
    pub fn new(field: impl Into<String>, error: &Error) -> Finding {
        let (field, message) = match error {
            Error::Mismatch { field, expected, found, fix, .. } => {
                ((*field).to_owned(), format!("expected {expected}, found {found}; {fix}"))
            }
            Error::Corrupt { message, .. } | Error::Signature { message, .. } => (field.into(), message.clone()),
            other => (field.into(), other.to_string()),
        };
        Finding { field, message }
    }
}

/// What [`preflight`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// What of the engine the device would run; `None` if nothing is chosen.
    pub code: Option<Code>,
    /// What is in the way; nothing if the engine runs.
    pub findings: Vec<Finding>,
}

/// Checks an engine as [`Engine::load`] and [`crate::Session::new`] would, without loading it on the device, and goes on after what it finds as far as that can be
/// read. Of shapes it takes the smallest of the profile.
///
/// With a key nothing is looked at of a file that it did not sign.
///
/// # Errors
/// The file cannot be opened.
pub fn preflight(path: &Path, device: Option<&dyn Device>, key: Option<&PublicKey>) -> Result<Preflight> {
    let file = map(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    if let Some(Err(e)) = key.map(|key| key.verify(&file, path)) {
        return Ok(Preflight { code: None, findings: vec![Finding::new("signature", &e)] });
    }
    Ok(check(&file, path, device))
}

fn check(file: &Bytes, path: &Path, device: Option<&dyn Device>) -> Preflight {
    let (mut findings, mut code) = (Vec::new(), None);
    if let Some(engine) = read(file, path, &mut findings) {
        let mut note = |field: &str, error: &Error| findings.push(Finding::new(field, error));
        if let Err(e) = engine.expect_weights() {
            note("weights", &e);
        }
        if let Some(device) = device {
            match for_device(&engine, device) {
                Ok((image, chosen)) => {
                    code = Some(chosen);
                    findings.extend(memory(&engine, image, device));
                }
                Err(e) => note("target", &e),
            }
        }
    }
    Preflight { code, findings }
}

/// The engine, unless something is in the way of reading it.
fn read(file: &Bytes, path: &Path, findings: &mut Vec<Finding>) -> Option<Engine> {
    let mut note = |field: String, error: Error| findings.push(Finding::new(field, &error));
    // Whatever follows is of another form.
    format(file, path).map_err(|e| note("file".into(), e)).ok()?;
    let header: Header = header_of(file, path).map_err(|e| note("header".into(), e)).ok()?;
    let known = version(&header, path).map_err(|e| note("Kiln version".into(), e)).is_ok();
    let sections: Vec<Bytes> = header
        .sections
        .iter()
        .filter_map(|section| {
            contents(file, section, path).map_err(|e| note(format!("section {}", section.name), e)).ok()
        })
        .collect();
    if !known || sections.len() < header.sections.len() {
        return None;
    }
    assemble(header, sections, path).map_err(|e| note("contents".into(), e)).ok()
}

/// Whether weights and the smallest activations fit on the device.
fn memory(engine: &Engine, image: &TargetImage, device: &dyn Device) -> Option<Finding> {
    let available = device.memory_bytes()?;
    let plan = &image.plan;
    let packed = packed::uses(plan, &image.kernels).ok()?;
    let names = packed::plain(plan, &image.kernels).into_iter().chain(packed.keys().map(String::as_str));
    // Those that were stripped take what their buffers say.
    let declared: BTreeMap<&str, usize> = plan.buffers.iter().filter_map(declared).collect();
    let bytes = |name: &str| match engine.weights.get(name) {
        Some(tensor) => tensor.data().len(),
        None => declared.get(name).copied().unwrap_or(0),
    };
    let weights = names.map(bytes).fold(0, usize::saturating_add);
    let smallest: Bindings = plan.symbols.iter().map(|(name, (low, _))| (name.to_owned(), low)).collect();
    // Shapes that cannot be counted are an error of the run that has them.
    let activations = activation_bytes(plan, &smallest).unwrap_or(0);
    let needed = weights.saturating_add(activations);
    let message = format!(
        "expected {needed} bytes, {weights} for weights and {activations} for activations of the smallest shapes, found {available} on {}",
        device.name()
    );
    (needed as u64 > available).then(|| Finding { field: "device memory".into(), message })
}

/// A weight's name and bytes by its buffer.
fn declared(buffer: &Buffer) -> Option<(&str, usize)> {
    let BufferKind::Weight(name) = &buffer.kind else { return None };
    let elements = buffer.ty.const_shape()?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let bytes = buffer.ty.dtype.bytes_for(elements).filter(|_| buffer.alias_of.is_none())?;
    Some((name, bytes))
}
