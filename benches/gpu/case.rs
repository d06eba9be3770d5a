//! What is checked and timed.

use crate::Outcome;
use crate::common::nets::{self, BERT_LARGE, Transformer, VIT_B16};
use crate::common::random;
use crate::decode::Decode;
use kiln_graph::{BinaryOp, Builder, ConvSpec, DType, Dim, EinsumSpec, Graph, Tensor, ValueId};
use serde_json::{Value, json};

/// One kernel, or a few that belong together.
#[derive(Clone, Copy)]
pub enum Op {
    /// `x[m, k] * w`: `w[n, k]` if `linear`, as PyTorch stores it, else `w[k, n]`. Bytes of floats have a factor a row and a factor a
    /// column and give bf16, integers give i32.
    Gemm {
        m: usize,
        n: usize,
        k: usize,
        linear: bool,
    },
    Softmax {
        rows: usize,
        cols: usize,
    },
    LayerNorm {
        rows: usize,
        cols: usize,
    },
    RmsNorm {
        rows: usize,
        cols: usize,
    },
    /// `silu(gate) * up`.
    SwiGlu {
        rows: usize,
        cols: usize,
    },
    /// `heads` counts those of all sequences.
    Attention {
        heads: usize,
        seq: usize,
        head: usize,
        causal: bool,
    },
    /// A query a sequence over its cache; heads that share keys and values are its rows.
    Cached {
        batch: usize,
        heads: usize,
        kv_heads: usize,
        keys: usize,
        head: usize,
    },
    /// `x[n, c, size, size]`, or with `last` channels behind space, in the image, filters and result; square kernels, padding that keeps the size at stride 1.
    Conv {
        n: usize,
        c: usize,
        size: usize,
        out: usize,
        kernel: usize,
        stride: usize,
        last: bool,
    },
    Decode(Decode),
    /// Layers of an encoder, BERT's or a vision transformer's.
    Encoder {
        sizes: Transformer,
        vision: bool,
    },
}

/// An op on elements of a type.
#[derive(Clone, Copy)]
pub struct Case {
    pub op: Op,
    pub dtype: DType,
}

impl Op {
    pub fn name(&self) -> &'static str {
        match self {
            Op::Gemm { .. } => "gemm",
            Op::Softmax { .. } => "softmax",
            Op::LayerNorm { .. } => "layer_norm",
            Op::RmsNorm { .. } => "rms_norm",
            Op::SwiGlu { .. } => "swiglu",
            Op::Attention { .. } => "attention",
            Op::Cached { .. } => "cached_attention",
            Op::Conv { .. } => "conv",
            Op::Decode(_) => "decode",
            Op::Encoder { vision, .. } => {
                if *vision {
                    "vit"
                } else {
                    "bert"
                }
            }
        }
    }

    pub fn shape(&self) -> Value {
        match *self {
            Op::Gemm { m, n, k, linear } => json!({ "m": m, "n": n, "k": k, "linear": linear }),
            Op::Softmax { rows, cols }
            | Op::LayerNorm { rows, cols }
            | Op::RmsNorm { rows, cols }
            | Op::SwiGlu { rows, cols } => json!({ "rows": rows, "cols": cols }),
            Op::Attention { heads, seq, head, causal } => {
                json!({ "heads": heads, "seq": seq, "head": head, "causal": causal })
            }
            Op::Cached { batch, heads, kv_heads, keys, head } => {
                json!({ "batch": batch, "heads": heads, "kv_heads": kv_heads, "keys": keys, "head": head })
            }
            Op::Conv { n, c, size, out, kernel, stride, last } => json!({
                "n": n, "c": c, "size": size, "out": out, "kernel": kernel, "stride": stride, "channels_last": last
            }),
            Op::Decode(Decode { layers, heads, kv_heads, head, inner, context }) => json!({
                "layers": layers, "heads": heads, "kv_heads": kv_heads, "head": head, "inner": inner, "context": context
            }),
            Op::Encoder { sizes: Transformer { batch, length, layers, hidden, inner, heads, .. }, .. } => json!({
                "batch": batch, "length": length, "layers": layers, "hidden": hidden, "inner": inner, "heads": heads
            }),
        }
    }

    /// The first extent of every input and of the output, if slices along it do not depend on one another; otherwise 1.
    pub fn lead(&self) -> usize {
        match *self {
            Op::Gemm { m, .. } => m,
            Op::Softmax { rows, .. }
            | Op::LayerNorm { rows, .. }
            | Op::RmsNorm { rows, .. }
            | Op::SwiGlu { rows, .. } => rows,
            Op::Attention { heads, .. } => heads,
            Op::Cached { batch, .. } => batch,
            Op::Conv { n, .. } => n,
            Op::Decode(_) => 1,
            Op::Encoder { sizes, .. } => sizes.batch,
        }
    }

    /// Multiplications and additions of contractions; of an element or two a memory-bound element. Causal attention counts what it must do.
    pub fn flops(&self) -> f64 {
        let product = |factors: &[usize]| factors.iter().map(|&f| f as f64).product::<f64>();
        match *self {
            Op::Gemm { m, n, k, .. } => 2.0 * product(&[m, n, k]),
            Op::Softmax { rows, cols }
            | Op::LayerNorm { rows, cols }
            | Op::RmsNorm { rows, cols }
            | Op::SwiGlu { rows, cols } => 8.0 * product(&[rows, cols]),
            Op::Attention { heads, seq, head, causal } => {
                4.0 * product(&[heads, seq, seq, head]) * if causal { 0.5 } else { 1.0 }
            }
            Op::Cached { batch, heads, keys, head, .. } => 4.0 * product(&[batch, heads, keys, head]),
            Op::Conv { n, c, size, out, kernel, stride, .. } => {
                let side = size.div_ceil(stride);
                2.0 * product(&[n, c, out, side, side, kernel, kernel])
            }
            Op::Decode(sizes) => sizes.flops(),
            Op::Encoder { sizes, .. } => sizes.flops(),
        }
    }

    /// Whether arithmetic, not memory, should bound it.
    pub fn is_arithmetic(&self) -> bool {
        matches!(self, Op::Gemm { m: 128.., .. } | Op::Attention { .. } | Op::Conv { .. })
    }
}

