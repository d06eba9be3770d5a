//! Writing an engine: to a temporary file beside the target, then renamed.

use super::header::{Header, ImageRecord, KernelRecord, Section, Stamp, TargetHeader, WeightEntry};
use super::{FORMAT, HEADER_AT, MAGIC, PAGE, TENSOR};
use crate::engine::{Engine, TargetImage};
use crate::{Error, Result};
use bytes::Bytes;
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Contents of a section: pieces that lie one after the other.
struct Content {
    name: String,
    pieces: Vec<Bytes>,
}

impl Content {
    fn length(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for piece in &self.pieces {
            hasher.update_rayon(piece);
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Saves an engine. An existing file stays as it is until the new one is complete.
pub fn save(engine: &Engine, path: &Path) -> Result<()> {
    let mut sections: Vec<Content> = vec![json_free("graph", engine.graph_text.clone().into())];
    let mut targets = Vec::new();
    for image in &engine.targets {
        targets.push(target_sections(image, &mut sections)?);
    }
    let weights = weight_section(engine, &mut sections);
    let mut header = Header {
        stamp: Stamp { format: FORMAT, kiln: engine.kiln.clone(), graph_hash: engine.graph_hash.clone() },
        model: engine.model.clone(),
        inputs: engine.inputs.clone(),
        outputs: engine.outputs.clone(),
        symbols: engine.symbols.clone(),
        targets,
        weights,
        sections: sections
            .iter()
            .map(|s| Section { name: s.name.clone(), offset: 0, length: s.length(), blake3: s.hash() })
            .collect(),
    };
    // Offsets are part of the header, and its length moves them: repeat until it holds still (digits only grow).
    let bytes = loop {
        let bytes = json(&header)?;
        let mut at = (HEADER_AT + bytes.len()).next_multiple_of(PAGE);
        let mut moved = false;
        for section in &mut header.sections {
            moved |= section.offset != at;
            section.offset = at;
            at = (at + section.length).next_multiple_of(PAGE);
        }
        if !moved {
            break bytes;
        }
    };
    let io = |source| Error::Io { action: "write", path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    {
        let mut out = BufWriter::new(file.as_file_mut());
        out.write_all(MAGIC).map_err(io)?;
        out.write_all(&FORMAT.to_le_bytes()).map_err(io)?;
        out.write_all(&[0; 4]).map_err(io)?;
        out.write_all(&(bytes.len() as u64).to_le_bytes()).map_err(io)?;
        out.write_all(blake3::hash(&bytes).as_bytes()).map_err(io)?;
        out.write_all(&bytes).map_err(io)?;
        let mut at = HEADER_AT + bytes.len();
        for (section, place) in sections.iter().zip(&header.sections) {
            out.write_all(&vec![0; place.offset - at]).map_err(io)?;
            for piece in &section.pieces {
                out.write_all(piece).map_err(io)?;
            }
            at = place.offset + place.length;
        }
        out.flush().map_err(io)?;
    }
    file.as_file().sync_all().map_err(io)?;
    set_permissions(&file).map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

#[cfg(unix)]
fn set_permissions(file: &tempfile::NamedTempFile) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_permissions(_: &tempfile::NamedTempFile) -> std::io::Result<()> {
    Ok(())
}

fn json_free(name: &str, data: Bytes) -> Content {
    Content { name: name.to_owned(), pieces: vec![data] }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::Internal { place: "the engine writer".into(), message: format!("cannot serialize: {e}") })
}

fn target_sections(image: &TargetImage, sections: &mut Vec<Content>) -> Result<TargetHeader> {
    let plan = Bytes::from(json(&image.plan)?);
    // Targets often share a plan: equal ones are stored once.
    let shared = sections.iter().find(|s| s.name.starts_with("plan.") && s.pieces == [plan.clone()]);
    let plan_name = match shared {
        Some(s) => s.name.clone(),
        None => {
            let name = format!("plan.{}", image.target);
            sections.push(json_free(&name, plan));
            name
        }
    };
    let mut config = blake3::Hasher::new();
    let mut code = Content { name: format!("code.{}", image.target), pieces: Vec::new() };
    let mut at = 0;
    let mut put = |data: &Bytes| {
        let range = (at, data.len());
        code.pieces.push(data.clone());
        // cubins are ELF files: keep each 16-byte aligned.
        let end = at + data.len();
        at = end.next_multiple_of(16);
        code.pieces.push(Bytes::from(vec![0; at - end]));
        range
    };
    let mut records = Vec::new();
    for compiled in &image.kernels {
        config.update(compiled.implementation.config.to_string().as_bytes());
        for kernel in &compiled.implementation.kernels {
            config.update(kernel.source.as_bytes());
        }
        let images = compiled
            .images
            .iter()
            .map(|i| ImageRecord { cubin: put(&i.cubin), ptx: put(&i.ptx), resources: i.resources })
            .collect();
        records.push(KernelRecord { implementation: compiled.implementation.clone(), images });
    }
    let (kernels, code_name) = if image.toolchain.is_some() {
        let name = format!("kernels.{}", image.target);
        sections.push(json_free(&name, json(&records)?.into()));
        let code_name = code.name.clone();
        sections.push(code);
        (Some(name), Some(code_name))
    } else {
        (None, None)
    };
    Ok(TargetHeader {
        target: image.target.clone(),
        toolchain: image.toolchain.clone(),
        config_hash: config.finalize().to_hex().to_string(),
        plan: plan_name,
        kernels,
        code: code_name,
    })
}

fn weight_section(engine: &Engine, sections: &mut Vec<Content>) -> Vec<WeightEntry> {
    let mut content = Content { name: "weights".into(), pieces: Vec::new() };
    let mut entries = Vec::new();
    let mut at = 0usize;
    // Plans of different targets may name one tensor differently: its bytes are stored once.
    let mut stored: HashMap<blake3::Hash, usize> = HashMap::new();
    for (name, tensor) in &engine.weights {
        let hash = blake3::Hasher::new().update_rayon(tensor.data()).finalize();
        let offset = *stored.entry(hash).or_insert(at);
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        entries.push(WeightEntry { name: name.clone(), dtype, shape, offset });
        if offset != at {
            continue;
        }
        content.pieces.push(tensor.data().clone());
        let end = at + tensor.data().len();
        at = end.next_multiple_of(TENSOR);
        content.pieces.push(Bytes::from(vec![0; at - end]));
    }
    sections.push(content);
    entries
}
