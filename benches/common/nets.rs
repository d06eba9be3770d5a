//! Networks of real sizes in f16, made in code, with random weights.

use super::Fail;
use kiln::graph::{Builder, ConvSpec, DType, Dim, Graph, Op, Pool, ValueId, WindowSpec};
use kiln::prelude::*;

/// What decides the shape of a transformer.
#[derive(Clone, Copy)]
pub struct Transformer {
    /// Sequences.
    pub batch: usize,
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    pub layers: usize,
    /// Tokens of a sequence.
    pub length: usize,
}

/// One layer of LLaMA 3.1 8B.
const LLAMA_LAYER: Transformer =
    Transformer { batch: 1, hidden: 4096, inner: 14336, heads: 32, kv_heads: 8, layers: 1, length: 512 };
/// ViT-B/16's encoder: 14 x 14 patches and the class.
pub const VIT_B16: Transformer =
    Transformer { batch: 1, hidden: 768, inner: 3072, heads: 12, kv_heads: 12, layers: 12, length: 197 };
/// A small LLaMA.
const LLAMA_SMALL: Transformer =
    Transformer { batch: 1, hidden: 2048, inner: 5632, heads: 32, kv_heads: 8, layers: 32, length: 512 };
/// BERT-large's encoder.
pub const BERT_LARGE: Transformer =
    Transformer { batch: 1, hidden: 1024, inner: 4096, heads: 16, kv_heads: 16, layers: 24, length: 384 };

impl Transformer {
    /// Elements of the weights of an encoder's layers, without biases and norms.
    pub fn weights(&self) -> usize {
        self.layers * self.hidden * (4 * self.hidden + 2 * self.inner)
    }

    /// Multiplications and additions of an encoder's products.
    pub fn flops(&self) -> f64 {
        let tokens = (self.batch * self.length) as f64;
        let scores = 2 * self.layers * self.length * self.hidden;
        2.0 * tokens * (self.weights() + scores) as f64
    }

    /// Elements of a head.
    fn size(&self) -> usize {
        self.hidden / self.heads
    }
}

#[kiln::model]
fn project<S>(x: Tensor<f16, S, { inputs }>, name: &str, inputs: usize, outputs: usize) -> Tensor<f16, S, { outputs }> {
    x.linear(weight!("{name}.weight", f16, [outputs, inputs]))
}

/// Layers of LLaMA over the embedded tokens; `cos` and `sin` are those of the rotary embedding.
#[kiln::model]
fn llama(
    x: Tensor<f16, { cfg.length }, { cfg.hidden }>,
    cos: Tensor<f16, { cfg.length }, { cfg.size() / 2 }>,
    sin: Tensor<f16, { cfg.length }, { cfg.size() / 2 }>,
    cfg: &Transformer,
) -> Tensor<f16, { cfg.length }, { cfg.hidden }> {
    let (hidden, size, keys) = (cfg.hidden, cfg.size(), cfg.kv_heads * cfg.size());
    let mut x = x;
    for i in 0..cfg.layers {
        let normed = x.rms_norm(-1, weight!("{i}.attention_norm", f16, [hidden]));
        let q =
            project(normed, &format!("{i}.q"), hidden, hidden).reshape([cfg.length, cfg.heads, size]).transpose(0, 1);
        let k =
            project(normed, &format!("{i}.k"), hidden, keys).reshape([cfg.length, cfg.kv_heads, size]).transpose(0, 1);
        let v =
            project(normed, &format!("{i}.v"), hidden, keys).reshape([cfg.length, cfg.kv_heads, size]).transpose(0, 1);
        let context = q.rope(cos, sin).attention(k.rope(cos, sin), v, causal = true);
        let context = context.transpose(0, 1).reshape([cfg.length, hidden]);
        let attended = x + project(context, &format!("{i}.o"), hidden, hidden);
        let normed = attended.rms_norm(-1, weight!("{i}.inner_norm", f16, [hidden]));
        let gate = project(normed, &format!("{i}.gate"), hidden, cfg.inner).silu();
        let up = project(normed, &format!("{i}.up"), hidden, cfg.inner);
        x = attended + project(gate * up, &format!("{i}.down"), cfg.inner, hidden);
    }
    x
}

