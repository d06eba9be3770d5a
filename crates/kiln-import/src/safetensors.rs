//! safetensors files.
//!
//! The format has no 4-bit integers. They are written packed, two a byte with the first in the low half, as a `U8` tensor of one axis; the metadata entry `kiln.types` is a
//! JSON object that has their types by name, for instance `{"q": "i4[3, 5]"}`, and is heeded on reading.

use crate::{Error, Result, mapped};
use bytes::Bytes;
use kiln_graph::{DType, Tensor};
use safetensors::{Dtype, SafeTensors, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// The tensors of a safetensors file by name. The file is mapped; no tensor is copied.
///
/// # Errors
/// [`Error::Io`], or [`Error::Malformed`] if the header does not describe the file or a dtype has no counterpart in Kiln.
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    from_bytes(&mapped::map(path)?).map_err(|e| match e {
        Error::Malformed { message, .. } => Error::malformed(format!("`{}`", path.display()), message),
        other => other,
    })
}

/// The tensors of safetensors contents in memory, as slices of `bytes`.
///
/// # Errors
/// [`Error::Malformed`] as for [`load`].
pub fn from_bytes(bytes: &Bytes) -> Result<BTreeMap<String, Tensor>> {
    let malformed = |e: &dyn std::fmt::Display| Error::malformed("the safetensors file", e);
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| malformed(&e))?;
    let packed: BTreeMap<String, String> = match metadata.metadata().as_ref().and_then(|map| map.get(TYPES)) {
        Some(types) => serde_json::from_str(types).map_err(|e| malformed(&format!("metadata `{TYPES}`: {e}")))?,
        None => BTreeMap::new(),
    };
    let file = SafeTensors::deserialize(bytes).map_err(|e| malformed(&e))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = dtype(view.dtype()).ok_or_else(|| {
            malformed(&format!("tensor `{name}` has dtype {:?}, which Kiln does not have", view.dtype()))
        })?;
        let (dtype, shape) = match packed.get(&name) {
            Some(ty) if dtype == DType::U8 => packed_type(ty).ok_or_else(|| {
                malformed(&format!("metadata `{TYPES}`: tensor `{name}` is `{ty}`; expected such as `i4[3, 5]`"))
            })?,
            _ => (dtype, view.shape().to_vec()),
        };
        let tensor = Tensor::new(dtype, shape, bytes.slice_ref(view.data()))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// Metadata entry with the types of tensors that the format has no dtype for.
const TYPES: &str = "kiln.types";

/// `i4[3, 5]` or `u4[3, 5]`.
fn packed_type(text: &str) -> Option<(DType, Vec<usize>)> {
    let (dtype, shape) = text.strip_suffix(']')?.split_once('[')?;
    let dtype = dtype.parse().ok().filter(|dtype| matches!(dtype, DType::I4 | DType::U4))?;
    let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    Some((dtype, extents.map(|extent| extent.parse().ok()).collect::<Option<_>>()?))
}

/// Dtypes that both have.
const DTYPES: [(Dtype, DType); 15] = [
    (Dtype::F64, DType::F64),
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::F8_E4M3, DType::F8E4M3),
    (Dtype::F8_E5M2, DType::F8E5M2),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::I16, DType::I16),
    (Dtype::I8, DType::I8),
    (Dtype::U64, DType::U64),
    (Dtype::U32, DType::U32),
    (Dtype::U16, DType::U16),
    (Dtype::U8, DType::U8),
    (Dtype::BOOL, DType::Bool),
];

fn dtype(d: Dtype) -> Option<DType> {
    DTYPES.iter().find(|(theirs, _)| *theirs == d).map(|(_, ours)| *ours)
}

/// A tensor as the format sees it.
struct Stored<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: &'a [u8],
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.data.into()
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

/// Writes named tensors, whole or not at all; what is there and is no regular file is refused.
///
/// # Errors
/// [`Error::Write`]; [`Error::Option`] for a dtype that cannot be written.
pub fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut types = BTreeMap::new();
    let mut stored = Vec::new();
    for (name, tensor) in tensors {
        let (dtype, shape) = match DTYPES.iter().find(|(_, ours)| *ours == tensor.dtype()) {
            Some((theirs, _)) => (*theirs, tensor.shape().to_vec()),
            None if tensor.dtype().bits() == 4 => {
                types.insert(name, format!("{}{:?}", tensor.dtype(), tensor.shape()));
                (Dtype::U8, vec![tensor.data().len()])
            }
            None => {
                let message = format!("safetensors have no dtype for {}; cast `{name}` to f32", tensor.dtype());
                return Err(Error::Option(message));
            }
        };
        stored.push((name, Stored { dtype, shape, data: tensor.data() }));
    }
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let metadata = match types.is_empty() {
        true => None,
        false => {
            let types = serde_json::to_string(&types).map_err(|e| failed(e.into()))?;
            Some([(TYPES.to_owned(), types)].into())
        }
    };
    let bytes = safetensors::serialize(stored, metadata).map_err(|e| failed(std::io::Error::other(e)))?;
    kiln_host::write(path, |file| file.write_all(&bytes)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::Rng;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn file() -> Vec<u8> {
        let header = br#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[1],"data_offsets":[24,32]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend((0..6).flat_map(|i| (i as f32).to_le_bytes()));
        file.extend((-5i64).to_le_bytes());
        file
    }

    #[test]
    fn tensors_are_slices_of_the_file() {
        let bytes = Bytes::from(file());
        let tensors = from_bytes(&bytes).unwrap();
        assert_eq!(tensors["a"], Tensor::from_slice(&[2, 3], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap());
        assert_eq!(tensors["b"], Tensor::from_slice(&[1], &[-5i64]).unwrap());
        assert!(bytes.as_ptr_range().contains(&tensors["a"].data().as_ptr()));
    }

    #[test]
    fn every_dtype_survives_and_4_bit_integers_are_packed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let all: Vec<(String, Tensor)> =
            DType::ALL.map(|dtype| (format!("t \"{dtype}\""), Tensor::random(dtype, &[3, 5], 8).unwrap())).into();
        save(&path, &all).unwrap();
        assert_eq!(load(&path).unwrap(), all.iter().cloned().collect());
        let bytes = std::fs::read(&path).unwrap();
        save(&path, &all).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "equal tensors gave other bytes");

        let one = Tensor::from_i128(DType::U4, &[3], &[1, 2, 15]).unwrap();
        save(&path, &[("q".to_owned(), one)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(r#""__metadata__":{"kiln.types":"{\"q\":\"u4[3]\"}"}"#), "{text}");
        assert!(text.contains(r#""q":{"dtype":"U8","shape":[2],"#) && bytes.ends_with(&[0x21, 0x0f]), "{text}");
        // A type that does not fit the bytes, or is none, is an error.
        for wrong in ["u4[9]", "i9[3]", "u4(3]"] {
            let file = text.replace("u4[3]", wrong);
            assert!(from_bytes(&Bytes::from(file)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let whole = file();
        for end in 0..whole.len() {
            assert!(from_bytes(&Bytes::from(whole[..end].to_vec())).is_err(), "cut at {end}");
        }
        let mut rng = Rng::new(99);
        for _ in 0..4000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + rng.next_u64() % 3 {
                let at = (rng.next_u64() % bytes.len() as u64) as usize;
                bytes[at] = rng.next_u64() as u8;
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| from_bytes(&Bytes::from(bytes.clone())).is_ok()));
            assert!(outcome.is_ok(), "panics on {bytes:02x?}");
        }
    }
}
