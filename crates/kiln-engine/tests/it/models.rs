//! Graphs that the tests build.

use kiln_engine::{BuildOptions, Engine, build};
use kiln_graph::{Builder, ConvSpec, DType, Graph, Tensor};
use kiln_target::Target;

/// One transformer-like block with a symbolic batch and sequence, weights random.
pub fn block() -> Graph {
    let mut b = Builder::new("block");
    let (batch, seq, width) = (b.symbol("B", 1, 8), b.symbol("S", 1, 64), 24usize);
    let x = b.input("x", DType::F32, &[batch, seq, width.into()]).unwrap();
    let weight = |b: &mut Builder, name: &str, shape: &[usize], seed| {
        b.weight_data(name, Tensor::random(DType::F32, shape, seed).unwrap()).unwrap()
    };
    let (gamma, beta) = (weight(&mut b, "gamma", &[width], 1), weight(&mut b, "beta", &[width], 2));
    let h = b.layer_norm(x, -1, Some(gamma), Some(beta), 1e-5).unwrap();
    let [q, k, v] = ["q", "k", "v"].map(|n| {
        let w = weight(&mut b, n, &[width, width], n.as_bytes()[0].into());
        b.linear(h, w, None, true).unwrap()
    });
    let kt = b.swap_axes(k, -1, -2).unwrap();
    let scores = b.matmul(q, kt).unwrap();
    let scores = b.mul_scalar(scores, 0.2).unwrap();
    let p = b.softmax(scores, -1).unwrap();
    let o = b.matmul(p, v).unwrap();
    let o = b.gelu(o).unwrap();
    let y = b.binary(kiln_graph::BinaryOp::Add, o, x).unwrap();
    b.output("y", y);
    b.finish()
}

/// A small convolutional net with a symbolic image size.
pub fn convnet() -> Graph {
    let mut b = Builder::new("convnet");
    let (h, w) = (b.symbol("H", 5, 40), b.symbol("W", 5, 40));
    let x = b.input("image", DType::F32, &[1.into(), 3.into(), h, w]).unwrap();
    let spec =
        |stride, groups| ConvSpec { strides: vec![stride; 2], pads: vec![(1, 1); 2], dilations: vec![1; 2], groups };
    let w1 = b.weight_data("stem", Tensor::random(DType::F32, &[8, 3, 3, 3], 5).unwrap()).unwrap();
    let bias = b.weight_data("bias", Tensor::random(DType::F32, &[8], 6).unwrap()).unwrap();
    let c = b.conv(x, w1, Some(bias), spec(2, 1)).unwrap();
    let c = b.relu(c).unwrap();
    let w2 = b.weight_data("depthwise", Tensor::random(DType::F32, &[8, 1, 3, 3], 7).unwrap()).unwrap();
    let d = b.conv(c, w2, None, spec(1, 8)).unwrap();
    let d = b.hard_swish(d).unwrap();
    let y = b.global_avg_pool(d).unwrap();
    b.output("features", y);
    b.finish()
}

/// Convolutions of one tap and of several beside what they are added to, any batch: what GPUs have with channels last.
pub fn residual_net() -> Graph {
    let mut b = Builder::new("residual");
    let n = b.symbol("N", 1, 4);
    let x = b.input("image", DType::F16, &[n, 3.into(), 11.into(), 14.into()]).unwrap();
    let conv = |b: &mut Builder, x, [to, from, taps, stride]: [usize; 4]| {
        let w = Tensor::random(DType::F16, &[to, from, taps, taps], (to + taps) as u64).unwrap();
        let w = b.weight_data(&format!("w{to}_{taps}_{stride}"), w).unwrap();
        let bias = Tensor::random(DType::F16, &[to], 6).unwrap();
        let bias = b.weight_data(&format!("bias{to}_{taps}_{stride}"), bias).unwrap();
        let pads = vec![(taps / 2, taps / 2); 2];
        let y = b.conv(x, w, Some(bias), ConvSpec { strides: vec![stride; 2], pads, dilations: vec![1; 2], groups: 1 });
        b.mul_scalar(y.unwrap(), ((from * taps * taps) as f64).powf(-0.5)).unwrap()
    };
    let x = conv(&mut b, x, [16, 3, 3, 2]);
    let x = b.relu(x).unwrap();
    let y = conv(&mut b, x, [24, 16, 1, 1]);
    let y = b.relu(y).unwrap();
    let y = conv(&mut b, y, [16, 24, 3, 1]);
    let y = b.plus(x, y).unwrap();
    let y = b.relu(y).unwrap();
    let z = conv(&mut b, y, [32, 16, 3, 2]);
    let mean = b.global_avg_pool(z).unwrap();
    b.output("mean", mean);
    b.finish()
}

