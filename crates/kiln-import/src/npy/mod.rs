//! NumPy files: `.npy` (one array) and `.npz` (a zip of named arrays) to tensors and back.
//!
//! bf16, 8-bit floats and 4-bit integers have no NumPy dtype and are refused.

use crate::{Error, Result};
use bytes::Bytes;
use kiln_graph::{DType, Tensor};
use npyz::{NpyHeader, Order, TypeChar};
use std::io::{Read, Write};
use std::path::Path;

/// Reads a `.npy` file.
pub fn load(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    parse(&bytes, &path.display().to_string())
}

/// Reads all arrays of a `.npz` file, in the order of the archive.
pub fn load_npz(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let what = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let size = file.metadata().map_err(|source| Error::Io { path: path.to_owned(), source })?.len();
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|e| Error::malformed(&what, e))?;
    let mut arrays = Vec::new();
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| Error::malformed(&what, e))?;
        let name = entry.name().map_err(|e| Error::malformed(&what, e))?.into_owned();
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else { continue };
        // Deflate expands at most about 1032 times: a declared size beyond that is a lie, and is not allocated.
        let limit = size.saturating_mul(1032).saturating_add(4096);
        let mut bytes = Vec::new();
        entry
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::malformed(format!("{what}, array `{name}`"), e))?;
        arrays.push((name.clone(), parse(&bytes, &format!("{what}, array `{name}`"))?));
    }
    Ok(arrays)
}

fn parse(bytes: &[u8], what: &str) -> Result<Tensor> {
    let mut rest = bytes;
    let header = NpyHeader::from_reader(&mut rest).map_err(|e| Error::malformed(what, e))?;
    let npyz::DType::Plain(ty) = header.dtype() else {
        return Err(Error::malformed(what, "structured arrays are not tensors"));
    };
    let dtype = match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 8) => DType::F64,
        (TypeChar::Float, 4) => DType::F32,
        (TypeChar::Float, 2) => DType::F16,
        (TypeChar::Int, 8) => DType::I64,
        (TypeChar::Int, 4) => DType::I32,
        (TypeChar::Int, 2) => DType::I16,
        (TypeChar::Int, 1) => DType::I8,
        (TypeChar::Uint, 8) => DType::U64,
        (TypeChar::Uint, 4) => DType::U32,
        (TypeChar::Uint, 2) => DType::U16,
        (TypeChar::Uint, 1) => DType::U8,
        (TypeChar::Bool, 1) => DType::Bool,
        _ => {
            return Err(Error::malformed(
                what,
                format!("dtype {ty} is not supported; use bool, an integer or a float dtype"),
            ));
        }
    };
    if ty.endianness() == npyz::Endianness::Big {
        return Err(Error::malformed(what, "big-endian data; save it with `.astype(a.dtype.newbyteorder('<'))`"));
    }
    let shape = header
        .shape()
        .iter()
        .map(|&d| usize::try_from(d).map_err(|e| Error::malformed(what, e)))
        .collect::<Result<Vec<_>>>()?;
    if header.order() == Order::Fortran && shape.len() > 1 {
        return Err(Error::malformed(what, "column-major data; save it with `np.ascontiguousarray`"));
    }
    Ok(Tensor::new(dtype, shape, Bytes::copy_from_slice(rest))?)
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

/// Writes a `.npy` file, through a temporary name.
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
    let io = |source| Error::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    file.write_all(b"\x93NUMPY\x01\x00").map_err(io)?;
    file.write_all(&(header.len() as u16).to_le_bytes()).map_err(io)?;
    file.write_all(header.as_bytes()).map_err(io)?;
    file.write_all(tensor.data()).map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_survive_the_round_trip_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let data: Vec<u8> = (0..24u32).flat_map(|i| (i as f32 * 0.37 - 3.0).to_le_bytes()).collect();
        for shape in [vec![24], vec![2, 3, 4], vec![24, 1]] {
            let tensor = Tensor::new(DType::F32, shape, Bytes::from(data.clone())).unwrap();
            save(&path, &tensor).unwrap();
            assert_eq!(load(&path).unwrap(), tensor);
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut], "cut").is_err(), "{cut}");
        }
    }
}
