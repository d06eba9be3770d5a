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

/// How a model has its rotary embedding.
#[derive(Clone, Copy, PartialEq)]
enum Rotary {
    Halves,
    Interleaved,
    /// Of full width: `y cos + [-y2 y1] sin`.
    Exported,
    /// The same in f32.
    Wide,
    /// Behind one projection to queries, keys and values.
    Fused,
}

fn rotated(b: &mut Builder, x: ValueId, form: Rotary) -> Result<[ValueId; 3]> {
    let g = weight(b, "norm", &[H])?;
    let x = b.rms_norm(x, -1, Some(g), 1e-5)?;
    let width = if matches!(form, Rotary::Exported | Rotary::Wide) { HEAD } else { HEAD / 2 };
    let [cos, sin] = ["cos", "sin"].map(|name| b.input(name, F16, &dims([S, width])));
    let (cos, sin) = (cos?, sin?);
    let mut all = vec![];
    let together = match form {
        Rotary::Fused => Some(linear(b, x, "qkv", H, (HEADS + 2 * KEY_HEADS) * HEAD, false)?),
        _ => None,
    };
    let mut start = 0;
    for (name, n) in [("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)] {
        let y = match together {
            Some(all) => b.slice_axis(all, -1, &Dim::from(start * HEAD), &Dim::from(n * HEAD), 1)?,
            None => linear(b, x, name, H, n * HEAD, false)?,
        };
        start += n;
        let y = heads(b, y, n)?;
        all.push(match form {
            _ if name == "v" => y,
            Rotary::Exported | Rotary::Wide => {
                let wide = |b: &mut Builder, x| if form == Rotary::Wide { b.cast(x, DType::F32) } else { Ok(x) };
                let (y, cos, sin) = (wide(b, y)?, wide(b, cos)?, wide(b, sin)?);
                let half = Dim::from(HEAD / 2);
                let first = b.slice_axis(y, -1, &Dim::from(0), &half, 1)?;
                let second = b.slice_axis(y, -1, &half, &half, 1)?;
                let second = b.neg(second)?;
                let turned = b.concat(&[second, first], -1)?;
                let (a, c) = (b.mul(y, cos)?, b.mul(turned, sin)?);
                let y = b.plus(a, c)?;
                b.cast(y, F16)?
            }
            form => b.rope(y, cos, sin, form == Rotary::Interleaved, None)?,
        });
    }
    Ok([all[0], all[1], all[2]])
}

/// Queries, keys and values of one token, queries by the key head that they share.
fn one_token(b: &mut Builder) -> Result<Vec<ValueId>> {
    let x = b.input("x", F16, &dims([1, H]))?;
    let g = weight(b, "norm", &[H])?;
    let x = b.rms_norm(x, -1, Some(g), 1e-5)?;
    let [cos, sin] = ["cos", "sin"].map(|name| b.input(name, F16, &dims([1, HEAD / 2])));
    let (cos, sin) = (cos?, sin?);
    let mut all = vec![];
    for (name, n) in [("q", HEADS), ("k", KEY_HEADS), ("v", KEY_HEADS)] {
        let y = linear(b, x, name, H, n * HEAD, false)?;
        let y = b.reshape(y, &dims([1, n, HEAD]))?;
        let y = b.transpose(y, &[1, 0, 2])?;
        let y = if name == "v" { y } else { b.rope(y, cos, sin, false, None)? };
        all.push(b.reshape(y, &dims([KEY_HEADS, n / KEY_HEADS, HEAD]))?);
    }
    Ok(all)
}

/// A gated layer whose gate and what it gates are one projection.
fn fused_swiglu(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let both = linear(b, x, "gate_up", H, 6 * H, true)?;
    let parts = b.split_evenly(both, -1, 2)?;
    let gate = b.silu(parts[0])?;
    let y = b.mul(gate, parts[1])?;
    linear(b, y, "down", 3 * H, H, false)
}

fn llama_block(b: &mut Builder, x: ValueId, form: Rotary) -> Result<ValueId> {
    let [q, k, v] = rotated(b, x, form)?;
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

/// Attention over keys and values that are copied for the heads that share them, as exports have it: `lead` axes before the heads, and a mask of shape `mask` that is added.
fn repeated_heads(b: &mut Builder, lead: &[usize], mask: Option<&[usize]>, causal: bool) -> Result<ValueId> {
    let shape = |heads: &[usize]| [lead, heads, &[S, HEAD]].concat().into_iter().map(Dim::from).collect::<Vec<_>>();
    let q = b.input("q", F16, &shape(&[HEADS]))?;
    let mut spread = |name: &str| {
        let x = b.input(name, F16, &shape(&[KEY_HEADS]))?;
        let x = b.unsqueeze(x, &[lead.len() as i64 + 1])?;
        let x = b.broadcast_to(x, &shape(&[KEY_HEADS, HEADS / KEY_HEADS]))?;
        b.reshape(x, &shape(&[HEADS]))
    };
    let (k, v) = (spread("k")?, spread("v")?);
    let mask = mask.map(|shape| b.input("mask", F16, &shape.iter().map(|n| Dim::from(*n)).collect::<Vec<_>>()));
    b.attention_with(q, k, v, &Attending { mask: mask.transpose()?, causal, ..Attending::default() })
}

fn causal(b: &mut Builder, dtype: DType) -> Result<ValueId> {
    let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, dtype, &dims([HEADS, S, HEAD])));
    b.attention_with(q?, k?, v?, &Attending { causal: true, ..Attending::default() })
}

