//! Graphs of real sizes, for how long fusion takes. Their weights share one buffer, so that only what is folded takes memory.

use kiln_graph::{Attending, Builder, ConvSpec, DType, Dim, Graph, Result, Tensor, ValueId};

const F16: DType = DType::F16;

fn dims<const N: usize>(shape: [usize; N]) -> [Dim; N] {
    shape.map(Dim::from)
}

struct Make {
    b: Builder,
    /// What every weight begins like.
    data: Tensor,
}

impl Make {
    /// `most`: elements of the largest weight.
    fn new(name: String, most: usize) -> Result<Make> {
        // Not zeros, of which rules would make less.
        let data = Tensor::new(F16, vec![most], [0x12u8, 0x21].repeat(most).into())?;
        Ok(Make { b: Builder::new(name), data })
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId> {
        let bytes = 2 * shape.iter().product::<usize>();
        let data = Tensor::new(F16, shape.to_vec(), self.data.data().slice(..bytes))?;
        let name = format!("{}.{name}", self.b.scope());
        self.b.weight_data(&name, data)
    }

    fn linear(&mut self, x: ValueId, name: &str, from: usize, to: usize, biased: bool) -> Result<ValueId> {
        let w = self.weight(name, &[to, from])?;
        let bias = if biased { Some(self.weight(&format!("{name}.bias"), &[to])?) } else { None };
        self.b.linear(x, w, bias, true)
    }

    fn conv(&mut self, x: ValueId, name: &str, [to, from, taps]: [usize; 3], stride: usize) -> Result<ValueId> {
        let w = self.weight(name, &[to, from, taps, taps])?;
        let bias = self.weight(&format!("{name}.bias"), &[to])?;
        let pads = vec![(taps / 2, taps / 2); 2];
        let spec = ConvSpec { strides: vec![stride; 2], pads, dilations: vec![1; 2], groups: 1 };
        self.b.conv(x, w, Some(bias), spec)
    }

    fn group_norm(&mut self, x: ValueId, name: &str, channels: usize) -> Result<ValueId> {
        let [scale, bias] = ["scale", "bias"].map(|part| self.weight(&format!("{name}.{part}"), &[channels]));
        self.b.group_norm(x, 32, Some(scale?), Some(bias?), 1e-5)
    }

    fn layer_norm(&mut self, x: ValueId, name: &str, width: usize) -> Result<ValueId> {
        let [scale, bias] = ["scale", "bias"].map(|part| self.weight(&format!("{name}.{part}"), &[width]));
        self.b.layer_norm(x, -1, Some(scale?), Some(bias?), 1e-5)
    }
}

/// Layers of a LLaMA over 512 embedded tokens: 2048 wide, heads of 64, a quarter as many of keys and values.
pub fn llama(layers: usize) -> Graph {
    let (tokens, hidden, inner, head) = (512, 2048, 5632, 64);
    let mut m = Make::new(format!("llama_{layers}"), hidden * inner).unwrap();
    let x = m.b.input("x", F16, &dims([tokens, hidden])).unwrap();
    let [cos, sin] = ["cos", "sin"].map(|name| m.b.input(name, F16, &dims([tokens, head / 2])).unwrap());
    let layer = |m: &mut Make, x: ValueId| -> Result<ValueId> {
        let g = m.weight("norm", &[hidden])?;
        let y = m.b.rms_norm(x, -1, Some(g), 1e-5)?;
        let mut parts = vec![];
        for (name, width) in [("q", hidden), ("k", hidden / 4), ("v", hidden / 4)] {
            let p = m.linear(y, name, hidden, width, false)?;
            let p = m.b.reshape(p, &dims([tokens, width / head, head]))?;
            let p = m.b.transpose(p, &[1, 0, 2])?;
            parts.push(if name == "v" { p } else { m.b.rope(p, cos, sin, false, None)? });
        }
        let causal = Attending { causal: true, ..Attending::default() };
        let a = m.b.attention_with(parts[0], parts[1], parts[2], &causal)?;
        let a = m.b.transpose(a, &[1, 0, 2])?;
        let a = m.b.reshape(a, &dims([tokens, hidden]))?;
        let a = m.linear(a, "o", hidden, hidden, false)?;
        let x = m.b.plus(x, a)?;
        let g = m.weight("inner_norm", &[hidden])?;
        let y = m.b.rms_norm(x, -1, Some(g), 1e-5)?;
        let gate = m.linear(y, "gate", hidden, inner, false)?;
        let gate = m.b.silu(gate)?;
        let up = m.linear(y, "up", hidden, inner, false)?;
        let y = m.b.mul(gate, up)?;
        let y = m.linear(y, "down", inner, hidden, false)?;
        m.b.plus(x, y)
    };
    let mut x = x;
    for i in 0..layers {
        m.b.push_scope(format!("layer.{i}"));
        x = layer(&mut m, x).unwrap();
        m.b.pop_scope();
    }
    m.b.output("y", x);
    m.b.finish()
}

/// What a U-Net is made over.
struct UNet {
    m: Make,
    /// The embedded time step, and what queries attend to beside the image.
    time: ValueId,
    context: ValueId,
    count: usize,
}

/// Width of the embedded time step; length and width of the context.
const TIME: usize = 640;
const CONTEXT: [usize; 2] = [77, 384];

impl UNet {
    fn block(&mut self, make: impl FnOnce(&mut UNet) -> Result<ValueId>) -> Result<ValueId> {
        self.m.b.push_scope(format!("block.{}", self.count));
        self.count += 1;
        let made = make(self);
        self.m.b.pop_scope();
        made
    }

