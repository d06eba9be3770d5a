//! External tensor data: files beside the model, never outside its folder.

use super::proto::TensorProto;
use crate::{Error, Result, mapped};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Where a model's external data lives.
#[derive(Default)]
pub(super) struct ExternalData {
    /// The model's folder; `None` for a model without one.
    folder: Option<PathBuf>,
    mapped: RefCell<BTreeMap<PathBuf, Bytes>>,
}

impl ExternalData {
    pub(super) fn beside(model: &Path) -> ExternalData {
        let folder = model.parent().map(|p| if p.as_os_str().is_empty() { PathBuf::from(".") } else { p.to_owned() });
        ExternalData { folder, mapped: RefCell::default() }
    }

    /// The bytes a tensor's `external_data` entries name.
    pub(super) fn read(&self, t: &TensorProto) -> Result<Bytes> {
        let name = t.name.as_deref().unwrap_or("");
        let malformed = |message: String| Error::malformed(format!("external data of tensor `{name}`"), message);
        let entry = |key: &str| {
            let hit = t.external_data.iter().find(|e| e.key.as_deref() == Some(key));
            hit.and_then(|e| e.value.as_deref())
        };
        let number = |key: &str| -> Result<Option<usize>> {
            entry(key)
                .map(|v| v.parse().map_err(|_| malformed(format!("{key} is `{v}`, expected a byte count"))))
                .transpose()
        };
        let location = entry("location").ok_or_else(|| malformed("has no location".into()))?;
        let file = self.map(location).map_err(|e| malformed(e.to_string()))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or_else(|| file.len().saturating_sub(offset));
        let end = offset.checked_add(length).filter(|&end| end <= file.len()).ok_or_else(|| {
            malformed(format!("bytes {offset}+{length} lie outside `{location}`, which has {}", file.len()))
        })?;
        Ok(file.slice(offset..end))
    }

    fn map(&self, location: &str) -> Result<Bytes> {
        let refuse = |why: &str| Error::malformed(format!("location `{location}`"), why);
        let folder = self.folder.as_ref().ok_or_else(|| {
            refuse("the model was given as bytes, so there is no folder to look in; load it from its path")
        })?;
        let relative = Path::new(location);
        if location.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err(refuse("must be a relative path inside the model's folder"));
        }
        let path = folder.join(relative);
        if let Some(bytes) = self.mapped.borrow().get(&path) {
            return Ok(bytes.clone());
        }
        let io = |source| Error::Io { path: path.clone(), source };
        let inside = path.canonicalize().map_err(io)?.starts_with(folder.canonicalize().map_err(io)?);
        if !inside {
            return Err(refuse("a link leads outside the model's folder"));
        }
        let bytes = mapped::map(&path)?;
        self.mapped.borrow_mut().insert(path, bytes.clone());
        Ok(bytes)
    }
}
