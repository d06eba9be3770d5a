//! Hugging Face folders: `config.json` and safetensors of encoders of the BERT family.

pub mod bert;

use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// The sizes that define a BERT encoder.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BertConfig {
    /// Family, for instance `bert`.
    pub model_type: String,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Feed-forward activation, for instance `gelu`.
    pub hidden_act: String,
    /// Rows of the position embedding: the longest sequence.
    pub max_position_embeddings: usize,
    /// Rows of the token type embedding.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Epsilon of every layer norm.
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f64,
}

fn two() -> usize {
    2
}

fn epsilon() -> f64 {
    1e-12
}

/// Largest size field accepted: above it is a damaged file, and products of two still fit 64 bits.
const MAX_SIZE: usize = 1 << 30;

impl BertConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`].
    pub fn load(path: &Path) -> Result<BertConfig> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        BertConfig::parse(&text)
    }

    /// Parses and checks the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the field.
    pub fn parse(text: &str) -> Result<BertConfig> {
        let malformed = |message: String| Error::malformed("config.json", message);
        let c: BertConfig = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
        if c.model_type != "bert" {
            return Err(malformed(format!("model_type is `{}`, expected `bert`", c.model_type)));
        }
        let sizes = [
            ("hidden_size", c.hidden_size),
            ("num_hidden_layers", c.num_hidden_layers),
            ("num_attention_heads", c.num_attention_heads),
            ("intermediate_size", c.intermediate_size),
            ("max_position_embeddings", c.max_position_embeddings),
            ("type_vocab_size", c.type_vocab_size),
            ("vocab_size", c.vocab_size),
        ];
        for (field, size) in sizes {
            if size == 0 || size > MAX_SIZE {
                return Err(malformed(format!("{field} is {size}, expected 1 to {MAX_SIZE}")));
            }
        }
        if !c.hidden_size.is_multiple_of(c.num_attention_heads) {
            return Err(malformed(format!(
                "num_attention_heads {} does not divide hidden_size {}",
                c.num_attention_heads, c.hidden_size
            )));
        }
        Ok(c)
    }

    /// Width of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"model_type": "bert", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 48, "hidden_act": "gelu", "max_position_embeddings": 32, "vocab_size": 100, "unknown": [1]}"#;

    #[test]
    fn reads_sizes_and_refuses_contradictions() {
        let c = BertConfig::parse(TEXT).unwrap();
        assert_eq!((c.head_size(), c.type_vocab_size, c.layer_norm_eps), (4, 2, 1e-12));
        for (from, to, field) in [
            ("\"num_attention_heads\": 3", "\"num_attention_heads\": 5", "num_attention_heads"),
            ("\"vocab_size\": 100", "\"vocab_size\": 0", "vocab_size"),
            ("\"model_type\": \"bert\"", "\"model_type\": \"llama\"", "model_type"),
            ("\"hidden_size\": 12", "\"hidden\": 12", "hidden_size"),
        ] {
            let message = BertConfig::parse(&TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }
}