fn hidden(b: &mut Builder) -> Result<ValueId> {
    b.input("x", F16, &dims([S, H]))
}

/// What docs/fusion.md says.
pub fn known() -> Vec<(Graph, usize)> {
    let repeated = |name: &str, lead: &[usize], mask: Option<&[usize]>, causal| {
        (graph(name, |b| Ok(vec![repeated_heads(b, lead, mask, causal)?])), 1)
    };
    let mut models: Vec<(Graph, usize)> = vec![
        (graph("swiglu", |b| hidden(b).and_then(|x| Ok(vec![swiglu(b, x)?]))), 2),
        (graph("swiglu_of_one_projection", |b| hidden(b).and_then(|x| Ok(vec![fused_swiglu(b, x)?]))), 2),
        repeated("repeated_heads", &[], None, false),
        repeated("repeated_heads_causal", &[], None, true),
        repeated("repeated_heads_masked", &[], Some(&[HEADS, S, S]), false),
        repeated("repeated_heads_of_two", &[2], Some(&[1, 1, S, S]), false),
        repeated("repeated_heads_of_two_causal", &[2], None, true),
        (graph("causal_f32", |b| Ok(vec![causal(b, DType::F32)?])), 1),
        (graph("decode_step", decode_step), 3),
        (graph("norm_qkv_rope_of_one_token", one_token), 2),
        (graph("encoder_layer", |b| hidden(b).and_then(|x| Ok(vec![encoder_layer(b, x, false)?]))), 7),
        (graph("encoder_layer_fused_qkv", |b| hidden(b).and_then(|x| Ok(vec![encoder_layer(b, x, true)?]))), 7),
    ];
    for (name, form) in [
        ("", Rotary::Halves),
        ("_interleaved", Rotary::Interleaved),
        ("_exported", Rotary::Exported),
        ("_exported_f32", Rotary::Wide),
        ("_fused_qkv", Rotary::Fused),
    ] {
        let graph = |start: &str, make: &dyn Fn(&mut Builder, ValueId) -> Result<Vec<ValueId>>| {
            graph(&format!("{start}{name}"), |b| hidden(b).and_then(|x| make(b, x)))
        };
        models.push((graph("norm_qkv_rope", &|b, x| Ok(rotated(b, x, form)?.to_vec())), 2));
        models.push((graph("llama_block", &|b, x| Ok(vec![llama_block(b, x, form)?])), 7));
    }
    models
}