impl Case {
    pub fn name(&self) -> String {
        let dims: Vec<String> = match self.op.shape() {
            Value::Object(shape) => shape
                .iter()
                .filter_map(|(key, v)| match v {
                    Value::Bool(set) => set.then(|| key.clone()),
                    v => Some(v.to_string()),
                })
                .collect(),
            _ => Vec::new(),
        };
        format!("{} {} {}", self.op.name(), self.dtype, dims.join("x"))
    }

    /// What another program needs to know of it.
    pub fn describe(&self) -> Value {
        json!({
            "name": self.name(), "op": self.op.name(), "dtype": self.dtype.to_string(), "shape": self.op.shape(),
            "flops": self.op.flops(), "bytes": self.bytes(), "arithmetic": self.op.is_arithmetic(),
        })
    }

    /// The largest `|found - expected| / |expected|`: a few roundings of the element type, which add up over layers.
    pub fn tolerance(&self) -> f64 {
        let one = match self.dtype {
            DType::BF16 | DType::F8E4M3 => 1e-2,
            DType::F16 => 2e-3,
            _ => 1e-5,
        };
        match self.op {
            Op::Decode(Decode { layers, .. }) | Op::Encoder { sizes: Transformer { layers, .. }, .. } => {
                one * (layers as f64).sqrt()
            }
            _ => one,
        }
    }

    /// Fewest bytes that must move: each operand once.
    pub fn bytes(&self) -> f64 {
        let elements = match self.op {
            Op::Gemm { m, n, k, .. } => m * k + k * n + m * n * self.result_bytes() / self.element_bytes(),
            Op::Softmax { rows, cols } | Op::LayerNorm { rows, cols } | Op::RmsNorm { rows, cols } => 2 * rows * cols,
            Op::SwiGlu { rows, cols } => 3 * rows * cols,
            Op::Attention { heads, seq, head, .. } => 4 * heads * seq * head,
            Op::Cached { batch, heads, kv_heads, keys, head } => 2 * batch * head * (heads + kv_heads * keys),
            Op::Conv { n, c, size, out, kernel, stride, .. } => {
                let side = size.div_ceil(stride);
                n * c * size * size + out * c * kernel * kernel + n * out * side * side
            }
            Op::Decode(sizes) => sizes.weights() + sizes.cached(),
            Op::Encoder { sizes, .. } => sizes.weights() + 2 * sizes.batch * sizes.length * sizes.hidden,
        };
        (elements * self.element_bytes()) as f64
    }

