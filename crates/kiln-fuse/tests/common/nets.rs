//! Convolution nets as they are exported: of primitive ops, batch norms unfolded.

use kiln_graph::{
    Builder, ConvSpec, Coordinates, DType, Dim, Graph, Interpolation, Pool, Resize, ResizeTo, Result, Rng, Rounding,
    Tensor, ValueId, WindowSpec,
};

/// A net under construction: all weights are of one type.
pub struct Net {
    pub b: Builder,
    pub rng: Rng,
    dtype: DType,
    /// Weights so far, which are named by number.
    weights: usize,
}

/// Geometry of a convolution: results, taps an axis, stride, groups.
#[derive(Clone, Copy)]
pub struct Taps {
    pub to: usize,
    pub taps: usize,
    pub stride: usize,
    pub groups: usize,
}

impl Taps {
    pub fn plain(to: usize, taps: usize) -> Taps {
        Taps { to, taps, stride: 1, groups: 1 }
    }
}

impl Net {
    pub fn new(name: &str, dtype: DType) -> Net {
        Net { b: Builder::new(name), rng: Rng::new(31), dtype, weights: 0 }
    }

    pub fn image(&mut self, shape: &[Dim]) -> ValueId {
        self.b.input("image", self.dtype, shape).unwrap()
    }

    /// A weight of values from `least` on.
    pub fn weight(&mut self, shape: &[usize], least: f64) -> ValueId {
        self.weights += 1;
        let scale = (shape.iter().skip(1).product::<usize>().max(1) as f64).powf(-0.5);
        let data = Tensor::generate(self.dtype, shape, |_| match least > 0.0 {
            true => least + self.rng.unit(),
            false => scale * self.rng.signed(),
        });
        self.b.weight_data(&format!("w{}", self.weights), data.unwrap()).unwrap()
    }

    /// A convolution that keeps the size where its stride is 1.
    pub fn conv(&mut self, x: ValueId, Taps { to, taps, stride, groups }: Taps) -> Result<ValueId> {
        let axes = self.b.shape(x).len() - 2;
        let from = self.b.shape(x)[1].as_const().unwrap() as usize;
        let mut shape = vec![taps; axes];
        shape.splice(0..0, [to, from / groups]);
        let w = self.weight(&shape, 0.0);
        let pads = vec![(taps / 2, taps / 2); axes];
        self.b.conv(x, w, None, ConvSpec { strides: vec![stride; axes], pads, dilations: vec![1; axes], groups })
    }

    /// Convolution and batch norm.
    pub fn conv_norm(&mut self, x: ValueId, taps: Taps) -> Result<ValueId> {
        let y = self.conv(x, taps)?;
        let [scale, shift, mean] = [(); 3].map(|()| self.weight(&[taps.to], 0.0));
        let var = self.weight(&[taps.to], 0.5);
        self.b.batch_norm(y, scale, shift, mean, var, 1e-5)
    }

    pub fn finish(mut self, y: ValueId) -> Graph {
        self.b.output("y", y);
        self.b.finish()
    }
}

/// ResNet-50, its layers so wide.
pub fn resnet50(dtype: DType, width: usize, batch: Dim, side: usize) -> Graph {
    let mut net = Net::new("resnet50", dtype);
    let x = net.image(&[batch.clone(), 3.into(), side.into(), side.into()]);
    let y = net.conv_norm(x, Taps { stride: 2, ..Taps::plain(width, 7) }).unwrap();
    let y = net.b.relu(y).unwrap();
    let spec = WindowSpec { window: vec![3; 2], strides: vec![2; 2], pads: vec![(1, 1); 2], dilations: vec![1; 2] };
    let mut x = net.b.max_pool(y, &Pool { spec, ceil_mode: false }).unwrap();
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = bottleneck(&mut net, x, width << stage, (4 * width) << stage, stride).unwrap();
        }
    }
    let y = net.b.global_avg_pool(x).unwrap();
    let y = net.b.flatten(y, 1).unwrap();
    let w = net.weight(&[100, 32 * width], 0.0);
    let bias = net.weight(&[100], 0.0);
    let y = net.b.linear(y, w, Some(bias), true).unwrap();
    net.finish(y)
}

