//! A BERT encoder with mean pooling: the sentence embedding models, of which MiniLM is one.

/// What of a Hugging Face `config.json` decides the shape of the model.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Config {
    /// Width of the residual stream.
    #[serde(rename = "hidden_size")]
    pub hidden: usize,
    /// Width inside the feed-forward network.
    #[serde(rename = "intermediate_size")]
    pub inner: usize,
    /// Number of attention heads.
    #[serde(rename = "num_attention_heads")]
    pub heads: usize,
    /// Number of encoder layers.
    #[serde(rename = "num_hidden_layers")]
    pub layers: usize,
    /// Number of tokens.
    #[serde(rename = "vocab_size")]
    pub vocabulary: usize,
    /// Longest sequence.
    #[serde(rename = "max_position_embeddings")]
    pub positions: usize,
    /// Number of segments.
    #[serde(rename = "type_vocab_size")]
    pub segments: usize,
    /// Epsilon of the layer norms.
    #[serde(rename = "layer_norm_eps")]
    pub eps: f64,
}

/// `x W^T + b` with the weights of `name`.
#[kiln::model]
pub fn dense<B, S>(
    x: Tensor<f32, B, S, { inputs }>,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Tensor<f32, B, S, { outputs }> {
    let weight = weight!("{name}.weight", f32, [outputs, inputs]);
    let bias = weight!("{name}.bias", f32, [outputs]);
    x.linear(weight, bias)
}

/// Layer norm over the hidden axis with the weights of `name`.
#[kiln::model]
pub fn norm<B, S>(x: Tensor<f32, B, S, { cfg.hidden }>, name: &str, cfg: &Config) -> Tensor<f32, B, S, { cfg.hidden }> {
    let scale = weight!("{name}.weight", f32, [cfg.hidden]);
    let bias = weight!("{name}.bias", f32, [cfg.hidden]);
    x.layer_norm(-1, scale, bias, cfg.eps)
}

/// Multi-head self-attention; `bias` is added to the scores.
#[kiln::model]
pub fn attention<B, S>(
    x: Tensor<f32, B, S, { cfg.hidden }>,
    bias: Tensor<f32, B, 1, 1, S>,
    name: &str,
    cfg: &Config,
) -> Tensor<f32, B, S, { cfg.hidden }> {
    let size = cfg.hidden / cfg.heads;
    let q = dense(x, &format!("{name}.query"), cfg.hidden, cfg.hidden);
    let k = dense(x, &format!("{name}.key"), cfg.hidden, cfg.hidden);
    let v = dense(x, &format!("{name}.value"), cfg.hidden, cfg.hidden);
    let q = q.reshape([B, S, cfg.heads, size]).transpose(1, 2);
    let k = k.reshape([B, S, cfg.heads, size]).permute([0, 2, 3, 1]);
    let v = v.reshape([B, S, cfg.heads, size]).transpose(1, 2);
    let scores = q.matmul(k) / (size as f64).sqrt() + bias;
    let context = scores.softmax(-1).matmul(v);
    context.transpose(1, 2).reshape([B, S, cfg.hidden])
}

/// One encoder layer.
#[kiln::model]
pub fn layer<B, S>(
    x: Tensor<f32, B, S, { cfg.hidden }>,
    bias: Tensor<f32, B, 1, 1, S>,
    name: &str,
    cfg: &Config,
) -> Tensor<f32, B, S, { cfg.hidden }> {
    let context = attention(x, bias, &format!("{name}.attention.self"), cfg);
    let attended = dense(context, &format!("{name}.attention.output.dense"), cfg.hidden, cfg.hidden);
    let x = norm(x + attended, &format!("{name}.attention.output.LayerNorm"), cfg);
    let inner = dense(x, &format!("{name}.intermediate.dense"), cfg.hidden, cfg.inner).gelu();
    let outer = dense(inner, &format!("{name}.output.dense"), cfg.inner, cfg.hidden);
    norm(x + outer, &format!("{name}.output.LayerNorm"), cfg)
}

/// Hidden states of the last layer.
#[kiln::model]
pub fn encoder<B, S>(
    input_ids: Tensor<i64, B, S>,
    attention_mask: Tensor<i64, B, S>,
    token_type_ids: Tensor<i64, B, S>,
    cfg: &Config,
) -> Tensor<f32, B, S, { cfg.hidden }> {
    let words = weight!("embeddings.word_embeddings.weight", f32, [cfg.vocabulary, cfg.hidden]);
    let positions = weight!("embeddings.position_embeddings.weight", f32, [cfg.positions, cfg.hidden]);
    let segments = weight!("embeddings.token_type_embeddings.weight", f32, [cfg.segments, cfg.hidden]);
    let place = positions.embedding(iota(i64, [S], 0));
    let embedded = words.embedding(input_ids) + segments.embedding(token_type_ids) + place;
    let bias = (1.0 - attention_mask.cast(f32)).unsqueeze([1, 2]) * -1e9;
    let mut hidden = norm(embedded, "embeddings.LayerNorm", cfg);
    for i in 0..cfg.layers {
        hidden = layer(hidden, bias, &format!("encoder.layer.{i}"), cfg);
    }
    hidden
}

/// Sentence embeddings of length 1: the mean over the tokens that the mask keeps, normalized.
#[kiln::model]
pub fn sentence<B, S>(
    input_ids: Tensor<i64, B, S>,
    attention_mask: Tensor<i64, B, S>,
    token_type_ids: Tensor<i64, B, S>,
    cfg: &Config,
) -> Tensor<f32, B, { cfg.hidden }> {
    let hidden = encoder(input_ids, attention_mask, token_type_ids, cfg);
    let kept = attention_mask.cast(f32).unsqueeze(-1);
    let mean = (hidden * kept).sum(1) / kept.sum(1).max(1e-9);
    let embedding = mean / (mean * mean).sum(-1, keep = true).sqrt().max(1e-12);
    embedding
}
