//! Well-known graphs, and how many kernels each becomes on sm_90a.

use kiln_graph::{Attending, Builder, DType, Dim, Graph, Result, ScatterOp, Tensor, ValueId};

const F16: DType = DType::F16;
/// Width, heads, key heads, elements of a head, tokens.
const H: usize = 512;
const HEADS: usize = 8;
const KEY_HEADS: usize = 2;
const HEAD: usize = H / HEADS;
const S: usize = 128;

fn dims<const N: usize>(shape: [usize; N]) -> [Dim; N] {
    shape.map(Dim::from)
}

fn graph(name: &str, make: impl FnOnce(&mut Builder) -> Result<Vec<ValueId>>) -> Graph {
    let mut b = Builder::new(name);
    for (i, v) in make(&mut b).unwrap().into_iter().enumerate() {
        b.output(format!("y{i}"), v);
    }
    b.finish()
}

fn weight(b: &mut Builder, name: &str, shape: &[usize]) -> Result<ValueId> {
    b.weight_data(name, Tensor::random(F16, shape, name.len() as u64)?)
}

fn linear(b: &mut Builder, x: ValueId, name: &str, from: usize, to: usize, biased: bool) -> Result<ValueId> {
    let w = weight(b, &format!("{name}.weight"), &[to, from])?;
    let bias = if biased { Some(weight(b, &format!("{name}.bias"), &[to])?) } else { None };
    b.linear(x, w, bias, true)
}

/// `[S, n * HEAD]` as `[n, S, HEAD]`.
fn heads(b: &mut Builder, x: ValueId, n: usize) -> Result<ValueId> {
    let x = b.reshape(x, &dims([S, n, HEAD]))?;
    b.transpose(x, &[1, 0, 2])
}

fn joined(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let x = b.transpose(x, &[1, 0, 2])?;
    b.reshape(x, &dims([S, H]))
}

fn swiglu(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let gate = linear(b, x, "gate", H, 3 * H, false)?;
    let gate = b.silu(gate)?;
    let up = linear(b, x, "up", H, 3 * H, false)?;
    let y = b.mul(gate, up)?;
    linear(b, y, "down", 3 * H, H, false)
}

fn rotated(b: &mut Builder, x: ValueId) -> Result<[ValueId; 3]> {
    let g = weight(b, "norm", &[H])?;
    let x = b.rms_norm(x, -1, Some(g), 1e-5)?;
    let [cos, sin] = ["cos", "sin"].map(|name| b.input(name, F16, &dims([S, HEAD / 2])));
    let (cos, sin) = (cos?, sin?);
    let mut all = vec![];
    for (name, n) in [("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)] {
        let y = linear(b, x, name, H, n * HEAD, false)?;
        let y = heads(b, y, n)?;
        all.push(if name == "v" { y } else { b.rope(y, cos, sin, false, None)? });
    }
    Ok([all[0], all[1], all[2]])
}

fn llama_block(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let [q, k, v] = rotated(b, x)?;
    let a = b.attention_with(q, k, v, &Attending { causal: true, ..Attending::default() })?;
    let a = joined(b, a)?;
    let a = linear(b, a, "o", H, H, false)?;
    let x = b.plus(x, a)?;
    let g = weight(b, "inner_norm", &[H])?;
    let y = b.rms_norm(x, -1, Some(g), 1e-5)?;
    let y = swiglu(b, y)?;
    b.plus(x, y)
}

fn encoder_layer(b: &mut Builder, x: ValueId, fused: bool) -> Result<ValueId> {
    let qkv = match fused {
        true => {
            let qkv = linear(b, x, "qkv", H, 3 * H, true)?;
            b.split_evenly(qkv, -1, 3)?
        }
        false => ["q", "k", "v"].map(|name| linear(b, x, name, H, H, true)).into_iter().collect::<Result<_>>()?,
    };
    let qkv = qkv.into_iter().map(|y| heads(b, y, HEADS)).collect::<Result<Vec<_>>>()?;
    let a = b.attention(qkv[0], qkv[1], qkv[2], None, None, None)?;
    let a = joined(b, a)?;
    let a = linear(b, a, "o", H, H, true)?;
    let x = b.plus(a, x)?;
    let norm = |b: &mut Builder, name: &str, x: ValueId| {
        let (g, beta) = (weight(b, &format!("{name}.g"), &[H])?, weight(b, &format!("{name}.b"), &[H])?);
        b.layer_norm(x, -1, Some(g), Some(beta), 1e-5)
    };
    let x = norm(b, "norm1", x)?;
    let y = linear(b, x, "up", H, 4 * H, true)?;
    let y = b.gelu(y)?;
    let y = linear(b, y, "down", 4 * H, H, true)?;
    let y = b.plus(y, x)?;
    norm(b, "norm2", y)
}

/// Attention of one token over a cache in which its key and value are put at their place.
fn decode_step(b: &mut Builder) -> Result<Vec<ValueId>> {
    let place = b.input("place", DType::I64, &dims([1]))?;
    let q = b.input("q", F16, &dims([HEADS, 1, HEAD]))?;
    let mut caches = vec![];
    for name in ["k", "v"] {
        let cache = b.input(&format!("{name}_cache"), F16, &dims([KEY_HEADS, 1024, HEAD]))?;
        let new = b.input(name, F16, &dims([KEY_HEADS, 1, HEAD]))?;
        caches.push(b.scatter(cache, place, new, 1, ScatterOp::Set)?);
    }
    let y = b.attention(q, caches[0], caches[1], None, None, None)?;
    Ok(vec![y, caches[0], caches[1]])
}

fn repeated_heads(b: &mut Builder) -> Result<ValueId> {
    let q = b.input("q", F16, &dims([HEADS, S, HEAD]))?;
    let mut spread = |name: &str| {
        let x = b.input(name, F16, &dims([KEY_HEADS, S, HEAD]))?;
        let x = b.unsqueeze(x, &[1])?;
        let x = b.broadcast_to(x, &dims([KEY_HEADS, HEADS / KEY_HEADS, S, HEAD]))?;
        b.reshape(x, &dims([HEADS, S, HEAD]))
    };
    let (k, v) = (spread("k")?, spread("v")?);
    b.attention(q, k, v, None, None, None)
}

fn causal(b: &mut Builder, dtype: DType) -> Result<ValueId> {
    let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, dtype, &dims([HEADS, S, HEAD])));
    b.attention_with(q?, k?, v?, &Attending { causal: true, ..Attending::default() })
}

fn hidden(b: &mut Builder) -> Result<ValueId> {
    b.input("x", F16, &dims([S, H]))
}

/// What docs/fusion.md says.
pub fn known() -> [(Graph, usize); 8] {
    [
        (graph("swiglu", |b| hidden(b).and_then(|x| Ok(vec![swiglu(b, x)?]))), 2),
        (graph("norm_qkv_rope", |b| hidden(b).and_then(|x| Ok(rotated(b, x)?.to_vec()))), 5),
        (graph("repeated_heads", |b| Ok(vec![repeated_heads(b)?])), 3),
        (graph("causal_f32", |b| Ok(vec![causal(b, DType::F32)?])), 1),
        (graph("decode_step", decode_step), 6),
        (graph("llama_block", |b| hidden(b).and_then(|x| Ok(vec![llama_block(b, x)?]))), 9),
        (graph("encoder_layer", |b| hidden(b).and_then(|x| Ok(vec![encoder_layer(b, x, false)?]))), 7),
        (graph("encoder_layer_fused_qkv", |b| hidden(b).and_then(|x| Ok(vec![encoder_layer(b, x, true)?]))), 7),
    ]
}
