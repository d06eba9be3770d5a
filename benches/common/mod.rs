//! What the benches share: models made in code, and criterion's settings.
#![allow(dead_code, reason = "no bench uses all of it")]

pub mod nets;

use criterion::Criterion;
use kiln::engine::{BuildOptions, Engine, Session, build, open_device};
use kiln::graph::{Builder, ConvSpec, DType, Dim, Graph, Rng, Tensor, ValueId};
use kiln_cuda::Home;
use std::time::Duration;

pub type Fail = Box<dyn std::error::Error + Send + Sync>;

/// A second or so a measurement, so that a bench takes about a minute.
pub fn criterion() -> Criterion {
    let settings = Criterion::default().warm_up_time(Duration::from_millis(300));
    settings.measurement_time(Duration::from_secs(1)).sample_size(20).configure_from_args()
}

/// Runs a bench, and says what went wrong if it could not.
pub fn run(bench: impl FnOnce(&mut Criterion) -> Result<(), Fail>) -> Result<(), Fail> {
    let mut criterion = criterion();
    bench(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// Adds random weights.
struct Make {
    b: Builder,
    seed: u64,
}

impl Make {
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, Fail> {
        self.seed += 1;
        Ok(self.b.weight_data(name, Tensor::random(DType::F32, shape, self.seed)?)?)
    }

    fn linear(&mut self, x: ValueId, name: &str, inputs: usize, outputs: usize) -> Result<ValueId, Fail> {
        let w = self.weight(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weight(&format!("{name}.bias"), &[outputs])?;
        Ok(self.b.linear(x, w, Some(bias), true)?)
    }

    fn norm(&mut self, x: ValueId, name: &str, width: usize) -> Result<ValueId, Fail> {
        let scale = self.weight(&format!("{name}.weight"), &[width])?;
        let bias = self.weight(&format!("{name}.bias"), &[width])?;
        Ok(self.b.layer_norm(x, -1, Some(scale), Some(bias), 1e-5)?)
    }
}

/// Layers of a BERT encoder over `x[1, 128, 128]`: 4 heads, a feed-forward layer of 512.
pub fn encoder(layers: usize) -> Result<Graph, Fail> {
    let (seq, width, heads) = (128, 128, 4);
    let mut g = Make { b: Builder::new(format!("encoder_{layers}")), seed: 0 };
    let mut x = g.b.input("x", DType::F32, &[1, seq, width].map(Dim::from))?;
    for i in 0..layers {
        let name = |part: &str| format!("layer.{i}.{part}");
        let [q, k, v] = ["q", "k", "v"].map(|part| -> Result<ValueId, Fail> {
            let y = g.linear(x, &name(part), width, width)?;
            let y = g.b.reshape(y, &[1, seq, heads, width / heads].map(Dim::from))?;
            Ok(g.b.transpose(y, &[0, 2, 1, 3])?)
        });
        let attended = g.b.attention(q?, k?, v?, None, None, None)?;
        let attended = g.b.transpose(attended, &[0, 2, 1, 3])?;
        let attended = g.b.reshape(attended, &[1, seq, width].map(Dim::from))?;
        let y = g.linear(attended, &name("attention"), width, width)?;
        let y = g.b.plus(x, y)?;
        x = g.norm(y, &name("attention_norm"), width)?;
        let y = g.linear(x, &name("up"), width, 4 * width)?;
        let y = g.b.gelu(y)?;
        let y = g.linear(y, &name("down"), 4 * width, width)?;
        let y = g.b.plus(x, y)?;
        x = g.norm(y, &name("norm"), width)?;
    }
    g.b.output("y", x);
    Ok(g.b.finish())
}

/// Inverted residual blocks of a MobileNet over `x[1, 16, 32, 32]`.
pub fn convnet(blocks: usize) -> Result<Graph, Fail> {
    let (channels, wide) = (16, 64);
    let mut g = Make { b: Builder::new(format!("convnet_{blocks}")), seed: 0 };
    let mut x = g.b.input("x", DType::F32, &[1, channels, 32, 32].map(Dim::from))?;
    for i in 0..blocks {
        let conv = |g: &mut Make, x, part: &str, shape: [usize; 3], groups| -> Result<ValueId, Fail> {
            let [outputs, inputs, taps] = shape;
            let w = g.weight(&format!("block.{i}.{part}.weight"), &[outputs, inputs, taps, taps])?;
            let bias = g.weight(&format!("block.{i}.{part}.bias"), &[outputs])?;
            let pads = vec![(taps / 2, taps / 2); 2];
            let spec = ConvSpec { strides: vec![1; 2], pads, dilations: vec![1; 2], groups };
            Ok(g.b.conv(x, w, Some(bias), spec)?)
        };
        let y = conv(&mut g, x, "expand", [wide, channels, 1], 1)?;
        let y = g.b.relu(y)?;
        let y = conv(&mut g, y, "depthwise", [wide, 1, 3], wide)?;
        let y = g.b.relu(y)?;
        let y = conv(&mut g, y, "project", [channels, wide, 1], 1)?;
        x = g.b.plus(x, y)?;
    }
    g.b.output("y", x);
    Ok(g.b.finish())
}

/// `y = max(x, 0)` of 64 elements: one kernel that takes no time.
pub fn one_kernel() -> Result<Graph, Fail> {
    let mut b = Builder::new("one_kernel");
    let x = b.input("x", DType::F32, &[1, 64].map(Dim::from))?;
    let y = b.relu(x)?;
    b.output("y", y);
    Ok(b.finish())
}

/// The engine of a graph for the CPU.
pub fn cpu_engine(graph: &Graph) -> Result<Engine, Fail> {
    Ok(build(graph, &BuildOptions::new(Home::from_env()?), &|_| {})?.0)
}

/// A session on the CPU.
pub fn cpu_session(engine: &Engine) -> Result<Session, Fail> {
    Ok(Session::new(engine, open_device("cpu")?)?)
}

/// A random tensor for each input of a graph without symbols.
pub fn inputs(graph: &Graph) -> Result<Vec<(String, Tensor)>, Fail> {
    let input = |(i, &id): (usize, _)| {
        let ty = graph.ty(id);
        let shape = ty.const_shape().ok_or("an input's shape is not constant")?;
        Ok((graph.input_name(id).to_owned(), Tensor::random(ty.dtype, &shape, 1000 + i as u64)?))
    };
    graph.inputs.iter().enumerate().map(input).collect()
}

/// Uniform random values of at most `scale` (integers: of at most 127) that repeat after a prime number of elements, because generating
/// gigabytes would take longer than the run.
pub fn random(dtype: DType, shape: &[usize], seed: u64, scale: f64) -> Result<Tensor, Fail> {
    const PERIOD: usize = 1_000_003;
    let n: usize = shape.iter().product();
    let mut rng = Rng::new(seed);
    let scale = if dtype.is_float() { scale } else { 127.0 };
    let some = Tensor::generate(dtype, &[n.min(PERIOD)], |_| scale * rng.signed())?;
    let bytes = some.data().len() / n.min(PERIOD) * n;
    let mut data = Vec::with_capacity(bytes);
    while data.len() < bytes {
        data.extend_from_slice(&some.data()[..some.data().len().min(bytes - data.len())]);
    }
    Ok(Tensor::new(dtype, shape.to_vec(), data.into())?)
}