    fn element_bytes(&self) -> usize {
        self.dtype.bytes_for(1).unwrap_or(4)
    }

    fn result_bytes(&self) -> usize {
        match self.dtype {
            DType::F8E4M3 => 2,
            DType::I8 => 4,
            _ => self.element_bytes(),
        }
    }

    /// The op as a graph whose first axis has `lead` slices.
    pub fn graph(&self, lead: usize) -> Outcome<Graph> {
        if let Op::Encoder { sizes, vision } = self.op {
            return nets::encoder(&Transformer { batch: lead, ..sizes }, vision);
        }
        let mut b = Builder::new(self.op.name());
        let results = match self.op {
            Op::Decode(sizes) => sizes.build(&mut b, self.dtype)?,
            _ => vec![self.kernel(&mut b, lead)?],
        };
        for (i, y) in results.into_iter().enumerate() {
            b.output(format!("y{i}"), y);
        }
        Ok(b.finish())
    }

    fn kernel(&self, b: &mut Builder, lead: usize) -> Outcome<ValueId> {
        let dtype = self.dtype;
        let input = |b: &mut Builder, name: &str, rest: &[usize]| {
            let shape: Vec<Dim> = std::iter::once(lead).chain(rest.iter().copied()).map(Dim::from).collect();
            b.input(name, dtype, &shape)
        };
        let weight = |b: &mut Builder, name: &str, shape: &[usize], seed| -> Outcome<ValueId> {
            Ok(b.weight_data(name, random(dtype, shape, seed, 1.0)?)?)
        };
        Ok(match self.op {
            Op::Gemm { n, k, linear, .. } => {
                let x = input(b, "x", &[k])?;
                let w = weight(b, "w", &if linear { [n, k] } else { [k, n] }, 1)?;
                let rhs = if linear { vec!['n', 'k'] } else { vec!['k', 'n'] };
                let spec = EinsumSpec { lhs: vec!['m', 'k'], rhs, out: vec!['m', 'n'] };
                match dtype {
                    DType::F8E4M3 => {
                        let y = b.contract(spec, x, w, DType::F32, DType::F32)?;
                        let of_row = b.input("of_row", DType::F32, &[Dim::from(lead), Dim::from(1)])?;
                        let of_column = b.weight_data("of_column", random(DType::F32, &[n], 2, 1.0)?)?;
                        let y = b.binary(BinaryOp::Mul, y, of_row)?;
                        let y = b.binary(BinaryOp::Mul, y, of_column)?;
                        b.cast(y, DType::BF16)?
                    }
                    DType::I8 => b.contract(spec, x, w, DType::I32, DType::I32)?,
                    _ if linear => b.linear(x, w, None, true)?,
                    _ => b.matmul(x, w)?,
                }
            }
            Op::Softmax { cols, .. } => {
                let x = input(b, "x", &[cols])?;
                b.softmax(x, -1)?
            }
            Op::LayerNorm { cols, .. } => {
                let x = input(b, "x", &[cols])?;
                let (scale, bias) = (weight(b, "scale", &[cols], 1)?, weight(b, "bias", &[cols], 2)?);
                b.layer_norm(x, -1, Some(scale), Some(bias), 1e-5)?
            }
            Op::RmsNorm { cols, .. } => {
                let x = input(b, "x", &[cols])?;
                let scale = weight(b, "scale", &[cols], 1)?;
                b.rms_norm(x, -1, Some(scale), 1e-5)?
            }
            Op::SwiGlu { cols, .. } => {
                let (gate, up) = (input(b, "gate", &[cols])?, input(b, "up", &[cols])?);
                let gate = b.silu(gate)?;
                b.binary(BinaryOp::Mul, gate, up)?
            }
            Op::Attention { seq, head, causal, .. } => {
                let [q, k, v] = ["q", "k", "v"].map(|name| input(b, name, &[seq, head]));
                b.attention(q?, k?, v?, None, None, causal.then(|| Dim::from(0)).as_ref())?
            }
            Op::Cached { heads, kv_heads, keys, head, .. } => {
                let q = input(b, "q", &[kv_heads, heads / kv_heads, head])?;
                let [k, v] = ["k", "v"].map(|name| input(b, name, &[kv_heads, keys, head]));
                b.attention(q, k?, v?, None, None, None)?
            }
            Op::Conv { c, size, out, kernel, stride, last, .. } => {
                let (image, filter) = match last {
                    true => ([size, size, c], [out, kernel, kernel, c]),
                    false => ([c, size, size], [out, c, kernel, kernel]),
                };
                let (mut x, mut w) = (input(b, "x", &image)?, weight(b, "w", &filter, 1)?);
                if last {
                    (x, w) = (b.transpose(x, &[0, 3, 1, 2])?, b.transpose(w, &[0, 3, 1, 2])?);
                }
                let pad = kernel / 2;
                let spec =
                    ConvSpec { strides: vec![stride; 2], pads: vec![(pad, pad); 2], dilations: vec![1; 2], groups: 1 };
                let y = b.conv(x, w, None, spec)?;
                if last { b.transpose(y, &[0, 2, 3, 1])? } else { y }
            }
            Op::Decode(_) | Op::Encoder { .. } => return Err("a network is more than one kernel".into()),
        })
    }

