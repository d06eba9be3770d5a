//! Stacks of equal layers.

use super::encoder_layer;
use kiln_graph::{Attending, Builder, DType, Graph, Result, Rng, Tensor, ValueId};

/// Encoder layers of width 256 over sequences of 64, which differ in their weights alone.
pub fn stack(layers: usize) -> Graph {
    let mut rng = Rng::new(7);
    let mut b = Builder::new("stack");
    let x = b.input("x", DType::F32, &[1.into(), 64.into(), 256.into()]).unwrap();
    let mask = b.input("mask", DType::F32, &[1.into(), 1.into(), 1.into(), 64.into()]).unwrap();
    let mut y = x;
    for i in 0..layers {
        y = b.scoped(format!("layer.{i}"), |b| encoder_layer(b, &mut rng, y, mask, 256, 4)).unwrap();
    }
    b.output("y", y);
    b.finish()
}

/// Layers in half precision of any batch and length: attention, and a gated product, each behind a norm and beside a residual.
pub fn halves(layers: usize) -> Graph {
    let mut b = Builder::new("halves");
    let (n, s) = (b.symbol("N", 1, 8), b.symbol("S", 1, 512));
    let mut x = b.input("x", DType::F16, &[n.clone(), s.clone(), 128.into()]).unwrap();
    let layer = |b: &mut Builder, x: ValueId| -> Result<ValueId> {
        let weight = |b: &mut Builder, name: &str, shape: &[usize]| {
            let name = format!("{}.{name}", b.scope());
            b.weight_data(&name, Tensor::random(DType::F16, shape, 5)?)
        };
        let g = weight(b, "g", &[128])?;
        let y = b.layer_norm(x, -1, Some(g), None, 1e-5)?;
        let mut heads = Vec::new();
        for name in ["q", "k", "v"] {
            let w = weight(b, name, &[128, 128])?;
            let p = b.matmul(y, w)?;
            let p = b.reshape(p, &[n.clone(), s.clone(), 4.into(), 32.into()])?;
            heads.push(b.transpose(p, &[0, 2, 1, 3])?);
        }
        let a = b.attention(heads[0], heads[1], heads[2], None, None, None)?;
        let a = b.transpose(a, &[0, 2, 1, 3])?;
        let a = b.reshape(a, &[n.clone(), s.clone(), 128.into()])?;
        let w = weight(b, "o", &[128, 128])?;
        let a = b.matmul(a, w)?;
        let x = b.plus(a, x)?;
        let g = weight(b, "h", &[128])?;
        let y = b.layer_norm(x, -1, Some(g), None, 1e-5)?;
        let (up, gate) = (weight(b, "up", &[128, 256])?, weight(b, "gate", &[128, 256])?);
        let (up, gate) = (b.matmul(y, up)?, b.matmul(y, gate)?);
        let gate = b.silu(gate)?;
        let y = b.mul(up, gate)?;
        let w = weight(b, "down", &[256, 128])?;
        let y = b.matmul(y, w)?;
        b.plus(y, x)
    };
    for i in 0..layers {
        x = b.scoped(format!("layer.{i}"), |b| layer(b, x)).unwrap();
    }
    b.output("y", x);
    b.finish()
}

/// Layers of any length as language models have them: queries and keys are turned, and fewer keys and values than queries.
pub fn rotary(layers: usize) -> Graph {
    let mut b = Builder::new("rotary");
    let s = b.symbol("S", 1, 512);
    let mut x = b.input("x", DType::BF16, &[s.clone(), 128.into()]).unwrap();
    let [cos, sin] = ["cos", "sin"].map(|name| b.input(name, DType::BF16, &[s.clone(), 16.into()]).unwrap());
    let layer = |b: &mut Builder, x: ValueId| -> Result<ValueId> {
        let weight = |b: &mut Builder, name: &str, shape: &[usize]| {
            let name = format!("{}.{name}", b.scope());
            b.weight_data(&name, Tensor::random(DType::BF16, shape, 5)?)
        };
        let g = weight(b, "g", &[128])?;
        let y = b.rms_norm(x, -1, Some(g), 1e-5)?;
        let mut heads = Vec::new();
        for (name, n) in [("q", 4), ("k", 2), ("v", 2)] {
            let (w, bias) = (weight(b, name, &[32 * n, 128])?, weight(b, &format!("{name}.bias"), &[32 * n])?);
            let p = b.linear(y, w, Some(bias), true)?;
            let p = b.reshape(p, &[s.clone(), n.into(), 32.into()])?;
            let p = b.transpose(p, &[1, 0, 2])?;
            heads.push(if name == "v" { p } else { b.rope(p, cos, sin, false, None)? });
        }
        let causal = Attending { causal: true, ..Attending::default() };
        let a = b.attention_with(heads[0], heads[1], heads[2], &causal)?;
        let a = b.transpose(a, &[1, 0, 2])?;
        let a = b.reshape(a, &[s.clone(), 128.into()])?;
        let w = weight(b, "o", &[128, 128])?;
        let a = b.linear(a, w, None, true)?;
        let x = b.plus(x, a)?;
        let g = weight(b, "h", &[128])?;
        let y = b.rms_norm(x, -1, Some(g), 1e-5)?;
        let w = weight(b, "gate_up", &[512, 128])?;
        let both = b.linear(y, w, None, true)?;
        let parts = b.split_evenly(both, -1, 2)?;
        let gate = b.silu(parts[0])?;
        let y = b.mul(gate, parts[1])?;
        let w = weight(b, "down", &[128, 256])?;
        let y = b.linear(y, w, None, true)?;
        b.plus(x, y)
    };
    for i in 0..layers {
        x = b.scoped(format!("layer.{i}"), |b| layer(b, x)).unwrap();
    }
    b.output("y", x);
    b.finish()
}