/// Three convolutions beside what they are added to, which is convolved where its shape is another.
pub fn bottleneck(net: &mut Net, x: ValueId, inner: usize, outer: usize, stride: usize) -> Result<ValueId> {
    let y = net.conv_norm(x, Taps::plain(inner, 1))?;
    let y = net.b.relu(y)?;
    let y = net.conv_norm(y, Taps { stride, ..Taps::plain(inner, 3) })?;
    let y = net.b.relu(y)?;
    let y = net.conv_norm(y, Taps::plain(outer, 1))?;
    let around = match net.b.shape(x)[1].is(outer as i64) {
        true => x,
        false => net.conv_norm(x, Taps { stride, ..Taps::plain(outer, 1) })?,
    };
    let y = net.b.plus(y, around)?;
    net.b.relu(y)
}

/// Stages of residual blocks of one shape, so many.
pub fn residual(blocks: usize) -> Graph {
    let mut net = Net::new("residual", DType::F16);
    let n = net.b.symbol("N", 1, 8);
    let mut x = net.image(&[n, 64.into(), 28.into(), 28.into()]);
    for _ in 0..blocks {
        x = bottleneck(&mut net, x, 32, 64, 1).unwrap();
    }
    net.finish(x)
}

/// A block as mobile nets have it: expanded, depthwise, squeezed and excited, projected, added.
pub fn mobile_block(net: &mut Net, x: ValueId, to: usize, stride: usize) -> Result<ValueId> {
    let from = net.b.shape(x)[1].as_const().unwrap() as usize;
    let wide = 4 * from;
    let y = net.conv_norm(x, Taps::plain(wide, 1))?;
    let y = net.b.hard_swish(y)?;
    let y = net.conv_norm(y, Taps { stride, groups: wide, ..Taps::plain(wide, 5) })?;
    let y = net.b.hard_swish(y)?;
    let s = net.b.global_avg_pool(y)?;
    let s = net.conv(s, Taps::plain(from, 1))?;
    let s = net.b.relu(s)?;
    let s = net.conv(s, Taps::plain(wide, 1))?;
    let s = net.b.hard_sigmoid(s, 1.0 / 6.0, 0.5)?;
    let y = net.b.mul(y, s)?;
    let y = net.conv_norm(y, Taps::plain(to, 1))?;
    if from == to && stride == 1 { net.b.plus(x, y) } else { Ok(y) }
}

/// Two mobile blocks behind a stem.
pub fn mobile(dtype: DType) -> Graph {
    let mut net = Net::new("mobile", dtype);
    let x = net.image(&[1, 3, 112, 112].map(Dim::from));
    let y = net.conv_norm(x, Taps { stride: 2, ..Taps::plain(16, 3) }).unwrap();
    let y = net.b.hard_swish(y).unwrap();
    let y = mobile_block(&mut net, y, 16, 1).unwrap();
    let y = mobile_block(&mut net, y, 24, 2).unwrap();
    net.finish(y)
}

/// Down and up again, with what was on the way beside it.
pub fn unet(dtype: DType, side: usize) -> Graph {
    let mut net = Net::new("unet", dtype);
    let x = net.image(&[1, 3, side, side].map(Dim::from));
    let double = |net: &mut Net, x: ValueId, to: usize| -> Result<ValueId> {
        let y = net.conv_norm(x, Taps::plain(to, 3))?;
        let y = net.b.relu(y)?;
        let y = net.conv_norm(y, Taps::plain(to, 3))?;
        net.b.relu(y)
    };
    let first = double(&mut net, x, 16).unwrap();
    let spec = WindowSpec { window: vec![2; 2], strides: vec![2; 2], pads: vec![(0, 0); 2], dilations: vec![1; 2] };
    let y = net.b.max_pool(first, &Pool { spec, ceil_mode: false }).unwrap();
    let y = double(&mut net, y, 32).unwrap();
    let rule = Resize {
        mode: Interpolation::Nearest,
        coordinates: Coordinates::Asymmetric,
        rounding: Some(Rounding::Floor),
        cubic: -0.75,
        exclude_outside: false,
        antialias: false,
        outside: 0.0,
    };
    let y = net.b.resize(y, &[2, 3], &ResizeTo::Scales(&[2.0, 2.0]), &[], &rule).unwrap();
    let y = net.b.concat(&[first, y], 1).unwrap();
    let y = double(&mut net, y, 16).unwrap();
    let y = net.conv(y, Taps::plain(2, 1)).unwrap();
    net.finish(y)
}
