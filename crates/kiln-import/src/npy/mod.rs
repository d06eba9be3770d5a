//! NumPy files: `.npy` (one array) and `.npz` (a zip of named arrays) to tensors and back.
//!
//! NumPy has no name for bf16, 8-bit floats and 4-bit integers. They are written as the package `ml_dtypes` writes them: bf16 as `<V2`, the others as `<V1`, 4-bit
//! integers one a byte in its low half; in Python `np.load(file).view(ml_dtypes.bfloat16)` has them back. What `V1` holds the file does not say: who reads it has to.
//!
//! An array takes its own size of memory, once, and that only after its header, the
//! bytes there are and the machine's memory agree that it can.

mod header;
#[cfg(test)]
mod tests;

use crate::nibbles;
use crate::{Error, Result};
use bytes::Bytes;
use header::{Header, Stored};
use kiln_graph::{DType, Tensor};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// [`load_as`] where no dtype is expected.
pub fn load(path: &Path) -> Result<Tensor> {
    load_as(path, None)
}

/// Reads a `.npy` file. `expected` is the dtype that an array of bytes without one (`V1`) has, and makes 4-bit integers of an array of `int8` or `uint8`;
/// any other array has the dtype that its file says.
pub fn load_as(path: &Path, expected: Option<DType>) -> Result<Tensor> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = kiln_host::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    read(file, size, &path.display().to_string(), expected)
}

/// Reads the bytes of a `.npy` file that messages call `what`.
pub fn from_bytes(bytes: &[u8], what: &str) -> Result<Tensor> {
    read(bytes, bytes.len() as u64, what, None)
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

    /// [`Npz::array_as`] where no dtype is expected.
    pub fn array(&mut self, name: &str) -> Result<Tensor> {
        self.array_as(name, None)
    }

    /// Inflates one array, and no further than its dtype and shape say. `expected` as for [`load_as`].
    pub fn array_as(&mut self, name: &str, expected: Option<DType>) -> Result<Tensor> {
        let what = format!("{}, array `{name}`", self.what);
        let entry = self.archive.by_name(&format!("{name}.npy")).map_err(|e| Error::malformed(&what, e))?;
        // Deflate expands at most about 1032 times: a size beyond that is a lie, whoever tells it.
        let most = entry.compressed_size().min(self.size).saturating_mul(1032).saturating_add(4096);
        read(entry, most, &what, expected)
    }
}

/// Reads an array from bytes, of which there are at most `most`.
fn read(mut from: impl Read, most: u64, what: &str, expected: Option<DType>) -> Result<Tensor> {
    let header = Header::read(&mut from, what)?;
    let Header { stored, shape, bytes, at } = header;
    let wrong = |found: String| Error::malformed(what, format!("{stored}{shape:?} takes {bytes} bytes, and {found}"));
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
    let narrow = expected.filter(|dtype| dtype.bits() == 4);
    match (stored, narrow) {
        (Stored::Named(dtype), _) => nibbles::declared(Tensor::new(dtype, shape, Bytes::from(data))?, expected),
        // The one dtype of two bytes that NumPy does not know.
        (Stored::Opaque(2), _) => Ok(Tensor::new(DType::BF16, shape, Bytes::from(data))?),
        (Stored::Opaque(_), Some(dtype)) => nibbles::pack(dtype, shape, &data),
        (Stored::Opaque(_), None) => match expected {
            Some(dtype @ (DType::F8E4M3 | DType::F8E5M2)) => Ok(Tensor::new(dtype, shape, Bytes::from(data))?),
            _ => Err(Error::malformed(
                what,
                format!(
                    "its elements are bytes of a dtype that the file does not name (V1, as ml_dtypes writes 8-bit floats and 4-bit integers){}; \
                     use safetensors for 8-bit floats, int8 or uint8 for 4-bit integers, or cast to float32",
                    expected.map_or(String::new(), |dtype| format!(", and {dtype} is expected"))
                ),
            )),
        },
    }
}

fn descriptor(dtype: DType) -> &'static str {
    match dtype {
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
        DType::BF16 => "<V2",
        DType::F8E4M3 | DType::F8E5M2 | DType::I4 | DType::U4 => "<V1",
    }
}

/// Writes a `.npy` file, whole or not at all; what is there and is no regular file is refused.
pub fn save(path: &Path, tensor: &Tensor) -> Result<()> {
    let header = header(tensor)?;
    kiln_host::write(path, |file| write(file, &header, tensor))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Writes a `.npz` file of named arrays, as [`save`] does and `numpy.savez`: uncompressed.
pub fn save_npz(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let headers = tensors.iter().map(|(_, tensor)| header(tensor)).collect::<Result<Vec<_>>>()?;
    kiln_host::write(path, |file| {
        let mut archive = zip::ZipWriter::new(file);
        for ((name, tensor), header) in tensors.iter().zip(&headers) {
            let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            // Sizes of 4 GiB and more take wider fields, which have to be asked for.
            let options = options.large_file(tensor.len().saturating_mul(8) >> 31 > 0);
            archive.start_file(format!("{name}.npy"), options)?;
            write(&mut archive, header, tensor)?;
        }
        archive.finish()?;
        Ok(())
    })
    .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// What stands before the data.
fn header(tensor: &Tensor) -> Result<Vec<u8>> {
    let descriptor = descriptor(tensor.dtype());
    let shape = match tensor.shape() {
        [one] => format!("{one},"),
        shape => shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut text = format!("{{'descr': '{descriptor}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64.
    let total = (10 + text.len() + 1).next_multiple_of(64);
    text.push_str(&" ".repeat(total - 11 - text.len()));
    text.push('\n');
    Ok([b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat())
}

fn write(to: &mut impl Write, header: &[u8], tensor: &Tensor) -> std::io::Result<()> {
    to.write_all(header)?;
    match tensor.dtype().bits() {
        4 => to.write_all(&nibbles::unpack(tensor)),
        _ => to.write_all(tensor.data()),
    }
}