/// Two f16 layers wide enough for tensor cores, with a softmax between; symbolic rows.
pub fn half_block() -> Graph {
    let mut b = Builder::new("half");
    let rows = b.symbol("R", 1, 256);
    let x = b.input("x", DType::F16, &[rows, 64.into()]).unwrap();
    let weight = |b: &mut Builder, name: &str, shape: &[usize], seed| {
        b.weight_data(name, Tensor::random(DType::F16, shape, seed).unwrap()).unwrap()
    };
    let (up, bias) = (weight(&mut b, "up", &[64, 96], 1), weight(&mut b, "bias", &[96], 2));
    let h = b.linear(x, up, Some(bias), false).unwrap();
    let h = b.softmax(h, -1).unwrap();
    let down = weight(&mut b, "down", &[96, 64], 3);
    let y = b.linear(h, down, None, false).unwrap();
    let y = b.binary(kiln_graph::BinaryOp::Add, y, x).unwrap();
    b.output("y", y);
    b.finish()
}

/// Causal self-attention of four heads, as a transformer has it; symbolic batch and sequence.
pub fn self_attention(dtype: DType) -> Graph {
    let mut b = Builder::new("self_attention");
    let (batch, seq) = (b.symbol("B", 1, 8), b.symbol("S", 1, 512));
    let x = b.input("x", dtype, &[batch.clone(), seq.clone(), 64.into()]).unwrap();
    let heads = ["q", "k", "v"].map(|name| {
        let w = Tensor::random(dtype, &[64, 64], name.as_bytes()[0].into()).unwrap();
        let w = b.weight_data(name, w).unwrap();
        let y = b.linear(x, w, None, false).unwrap();
        let y = b.reshape(y, &[batch.clone(), seq.clone(), 4.into(), 16.into()]).unwrap();
        b.transpose(y, &[0, 2, 1, 3]).unwrap()
    });
    let y = b.attention(heads[0], heads[1], heads[2], None, None, Some(&0.into())).unwrap();
    let y = b.transpose(y, &[0, 2, 1, 3]).unwrap();
    let y = b.reshape(y, &[batch, seq, 64.into()]).unwrap();
    b.output("y", y);
    b.finish()
}

pub fn engine(graph: &Graph, targets: &[&str], home: &std::path::Path) -> Engine {
    engine_at(graph, targets, kiln_cuda::Home::at(home))
}

pub fn engine_at(graph: &Graph, targets: &[&str], home: kiln_cuda::Home) -> Engine {
    let options = BuildOptions {
        targets: targets.iter().map(|t| t.parse::<Target>().unwrap()).collect(),
        line_info: true,
        ..BuildOptions::new(home)
    };
    build(graph, &options, &|_| {}).unwrap_or_else(|e| panic!("{e}\n{graph}")).0
}

/// A home with NVRTC.
pub fn home() -> kiln_cuda::Home {
    let home = kiln_cuda::Home::from_env().unwrap();
    if kiln_cuda::Nvrtc::discover(&home).is_err() {
        kiln_cuda::setup::setup(&home, |_| {}).unwrap();
    }
    home
}