    /// Two convolutions behind group norms, the time step added between, beside a residual.
    fn residual(&mut self, x: ValueId, to: usize) -> Result<ValueId> {
        self.block(|u| {
            let from = u.m.b.shape(x)[1].as_const().map_or(0, |n| n as usize);
            let y = u.m.group_norm(x, "norm1", from)?;
            let y = u.m.b.silu(y)?;
            let y = u.m.conv(y, "conv1", [to, from, 3], 1)?;
            let t = u.m.b.silu(u.time)?;
            let t = u.m.linear(t, "time", TIME, to, true)?;
            let t = u.m.b.unsqueeze(t, &[2, 3])?;
            let y = u.m.b.plus(y, t)?;
            let y = u.m.group_norm(y, "norm2", to)?;
            let y = u.m.b.silu(y)?;
            let y = u.m.conv(y, "conv2", [to, to, 3], 1)?;
            let x = if from == to { x } else { u.m.conv(x, "skip", [to, from, 1], 1)? };
            u.m.b.plus(x, y)
        })
    }

    fn attention(&mut self, x: ValueId, name: &str, over: ValueId, width: usize, beside: usize) -> Result<ValueId> {
        let m = &mut self.m;
        let head = 40;
        let mut parts = vec![];
        for (part, of, from) in [("q", x, width), ("k", over, beside), ("v", over, beside)] {
            let p = m.linear(of, &format!("{name}.{part}"), from, width, false)?;
            let tokens = m.b.shape(p)[1].clone();
            let p = m.b.reshape(p, &[1.into(), tokens, (width / head).into(), head.into()])?;
            parts.push(m.b.transpose(p, &[0, 2, 1, 3])?);
        }
        let a = m.b.attention(parts[0], parts[1], parts[2], None, None, None)?;
        let a = m.b.transpose(a, &[0, 2, 1, 3])?;
        let shape = m.b.shape(x).to_vec();
        let a = m.b.reshape(a, &shape)?;
        m.linear(a, &format!("{name}.o"), width, width, true)
    }

