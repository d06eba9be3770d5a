//! What a model carries beside its graph.

use super::proto::ModelProto;
use crate::{Error, Result, mapped};
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;

/// The `metadata_props` of an ONNX file, for instance the labels of its classes. Of a key that occurs twice the last counts.
///
/// # Errors
/// [`Error::Io`], or [`Error::Malformed`] if it is no ONNX file.
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let model = ModelProto::decode(mapped::map(path)?).map_err(|e| Error::malformed("the ONNX file", e))?;
    Ok(model.metadata_props.into_iter().map(|p| (p.key.unwrap_or_default(), p.value.unwrap_or_default())).collect())
}

#[cfg(test)]
mod tests {
    use super::super::proto::{ModelProto, StringStringEntryProto};
    use super::metadata;
    use prost::Message;

    #[test]
    fn metadata_is_read_by_key() {
        let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
        let model = ModelProto { metadata_props: vec![entry("labels", "a\nb"), entry("", "x")], ..Default::default() };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), model.encode_to_vec()).unwrap();
        let found = metadata(file.path()).unwrap();
        assert_eq!(
            found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(),
            [("", "x"), ("labels", "a\nb")]
        );
        std::fs::write(file.path(), b"\xff\xff\xff").unwrap();
        assert!(metadata(file.path()).is_err());
    }
}