    /// Random inputs of a graph of this case.
    pub fn inputs(&self, graph: &Graph, seed: u64) -> Outcome<Vec<(String, Tensor)>> {
        graph
            .inputs
            .iter()
            .enumerate()
            .map(|(i, &id)| {
                let ty = &graph.value(id).ty;
                let shape: Vec<usize> = ty.const_shape().ok_or("an input's shape is not constant")?;
                Ok((graph.input_name(id), random(ty.dtype, &shape, seed + 10 * i as u64, 1.0)?))
            })
            .collect()
    }
}

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn gemm(m: usize, n: usize, k: usize, linear: bool) -> Op {
    Op::Gemm { m, n, k, linear }
}

fn attention(heads: usize, seq: usize, head: usize, causal: bool) -> Op {
    Op::Attention { heads, seq, head, causal }
}

fn cached(batch: usize, keys: usize, head: usize) -> Op {
    Op::Cached { batch, heads: 32, kv_heads: 8, keys, head }
}

fn conv(n: usize, (c, size, out, kernel, stride): (usize, usize, usize, usize, usize)) -> Op {
    Op::Conv { n, c, size, out, kernel, stride, last: false }
}

/// The same with channels last.
fn conv_last(n: usize, (c, size, out, kernel, stride): (usize, usize, usize, usize, usize)) -> Op {
    Op::Conv { n, c, size, out, kernel, stride, last: true }
}

fn in_each(dtypes: &[DType], ops: &[Op]) -> Vec<Case> {
    dtypes.iter().flat_map(|&dtype| ops.iter().map(move |&op| Case { op, dtype })).collect()
}

/// Small and odd sizes in every float type, and products of bytes.
pub fn small() -> Vec<Case> {
    let ops = [
        gemm(1, 40, 64, true),
        gemm(16, 256, 128, true),
        gemm(33, 70, 129, false),
        gemm(65, 136, 72, true),
        gemm(129, 257, 96, false),
        gemm(256, 384, 512, false),
        gemm(256, 384, 512, true),
        Op::Softmax { rows: 3, cols: 1 },
        Op::Softmax { rows: 5, cols: 77 },
        Op::Softmax { rows: 9, cols: 4096 },
        Op::LayerNorm { rows: 7, cols: 129 },
        Op::LayerNorm { rows: 4, cols: 4096 },
        Op::RmsNorm { rows: 7, cols: 129 },
        Op::RmsNorm { rows: 4, cols: 8192 },
        Op::SwiGlu { rows: 3, cols: 333 },
        Op::SwiGlu { rows: 16, cols: 1024 },
        attention(3, 65, 64, false),
        attention(2, 65, 64, true),
        attention(2, 128, 128, true),
        cached(2, 1000, 64),
        conv(2, (3, 17, 8, 7, 2)),
        conv(1, (16, 14, 24, 3, 1)),
        conv(2, (16, 9, 40, 1, 1)),
        conv(2, (8, 15, 16, 3, 2)),
        conv_last(1, (64, 14, 64, 3, 1)),
        conv_last(2, (8, 15, 16, 3, 2)),
        Op::Decode(Decode { layers: 2, heads: 6, kv_heads: 2, head: 32, inner: 200, context: 19 }),
    ];
    let encoders = [false, true].map(|vision| Op::Encoder { sizes: SMALL, vision });
    let bytes = [gemm(33, 72, 144, true), gemm(129, 256, 512, true)];
    [in_each(&FLOATS, &ops), in_each(&[DType::F8E4M3, DType::I8], &bytes), in_each(&[DType::F16], &encoders)].concat()
}

