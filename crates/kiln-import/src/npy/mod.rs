//! NumPy files: `.npy` (one array) and `.npz` (a zip of named arrays) to tensors and back.
//!
//! bf16, 8-bit floats and 4-bit integers have no NumPy dtype and are refused. An array takes its own size of memory, once, and that only after its header, the
//! bytes there are and the machine's memory agree that it can.

mod header;
#[cfg(test)]
mod tests;

use crate::{Error, Result};
use bytes::Bytes;
use header::Header;
use kiln_graph::{DType, Tensor};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Reads a `.npy` file.
pub fn load(path: &Path) -> Result<Tensor> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = kiln_host::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    read(file, size, &path.display().to_string())
}

/// Reads the bytes of a `.npy` file that messages call `what`.
pub fn from_bytes(bytes: &[u8], what: &str) -> Result<Tensor> {
    read(bytes, bytes.len() as u64, what)
}

/// Reads all arrays of a `.npz` file, in the order of the archive.
pub fn load_npz(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let mut archive = Npz::open(path)?;
    let names = archive.names().to_vec();
    names.into_iter().map(|name| Ok((name.clone(), archive.array(&name)?))).collect()
}

/// A `.npz` file whose arrays are read when they are asked for.
pub struct Npz<R> {
    archive: zip::ZipArchive<R>,
    names: Vec<String>,
    size: u64,
    what: String,
}

impl Npz<BufReader<File>> {
    /// Opens an archive and reads its directory.
    pub fn open(path: &Path) -> Result<Self> {
        let file = kiln_host::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Npz::new(BufReader::new(file), path.display().to_string())
    }
}

impl<R: Read + Seek> Npz<R> {
    /// Reads the directory of an archive that messages call `what`.
    pub fn new(mut from: R, what: String) -> Result<Self> {
        let size = from.seek(SeekFrom::End(0)).map_err(|e| Error::malformed(&what, e))?;
        let archive = zip::ZipArchive::new(from).map_err(|e| Error::malformed(&what, e))?;
        let mut names = Vec::new();
        for name in archive.file_names() {
            let name = name.map_err(|e| Error::malformed(&what, e))?;
            names.extend(name.strip_suffix(".npy").map(str::to_owned));
        }
        Ok(Npz { archive, names, size, what })
    }

    /// Names of the arrays, in the order of the archive.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Inflates one array, and no further than its dtype and shape say.
    pub fn array(&mut self, name: &str) -> Result<Tensor> {
        let what = format!("{}, array `{name}`", self.what);
        let entry = self.archive.by_name(&format!("{name}.npy")).map_err(|e| Error::malformed(&what, e))?;
        // Deflate expands at most about 1032 times: a size beyond that is a lie, whoever tells it.
        let most = entry.compressed_size().min(self.size).saturating_mul(1032).saturating_add(4096);
        read(entry, most, &what)
    }
}

/// Reads an array from bytes, of which there are at most `most`.
fn read(mut from: impl Read, most: u64, what: &str) -> Result<Tensor> {
    let header = Header::read(&mut from, what)?;
    let Header { dtype, shape, bytes, at } = header;
    let wrong = |found: String| Error::malformed(what, format!("{dtype}{shape:?} takes {bytes} bytes, and {found}"));
    let room = most.saturating_sub(at as u64);
    if bytes as u64 > room {
        return Err(wrong(format!("there are at most {room}")));
    }
    let mut data = kiln_host::reserve(bytes).map_err(|e| Error::malformed(what, e))?;
    from.by_ref().take(bytes as u64).read_to_end(&mut data).map_err(|e| Error::malformed(what, e))?;
    if data.len() < bytes {
        return Err(wrong(format!("there are {}", data.len())));
    }
    // Reading on to the end also has the archive check the array's checksum.
    if from.read(&mut [0]).map_err(|e| Error::malformed(what, e))? > 0 {
        return Err(wrong("more follow".into()));
    }
    Ok(Tensor::new(dtype, shape, Bytes::from(data))?)
}

fn descriptor(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "<f8",
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::I64 => "<i8",
        DType::I32 => "<i4",
        DType::I16 => "<i2",
        DType::I8 => "|i1",
        DType::U64 => "<u8",
        DType::U32 => "<u4",
        DType::U16 => "<u2",
        DType::U8 => "|u1",
        DType::Bool => "|b1",
        _ => return None,
    })
}

/// Writes a `.npy` file, whole or not at all; what is there and is no regular file is refused.
pub fn save(path: &Path, tensor: &Tensor) -> Result<()> {
    let Some(descriptor) = descriptor(tensor.dtype()) else {
        return Err(Error::Option(format!("NumPy has no dtype for {}; cast the output to f32", tensor.dtype())));
    };
    let shape: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '{descriptor}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64.
    let total = (10 + header.len() + 1).next_multiple_of(64);
    header.push_str(&" ".repeat(total - 11 - header.len()));
    header.push('\n');
    kiln_host::write(path, |file| {
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        file.write_all(tensor.data())
    })
    .map_err(|source| Error::Write { path: path.to_owned(), source })
}