    /// A transformer layer over the pixels.
    fn transformer(&mut self, x: ValueId) -> Result<ValueId> {
        self.block(|u| {
            let shape = u.m.b.shape(x).to_vec();
            let size = |axis: usize| shape[axis].as_const().map_or(0, |n| n as usize);
            let (width, pixels) = (size(1), size(2) * size(3));
            let y = u.m.group_norm(x, "norm", width)?;
            let y = u.m.conv(y, "in", [width, width, 1], 1)?;
            let y = u.m.b.reshape(y, &dims([1, width, pixels]))?;
            let mut y = u.m.b.transpose(y, &[0, 2, 1])?;
            let normed = u.m.layer_norm(y, "norm1", width)?;
            let a = u.attention(normed, "self", normed, width, width)?;
            y = u.m.b.plus(a, y)?;
            let normed = u.m.layer_norm(y, "norm2", width)?;
            let a = u.attention(normed, "cross", u.context, width, CONTEXT[1])?;
            y = u.m.b.plus(a, y)?;
            let normed = u.m.layer_norm(y, "norm3", width)?;
            let both = u.m.linear(normed, "gate", width, 8 * width, true)?;
            let parts = u.m.b.split_evenly(both, -1, 2)?;
            let gate = u.m.b.gelu(parts[1])?;
            let a = u.m.b.mul(parts[0], gate)?;
            let a = u.m.linear(a, "down", 4 * width, width, true)?;
            y = u.m.b.plus(a, y)?;
            let y = u.m.b.transpose(y, &[0, 2, 1])?;
            let y = u.m.b.reshape(y, &shape)?;
            let y = u.m.conv(y, "out", [width, width, 1], 1)?;
            u.m.b.plus(x, y)
        })
    }

    /// Twice as high and wide, each pixel four times.
    fn enlarged(&mut self, x: ValueId) -> Result<ValueId> {
        self.block(|u| {
            let shape = u.m.b.shape(x).to_vec();
            let [n, c, h, w] = [0, 1, 2, 3].map(|axis| shape[axis].clone());
            let one = Dim::from(1);
            let y = u.m.b.reshape(x, &[n.clone(), c.clone(), h.clone(), one.clone(), w.clone(), one])?;
            let two = Dim::from(2);
            let wide = [n.clone(), c.clone(), h.clone(), two.clone(), w.clone(), two.clone()];
            let y = u.m.b.broadcast_to(y, &wide)?;
            let y = u.m.b.reshape(y, &[n, c.clone(), h * two.clone(), w * two])?;
            let c = c.as_const().map_or(0, |n| n as usize);
            u.m.conv(y, "conv", [c, c, 3], 1)
        })
    }
}

/// A U-Net as diffusion models have it: four resolutions, at each so many residual blocks and transformers on the way down, and one more on the way up.
pub fn unet(each: usize) -> Graph {
    let make = || -> Result<Graph> {
        let widths = [160, 320, 640, 640];
        let mut m = Make::new(format!("unet_{each}"), 1280 * 640 * 9)?;
        let x = m.b.input("x", F16, &dims([1, 4, 64, 64]))?;
        let time = m.b.input("time", F16, &dims([1, TIME]))?;
        let context = m.b.input("context", F16, &dims([1, CONTEXT[0], CONTEXT[1]]))?;
        let mut u = UNet { m, time, context, count: 0 };
        let mut x = u.block(|u| u.m.conv(x, "in", [widths[0], 4, 3], 1))?;
        let mut kept = vec![x];
        for (level, width) in widths.into_iter().enumerate() {
            for _ in 0..each {
                x = u.residual(x, width)?;
                if level < 3 {
                    x = u.transformer(x)?;
                }
                kept.push(x);
            }
            if level < 3 {
                x = u.block(|u| u.m.conv(x, "halved", [width, width, 3], 2))?;
                kept.push(x);
            }
        }
        x = u.residual(x, widths[3])?;
        x = u.transformer(x)?;
        x = u.residual(x, widths[3])?;
        for (level, width) in widths.into_iter().enumerate().rev() {
            for _ in 0..=each {
                let beside = kept.pop().unwrap_or(x);
                x = u.m.b.concat(&[x, beside], 1)?;
                x = u.residual(x, width)?;
                if level < 3 {
                    x = u.transformer(x)?;
                }
            }
            if level > 0 {
                x = u.enlarged(x)?;
            }
        }
        let y = u.block(|u| {
            let y = u.m.group_norm(x, "norm", widths[0])?;
            let y = u.m.b.silu(y)?;
            u.m.conv(y, "out", [4, widths[0], 3], 1)
        })?;
        u.m.b.output("y", y);
        Ok(u.m.b.finish())
    };
    make().unwrap()
}
