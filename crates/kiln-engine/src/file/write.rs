//! Writing an engine.

use super::header::{Header, ImageRecord, KernelRecord, Section, Stamp, TargetHeader, VariantRecord, WeightEntry};
use super::{FORMAT, HEADER_AT, MAGIC, PAGE, TENSOR};
use crate::engine::{Engine, Image, TargetImage};
use crate::{Error, Result};
use bytes::Bytes;
use kiln_host::Cache;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

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

impl Engine {
    /// Saves an engine, whole or not at all; what is there and is no regular file is refused.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let _span = tracing::info_span!("save", path = %path.display()).entered();
        let contents = Contents::of(self)?;
        kiln_host::write(path, |file| contents.write(file)).map_err(|source| io(path, source))
    }

    /// Saves an engine as an entry of a cache, and says where it is.
    pub fn save_in(&self, cache: &Cache, name: &str) -> Result<PathBuf> {
        let _span = tracing::info_span!("save", name).entered();
        let contents = Contents::of(self)?;
        cache.put(name, |file| contents.write(file)).map_err(|source| io(&cache.folder().join(name), source))
    }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { action: "write", path: path.to_owned(), source }
}

/// All of a file.
struct Contents {
    header: Header,
    /// The header as JSON.
    json: Vec<u8>,
    sections: Vec<Content>,
}

impl Contents {
    fn of(engine: &Engine) -> Result<Contents> {
        let mut sections: Vec<Content> = vec![json_free("graph", engine.graph_text.clone().into())];
        let mut targets = Vec::new();
        for image in &engine.targets {
            targets.push(target_sections(image, &mut sections)?);
        }
        sections.push(json_free("refit", json(&engine.refit)?.into()));
        let (weights, sources) = match engine.stripped {
            true => (Vec::new(), Vec::new()),
            false => weight_section(engine, &mut sections),
        };
        let mut header = Header {
            stamp: Stamp {
                format: FORMAT,
                kiln: engine.kiln.clone(),
                graph_hash: engine.graph_hash.clone(),
                settings: engine.settings.clone(),
            },
            model: engine.model.clone(),
            inputs: engine.inputs.clone(),
            outputs: engine.outputs.clone(),
            symbols: engine.symbols.clone(),
            targets,
            stripped: engine.stripped,
            weights,
            sources,
            sections: sections
                .iter()
                .map(|s| Section { name: s.name.clone(), offset: 0, length: s.length(), blake3: s.hash() })
                .collect(),
        };
        // Offsets are part of the header, and its length moves them: repeat until it holds still (digits only grow).
        loop {
            let json = json(&header)?;
            let mut at = (HEADER_AT + json.len()).next_multiple_of(PAGE);
            let mut moved = false;
            for section in &mut header.sections {
                moved |= section.offset != at;
                section.offset = at;
                at = (at + section.length).next_multiple_of(PAGE);
            }
            if !moved {
                return Ok(Contents { header, json, sections });
            }
        }
    }

    fn write(&self, file: &mut File) -> std::io::Result<()> {
        let mut out = BufWriter::new(&mut *file);
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        out.write_all(&[0; 4])?;
        out.write_all(&(self.json.len() as u64).to_le_bytes())?;
        out.write_all(blake3::hash(&self.json).as_bytes())?;
        out.write_all(&self.json)?;
        let mut at = HEADER_AT + self.json.len();
        for (section, place) in self.sections.iter().zip(&self.header.sections) {
            out.write_all(&vec![0; place.offset - at])?;
            for piece in &section.pieces {
                out.write_all(piece)?;
            }
            at = place.offset + place.length;
        }
        out.flush()?;
        drop(out);
        file.sync_all()
    }
}

fn json_free(name: &str, data: Bytes) -> Content {
    Content { name: name.to_owned(), pieces: vec![data] }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::Internal { place: "the engine writer".into(), message: format!("cannot serialize: {e}") })
}

fn target_sections(image: &TargetImage, sections: &mut Vec<Content>) -> Result<TargetHeader> {
    let label = image.label();
    let plan = Bytes::from(json(&image.plan)?);
    // Targets often share a plan: equal ones are stored once.
    let shared = sections.iter().find(|s| s.name.starts_with("plan.") && s.pieces == [plan.clone()]);
    let plan_name = match shared {
        Some(s) => s.name.clone(),
        None => {
            let name = format!("plan.{label}");
            sections.push(json_free(&name, plan));
            name
        }
    };
    let mut config = blake3::Hasher::new();
    let mut code = Content { name: format!("code.{label}"), pieces: Vec::new() };
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
    for (&region, compiled) in &image.kernels {
        let mut variants = Vec::new();
        for variant in &compiled.variants {
            let implementation = variant.implementation.clone();
            config.update(implementation.config.to_string().as_bytes());
            for kernel in &implementation.kernels {
                config.update(kernel.source.as_bytes());
            }
            let image = |i: &Image| ImageRecord { cubin: put(&i.cubin), ptx: put(&i.ptx), resources: i.resources };
            let images = variant.images.iter().map(image).collect();
            variants.push(VariantRecord { guard: variant.guard.clone(), implementation, images });
        }
        records.push(KernelRecord { region, variants });
    }
    let (kernels, code_name) = if image.toolchain.is_some() {
        let name = format!("kernels.{label}");
        sections.push(json_free(&name, json(&records)?.into()));
        let code_name = code.name.clone();
        sections.push(code);
        (Some(name), Some(code_name))
    } else {
        (None, None)
    };
    Ok(TargetHeader {
        target: image.target.clone(),
        gpu: image.gpu.clone(),
        toolchain: image.toolchain.clone(),
        config_hash: config.finalize().to_hex().to_string(),
        plan: plan_name,
        kernels,
        code: code_name,
    })
}

/// The section of all weights, and where the engine's and the model's lie in it.
fn weight_section(engine: &Engine, sections: &mut Vec<Content>) -> (Vec<WeightEntry>, Vec<WeightEntry>) {
    let mut content = Content { name: "weights".into(), pieces: Vec::new() };
    let mut entries = Vec::new();
    let mut at = 0usize;
    // Plans of different targets may name one tensor differently: its bytes are stored once.
    let mut stored: HashMap<blake3::Hash, usize> = HashMap::new();
    for (name, tensor) in engine.weights.iter().chain(&engine.sources) {
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
    let sources = entries.split_off(engine.weights.len());
    (entries, sources)
}
