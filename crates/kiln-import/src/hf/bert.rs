//! BERT encoders: `config.json` and `model.safetensors` to a graph.
//!
//! Weight names and arithmetic are those of Hugging Face's `BertModel` without its pooler (post-norm encoder, learned positions).

use super::BertConfig;
use crate::{Error, Result, safetensors};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Tensor, ValueId};
use std::collections::BTreeMap;
use std::path::Path;

/// Loads the encoder of a folder that holds `config.json` and `model.safetensors`. Inputs `input_ids`, `attention_mask`, `token_type_ids`
/// (i64 `[B, S]`), output `last_hidden_state` (`[B, S, hidden]`). The weights stay in the mapped file.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`] naming the field or weight, [`Error::Graph`].
pub fn load(folder: &Path) -> Result<Graph> {
    let config = BertConfig::load(&folder.join("config.json"))?;
    let weights = safetensors::load(&folder.join("model.safetensors"))?;
    let name = folder.file_name().map_or("bert".into(), |n| n.to_string_lossy().into_owned());
    encoder(&name, &config, &weights)
}

/// [`load`] from parts that are in memory.
///
/// # Errors
/// As [`load`].
pub fn encoder(name: &str, config: &BertConfig, weights: &BTreeMap<String, Tensor>) -> Result<Graph> {
    let _span = tracing::info_span!("import", model = name).entered();
    if config.hidden_act != "gelu" {
        let message = format!("hidden_act is `{}`, and only `gelu` is supported", config.hidden_act);
        return Err(Error::malformed("config.json", message));
    }
    // Checkpoints of a larger model keep the encoder under a prefix.
    let prefix = if weights.contains_key("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
    let mut m = Bert { b: Builder::new(name), config, weights, prefix };
    let output = m.build()?;
    m.b.output("last_hidden_state", output);
    Ok(m.b.finish())
}

/// Sentences a run at most: keeps index arithmetic of kernels within 32 bits for common sizes.
const MAX_BATCH: i64 = 1 << 12;

struct Bert<'a> {
    b: Builder,
    config: &'a BertConfig,
    weights: &'a BTreeMap<String, Tensor>,
    prefix: &'static str,
}

impl Bert<'_> {
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId> {
        let name = format!("{}{name}", self.prefix);
        let what = || format!("weight `{name}` of model.safetensors");
        let tensor = self.weights.get(&name).ok_or_else(|| Error::malformed(what(), "it is missing"))?;
        if tensor.shape() != shape {
            let message = format!("config.json says {shape:?}, the file has {:?}", tensor.shape());
            return Err(Error::malformed(what(), message));
        }
        let value = self.b.weight_data(&name, tensor.clone())?;
        Ok(self.b.cast(value, DType::F32)?)
    }

    fn dense(&mut self, x: ValueId, name: &str, inputs: usize, outputs: usize) -> Result<ValueId> {
        let w = self.weight(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weight(&format!("{name}.bias"), &[outputs])?;
        Ok(self.b.linear(x, w, Some(bias), true)?)
    }

    fn norm(&mut self, x: ValueId, name: &str) -> Result<ValueId> {
        let hidden = self.config.hidden_size;
        let scale = self.weight(&format!("{name}.weight"), &[hidden])?;
        let bias = self.weight(&format!("{name}.bias"), &[hidden])?;
        Ok(self.b.layer_norm(x, -1, Some(scale), Some(bias), self.config.layer_norm_eps)?)
    }

    fn build(&mut self) -> Result<ValueId> {
        let c = self.config;
        let batch = self.b.symbol("B", 1, MAX_BATCH);
        let length = self.b.symbol("S", 1, c.max_position_embeddings as i64);
        let shape = [batch.clone(), length.clone()];
        let ids = self.b.input("input_ids", DType::I64, &shape)?;
        let mask = self.b.input("attention_mask", DType::I64, &shape)?;
        let types = self.b.input("token_type_ids", DType::I64, &shape)?;
        let table =
            |m: &mut Self, name: &str, rows| m.weight(&format!("embeddings.{name}.weight"), &[rows, c.hidden_size]);
        let words = table(self, "word_embeddings", c.vocab_size)?;
        let positions = table(self, "position_embeddings", c.max_position_embeddings)?;
        let segments = table(self, "token_type_embeddings", c.type_vocab_size)?;
        let words = self.b.embedding(words, ids)?;
        let segments = self.b.embedding(segments, types)?;
        let places = self.b.iota(DType::I64, std::slice::from_ref(&length), 0)?;
        let positions = self.b.embedding(positions, places)?;
        let sum = self.b.plus(words, segments)?;
        let sum = self.b.plus(sum, positions)?;
        let mut hidden = self.norm(sum, "embeddings.LayerNorm")?;
        // 0 where a key is kept, a large negative number where it is padding.
        let mask = self.b.cast(mask, DType::F32)?;
        let mask = self.b.unsqueeze(mask, &[1, 2])?;
        let mask = self.b.plus_scalar(mask, -1.0)?;
        let bias = self.b.mul_scalar(mask, 1e9)?;
        for i in 0..c.num_hidden_layers {
            self.b.push_scope(format!("encoder.layer.{i}"));
            let result = self.layer(hidden, bias, &[batch.clone(), length.clone()], &format!("encoder.layer.{i}"));
            self.b.pop_scope();
            hidden = result?;
        }
        Ok(hidden)
    }

    fn layer(&mut self, x: ValueId, bias: ValueId, rows: &[Dim; 2], name: &str) -> Result<ValueId> {
        let c = self.config;
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let [q, k, v] = ["query", "key", "value"].map(|part| {
            let y = self.dense(x, &format!("{name}.attention.self.{part}"), hidden, hidden)?;
            let heads = [rows[0].clone(), rows[1].clone(), c.num_attention_heads.into(), c.head_size().into()];
            let y = self.b.reshape(y, &heads)?;
            Ok::<_, Error>(self.b.transpose(y, &[0, 2, 1, 3])?)
        });
        let context = self.b.attention(q?, k?, v?, Some(bias), None, None)?;
        let context = self.b.transpose(context, &[0, 2, 1, 3])?;
        let context = self.b.reshape(context, &[rows[0].clone(), rows[1].clone(), hidden.into()])?;
        let attended = self.dense(context, &format!("{name}.attention.output.dense"), hidden, hidden)?;
        let x = self.b.binary(BinaryOp::Add, x, attended)?;
        let x = self.norm(x, &format!("{name}.attention.output.LayerNorm"))?;
        let y = self.dense(x, &format!("{name}.intermediate.dense"), hidden, inner)?;
        let y = self.b.gelu(y)?;
        let y = self.dense(y, &format!("{name}.output.dense"), inner, hidden)?;
        let y = self.b.binary(BinaryOp::Add, x, y)?;
        self.norm(y, &format!("{name}.output.LayerNorm"))
    }
}