#[kiln::model]
fn dense<S>(x: Tensor<f16, S, { inputs }>, name: &str, inputs: usize, outputs: usize) -> Tensor<f16, S, { outputs }> {
    x.linear(weight!("{name}.weight", f16, [outputs, inputs]), weight!("{name}.bias", f16, [outputs]))
}

#[kiln::model]
fn normed<S>(x: Tensor<f16, S, { size }>, name: &str, size: usize) -> Tensor<f16, S, { size }> {
    x.layer_norm(-1, weight!("{name}.weight", f16, [size]), weight!("{name}.bias", f16, [size]))
}

/// Attention of an encoder, with its projections.
#[kiln::model]
fn attended<S>(x: Tensor<f16, S, { cfg.hidden }>, name: &str, cfg: &Transformer) -> Tensor<f16, S, { cfg.hidden }> {
    let (hidden, size) = (cfg.hidden, cfg.size());
    let q = dense(x, &format!("{name}.q"), hidden, hidden);
    let q = q.reshape([cfg.batch, cfg.length, cfg.heads, size]).transpose(1, 2);
    let k = dense(x, &format!("{name}.k"), hidden, hidden);
    let k = k.reshape([cfg.batch, cfg.length, cfg.heads, size]).transpose(1, 2);
    let v = dense(x, &format!("{name}.v"), hidden, hidden);
    let v = v.reshape([cfg.batch, cfg.length, cfg.heads, size]).transpose(1, 2);
    let context = q.attention(k, v).transpose(1, 2).reshape([S, hidden]);
    dense(context, &format!("{name}.o"), hidden, hidden)
}

/// Layers of BERT over the embedded tokens, a row each.
#[kiln::model]
fn bert(
    x: Tensor<f16, { cfg.batch }, { cfg.length }, { cfg.hidden }>,
    cfg: &Transformer,
) -> Tensor<f16, { cfg.batch }, { cfg.length }, { cfg.hidden }> {
    let hidden = cfg.hidden;
    let mut x = x.reshape([cfg.batch * cfg.length, hidden]);
    for i in 0..cfg.layers {
        let attended = normed(x + attended(x, &i.to_string(), cfg), &format!("{i}.norm"), hidden);
        let inner = dense(attended, &format!("{i}.up"), hidden, cfg.inner).gelu();
        x = normed(attended + dense(inner, &format!("{i}.down"), cfg.inner, hidden), &format!("{i}.out"), hidden);
    }
    x.reshape([cfg.batch, cfg.length, hidden])
}

/// Layers of a vision transformer over the embedded patches.
#[kiln::model]
fn vit(
    x: Tensor<f16, { cfg.batch }, { cfg.length }, { cfg.hidden }>,
    cfg: &Transformer,
) -> Tensor<f16, { cfg.batch }, { cfg.length }, { cfg.hidden }> {
    let hidden = cfg.hidden;
    let mut x = x.reshape([cfg.batch * cfg.length, hidden]);
    for i in 0..cfg.layers {
        let attended = x + attended(normed(x, &format!("{i}.norm"), hidden), &i.to_string(), cfg);
        let inner = normed(attended, &format!("{i}.inner"), hidden);
        let inner = dense(inner, &format!("{i}.up"), hidden, cfg.inner).gelu();
        x = attended + dense(inner, &format!("{i}.down"), cfg.inner, hidden);
    }
    normed(x, "last", hidden).reshape([cfg.batch, cfg.length, hidden])
}