/// A few kernels of every family: whole and partial tiles, several steps of a pipeline, reductions within and across warps.
pub fn slice() -> Vec<Case> {
    let ops = [
        gemm(16, 256, 128, true),
        gemm(65, 136, 72, true),
        gemm(129, 257, 96, false),
        Op::Softmax { rows: 5, cols: 77 },
        Op::LayerNorm { rows: 4, cols: 4096 },
        Op::RmsNorm { rows: 7, cols: 129 },
        Op::SwiGlu { rows: 3, cols: 333 },
        attention(2, 65, 64, true),
        conv(1, (16, 14, 24, 3, 1)),
        conv(2, (16, 9, 40, 1, 1)),
    ];
    in_each(&[DType::F32, DType::BF16], &ops)
}

/// The linears of a LLaMA of 8 and of 70 billion parameters, as (n, k): attention input, attention output, gate and up, down.
const LLAMA: [(usize, usize); 8] = [
    (6144, 4096),
    (4096, 4096),
    (28672, 4096),
    (4096, 14336),
    (10240, 8192),
    (8192, 8192),
    (57344, 8192),
    (8192, 28672),
];

/// All convolutions of a ResNet-50 for pictures of 224 x 224: (channels, size, outputs, kernel, stride).
const RESNET: [(usize, usize, usize, usize, usize); 23] = [
    (3, 224, 64, 7, 2),
    (64, 56, 64, 1, 1),
    (64, 56, 64, 3, 1),
    (64, 56, 256, 1, 1),
    (256, 56, 64, 1, 1),
    (256, 56, 128, 1, 1),
    (128, 56, 128, 3, 2),
    (128, 28, 512, 1, 1),
    (256, 56, 512, 1, 2),
    (512, 28, 128, 1, 1),
    (128, 28, 128, 3, 1),
    (512, 28, 256, 1, 1),
    (256, 28, 256, 3, 2),
    (256, 14, 1024, 1, 1),
    (512, 28, 1024, 1, 2),
    (1024, 14, 256, 1, 1),
    (256, 14, 256, 3, 1),
    (1024, 14, 512, 1, 1),
    (512, 14, 512, 3, 2),
    (512, 7, 2048, 1, 1),
    (1024, 14, 2048, 1, 2),
    (2048, 7, 512, 1, 1),
    (512, 7, 512, 3, 1),
];

/// Layers that the interpreter has done soon.
const SMALL: Transformer =
    Transformer { batch: 2, hidden: 96, inner: 200, heads: 3, kv_heads: 3, layers: 2, length: 19 };

/// Tokens of all sequences of an attention together, and channels of all heads: 16 heads of 64 or 8 of 128.
const ATTENDED: (usize, usize) = (16384, 1024);

/// A few of [`full`], one or two of each kind.
pub fn typical() -> Vec<Case> {
    let bf16 = |op| Case { op, dtype: DType::BF16 };
    let llama_layer = Decode { layers: 1, heads: 32, kv_heads: 8, head: 128, inner: 14336, context: 1023 };
    let ops = [
        gemm(4096, 4096, 4096, false),
        gemm(1, 4096, 4096, true),
        Op::Softmax { rows: 16384, cols: 4096 },
        Op::LayerNorm { rows: 16384, cols: 4096 },
        Op::RmsNorm { rows: 16384, cols: 4096 },
        Op::SwiGlu { rows: 8192, cols: 14336 },
        attention(128, 2048, 64, false),
        attention(64, 2048, 128, true),
        conv(32, (64, 56, 64, 3, 1)),
        conv(32, (1024, 14, 256, 1, 1)),
        Op::Decode(llama_layer),
    ];
    ops.map(bf16).into()
}

