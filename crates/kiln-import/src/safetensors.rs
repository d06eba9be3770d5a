//! safetensors files.

use crate::{Error, Result, mapped};
use bytes::Bytes;
use kiln_graph::{DType, Tensor};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
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
    let file = SafeTensors::deserialize(bytes).map_err(|e| malformed(&e))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = dtype(view.dtype()).ok_or_else(|| {
            malformed(&format!("tensor `{name}` has dtype {:?}, which Kiln does not have", view.dtype()))
        })?;
        let tensor = Tensor::new(dtype, view.shape().to_vec(), bytes.slice_ref(view.data()))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn dtype(d: Dtype) -> Option<DType> {
    Some(match d {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F8_E4M3 => DType::F8E4M3,
        Dtype::F8_E5M2 => DType::F8E5M2,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
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