/// Adds a convolution with bias, padded so that stride 1 keeps the size.
fn conv(
    b: &mut Builder,
    x: ValueId,
    name: &str,
    [outputs, inputs, taps]: [usize; 3],
    stride: usize,
) -> Result<ValueId, Fail> {
    let w = b.weight(&format!("{name}.weight"), DType::F16, &[outputs, inputs, taps, taps])?;
    let bias = b.weight(&format!("{name}.bias"), DType::F16, &[outputs])?;
    let spec =
        ConvSpec { strides: vec![stride; 2], pads: vec![(taps / 2, taps / 2); 2], dilations: vec![1; 2], groups: 1 };
    Ok(b.conv(x, w, Some(bias), spec)?)
}

/// ResNet-50 over one image, its batch normalizations folded into the convolutions, as it is deployed.
fn resnet50() -> Result<Graph, Fail> {
    let mut b = Builder::new("resnet50");
    let x = b.input("x", DType::F16, &[1, 3, 224, 224].map(Dim::from))?;
    let y = conv(&mut b, x, "first", [64, 3, 7], 2)?;
    let y = b.relu(y)?;
    let spec = WindowSpec { window: vec![3; 2], strides: vec![2; 2], pads: vec![(1, 1); 2], dilations: vec![1; 2] };
    let mut x = b.max_pool(y, &Pool { spec, ceil_mode: false })?;
    let mut channels = 64;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let (inner, outer) = (64 << stage, 256 << stage);
        for block in 0..blocks {
            let name = |part: &str| format!("{stage}.{block}.{part}");
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let y = conv(&mut b, x, &name("a"), [inner, channels, 1], 1)?;
            let y = b.relu(y)?;
            let y = conv(&mut b, y, &name("b"), [inner, inner, 3], stride)?;
            let y = b.relu(y)?;
            let y = conv(&mut b, y, &name("c"), [outer, inner, 1], 1)?;
            let around = match block {
                0 => conv(&mut b, x, &name("around"), [outer, channels, 1], stride)?,
                _ => x,
            };
            let y = b.plus(y, around)?;
            (x, channels) = (b.relu(y)?, outer);
        }
    }
    let y = b.global_avg_pool(x)?;
    let y = b.reshape(y, &[1, channels].map(Dim::from))?;
    let w = b.weight("classes.weight", DType::F16, &[1000, channels])?;
    let y = b.linear(y, w, None, true)?;
    b.output("y", y);
    Ok(b.finish())
}

/// What [`named`] makes.
pub const NETS: [&str; 4] = ["resnet50", "bert_large", "llama_layer", "llama_small"];

/// One of [`NETS`], with weights of a size that keeps activations as large as the inputs.
pub fn named(name: &str) -> Result<Option<Graph>, Fail> {
    let mut graph = match name {
        "resnet50" => resnet50()?,
        "bert_large" => bert::graph(&BERT_LARGE)?,
        "llama_layer" => llama::graph(&LLAMA_LAYER)?,
        "llama_small" => llama::graph(&LLAMA_SMALL)?,
        _ => return Ok(None),
    };
    name.clone_into(&mut graph.name);
    Ok(Some(with_weights(graph)?))
}

/// An encoder of BERT's kind, or of a vision transformer's.
pub fn encoder(sizes: &Transformer, vision: bool) -> Result<Graph, Fail> {
    with_weights(if vision { vit::graph(sizes)? } else { bert::graph(sizes)? })
}

fn with_weights(mut graph: Graph) -> Result<Graph, Fail> {
    let weights: Vec<_> = graph
        .nodes
        .iter()
        .filter_map(|node| match &node.op {
            Op::Weight { name, ty } => Some((name.clone(), ty.clone())),
            _ => None,
        })
        .collect();
    for (seed, (name, ty)) in weights.into_iter().enumerate() {
        let shape = ty.const_shape().ok_or("a weight whose shape is not constant")?;
        // What the sums that a weight takes part in are long.
        let length: usize = shape.iter().skip(1).product();
        graph.weights.insert(name, super::random(ty.dtype, &shape, seed as u64, (length as f64).powf(-0.5))?);
    }
    Ok(graph)
}