/// Sizes of real models.
pub fn full() -> Vec<Case> {
    let bf16 = |op| Case { op, dtype: DType::BF16 };
    let square = |s, dtype| Case { op: gemm(s, s, s, false), dtype };
    let mut cases: Vec<Case> = [1024, 2048, 4096, 8192, 16384].map(|s| square(s, DType::BF16)).into();
    cases.extend([square(4096, DType::F16), square(2048, DType::F32)]);
    for dtype in [DType::F8E4M3, DType::I8] {
        cases.extend([4096, 8192].map(|s| Case { op: gemm(s, s, s, true), dtype }));
    }
    for m in [1, 16, 128, 2048, 8192] {
        cases.extend(LLAMA.map(|(n, k)| bf16(gemm(m, n, k, true))));
    }
    for (rows, cols) in [(32768, 1024), (16384, 4096), (2048, 32768)] {
        cases.push(bf16(Op::Softmax { rows, cols }));
    }
    cases.push(Case { op: Op::Softmax { rows: 16384, cols: 4096 }, dtype: DType::F32 });
    cases.extend([(32768, 1024), (16384, 4096)].map(|(rows, cols)| bf16(Op::LayerNorm { rows, cols })));
    cases.extend([(16384, 4096), (8192, 8192)].map(|(rows, cols)| bf16(Op::RmsNorm { rows, cols })));
    cases.push(bf16(Op::SwiGlu { rows: 8192, cols: 14336 }));
    for head in [64, 128] {
        for seq in [1024, 2048, 4096, 8192, 16384] {
            let heads = ATTENDED.0 / seq * (ATTENDED.1 / head);
            cases.extend([false, true].map(|causal| bf16(attention(heads, seq, head, causal))));
        }
    }
    cases
        .extend([(1, 1024), (1, 8192), (1, 32768), (32, 1024), (32, 8192)].map(|(n, keys)| bf16(cached(n, keys, 128))));
    cases.extend(RESNET.map(|shape| bf16(conv(32, shape))));
    for images in [32, 1] {
        cases.extend(RESNET.map(|shape| bf16(conv_last(images, shape))));
    }
    let llama_8b = Decode { layers: 32, heads: 32, kv_heads: 8, head: 128, inner: 14336, context: 1023 };
    cases.push(bf16(Op::Decode(llama_8b)));
    for (batch, length) in [(1, 128), (1, 384), (8, 384)] {
        let sizes = Transformer { batch, length, ..BERT_LARGE };
        cases.push(Case { op: Op::Encoder { sizes, vision: false }, dtype: DType::F16 });
    }
    for batch in [1, 32] {
        let sizes = Transformer { batch, ..VIT_B16 };
        cases.push(Case { op: Op::Encoder { sizes, vision: true }, dtype: DType::F16 });
    }
    cases
}

/// The full-size case of that name.
pub fn named(name: &str) -> crate::Outcome<Case> {
    let case = full().into_iter().find(|case| case.name() == name);
    case.ok_or_else(|| format!("no case is called `{name}`").into())
}

/// Kernels of which every Config is timed, unless others are named.
pub fn ranked() -> Vec<Case> {
    let mut cases = in_each(
        &[DType::BF16],
        &[
            attention(256, 1024, 64, false),
            attention(32, 4096, 128, false),
            attention(32, 4096, 128, true),
            attention(16, 128, 64, false),
            attention(16, 512, 64, false),
            gemm(4096, 4096, 4096, false),
            gemm(2048, 4096, 14336, true),
            gemm(128, 6144, 4096, true),
            gemm(128, 28672, 4096, true),
            gemm(16, 4096, 14336, true),
            gemm(1, 4096, 4096, true),
        ],
    );
    cases.push(Case { op: gemm(2048, 2048, 2048, false), dtype: DType::F32 });
    let (wide, deep) = (conv(32, (128, 28, 128, 3, 1)), conv(1, (512, 7, 512, 3, 1)));
    let strided = conv(32, (1024, 14, 2048, 1, 2));
    let batches = [conv(32, (64, 56, 64, 3, 1)), wide, conv(32, (512, 7, 512, 3, 1)), strided, deep];
    let stem = conv(1, (3, 224, 64, 7, 2));
    let images =
        [wide, stem, conv(1, (64, 56, 64, 3, 1)), conv(1, (128, 28, 128, 3, 1)), conv(1, (256, 14, 256, 3, 1)), deep];
    let last = [(64, 56, 64, 3, 1), (128, 28, 128, 3, 1), (512, 7, 512, 3, 1), (1024, 14, 2048, 1, 2)];
    cases.extend(in_each(&[DType::BF16], &batches));
    cases.extend(in_each(&[DType::BF16], &last.map(|shape| conv_last(32, shape))));
    cases.extend(in_each(&[DType::F32], &images));
    cases
}
